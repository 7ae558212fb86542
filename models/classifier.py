"""Classifiers for sequences of feature vectors: np-RNN, its baselines, and the frame average.

All are a ``SequenceClassifier``; they differ in the network that turns features into states. To add one, add an entry
to ``STATE_NETWORKS`` and its name to ``ModelName`` in ``models/config.py``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models import initializers as init
from models.config import ModelConfig
from models.relu_rnn import ReluRNN

STATE_NETWORKS: dict[str, Callable[[int, ModelConfig], nn.Module]] = {
    "np_rnn": lambda inputs, config: init.init_np_rnn_(
        ReluRNN(inputs, config.hidden_size), config.input_scale, identity_weight=config.identity_weight
    ),
    "irnn": lambda inputs, config: init.init_irnn_(ReluRNN(inputs, config.hidden_size)),
    "scaled_irnn": lambda inputs, config: init.init_irnn_(ReluRNN(inputs, config.hidden_size), config.identity_scale),
    "nrnn": lambda inputs, config: init.init_nrnn_(ReluRNN(inputs, config.hidden_size), config.input_scale),
    "orthogonal": lambda inputs, config: init.init_orthogonal_rnn_(ReluRNN(inputs, config.hidden_size)),
    "rnn_relu": lambda inputs, config: init.init_gaussian_rnn_(ReluRNN(inputs, config.hidden_size)),
    "rnn_tanh": lambda inputs, config: init.init_gaussian_rnn_(nn.RNN(inputs, config.hidden_size)),
    "lstm": lambda inputs, config: init.init_gated_(nn.LSTM(inputs, config.hidden_size)),
    "gru": lambda inputs, config: init.init_gated_(nn.GRU(inputs, config.hidden_size)),
}
"""The initialised network of one layer, by model name: number of inputs and settings -> network."""


class Dropout(nn.Dropout):
    """``nn.Dropout`` in a quarter of the time on a CPU, where its Bernoulli draw costs more than the network."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0 or values.device.type != "cpu":
            return super().forward(values)
        kept = torch.rand_like(values).ge_(self.p)
        return values * kept.mul_(1 / (1 - self.p))


