"""The classifiers that read a sequence of feature vectors: np-RNN, its baselines, and the frame average.

All are a ``SequenceClassifier``; they differ in the network that turns features into states. To add one, add a line to
``STATE_NETWORKS``.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models import initializers as init
from models.config import ModelConfig
from models.relu_rnn import ReluRNN


def _np_rnn(inputs: int, config: ModelConfig) -> nn.Module:
    rnn = ReluRNN(inputs, config.hidden_size)
    return init.init_np_rnn_(rnn, config.input_scale, identity_weight=config.identity_weight)


def _irnn(inputs: int, config: ModelConfig) -> nn.Module:
    return init.init_irnn_(ReluRNN(inputs, config.hidden_size))


def _scaled_irnn(inputs: int, config: ModelConfig) -> nn.Module:
    return init.init_irnn_(ReluRNN(inputs, config.hidden_size), config.identity_scale)


def _nrnn(inputs: int, config: ModelConfig) -> nn.Module:
    return init.init_nrnn_(ReluRNN(inputs, config.hidden_size), config.input_scale)


def _orthogonal(inputs: int, config: ModelConfig) -> nn.Module:
    return init.init_orthogonal_rnn_(ReluRNN(inputs, config.hidden_size))


def _rnn_relu(inputs: int, config: ModelConfig) -> nn.Module:
    return init.init_gaussian_rnn_(ReluRNN(inputs, config.hidden_size))


def _rnn_tanh(inputs: int, config: ModelConfig) -> nn.Module:
    return init.init_gaussian_rnn_(nn.RNN(inputs, config.hidden_size))


def _lstm(inputs: int, config: ModelConfig) -> nn.Module:
    return init.init_gated_(nn.LSTM(inputs, config.hidden_size))


def _gru(inputs: int, config: ModelConfig) -> nn.Module:
    return init.init_gated_(nn.GRU(inputs, config.hidden_size))


STATE_NETWORKS: dict[str, Callable[[int, ModelConfig], nn.Module]] = {
    "np_rnn": _np_rnn,
    "irnn": _irnn,
    "scaled_irnn": _scaled_irnn,
    "nrnn": _nrnn,
    "orthogonal": _orthogonal,
    "rnn_relu": _rnn_relu,
    "rnn_tanh": _rnn_tanh,
    "lstm": _lstm,
    "gru": _gru,
}


def valid_steps(lengths: Tensor, num_steps: int) -> Tensor:
    """Which steps of a padded batch are real: lengths ``[B]`` -> bool ``[T, B]``."""
    return torch.arange(num_steps, device=lengths.device)[:, None] < lengths[None, :]


class SequenceClassifier(nn.Module):
    """Standardised features -> states -> read-out -> class scores.

    Padding stands behind a sequence's real steps and the networks read forward in time, so no state that is read out
    has seen it.
    """

    def __init__(self, config: ModelConfig, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.feature_mean: Tensor
        self.feature_scale: Tensor
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList()
        width = feature_dim
        if config.model != "mean":
            for _ in range(config.num_layers):
                self.layers.append(STATE_NETWORKS[config.model](width, config))
                width = config.hidden_size
        self.classifier = nn.Linear(width, num_classes)
        nn.init.xavier_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def set_feature_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise with the training frames' mean and standard deviation, ``[feature_dim]`` each.

        They are part of the state dict: a checkpoint can be used without the training set. A feature that never
        varies is only centred.
        """
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(torch.where(std > 1e-6, 1 / std.clamp_min(1e-6), torch.ones_like(std)))

    def states(self, features: Tensor) -> Tensor:
        """What the network knows after each step: features ``[T, B, D]`` -> states ``[T, B, width]``."""
        states = self.dropout((features - self.feature_mean) * self.feature_scale)
        for layer in self.layers:
            states, _ = layer(states)
        return states

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Class scores (logits).

        Args:
            features: ``[T, B, D]``, time first; behind a sequence's length, anything at all.
            lengths: int64 ``[B]``, from 1 to T; ``None`` means T for all.

        Returns:
            ``[B, num_classes]``.
        """
        read = self._read_whole(features) if lengths is None else self._read_padded(features, lengths)
        scores: Tensor = self.classifier(self.dropout(read) if self.layers else read)
        return scores

    @property
    def _reads_mean(self) -> bool:
        return self.config.readout == "mean" or self.config.model == "mean"

    def _read_whole(self, features: Tensor) -> Tensor:
        states = self.states(features)
        return states.mean(0) if self._reads_mean else states[-1]

    def _read_padded(self, features: Tensor, lengths: Tensor) -> Tensor:
        padded = ~valid_steps(lengths, len(features)).unsqueeze(-1)
        # No state that is read sees padding, but a gradient of 0 times a NaN in it would be NaN.
        states = self.states(torch.where(padded, self.feature_mean, features))
        if self._reads_mean:
            return states.masked_fill(padded, 0).sum(0) / lengths.unsqueeze(-1)
        return states[lengths - 1, torch.arange(len(lengths), device=states.device)]
