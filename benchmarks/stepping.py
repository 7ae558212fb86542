"""A recurrent classifier one step at a time, and what can be seen of its state that way."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.classifier import SequenceClassifier
from pipeline.settings.config import ConfigError

SMALL = 1e-5  # norm of the change of the first state; in float64, what is left of it is exact down to about 1e-9 of it
NUM_JACOBIANS = 16

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]


class Probe(NamedTuple):
    """Sequences to watch a network on."""

    inputs: Tensor
    """float64 ``[T, B, D]``"""
    targets: Tensor
    """``[B]``: float64 numbers, or int64 labels"""


@dataclass(frozen=True, eq=False)
class Dynamics:
    """What a network does with its state: all that goes from one step to the next (h of all layers, c of an LSTM).

    Attributes:
        eigenvalues: of the recurrent matrices of all layers; none for LSTM and GRU, whose layers have several each.
        step_eigenvalues: ``[up to 16, S]``, of d state_t+1 / d state_t in the middle of as many sequences.
        relu_gain: see ``relu_gain``, the largest of all layers; ``None`` for networks without a ReLU.
        growth: ``[T + 1, B]``, what is left of a small random change of the first state after 0 to T steps, as a ratio.
        gradient: ``[T, B]``, norm of d loss / d state 0 to T - 1 steps before the last, as a ratio to the last.
        active: ``[T]``, share of units that are not zero after each step, over units and sequences.
        dead: ``[T]``, share of units that are zero in every sequence.
    """

    eigenvalues: ComplexArray
    step_eigenvalues: ComplexArray
    relu_gain: float | None
    growth: FloatArray
    gradient: FloatArray
    active: FloatArray
    dead: FloatArray


def measure(model: SequenceClassifier, probe: Probe, seed: int = 0) -> Dynamics:
    """Watch a network, with dropout off, while it reads; raises ``ConfigError`` as ``SteppedNetwork`` does."""
    network = SteppedNetwork(model)
    state = network.start(len(probe.targets)).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    change = torch.randn(state.shape, generator=generator, dtype=torch.float64)
    moved = state.detach() + change * (SMALL / change.norm(dim=1, keepdim=True))
    states, growth = [state], [(moved - state).detach().norm(dim=1)]
    for inputs in probe.inputs:
        states.append(network.step(inputs, states[-1]))
        moved = network.step(inputs, moved)
        growth.append((moved - states[-1]).detach().norm(dim=1))
    gradients = torch.autograd.grad(loss_of(network.scores(states[1:]), probe.targets), states[1:])
    norms = torch.stack(gradients).norm(dim=2).flip(0)
    states = [state.detach() for state in states]
    is_zero = torch.stack([network.units(state) == 0 for state in states[1:]])

    middle = len(probe.inputs) // 2
    one_step = [
        eigenvalues(network.jacobian(inputs, state))
        for inputs, state in zip(probe.inputs[middle, :NUM_JACOBIANS], states[middle], strict=False)
    ]
    simple = [cell for cell in network.cells if isinstance(cell, nn.RNNCell)]
    gains = [relu_gain(cell.weight_hh) for cell in simple if cell.nonlinearity == "relu"]
    return Dynamics(
        eigenvalues=np.concatenate([np.empty(0, np.complex128), *(eigenvalues(cell.weight_hh) for cell in simple)]),
        step_eigenvalues=np.stack(one_step),
        relu_gain=max(gains, default=None),
        growth=(torch.stack(growth) / SMALL).numpy(),
        gradient=(norms / norms[0]).numpy(),
        active=(~is_zero).double().mean((1, 2)).numpy(),
        dead=is_zero.all(1).double().mean(1).numpy(),
    )


class SteppedNetwork:
    """A classifier in float64, dropout off, its state in one piece ``[B, S]``.

    Raises ``ConfigError`` for a model whose layers are not one-directional RNNs, LSTMs or GRUs of PyTorch's kind.
    """

    def __init__(self, model: SequenceClassifier) -> None:
        self.model = copy.deepcopy(model).double().eval().requires_grad_(False)
        self.cells = [cell_of(layer) for layer in self.model.layers]
        self.widths = [cell.hidden_size * (2 if isinstance(cell, nn.LSTMCell) else 1) for cell in self.cells]

    def start(self, batch: int) -> Tensor:
        return torch.zeros(batch, sum(self.widths), dtype=torch.float64)

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The next state: features of one step ``[B, D]``, state ``[B, S]`` -> ``[B, S]``."""
        read, states = (inputs - self.model.feature_mean) * self.model.feature_scale, []
        for cell, own in zip(self.cells, torch.split(state, self.widths, dim=1), strict=True):
            if isinstance(cell, nn.LSTMCell):
                read, memory = cell(read, own.chunk(2, dim=1))
                states += [read, memory]
            else:
                read = cell(read, own)
                states.append(read)
        return torch.cat(states, dim=1)

    def units(self, state: Tensor) -> Tensor:
        """h of all layers: state ``[B, S]`` -> ``[B, units]``."""
        return torch.cat(self._hidden(state), dim=1)

    def scores(self, states: Sequence[Tensor]) -> Tensor:
        """What the classifier makes of the states of all steps: ``[B, num_classes]``."""
        last_layer = torch.stack([self._hidden(state)[-1] for state in states])
        scores: Tensor = self.model.classifier(self.model.read_out(last_layer))
        return scores

    def jacobian(self, inputs: Tensor, state: Tensor) -> Tensor:
        """d next state / d state, ``[S, S]``, for one sequence: inputs ``[D]``, state ``[S]``."""
        size = len(state)
        copies = state.repeat(size, 1).requires_grad_()  # one for each row of the result
        rows = torch.eye(size, dtype=torch.float64)
        (jacobian,) = torch.autograd.grad(self.step(inputs.expand(size, -1), copies), copies, rows)
        return jacobian

    def _hidden(self, state: Tensor) -> list[Tensor]:
        parts = zip(self.cells, torch.split(state, self.widths, dim=1), strict=True)
        return [own[:, : cell.hidden_size] for cell, own in parts]