class SequenceClassifier(nn.Module):
    """Standardised features -> states -> read-out -> class scores.

    In evaluation mode the scores are divided by ``temperature``, so that their softmax is calibrated (Guo et al., "On
    Calibration of Modern Neural Networks", 2017, section 4.2). It is 1 in a new model and in checkpoints that were
    saved without it; the loop stores the fitted value in the best checkpoint. It changes no clip's most probable class.

    Padding follows a sequence's real steps and the networks read forward in time, so padding affects no state that is
    read out.
    """

    def __init__(self, config: ModelConfig, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.feature_mean: Tensor
        self.feature_scale: Tensor
        self.register_buffer("feature_mean", torch.zeros(feature_dim))
        self.register_buffer("feature_scale", torch.ones(feature_dim))
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(()))
        self.register_load_state_dict_pre_hook(_add_temperature)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList()
        width = feature_dim
        if config.model != "mean":
            for _ in range(config.num_layers):
                self.layers.append(STATE_NETWORKS[config.model](width, config))
                width = config.hidden_size
        # The "mean" model has no layers: its states are the features, and it always reads their mean.
        self.readout = "mean" if config.model == "mean" else config.readout
        if self.readout == "last_and_mean":
            width *= 2
        self.classifier = nn.Linear(width, num_classes)
        nn.init.xavier_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def set_feature_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Standardise with the training frames' mean and standard deviation, ``[feature_dim]`` each.

        They are part of the state dict, so a checkpoint can be used without the training set. A constant feature is
        only centred.
        """
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(torch.where(std > 1e-6, 1 / std.clamp_min(1e-6), torch.ones_like(std)))

    def states(self, features: Tensor) -> Tensor:
        """The states of the top layer after each step: features ``[T, B, D]`` -> states ``[T, B, width]``."""
        states = self.dropout((features - self.feature_mean) * self.feature_scale)
        for layer in self.layers:
            states, _ = layer(states)
        return states

    def read_out(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The input of the linear layer: states ``[T, B, width]`` -> ``[B, width]``, or ``[B, 2 * width]`` for both.

        ``lengths`` is that of ``forward``.
        """
        if lengths is None:
            return self._select(states[-1], lambda: states.mean(0))
        last = states[lengths - 1, torch.arange(len(lengths), device=states.device)]
        padding = _is_padding(lengths, len(states))
        return self._select(last, lambda: states.masked_fill(padding, 0).sum(0) / lengths.unsqueeze(-1))

    def _select(self, last: Tensor, mean: Callable[[], Tensor]) -> Tensor:
        """The last state, the mean state, or both side by side. The mean is computed only if the read-out needs it."""
        if self.readout == "last":
            return last
        if self.readout == "mean":
            return mean()
        return torch.cat([last, mean()], -1)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Class scores (logits), divided by the temperature in evaluation mode.

        Args:
            features: ``[T, B, D]``, time first. Values after a sequence's end are ignored, NaN included.
            lengths: int64 ``[B]``, from 1 to T; ``None`` means T for all.

        Returns:
            ``[B, num_classes]``.
        """
        if lengths is not None:
            # Padding affects no state that is read, but in the backward pass 0 * NaN would be NaN.
            features = torch.where(_is_padding(lengths, len(features)), self.feature_mean, features)
        read = self.read_out(self.states(features), lengths)
        scores: Tensor = self.classifier(self.dropout(read) if self.layers else read)
        return scores if self.training else scores / self.temperature

    def scores_over_time(self, features: Tensor) -> Tensor:
        """Class scores after each step, as if the sequence ended there: ``[T, B, D]`` -> ``[T, B, num_classes]``.

        In evaluation mode, that is without dropout, the scores after step ``t`` are ``forward(features[: t + 1])``.
        """
        states = self.states(features)
        num_steps = torch.arange(1, len(states) + 1, device=states.device)
        scores: Tensor = self.classifier(self._select(states, lambda: states.cumsum(0) / num_steps[:, None, None]))
        return scores / self.temperature

    @property
    def can_share_frames(self) -> bool:
        """Whether ``project`` and ``score_projected`` work: they do unless a layer is an LSTM, a GRU or a tanh RNN."""
        return len(self._relu_layers) == len(self.layers)

    @property
    def _relu_layers(self) -> list[ReluRNN]:
        return [layer for layer in self.layers if isinstance(layer, ReluRNN)]

    def project(self, frames: Tensor) -> Tensor:
        """The part of the network that depends on single frames: features ``[N, D]`` -> ``[N, width]``.

        It is the largest matrix product, and clips that overlap can share it; see ``score_projected``.
        """
        standardised = (frames - self.feature_mean).mul_(self.feature_scale)
        if not self.layers:
            scores: Tensor = self.classifier(standardised)
            return scores
        return self._relu_layers[0].project(standardised)

    def score_projected(self, projected: Tensor, rows: Tensor, lengths: Tensor) -> Tensor:
        """Class scores of clips whose frames went through ``project``, equal to ``forward`` in evaluation mode.

        Args:
            projected: ``[N, width]``, each frame once.
            rows: int64 ``[T, B]``, the frame that each clip reads at each step; any valid row after a clip's end.
            lengths: int64 ``[B]`` on the CPU, from 1 to T, in descending order: the clips that have not ended at a
                step are then the first of the batch.

        Returns:
            ``[B, num_classes]``.
        """
        num_running = (lengths > torch.arange(len(rows))[:, None]).sum(1).tolist()
        width = self.config.hidden_size if self.layers else projected.shape[1]
        last, total = projected.new_zeros(2, rows.shape[1], width)
        layers = self._relu_layers
        states: list[Tensor | None] = [None] * len(layers)
        for step, running, running_next in zip(rows, num_running, [*num_running[1:], 0], strict=True):
            state = projected.index_select(0, step[:running])
            for number, layer in enumerate(layers):
                previous = states[number]
                driven = state if number == 0 else layer.project(state)
                states[number] = state = layer.step(driven, None if previous is None else previous[:running])
            total[:running] += state
            last[running_next:running] = state[running_next:]
        mean = total / lengths.to(total.device).unsqueeze(1)
        # Without layers, `project` has already turned the frames into scores.
        scores: Tensor = self.classifier(self._select(last, lambda: mean)) if self.layers else mean
        return scores / self.temperature


def _add_temperature(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Complete a state dict that was saved before the temperature existed."""
    state_dict.setdefault(f"{prefix}temperature", torch.ones(()))


def _is_padding(lengths: Tensor, num_steps: int) -> Tensor:
    """The steps after each sequence's end: lengths ``[B]`` -> bool ``[T, B, 1]``."""
    return (torch.arange(num_steps, device=lengths.device)[:, None] >= lengths).unsqueeze(-1)
