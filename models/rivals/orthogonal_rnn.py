"""A recurrent network whose matrix stays orthogonal (Lezcano-Casado & Martinez-Rubio, arXiv 1901.08428)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from models.initializers import glorot_normal_
from models.recurrent_layer import RecurrentLayer


class OrthogonalRNN(RecurrentLayer):
    """h_t = modReLU(W_xh x_t + W_hh h_{t-1}) with W_hh orthogonal after every update.

    W_hh is the exponential of a skew-symmetric matrix, which is what is learned (expRNN, section 3; computed by
    ``torch.nn.utils.parametrizations.orthogonal``), so no step changes the length of a state. modReLU(z) = sign(z)
    relu(|z| + b) keeps the signs that a ReLU would lose.

    W_hh starts as rotations of pairs of units by uniform angles, b uniform in +-0.01 (section 5 and the authors' code),
    and W_xh Glorot normal.
    """

    weight_hh: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(glorot_normal_(torch.empty(hidden_size, input_size)))
        self.bias = nn.Parameter(torch.empty(hidden_size).uniform_(-0.01, 0.01))
        angles = torch.zeros(hidden_size - 1)
        angles[::2].uniform_(-math.pi, math.pi)
        self.weight_hh = nn.Parameter(angles.diag(-1))  # the lower triangle of the skew-symmetric matrix
        orthogonal(self, "weight_hh", "matrix_exp", use_trivialization=False)

    def project(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight_ih)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        driven = projected + F.linear(state, self.weight_hh)
        return driven.sign() * (driven.abs() + self.bias).relu()

    def scan(self, projected: Tensor, state: Tensor | None) -> Tensor:
        with parametrize.cached():  # one exponential for all steps
            return super().scan(projected, state)
