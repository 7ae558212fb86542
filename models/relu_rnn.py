"""A ReLU ``nn.RNN`` layer whose recursion over time is written out for the CPU.

On a CPU a ReLU RNN spends its time in the overhead of each step and in autograd's bookkeeping of it. Here the input's
product is made for all steps at once, each step is one fused multiply-add and one clamp into place, and the recurrent
weights' gradient is ONE matrix product over all steps instead of one a step. On a GPU cuDNN does the work.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class _ReluScan(torch.autograd.Function):
    """h_t = relu(x_t + h_{t-1} W^T) from h_{-1} = 0: drives x ``[T, B, H]``, W ``[H, H]`` -> states h ``[T, B, H]``."""

    @staticmethod
    def forward(ctx: FunctionCtx, drive: Tensor, weight: Tensor) -> Tensor:
        states = drive.clone(memory_format=torch.contiguous_format)
        steps = states.unbind(0)
        transposed = weight.t()
        steps[0].relu_()
        for previous, current in zip(steps, steps[1:], strict=False):
            current.addmm_(previous, transposed).relu_()
        ctx.save_for_backward(states, weight)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_states: Tensor) -> tuple[Tensor, Tensor]:
        states, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        # delta_t = dLoss/d(pre-activation at t) = (grad_t + delta_{t+1} W) * (h_t > 0)
        delta = torch.where(states > 0, grad_states, 0)
        steps = delta.unbind(0)
        active = (states > 0).to(delta.dtype).unbind(0)
        for t in range(len(steps) - 2, -1, -1):
            steps[t].addmm_(steps[t + 1], weight).mul_(active[t])
        grad_weight = delta[1:].flatten(0, 1).t() @ states[:-1].flatten(0, 1)
        return delta, grad_weight


def relu_scan(drive: Tensor, weight: Tensor) -> Tensor:
    """States of a ReLU recurrence begun at zero: drives ``[T, B, H]``, recurrent matrix ``[H, H]`` -> ``[T, B, H]``."""
    if drive.ndim != 3 or weight.shape != (drive.shape[2], drive.shape[2]):
        raise ValueError(f"drive [T, B, H] and weight [H, H] wanted; got {tuple(drive.shape)}, {tuple(weight.shape)}")
    states: Tensor = _ReluScan.apply(drive, weight)
    return states


class ReluRNN(nn.RNN):
    """One unidirectional ReLU layer ``[T, B, input] -> [T, B, hidden]``, with ``nn.RNN``'s parameters and names."""

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, nonlinearity="relu")

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """States of all steps ``[T, B, H]`` and the last one ``[1, B, H]``; the initial state is zero."""
        if inputs.device.type != "cpu":
            states, last = super().forward(inputs)
            return states, last
        drive = nn.functional.linear(inputs, self.weight_ih_l0, self.bias_ih_l0 + self.bias_hh_l0)
        states = relu_scan(drive, self.weight_hh_l0)
        return states, states[-1:]
