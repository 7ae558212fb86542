"""Classifiers for sequences of feature vectors: np-RNN, its rivals, and the frame average.

All are a ``SequenceClassifier``; they differ in the network that turns features into states (``state_networks.py``).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.config import ModelConfig
from models.features import power_normalize, zero_padding
from models.recurrent_layer import RecurrentLayer
from models.state_networks import STATE_NETWORKS

_CELLS: dict[str, Callable[..., Tensor]] = {
    "RNN_RELU": torch.rnn_relu_cell,
    "RNN_TANH": torch.rnn_tanh_cell,
    "GRU": torch.gru_cell,
}
"""One step of a layer, by ``nn.RNNBase.mode``; an LSTM has two states and is not here."""


class Dropout(nn.Dropout):
    """``nn.Dropout`` with a mask from uniform numbers, which a CPU draws four times faster than Bernoulli ones."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        return input * torch.rand_like(input).ge_(self.p).div_(1 - self.p)


State = dict[str, Tensor]
"""What a classifier keeps of the steps that it has read, ``[B, width]`` each; see ``initial_state``."""


class SequenceClassifier(nn.Module):
    """Normalised features -> states -> read-out -> class scores, plus linear scores of the frame average.

    The scores are ``V [last state; mean state] + S mean_t(x_t)``, where ``x_t`` are the normalised features. The skip
    connection ``S`` starts at zero. It knows what a video shows, so the network reads what changes in it: ``x_t -
    x_{t-1}``, and zero at the first step. (With ``inputs`` "frames" it reads ``x_t``, with "both" the two side by
    side.)

    Dropout draws one mask per sequence, which all its frames share (Gal & Ghahramani, "A Theoretically Grounded
    Application of Dropout in Recurrent Neural Networks", 2016): masks of single frames would average out.

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
        self.reads_changes = config.model != "mean" and config.reads != "frames"
        if self.reads_changes:
            self.change_scale: Tensor
            self.register_buffer("change_scale", torch.ones(feature_dim))
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(()))
        self.register_load_state_dict_pre_hook(_add_temperature)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList()
        width = feature_dim
        if config.model != "mean":
            width *= 2 if config.reads == "both" else 1
            for _ in range(config.num_layers):
                self.layers.append(STATE_NETWORKS[config.model](width, config))
                width = config.hidden_size
            if config.readout == "last_and_mean":
                width *= 2
        self.classifier = nn.Linear(width, num_classes)
        if not self.classifier.weight.is_meta:  # see initializers._layers
            nn.init.xavier_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)
        self.skip: nn.Linear | None = None
        if self.layers and config.skip_connection:
            self.skip = nn.Linear(feature_dim, num_classes, bias=False)
            nn.init.zeros_(self.skip.weight)

    def set_feature_statistics(self, mean: Tensor, std: Tensor, change: Tensor | None = None) -> None:
        """Standardise with statistics of the training frames, ``[feature_dim]`` each.

        With ``power_norm`` they are those of the power-normalised frames. They are part of the state dict, so a
        checkpoint can be used without the training set. A constant feature is only centred.

        Args:
            mean, std: mean and standard deviation.
            change: root mean square of the change from each frame to the next; unused if the network reads frames.
        """
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(_inverse(std))
        if self.reads_changes and change is not None:
            self.change_scale.copy_(_inverse(change))

    def states(self, features: Tensor) -> Tensor:
        """The states of the top layer after each step: features ``[T, B, D]`` -> states ``[T, B, hidden]``."""
        return self._states(self.normalize(features))[0]

    def normalize(self, features: Tensor) -> Tensor:
        """Power-normalise features, ``[..., D]``, if the settings say so."""
        return power_normalize(features) if self.config.power_norm else features

    def standardize(self, values: Tensor) -> Tensor:
        """Subtract the mean of the training frames and divide by their deviation, ``[..., D]``."""
        return torch.addcmul(-self.feature_mean * self.feature_scale, values, self.feature_scale)

    def _states(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The states of the top layer after each step, and those of each layer after the last."""
        # The scale standardises and drops features at once.
        inputs = []
        if self.config.reads != "changes":
            scale = self.dropout(self.feature_scale.expand(frames.shape[1:]))
            inputs.append(torch.addcmul(-self.feature_mean * scale, frames, scale))
        if self.reads_changes:
            scale = self.dropout(self.change_scale.expand(frames.shape[1:]))
            first = torch.zeros_like(frames[:1])
            if state is not None:
                first = (frames[:1] - state["frame"]) * state["num_steps"].clamp(max=1)
            inputs.append(torch.cat([first, frames[1:] - frames[:-1]]).mul_(scale))
        states, after = _side_by_side(inputs), dict[str, Tensor]()
        for number, layer in enumerate(self.layers):
            names = [f"hidden_{number}", f"cell_{number}"][: 2 if isinstance(layer, nn.LSTM) else 1]
            before = None if state is None else [state[name][None] for name in names]
            states, last = layer(states, before if before is None or len(names) == 2 else before[0])
            after |= dict(zip(names, last if len(names) == 2 else [last], strict=True))
        return states, {name: value[0] for name, value in after.items()}

    def read_out(self, states: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The input of the linear layer: states ``[T, B, width]`` -> ``[B, width]``, or ``[B, 2 * width]`` for both.

        ``lengths`` is that of ``forward``.
        """
        if lengths is None:
            return self.select(states[-1], lambda: states.mean(0))
        last = states[lengths - 1, torch.arange(len(lengths), device=states.device)]
        return self.select(last, lambda: zero_padding(states, lengths).sum(0) / lengths.unsqueeze(-1))

    def select(self, last: Tensor, mean: Callable[[], Tensor]) -> Tensor:
        """The last state, the mean state, or both side by side. The mean is computed only if the read-out needs it."""
        if self.config.readout == "last":
            return last
        if self.config.readout == "mean":
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
            # In the backward pass 0 * NaN would be NaN, and the average below is a plain sum.
            features = zero_padding(features, lengths)
        frames = self.normalize(features)

        num_steps = len(frames) if lengths is None else lengths.unsqueeze(-1)
        linear = self.skip if self.layers else self.classifier
        terms = []
        if linear is not None:  # comes first, while the CPU's cache contains the frames
            terms.append(linear(self.dropout(self.standardize(frames.sum(0) / num_steps))))
        if self.layers:
            terms.append(self.classifier(self.dropout(self.read_out(self._states(frames)[0], lengths))))
        scores: Tensor = sum(terms)
        return scores if self.training else scores / self.temperature

    def scores_over_time(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Class scores after each step, as if the sequence ended there.

        In evaluation mode, that is without dropout, the scores after step ``t`` are ``forward(features[: t + 1])``. All
        steps of a sequence share the masks of dropout. A long sequence can be read in pieces, without gradients.

        Args:
            features: ``[T, B, D]``.
            state: the state after the piece before; ``None``: the sequences begin.

        Returns:
            scores ``[T, B, num_classes]``, and the state after the last step.
        """
        read, after = self.read_over_time(features, state)
        return self.score_read(read), after

    def score_read(self, read: Sequence[Tensor]) -> Tensor:
        """The class scores of what ``read_over_time`` gives, at any steps: ``[..., num_classes]``."""
        layers = [layer for layer in (self.skip, self.classifier) if layer is not None]
        scores: Tensor = sum(layer(values) for layer, values in zip(layers, read, strict=True))
        return scores if self.training else scores / self.temperature

    def read_over_time(self, features: Tensor, state: State | None = None) -> tuple[list[Tensor], State]:
        """What each linear layer reads after each step, ``[T, B, width]``, and the state after the last step.

        The skip connection (or the frame average) reads the mean of the standardised frames so far, the read-out the
        states. The arguments are those of ``scores_over_time``.
        """
        frames = self.normalize(features)
        num_steps = torch.arange(1, len(frames) + 1, device=frames.device)[:, None, None].expand(-1, frames.shape[1], 1)
        if state is not None:
            num_steps = num_steps + state["num_steps"]
        after, read = {"num_steps": num_steps[-1].float()}, []

        def mean(name: str, values: Tensor) -> Tensor:
            sums = values.cumsum(0)
            if state is not None:
                sums += state[name]
            after[name] = sums[-1].clone()  # a copy, so that the state does not keep the whole piece
            return sums / num_steps

        if self.skip is not None or not self.layers:
            read.append(self._drop(self.standardize(mean("frame_sum", frames))))
        if self.layers:
            states, last = self._states(frames, state)
            after |= {name: value.clone() for name, value in last.items()}
            if self.reads_changes:
                after["frame"] = frames[-1].clone()
            read.append(self._drop(self.select(states, lambda: mean("hidden_sum", states))))
        return read, after

    def _drop(self, values: Tensor) -> Tensor:
        """Drop the same values of a sequence at all of its steps: ``[T, B, width]`` -> ``[T, B, width]``."""
        return values * self.dropout(torch.ones_like(values[0])) if self.training else values

    def initial_state(self, num_rows: int = 1) -> State:
        """The state of sequences that have not begun, for ``step``: zeros ``[num_rows, ...]`` by name.

        A row of zeros is a sequence that has not begun, so a sequence ends and another begins by setting its row to 0.
        """
        zeros = self.feature_mean.new_zeros
        widths = {"num_steps": 1}
        if self.skip is not None or not self.layers:
            widths["frame_sum"] = len(self.feature_mean)
        if self.reads_changes:
            widths["frame"] = len(self.feature_mean)
        for number, layer in enumerate(self.layers):
            size = layer.state_size if isinstance(layer, RecurrentLayer) else self.config.hidden_size
            widths[f"hidden_{number}"] = size
            if isinstance(layer, nn.LSTM):
                widths[f"cell_{number}"] = self.config.hidden_size
        if self.layers and self.config.readout != "last":
            widths["hidden_sum"] = self.config.hidden_size
        return {name: zeros(num_rows, width) for name, width in widths.items()}

    def step(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """Class scores after one more frame of each sequence, and the next state; see ``initial_state``.

        In evaluation mode, chained steps give ``scores_over_time``. The size of the state is constant.

        Args:
            features: ``[B, D]``, one frame of each of B sequences.
            state: the state before it. It is not changed.

        Returns:
            scores ``[B, num_classes]``, and the state after it.
        """
        frames = self.normalize(features)
        after = {"num_steps": state["num_steps"] + 1}
        terms = []
        if (linear := self.skip if self.layers else self.classifier) is not None:
            after["frame_sum"] = state["frame_sum"] + frames
            terms.append(linear(self.standardize(after["frame_sum"] / after["num_steps"])))
        if self.layers:
            inputs = []
            if self.config.reads != "changes":
                inputs.append(self.standardize(frames))
            if self.reads_changes:
                after["frame"] = frames
                has_begun = state["num_steps"].clamp(max=1)
                inputs.append((frames - state["frame"]) * has_begun * self.change_scale)
            hidden = _side_by_side(inputs)
            for number, layer in enumerate(self.layers):
                before = state[f"hidden_{number}"]
                if isinstance(layer, RecurrentLayer):
                    hidden, after[f"hidden_{number}"] = layer.advance(hidden, before)
                    continue
                assert isinstance(layer, nn.RNNBase)
                if isinstance(layer, nn.LSTM):
                    hidden, cell = torch.lstm_cell(hidden, (before, state[f"cell_{number}"]), *layer.all_weights[0])
                    after[f"cell_{number}"] = cell
                else:
                    hidden = _CELLS[layer.mode](hidden, before, *layer.all_weights[0])
                after[f"hidden_{number}"] = hidden
            if self.config.readout != "last":
                after["hidden_sum"] = state["hidden_sum"] + hidden
            read = self.select(hidden, lambda: after["hidden_sum"] / after["num_steps"])
            terms.append(self.classifier(read))
        scores: Tensor = sum(terms)
        return scores / self.temperature, after


def without_memory(config: ModelConfig, feature_dim: int, num_classes: int) -> SequenceClassifier:
    """A classifier whose weights take no memory, whatever its size, until a state dict is assigned to it."""
    with torch.device("meta"):
        return SequenceClassifier(config, feature_dim, num_classes)


def for_inference(model: SequenceClassifier) -> SequenceClassifier:
    """The classifier in evaluation mode on the CPU, whose weights are plain numbers, for single steps and for graphs.

    If it has parametrised weights, it is a copy: they would be computed at every step, from operations that ONNX lacks.
    """
    if not any(map(parametrize.is_parametrized, model.layers)):
        return model.cpu().eval()
    # Not a deep copy: it would share the class that removing a parametrisation changes.
    copied = without_memory(model.config, len(model.feature_mean), model.classifier.out_features)
    copied.load_state_dict(model.state_dict(), assign=True)
    for layer in copied.layers:
        for name in list(getattr(layer, "parametrizations", ())):
            parametrize.remove_parametrizations(layer, name)
    return copied.cpu().eval()


def _side_by_side(inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0] if len(inputs) == 1 else torch.cat(list(inputs), -1)


def _inverse(deviation: Tensor) -> Tensor:
    """1 / deviation, or 1 for a constant feature."""
    return torch.where(deviation > 1e-6, 1 / deviation.clamp_min(1e-6), torch.ones_like(deviation))


def _add_temperature(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Complete a state dict that was saved before the temperature existed."""
    state_dict.setdefault(f"{prefix}temperature", torch.ones(()))
