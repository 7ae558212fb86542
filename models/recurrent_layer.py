"""What the recurrent layers that PyTorch lacks have in common: all steps at once, one step, a fast diagonal scan."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RecurrentLayer(nn.Module):
    """One layer, time first, whose whole state is one tensor ``[B, state]``; zeros have read nothing.

    A subclass says what depends on the inputs alone (``project``: one product for all steps), how the state goes on
    (``step``), and what is read from it (``read``). It may compute all states in another way (``scan``).
    """

    def __init__(self, input_size: int, hidden_size: int, state_size: int | None = None) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.state_size = state_size or hidden_size

    def project(self, inputs: Tensor) -> Tensor:
        """What the steps need of the inputs: ``[..., input]`` -> ``[..., projected]``."""
        raise NotImplementedError

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        """The state ``[B, state]`` after one more input, ``[B, projected]``, and the state before it."""
        raise NotImplementedError

    def read(self, states: Tensor, projected: Tensor) -> Tensor:
        """The hidden states of steps: ``[..., state]`` and ``[..., projected]`` -> ``[..., hidden]``."""
        return states

    def scan(self, projected: Tensor, state: Tensor | None) -> Tensor:
        """The states after all steps, ``[T, B, state]``; ``state`` is that before the first, ``None`` for zeros."""
        if state is None:
            state = projected.new_zeros(projected.shape[1], self.state_size)
        states = []
        for one in projected.unbind():
            state = self.step(one, state)
            states.append(state)
        return torch.stack(states)

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The hidden states after all steps.

        Args:
            inputs: ``[T, B, input]``.
            state: ``[1, B, state]``, the state before the first step; ``None``: zero. No gradient flows through it.

        Returns:
            hidden states ``[T, B, hidden]`` and the last state ``[1, B, state]``.
        """
        # Under autocast the products are in half precision, which would lose the small steps of a long memory.
        projected = self.project(inputs).to(next(self.parameters()).dtype)
        # A tracer does not see into a scan of its own: the graph would contain the result as a constant.
        is_traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined]
        scan = RecurrentLayer.scan if is_traced else type(self).scan
        states = scan(self, projected, None if state is None else state[0])
        return self.read(states, projected), states[-1:]

    def advance(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden state ``[B, hidden]`` and the state ``[B, state]`` after one more input, ``[B, input]``."""
        projected = self.project(inputs)
        after = self.step(projected, state)
        return self.read(after, projected), after


def diagonal_scan(decay: Tensor, drive: Tensor, initial: Tensor | None = None, relu: bool = False) -> Tensor:
    """All states of h_t = decay_t * h_{t-1} + drive_t, element by element, optionally through a ReLU.

    The loop over time is two operations in place per step, without autograd's record of them, forward and backward.

    Args:
        decay: ``[T, B, hidden]``, or ``[hidden]`` if it is the same at all steps; real or complex.
        drive: ``[T, B, hidden]``, of the same type.
        initial: ``[B, hidden]``, the state before the first step; ``None``: zero. No gradient flows through it.
        relu: whether each step ends with a ReLU.

    Returns:
        states ``[T, B, hidden]``.
    """
    states: Tensor = _DiagonalScan.apply(decay.to(drive.dtype), drive, initial, relu)
    return states


class _DiagonalScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, drive: Tensor, initial: Tensor | None, relu: bool) -> Tensor:
        states = torch.empty_like(drive, memory_format=torch.contiguous_format)
        previous = torch.zeros_like(states[0]) if initial is None else initial.to(drive.dtype)
        first = previous
        for factor, added, state in zip(_by_step(decay, states), drive.unbind(), states.unbind(), strict=True):
            previous = torch.addcmul(added, factor, previous, out=state)
            if relu:
                previous.relu_()
        ctx.save_for_backward(decay, states, first)
        ctx.relu = relu
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        decay, states, first = ctx.saved_tensors
        # delta_t = dLoss/dh_t + conj(decay_{t+1}) delta_{t+1}, and zero where the ReLU is
        deltas = grad_states.clone(memory_format=torch.contiguous_format)
        factors, steps = _by_step(decay.conj().resolve_conj(), states), deltas.unbind()
        masks = states.sign().unbind() if ctx.relu else ()
        for number in reversed(range(len(steps))):
            if number + 1 < len(steps):
                steps[number].addcmul_(factors[number + 1], steps[number + 1])
            if masks:
                steps[number].mul_(masks[number])
        if not ctx.needs_input_grad[0]:
            return None, deltas, None, None
        before = torch.cat([first[None], states[:-1]])
        return (deltas * before.conj()).sum_to_size(decay.shape), deltas, None, None


def _by_step(decay: Tensor, states: Tensor) -> Sequence[Tensor]:
    return [decay] * len(states) if decay.ndim == 1 else decay.unbind()
