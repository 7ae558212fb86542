"""LEM, long expressive memory: two states with learned time steps (Rusch et al., arXiv 2110.04744)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.recurrent_layer import RecurrentLayer


class LEM(RecurrentLayer):
    """Two states that move towards their targets by learned time steps (equation 3, with the longest step 1).

    dt_t = sigmoid(W_2 y_{t-1} + V_2 x_t + b_2), dt'_t = sigmoid(W_1 y_{t-1} + V_1 x_t + b_1),
    z_t = (1 - dt_t) z_{t-1} + dt_t tanh(W_z y_{t-1} + V_z x_t + b_z),
    y_t = (1 - dt'_t) y_{t-1} + dt'_t tanh(W_y z_t + V_y x_t + b_y). The hidden state is y.

    Weights and biases start uniform in +-1 / sqrt(hidden), as in the authors' code. The state is y before z:
    ``[B, 2 * hidden]``.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, 2 * hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))  # V_1, V_2, V_z, V_y
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))  # W_1, W_2, W_z
        self.weight_hh_y = nn.Parameter(torch.empty(hidden_size, hidden_size))  # W_y
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def project(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight_ih, self.bias_ih)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        y, z = state.chunk(2, -1)
        driven, driven_y = projected.split([3 * self.hidden_size, self.hidden_size], -1)
        steps, target = (driven + F.linear(y, self.weight_hh)).split([2 * self.hidden_size, self.hidden_size], -1)
        step_y, step_z = steps.sigmoid().chunk(2, -1)
        z = torch.lerp(z, target.tanh(), step_z)
        y = torch.lerp(y, (driven_y + F.linear(z, self.weight_hh_y)).tanh(), step_y)
        return torch.cat([y, z], -1)

    def read(self, states: Tensor, projected: Tensor) -> Tensor:
        return states[..., : self.hidden_size]
