"""A recurrent network whose matrix stays orthogonal (Lezcano-Casado & Martinez-Rubio, arXiv 1901.08428)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from models.initializers import glorot_normal_, orthogonal_
from models.recurrent_layer import RecurrentLayer


class OrthogonalRNN(RecurrentLayer):
    """h_t = modReLU(W_xh x_t + W_hh h_{t-1}) with W_hh orthogonal after every update.

    W_hh is a random orthogonal matrix times the exponential of a skew-symmetric one, which is what is learned
    (``torch.nn.utils.parametrizations.orthogonal``), so no step changes the length of a state. modReLU(z) = sign(z)
    relu(|z| + b) keeps the signs that a ReLU would lose; b starts uniform in +-0.01 as in the authors' code, and W_xh
    is Glorot normal.
    """

    weight_hh: Tensor

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(glorot_normal_(torch.empty(hidden_size, input_size)))
        self.bias = nn.Parameter(torch.empty(hidden_size).uniform_(-0.01, 0.01))
        self.weight_hh = nn.Parameter(orthogonal_(torch.empty(hidden_size, hidden_size)))
        orthogonal(self, "weight_hh")

    def project(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight_ih)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        driven = projected + F.linear(state, self.weight_hh)
        return driven.sign() * (driven.abs() + self.bias).relu()

    def scan(self, projected: Tensor, state: Tensor | None) -> Tensor:
        with parametrize.cached():  # one exponential for all steps
            return super().scan(projected, state)
