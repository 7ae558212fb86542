"""IndRNN: a ReLU network whose units do not read each other (Li et al., arXiv 1803.04831)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.initializers import glorot_normal_
from models.recurrent_layer import RecurrentLayer, diagonal_scan


class IndRNN(RecurrentLayer):
    """h_t = relu(W x_t + b + u * h_{t-1}) with one recurrent weight per unit, |u| <= 2^(1/T) (equations 2 and 7).

    The bound keeps a state from growing by more than a factor of 2 over T steps. As in the paper, u is cut off after
    each update (here before the next use). It starts uniform in [2^(-1/T), 2^(1/T)], which the paper uses for the last
    layer where a long memory is needed: after T steps a unit still knows half of an input or more. W is Glorot normal.
    """

    def __init__(self, input_size: int, hidden_size: int, num_steps: int) -> None:
        """``num_steps``: T, about the length of the sequences."""
        super().__init__(input_size, hidden_size)
        self.bound = 2 ** (1 / num_steps)
        self.weight_ih = nn.Parameter(glorot_normal_(torch.empty(hidden_size, input_size)))
        self.weight_hh = nn.Parameter(torch.empty(hidden_size).uniform_(1 / self.bound, self.bound))
        self.bias_ih = nn.Parameter(torch.zeros(hidden_size))

    def project(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight_ih, self.bias_ih)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        return (projected + self.weight_hh.clamp(-self.bound, self.bound) * state).relu()

    def scan(self, projected: Tensor, state: Tensor | None) -> Tensor:
        if self.training:
            # Not part of the graph: with a clamp in it, a weight beyond the bound would get no gradient ever again.
            self.weight_hh.data.clamp_(-self.bound, self.bound)
        return diagonal_scan(self.weight_hh.clamp(-self.bound, self.bound), projected, state, relu=True)
