"""A ReLU ``nn.RNN`` layer with a faster forward and backward pass on the CPU.

On a CPU ``nn.RNN`` spends half its time on work other than the matrix products: autograd's record of every step, new
memory at every step, one small product per step for the weights' gradient, and passes over the whole sequence, which
fits in no cache. Here a layer is one ``autograd.Function`` that processes time in blocks small enough for the cache.
Within a block a step is an in-place multiply-add and a ReLU (or its derivative). Everything that does not depend on
the previous step (the product with the inputs and the weights' gradients) is one product per block. On a GPU cuDNN
does the work.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Numbers in a block of states. In float32 it takes half a megabyte: with its gradient it fits a second-level cache.
_BLOCK_SIZE = 2**18
_MIN_BLOCK_STEPS = 8  # shorter blocks would make the weights' gradients a series of small products again


class ReluRNN(nn.RNN):
    """One unidirectional ReLU layer, time first, with ``nn.RNN``'s parameters and their names.

    The first ``memory_units`` units are a memory (``initializers.init_np_rnn_``). They learn only what they get from
    the other units; their weights among each other, their input weights and their biases stay as they are. A change of
    1e-4 in the identity would multiply their state by 1.6 within 5,000 steps, and one of the bias would add 0.5 to it.
    (A deep copy, or weights that are assigned, would learn all; neither is trained here.)
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int, memory_units: int = 0) -> None:
        super().__init__(input_size, hidden_size, nonlinearity="relu")
        self.memory_units = memory_units
        if memory_units:
            self.weight_hh_l0.register_hook(_cleared(memory_units, memory_units))
            for weight in (self.weight_ih_l0, self.bias_ih_l0, self.bias_hh_l0):
                weight.register_hook(_cleared(memory_units))

    def forward(self, inputs: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The states after all steps.

        Args:
            inputs: ``[T, B, input]``.
            state: ``[1, B, hidden]``, the state before the first step; ``None``: zero. No gradient flows through it.

        Returns:
            states ``[T, B, hidden]`` and the last state ``[1, B, hidden]``.

        Raises:
            ValueError: ``inputs`` has another shape or no step.
        """
        if inputs.ndim != 3 or not len(inputs) or inputs.shape[2] != self.input_size:
            raise ValueError(f"inputs must be [T, B, {self.input_size}] with T > 0; got {list(inputs.shape)}")
        # A tracer does not see into the function below: the graph would contain its result as a constant.
        is_traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # type: ignore[attr-defined]
        if inputs.device.type != "cpu" or is_traced:
            if not self.memory_units:
                return super().forward(inputs, state)
            with torch.autocast(inputs.device.type, enabled=False):  # a sum in 16 bits soon stops growing
                return super().forward(inputs.to(self.weight_hh_l0.dtype), state)
        assert state is None or not torch.is_grad_enabled()
        bias = self.total_bias
        # In-place products fail in half precision, which is slower on most CPUs anyway.
        with torch.autocast("cpu", enabled=False):
            states: Tensor = _ReluScan.apply(
                inputs.to(bias.dtype), self.weight_ih_l0, self.weight_hh_l0, bias, None if state is None else state[0]
            )
        return states, states[-1:]

    @property
    def total_bias(self) -> Tensor:
        """The sum of both biases, ``[hidden]``."""
        return self.bias_ih_l0 + self.bias_hh_l0

    def project(self, inputs: Tensor) -> Tensor:
        """What inputs add to the next state before the ReLU: ``[..., input]`` -> ``[..., hidden]``."""
        return nn.functional.linear(inputs, self.weight_ih_l0, self.total_bias)

    def step(self, projected: Tensor, state: Tensor | None) -> Tensor:
        """The state after one more input. Overwrites ``projected``; no gradient flows through.

        Args:
            projected: ``[B, hidden]``, that input after ``project``.
            state: ``[B, hidden]``, the state before it; ``None`` before the first.
        """
        driven = projected if state is None else projected.addmm_(state, self.weight_hh_l0.t())
        return driven.relu_()


def _cleared(rows: int, columns: int | None = None) -> Callable[[Tensor], Tensor]:
    """A hook that sets the first rows, or their first columns, of a gradient to zero."""

    def clear(gradient: Tensor) -> Tensor:
        cleared = gradient.clone()
        cleared[:rows][..., :columns] = 0
        return cleared

    return clear


class _ReluScan(torch.autograd.Function):
    """h_t = relu(x_t W_ih^T + b + h_{t-1} W_hh^T), from h = 0 or, without a backward pass, from ``initial``."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, initial: Tensor | None
    ) -> Tensor:
        num_steps, batch, _ = inputs.shape
        states = inputs.new_empty(num_steps, batch, len(weight_hh))
        previous = states.new_zeros(states.shape[1:]) if initial is None else initial
        for steps in _blocks(states):
            block = states[steps]
            torch.addmm(bias, inputs[steps].flatten(0, 1), weight_ih.t(), out=block.flatten(0, 1))
            for state in block.unbind():
                previous = state.addmm_(previous, weight_hh.t()).relu_()
        ctx.save_for_backward(inputs, weight_ih, weight_hh, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor, None]:
        inputs, weight_ih, weight_hh, states = ctx.saved_tensors
        grad_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        # MKL multiplies [few inputs, rows] by [rows, hidden] up to ten times faster than the reverse. With many inputs
        # the two take the same time, and a transposed gradient would be copied.
        is_transposed = weight_ih.shape[1] < 16
        grad_weight_ih = weight_ih.new_zeros(weight_ih.shape[::-1] if is_transposed else weight_ih.shape)
        grad_weight_hh = torch.zeros_like(weight_hh)
        grad_bias = weight_hh.new_zeros(len(weight_hh))
        # delta_t = dLoss / d(input of the ReLU at t) = (dLoss/dh_t + delta_{t+1} W_hh) where h_t > 0, else 0
        following = states.new_zeros(states.shape[1:])
        for steps in reversed(_blocks(states)):
            deltas = grad_states[steps].clone(memory_format=torch.contiguous_format)
            actives = states[steps].sign()
            for delta, active in zip(reversed(deltas.unbind()), reversed(actives.unbind()), strict=True):
                following = delta.addmm_(following, weight_hh).mul_(active)
            rows = deltas.flatten(0, 1)
            product = (inputs[steps].flatten(0, 1), rows) if is_transposed else (rows, inputs[steps].flatten(0, 1))
            grad_weight_ih.addmm_(product[0].t(), product[1])
            grad_bias += rows.sum(0)
            first = max(steps.start, 1)  # before step 0 the state is zero
            before = states[first - 1 : steps.stop - 1]
            grad_weight_hh.addmm_(deltas[first - steps.start :].flatten(0, 1).t(), before.flatten(0, 1))
            if grad_inputs is not None:
                grad_inputs[steps] = deltas @ weight_ih
        return grad_inputs, grad_weight_ih.t() if is_transposed else grad_weight_ih, grad_weight_hh, grad_bias, None


def _blocks(states: Tensor) -> list[slice]:
    """Consecutive steps of states ``[T, B, hidden]`` whose size suits the cache."""
    num_steps, batch, hidden = states.shape
    block_steps = max(_MIN_BLOCK_STEPS, _BLOCK_SIZE // max(1, batch * hidden))
    return [slice(start, min(start + block_steps, num_steps)) for start in range(0, num_steps, block_steps)]
