"""A ReLU ``nn.RNN`` layer whose recursion over time, forward and backward, is written out for the CPU.

On a CPU ``nn.RNN`` spends half its time beside the matrix products that it can't do without: on autograd's record of
every step, on new memory at every step, on one small product a step for the weights' gradient, and on passes over the
whole sequence, which no cache holds. Here a layer is one ``autograd.Function`` that walks through time in blocks small
enough for the cache. Inside a block a step is a multiply-add and a ReLU (or its derivative) into place; all that does
not depend on the step before, which is the inputs' product and the weights' gradients, is one product a block. On a GPU
cuDNN does the work.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# Numbers in a block of states. In float32 it takes half a megabyte: with its gradient it fits a second-level cache.
_BLOCK_SIZE = 2**17
_MIN_BLOCK_STEPS = 8  # with fewer, the weights' gradients would be a row of small products again


class ReluRNN(nn.RNN):
    """One unidirectional ReLU layer, time first, with ``nn.RNN``'s parameters and their names."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, nonlinearity="relu")

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """The states of all steps; before the first the state is zero.

        Args:
            inputs: ``[T, B, input]``.
            lengths: int64 ``[B]``, from 1 to T, in any order; ``None`` means T for all. What stands behind a
                sequence's end is not read, and little time goes there.

        Returns:
            states ``[T, B, hidden]``, zero behind a sequence's end, and each sequence's last state ``[1, B, hidden]``.

        Raises:
            ValueError: the shapes do not fit, or a length is out of range.
        """
        if inputs.ndim != 3 or not len(inputs) or inputs.shape[2] != self.input_size:
            raise ValueError(f"inputs are [T, B, {self.input_size}] with T > 0; got {list(inputs.shape)}")
        if lengths is None:
            states = self._scan(inputs, None)
            return states, states[-1:]
        num_steps, batch, _ = inputs.shape
        if lengths.shape != (batch,) or ((lengths < 1) | (lengths > num_steps)).any():
            raise ValueError(f"lengths are {batch} numbers from 1 to {num_steps}; got {lengths.tolist()}")
        if inputs.device.type != "cpu":
            packed = pack_padded_sequence(inputs, lengths.cpu(), enforce_sorted=False)
            packed_states, last = super().forward(packed)
            return pad_packed_sequence(packed_states, total_length=num_steps)[0], last
        order = lengths.argsort(descending=True, stable=True)
        states = self._scan(inputs.index_select(1, order), lengths[order]).index_select(1, order.argsort())
        return states, states[lengths - 1, torch.arange(batch)].unsqueeze(0)

    def project(self, inputs: Tensor) -> Tensor:
        """What each input adds to the next state, whatever came before it: ``[..., input]`` -> ``[..., hidden]``."""
        return nn.functional.linear(inputs, self.weight_ih_l0, self.bias_ih_l0 + self.bias_hh_l0)

    def step(self, projected: Tensor, state: Tensor | None) -> Tensor:
        """The state after one more input, written over ``projected``; no gradient comes through.

        Args:
            projected: ``[B, hidden]``, of that input.
            state: ``[B, hidden]``, before it; ``None`` before the first.
        """
        driven = projected if state is None else projected.addmm_(state, self.weight_hh_l0.t())
        return driven.relu_()

    def _scan(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        if inputs.device.type != "cpu":
            states: Tensor = super().forward(inputs)[0]
            return states
        bias = self.bias_ih_l0 + self.bias_hh_l0
        # In half precision a product into place fails, and on most CPUs it is slower.
        with torch.autocast("cpu", enabled=False):
            inputs = inputs.to(bias.dtype)
            scanned: Tensor = _ReluScan.apply(inputs, self.weight_ih_l0, self.weight_hh_l0, bias, lengths)
        return scanned


class _ReluScan(torch.autograd.Function):
    """h_t = relu(x_t W_ih^T + b + h_{t-1} W_hh^T) from h = 0; the longest sequences come first in the batch.

    States are zero behind a sequence's end. That is all the masking that the recursion needs: where a state is zero so
    is the ReLU's derivative, and no gradient passes.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, lengths: Tensor | None
    ) -> Tensor:
        num_steps, batch, _ = inputs.shape
        states = inputs.new_empty(num_steps, batch, len(weight_hh))
        blocks = list(_blocks(states, lengths))
        previous = states.new_zeros(states.shape[1:])
        for steps, running, ended in blocks:
            states[steps, running:] = 0
            block = states[steps, :running]
            block.copy_(nn.functional.linear(_without_padding(inputs[steps, :running], ended), weight_ih, bias))
            previous = previous[:running]
            for state in block.unbind():
                previous = state.addmm_(previous, weight_hh.t()).relu_()
            if ended is not None:
                block.masked_fill_(ended, 0)
        ctx.save_for_backward(inputs, weight_ih, weight_hh, states)
        ctx.blocks = blocks
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor, None]:
        inputs, weight_ih, weight_hh, states = ctx.saved_tensors
        grad_inputs = torch.empty_like(inputs) if ctx.needs_input_grad[0] else None
        # Transposed: MKL multiplies [few inputs, rows] by [rows, hidden] up to ten times faster than the reverse.
        grad_weight_ih = weight_ih.new_zeros(weight_ih.shape[::-1])
        grad_weight_hh = torch.zeros_like(weight_hh)
        grad_bias = weight_hh.new_zeros(len(weight_hh))
        # delta_t = dLoss / d(what the ReLU at t reads) = (dLoss/dh_t + delta_{t+1} W_hh) where h_t > 0, else 0
        carried = states.new_zeros(states.shape[1:])
        for steps, running, ended in reversed(ctx.blocks):
            deltas = grad_states[steps, :running].clone(memory_format=torch.contiguous_format)
            actives = states[steps, :running].sign()
            following = carried[:running]
            for delta, active in zip(reversed(deltas.unbind()), reversed(actives.unbind()), strict=True):
                following = delta.addmm_(following, weight_hh).mul_(active)
            carried[:running] = following
            rows = deltas.flatten(0, 1)
            grad_weight_ih.addmm_(_without_padding(inputs[steps, :running], ended).flatten(0, 1).t(), rows)
            grad_bias += rows.sum(0)
            first = max(steps.start, 1)  # before step 0 the state is zero
            before = states[first - 1 : steps.stop - 1, :running]
            grad_weight_hh.addmm_(deltas[first - steps.start :].flatten(0, 1).t(), before.flatten(0, 1))
            if grad_inputs is not None:
                grad_inputs[steps, :running] = deltas @ weight_ih
                grad_inputs[steps, running:] = 0
        return grad_inputs, grad_weight_ih.t(), grad_weight_hh, grad_bias, None


class _Block(NamedTuple):
    """Consecutive steps; how many sequences (the first of the batch) run when they begin; where those have ended."""

    steps: slice
    running: int
    ended: Tensor | None
    """bool ``[steps, running, 1]``; ``None`` where none ends before the block does"""


def _blocks(states: Tensor, lengths: Tensor | None) -> Iterator[_Block]:
    num_steps, batch, hidden = states.shape
    block_steps = max(_MIN_BLOCK_STEPS, _BLOCK_SIZE // max(1, batch * hidden))
    for start in range(0, num_steps, block_steps):
        stop = min(start + block_steps, num_steps)
        running, ended = batch, None
        if lengths is not None:
            running = int((lengths > start).sum())
            if (lengths[:running] < stop).any():
                ended = (torch.arange(start, stop).unsqueeze(1) >= lengths[:running]).unsqueeze(2)
        yield _Block(slice(start, stop), running, ended)


def _without_padding(inputs: Tensor, ended: Tensor | None) -> Tensor:
    """Zero times a gradient of zero is zero; infinity or NaN would not be."""
    return inputs if ended is None else inputs.masked_fill(ended, 0)
