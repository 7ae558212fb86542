"""minGRU and minLSTM: gates that read the inputs only (Feng et al., "Were RNNs All We Needed?", arXiv 2410.01201)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.initializers import glorot_normal_
from models.recurrent_layer import RecurrentLayer, diagonal_scan


class MinGRU(RecurrentLayer):
    """h_t = (1 - z_t) h_{t-1} + z_t c_t with z_t = sigmoid(W_z x_t + b_z), c_t = g(W_c x_t + b_c).

    This is the version of appendix B, which the paper's experiments use: g(x) = x + 0.5 for x >= 0 and sigmoid(x)
    below. The paper computes it in the logarithms of these positive numbers, to multiply many gates without an
    underflow; a scan step by step gives the same states and needs none. The first state is 0.

    Weights are Glorot normal, gate by gate, and biases 0.
    """

    num_parts = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(self.num_parts * hidden_size, input_size))
        self.bias_ih = nn.Parameter(torch.zeros(self.num_parts * hidden_size))
        for part in self.weight_ih.split(hidden_size):
            glorot_normal_(part)

    def project(self, inputs: Tensor) -> Tensor:
        """The gates and the candidates before their non-linearities: ``[..., input]`` -> ``[..., parts * hidden]``."""
        return F.linear(inputs, self.weight_ih, self.bias_ih)

    def gate_and_candidate(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """z_t and W_c x_t + b_c, ``[..., hidden]`` each."""
        gate, candidate = projected.chunk(2, -1)
        return gate.sigmoid(), candidate

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        gate, candidate = self.gate_and_candidate(projected)
        return (1 - gate) * state + gate * _positive(candidate)

    def scan(self, projected: Tensor, state: Tensor | None) -> Tensor:
        gate, candidate = self.gate_and_candidate(projected)
        return diagonal_scan(1 - gate, gate * _positive(candidate), state)


class MinLSTM(MinGRU):
    """h_t = f'_t h_{t-1} + i'_t c_t with f' = f / (f + i) and i' = i / (f + i), which sum to 1.

    f and i are sigmoids of the inputs, and c_t is that of ``MinGRU`` (arXiv 2410.01201, section 3.2 and appendix B).
    The forget gates' biases start at 1, as those of the LSTM do.
    """

    num_parts = 3

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        nn.init.ones_(self.bias_ih[:hidden_size])

    def gate_and_candidate(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """i'_t and W_c x_t + b_c, ``[..., hidden]`` each."""
        forget, admit, candidate = projected.chunk(3, -1)
        # i / (f + i) = sigmoid(log i - log f), which can't divide 0 by 0
        return (F.logsigmoid(admit) - F.logsigmoid(forget)).sigmoid(), candidate


def _positive(candidate: Tensor) -> Tensor:
    return torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
