"""The classifiers that read a sequence of feature vectors: np-RNN, its baselines, and the frame average.

All are a ``SequenceClassifier``; they differ in the network that turns features into states. To add one, add a line to
``STATE_NETWORKS`` and its name to ``ModelName`` in ``models/config.py``.
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


class Dropout(nn.Dropout):
    """``nn.Dropout``, on a CPU in a quarter of the time: its Bernoulli draw there costs more than the network."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0 or values.device.type != "cpu":
            return super().forward(values)
        kept = torch.rand_like(values).ge_(self.p)
        return values * kept.mul_(1 / (1 - self.p))


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
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList()
        width = feature_dim
        if config.model != "mean":
            for _ in range(config.num_layers):
                self.layers.append(STATE_NETWORKS[config.model](width, config))
                width = config.hidden_size
        self.classifier = nn.Linear(width * (self._reads_last + self._reads_mean), num_classes)
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
        read = self.read_out(self.states(features)) if lengths is None else self._read_padded(features, lengths)
        scores: Tensor = self.classifier(self.dropout(read) if self.layers else read)
        return scores

    def scores_over_time(self, features: Tensor) -> Tensor:
        """Class scores after each step, as if the sequence ended there: ``[T, B, D]`` -> ``[T, B, num_classes]``.

        Without dropout, so in evaluation mode, those after step ``t`` are ``forward(features[: t + 1])``.
        """
        states = self.states(features)
        read = [states] if self._reads_last else []
        if self._reads_mean:
            steps = torch.arange(1, len(states) + 1, device=states.device)
            read.append(states.cumsum(0) / steps[:, None, None])
        scores: Tensor = self.classifier(torch.cat(read, -1))
        return scores

    @property
    def can_share_frames(self) -> bool:
        """Whether ``project`` and ``score_projected`` work: not with LSTM, GRU and tanh layers, which read frames."""
        return len(self._relu_layers) == len(self.layers)

    @property
    def _relu_layers(self) -> list[ReluRNN]:
        return [layer for layer in self.layers if isinstance(layer, ReluRNN)]

    def project(self, frames: Tensor) -> Tensor:
        """What the network makes of a frame before it knows the clip: features ``[N, D]`` -> ``[N, width]``.

        It is the largest matrix product, and clips that overlap can share it; see ``score_projected``.
        """
        standardised = (frames - self.feature_mean).mul_(self.feature_scale)
        if not self.layers:
            scores: Tensor = self.classifier(standardised)
            return scores
        return self._relu_layers[0].project(standardised)

    def score_projected(self, projected: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """Class scores of clips whose frames went through ``project``: those of ``forward`` in evaluation mode.

        Args:
            projected: ``[N, width]``, each frame once.
            rows: int64 ``[T, B]``, which frame each clip reads at each step; behind a clip's end, any.
            lengths: int64 ``[B]`` on the CPU, from 1 to T, the longest first: so those that still run are the first.

        Returns:
            ``[B, num_classes]``.
        """
        num_running = (lengths > torch.arange(len(rows))[:, None]).sum(1).tolist()
        width = self.config.hidden_size if self.layers else projected.shape[1]
        last, total = projected.new_zeros(2, rows.shape[1], width)
        layers = self._relu_layers
        states: list[Tensor | None] = [None] * len(layers)
        for step, running, going_on in zip(rows, num_running, [*num_running[1:], 0], strict=True):
            state = projected.index_select(0, step[:running])
            for number, layer in enumerate(layers):
                before = states[number]
                driven = layer.project(state) if number else state
                states[number] = state = layer.step(driven, before if before is None else before[:running])
            if self._reads_mean:
                total[:running] += state
            if self._reads_last:
                last[going_on:running] = state[going_on:]
        mean = total / lengths.to(total.device).unsqueeze(1)
        if not self.layers:
            return mean  # the frame average's frames are projected to scores
        read = [last] * self._reads_last + [mean] * self._reads_mean
        scores: Tensor = self.classifier(torch.cat(read, -1))
        return scores

    @property
    def _reads_mean(self) -> bool:
        return self.config.model == "mean" or "mean" in self.config.readout

    @property
    def _reads_last(self) -> bool:
        return self.config.model != "mean" and "last" in self.config.readout

    def read_out(self, states: Tensor) -> Tensor:
        """What the linear layer reads: states ``[T, B, width]`` -> ``[B, width]``, or twice that for both read-outs."""
        read = [states[-1]] if self._reads_last else []
        if self._reads_mean:
            read.append(states.mean(0))
        return torch.cat(read, -1)

    def _read_padded(self, features: Tensor, lengths: Tensor) -> Tensor:
        padded = ~valid_steps(lengths, len(features)).unsqueeze(-1)
        # No state that is read sees padding, but a gradient of 0 times a NaN in it would be NaN.
        states = self.states(torch.where(padded, self.feature_mean, features))
        read = [states[lengths - 1, torch.arange(len(lengths), device=states.device)]] if self._reads_last else []
        if self._reads_mean:
            read.append(states.masked_fill(padded, 0).sum(0) / lengths.unsqueeze(-1))
        return torch.cat(read, -1)