def cell_of(layer: nn.Module) -> nn.RNNCellBase:
    """A float64 layer's single step; raises ``ConfigError`` where it has none."""
    cell: nn.RNNCellBase
    if not isinstance(layer, nn.RNNBase) or layer.num_layers > 1 or layer.bidirectional:
        raise ConfigError(f"only one-directional RNN, LSTM and GRU layers can be watched step by step, not {layer}")
    if isinstance(layer, nn.LSTM):
        cell = nn.LSTMCell(layer.input_size, layer.hidden_size)
    elif isinstance(layer, nn.GRU):
        cell = nn.GRUCell(layer.input_size, layer.hidden_size)
    else:
        nonlinearity = "relu" if layer.mode == "RNN_RELU" else "tanh"
        cell = nn.RNNCell(layer.input_size, layer.hidden_size, nonlinearity=nonlinearity)
    cell.double().load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})
    return cell.requires_grad_(False)


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    """As in training, but summed: each sequence's gradient is its own."""
    if targets.is_floating_point():
        return F.mse_loss(scores[:, 0], targets, reduction="sum")
    return F.cross_entropy(scores, targets, reduction="sum")


def eigenvalues(matrix: Tensor) -> ComplexArray:
    found: ComplexArray = torch.linalg.eigvals(matrix).numpy()
    return found


def relu_gain(weight: Tensor, num_steps: int = 400, num_starts: int = 64) -> float:
    """What the norm of h is multiplied by per step of h <- relu(W h), in the long run.

    For a symmetric W it would be the largest eigenvalue, did not the ReLU keep h from its eigenvector, which in general
    has entries of both signs.

    Args:
        weight: float64 ``[N, N]``.
        num_steps: the geometric mean is taken over the later half.
        num_starts: random h without negative entries; the median over them counts.
    """
    states = torch.rand(len(weight), num_starts, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logarithms = []
    for _ in range(num_steps):
        states = (weight @ states).relu()
        norms = states.norm(dim=0).clamp_min(1e-300)  # a state may die out altogether
        states = states / norms
        logarithms.append(norms.log())
    return torch.stack(logarithms[num_steps // 2 :]).mean(0).exp().median().item()
