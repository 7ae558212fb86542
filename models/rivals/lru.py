"""LRU, a linear recurrence with complex eigenvalues (Orvieto et al., arXiv 2303.06349)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.recurrent_layer import RecurrentLayer, diagonal_scan

# The ring of the first eigenvalues, and their largest angle (appendix A, and the settings of sequential CIFAR).
R_MIN, R_MAX, MAX_PHASE = 0.9, 0.999, 2 * math.pi


class LRU(RecurrentLayer):
    """x_t = lambda * x_{t-1} + exp(gamma) * (B u_t), y_t = Re(C x_t) + D u_t, h_t = GLU(GELU(y_t)).

    x, lambda, B and C are complex, with as many numbers in x as hidden units. lambda = exp(-exp(nu) + i exp(theta)) is
    never outside the unit circle, and starts uniform on a ring; exp(gamma) = sqrt(1 - |lambda|^2) at first, so that
    slow numbers are no larger than fast ones (appendix A). GELU and GLU are the paper's block around the recurrence:
    without them the network would be linear. Its normalisation and its skip connection are left out: inputs are
    standardised already, and D passes them by. D is a matrix, because inputs and hidden units may differ in number.

    The state is that of x, real parts before imaginary parts: ``[B, 2 * hidden]``.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, 2 * hidden_size)
        radius = (R_MIN**2 + torch.rand(hidden_size) * (R_MAX**2 - R_MIN**2)).sqrt()
        self.nu_log = nn.Parameter((-radius.log()).log())
        self.theta_log = nn.Parameter((MAX_PHASE * torch.rand(hidden_size).clamp_min(1e-6)).log())
        self.gamma_log = nn.Parameter((1 - radius**2).sqrt().log())
        # rows: Re B, Im B and D
        weight_ih = torch.randn(3 * hidden_size, input_size) / math.sqrt(input_size)
        weight_ih[: 2 * hidden_size] /= math.sqrt(2)
        self.weight_ih = nn.Parameter(weight_ih)
        # columns: Re C and -Im C
        self.weight_read = nn.Parameter(torch.randn(hidden_size, 2 * hidden_size) / math.sqrt(hidden_size))
        self.glu = nn.Linear(hidden_size, 2 * hidden_size)

    def project(self, inputs: Tensor) -> Tensor:
        """exp(gamma) * (B u), real before imaginary, and D u: ``[..., input]`` -> ``[..., 3 * hidden]``."""
        ones = torch.ones_like(self.gamma_log)
        scale = torch.cat([self.gamma_log.exp(), self.gamma_log.exp(), ones])
        return F.linear(inputs, self.weight_ih) * scale

    def step(self, projected: Tensor, state: Tensor) -> Tensor:
        decay, angle = (-self.nu_log.exp()).exp(), self.theta_log.exp()
        real, imaginary = decay * angle.cos(), decay * angle.sin()
        before_real, before_imaginary = state.chunk(2, -1)
        turned = [
            real * before_real - imaginary * before_imaginary,
            real * before_imaginary + imaginary * before_real,
        ]
        return torch.cat(turned, -1) + projected[..., : self.state_size]

    def scan(self, projected: Tensor, state: Tensor | None) -> Tensor:
        decay = torch.polar((-self.nu_log.exp()).exp(), self.theta_log.exp())
        initial = None if state is None else torch.complex(*state.chunk(2, -1))
        drive = torch.complex(*projected[..., : self.state_size].chunk(2, -1))
        states = diagonal_scan(decay, drive, initial)
        return torch.cat([states.real, states.imag], -1)

    def read(self, states: Tensor, projected: Tensor) -> Tensor:
        outputs = F.linear(states, self.weight_read) + projected[..., self.state_size :]
        return F.glu(self.glu(F.gelu(outputs)), -1)
