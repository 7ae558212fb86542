"""Approximate rank pooling (Bilen et al., "Dynamic Image Networks for Action Recognition", CVPR 2016)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.initializers import glorot_normal_
from models.recurrent_layer import RecurrentLayer


class RankPooling(RecurrentLayer):
    """h_t = sum_s a_s W x_s over the frames s = 0 ... t so far, a_s = (2 s - t) / (n sqrt((n^2 - 1) / 3)), n = t + 1.

    Late frames count positively and early ones negatively, in proportion to their distance from the middle (section 3
    of the paper, with the features themselves in place of their running averages). So h is the linear trend of the
    features; it changes its sign if a video is reversed. The divisor makes the mean square of n a_s 1. There is no
    nonlinearity: with the skip connection, which reads the frame average, the classifier is linear in the
    normalised frames.

    The state is sum_s W x_s, sum_s s W x_s and n: ``[B, 2 * hidden + 1]``.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, 2 * hidden_size + 1)
        self.weight_ih = nn.Parameter(glorot_normal_(torch.empty(hidden_size, input_size)))

    def project(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight_ih)

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        number = state[..., -1:]
        return state + torch.cat([projected, number * projected, torch.ones_like(number)], -1)

    def scan(self, projected: Tensor, state: Tensor | None) -> Tensor:
        ones = torch.ones_like(projected[..., :1])
        number = ones.cumsum(0) - 1
        if state is not None:
            number = number + state[..., -1:]
        states = torch.cat([projected, number * projected, ones], -1).cumsum(0)
        return states if state is None else states + state

    def read(self, states: Tensor, projected: Tensor) -> Tensor:
        total, weighted, number = states.split([self.hidden_size, self.hidden_size, 1], -1)
        # One frame has no trend: the numerator is zero, and the divisor must not be.
        divisor = number * ((number * number - 1) / 3).clamp_min(1).sqrt()
        return (2 * weighted - (number - 1) * total) / divisor.clamp_min(1)
