"""Run a recurrent classifier step by step and measure how its state evolves."""

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

SMALL = 1e-5  # norm of the change of the first state; float64 resolves a remainder of about 1e-9 of it
NUM_JACOBIANS = 16

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]


class Probe(NamedTuple):
    """Sequences to measure a network on."""

    inputs: Tensor
    """float64 ``[T, B, D]``"""
    targets: Tensor
    """``[B]``: float64 numbers or int64 labels"""


@dataclass(frozen=True, eq=False)
class Dynamics:
    """How a network's state evolves; the state is all that passes from step to step (h of all layers, c of an LSTM).

    Attributes:
        eigenvalues: eigenvalues of the recurrent matrices of all layers; empty for LSTM and GRU, whose layers have
            several matrices each.
        step_eigenvalues: ``[up to 16, S]``, eigenvalues of d state_t+1 / d state_t halfway through up to 16 sequences.
        relu_gain: the largest ``relu_gain`` of all layers; ``None`` for networks without a ReLU.
        growth: ``[T + 1, B]``, size after 0 to T steps of a small random change of the first state, relative to its
            initial size.
        gradient: ``[T, B]``, norm of d loss / d state 0 to T - 1 steps before the last, relative to the last.
        active: ``[T]``, share of nonzero units after each step, over units and sequences.
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
    """Measure a network without dropout on ``probe``; raises ``ConfigError`` as ``SteppedNetwork`` does."""
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
    """A classifier in float64 without dropout, with its whole state in one tensor ``[B, S]``.

    It reads features after power normalisation, and leaves out the skip connection, which has no state.

    Raises ``ConfigError`` if a layer of the model is not a unidirectional ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU``.
    """

    def __init__(self, model: SequenceClassifier) -> None:
        self.model = copy.deepcopy(model).double().eval().requires_grad_(False)
        self.cells = [cell_of(layer) for layer in self.model.layers]
        self.widths = [cell.hidden_size * (2 if isinstance(cell, nn.LSTMCell) else 1) for cell in self.cells]

    def start(self, batch: int) -> Tensor:
        return torch.zeros(batch, sum(self.widths), dtype=torch.float64)

    def step(self, inputs: Tensor, state: Tensor) -> Tensor:
        """The next state: features of one step ``[B, D]``, state ``[B, S]`` -> ``[B, S]``."""
        layer_inputs, states = (inputs - self.model.feature_mean) * self.model.feature_scale, []
        for cell, previous in zip(self.cells, torch.split(state, self.widths, dim=1), strict=True):
            if isinstance(cell, nn.LSTMCell):
                hidden, memory = cell(layer_inputs, previous.chunk(2, dim=1))
                states += [hidden, memory]
            else:
                hidden = cell(layer_inputs, previous)
                states.append(hidden)
            layer_inputs = hidden
        return torch.cat(states, dim=1)

    def units(self, state: Tensor) -> Tensor:
        """The hidden units of all layers: state ``[B, S]`` -> ``[B, units]``."""
        return torch.cat(self._hidden(state), dim=1)

    def scores(self, states: Sequence[Tensor]) -> Tensor:
        """Class scores from the states of all steps, ``[B, S]`` each: ``[B, num_classes]``."""
        last_layer = torch.stack([self._hidden(state)[-1] for state in states])
        scores: Tensor = self.model.classifier(self.model.read_out(last_layer))
        return scores

    def jacobian(self, inputs: Tensor, state: Tensor) -> Tensor:
        """d next state / d state, ``[S, S]``, for one sequence: inputs ``[D]``, state ``[S]``."""
        size = len(state)
        copies = state.repeat(size, 1).requires_grad_()  # one per row of the result
        rows = torch.eye(size, dtype=torch.float64)
        (jacobian,) = torch.autograd.grad(self.step(inputs.expand(size, -1), copies), copies, rows)
        return jacobian

    def _hidden(self, state: Tensor) -> list[Tensor]:
        parts = zip(self.cells, torch.split(state, self.widths, dim=1), strict=True)
        return [part[:, : cell.hidden_size] for cell, part in parts]


def cell_of(layer: nn.Module) -> nn.RNNCellBase:
    """The cell that computes one step of a float64 layer; raises ``ConfigError`` for other kinds of layer."""
    cell: nn.RNNCellBase
    if not isinstance(layer, nn.RNNBase) or layer.num_layers > 1 or layer.bidirectional:
        raise ConfigError(f"only unidirectional RNN, LSTM and GRU layers can run step by step, not {layer}")
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
    """The training loss, but summed, so that a sequence's gradient does not depend on the batch size."""
    if targets.is_floating_point():
        return F.mse_loss(scores[:, 0], targets, reduction="sum")
    return F.cross_entropy(scores, targets, reduction="sum")


def eigenvalues(matrix: Tensor) -> ComplexArray:
    found: ComplexArray = torch.linalg.eigvals(matrix).numpy()
    return found


def relu_gain(weight: Tensor, num_steps: int = 400, num_starts: int = 64) -> float:
    """The long-run factor by which a step h <- relu(W h) multiplies the norm of h.

    For a symmetric W without the ReLU it would be the largest eigenvalue. But that eigenvector generally has entries of
    both signs, so h can't reach it through a ReLU.

    Args:
        weight: float64 ``[N, N]``.
        num_steps: number of steps; the result is the geometric mean over the second half.
        num_starts: number of random non-negative initial h; the result is the median over them.
    """
    states = torch.rand(len(weight), num_starts, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logarithms = []
    for _ in range(num_steps):
        states = (weight @ states).relu()
        norms = states.norm(dim=0).clamp_min(1e-300)  # a state may vanish
        states = states / norms
        logarithms.append(norms.log())
    return torch.stack(logarithms[num_steps // 2 :]).mean(0).exp().median().item()
