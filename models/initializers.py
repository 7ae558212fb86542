"""Initial weights of recurrent networks, in place, in the manner of ``torch.nn.init``.

The np-RNN ("normalised positive-definite") initialisation is Talathi & Vartak, "Improving performance of recurrent
neural network with relu nonlinearity", arXiv 1511.03771. Near h = 0 a ReLU network is a linear dynamical system whose
fate the eigenvalues of the recurrent matrix decide: above 1 it explodes, all of them at 1 (the identity of IRNN) keeps
every perturbation for ever. np-RNN has exactly one eigenvalue at 1 and the others in (0, 1): one slow direction that
remembers, while the rest decays.
"""

import math

import torch
from torch import Tensor, nn

from models.config import InputScale


def _random_normal(rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)


def _hidden_size(weight: Tensor) -> int:
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        raise ValueError(f"a recurrent matrix is square, [hidden, hidden]; got shape {tuple(weight.shape)}")
    return weight.shape[0]


@torch.no_grad()
def np_rnn_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Recurrent matrix of np-RNN: W = (A + I) / lambda_max(A + I), A = R^T R / N, R_ij ~ N(0, 1).

    Symmetric positive definite; the largest eigenvalue is 1 and the others lie in (0, 1). Computed in float64 on the
    CPU, whatever the dtype and device of ``weight``, so that one generator gives one matrix everywhere.

    Args:
        weight: ``[N, N]``, overwritten.
        generator: a CPU generator.

    Returns:
        ``weight``. Raises ``ValueError`` if it is not square. Source: arXiv 1511.03771, section 3.
    """
    size = _hidden_size(weight)
    gaussian = _random_normal(size, size, generator)
    matrix = gaussian.T @ gaussian / size + torch.eye(size, dtype=torch.float64)
    return weight.copy_(matrix / torch.linalg.eigvalsh(matrix)[-1])


@torch.no_grad()
def nrnn_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Recurrent matrix of the nRNN baseline: (S + I) / lambda_max(S + I), symmetric but not positive definite.

    S = (R + R^T) / sqrt(2 N) with R_ij ~ N(0, 1): eigenvalues in a semicircle over about [-2, 2]; ``weight`` is
    ``[N, N]``. After division by the largest, the smallest stands near -1/3.
    """
    size = _hidden_size(weight)
    gaussian = _random_normal(size, size, generator)
    matrix = (gaussian + gaussian.T) / math.sqrt(2 * size) + torch.eye(size, dtype=torch.float64)
    return weight.copy_(matrix / torch.linalg.eigvalsh(matrix)[-1])


@torch.no_grad()
def scaled_identity_(weight: Tensor, scale: float = 1.0) -> Tensor:
    """``scale`` times the identity: IRNN at 1 (Le et al., arXiv 1504.00941), the paper's iRNN below 1; ``[N, N]``."""
    _hidden_size(weight)
    return nn.init.eye_(weight).mul_(scale)


@torch.no_grad()
def gaussian_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """W_ij ~ N(0, 1/N), spectral radius about 1: the plain Gaussian recurrent matrix; ``[N, N]``."""
    size = _hidden_size(weight)
    return weight.copy_(_random_normal(size, size, generator) / math.sqrt(size))


def sussillo_abbott_alpha(hidden_size: int) -> float:
    """Gain of a ReLU layer of N units: sqrt(2) exp(1.2 / (max(N, 6) - 2.4)) (arXiv 1412.6558, section 3)."""
    return math.sqrt(2) * math.exp(1.2 / (max(hidden_size, 6) - 2.4))


@torch.no_grad()
def np_rnn_input_(
    weight: Tensor, scale: InputScale = "sqrt_hidden", generator: torch.Generator | None = None
) -> Tensor:
    """Input matrix of np-RNN: Gaussian, std = alpha(N) / d.

    The published sources disagree on d; ``scale`` names it: ``sqrt_hidden`` sqrt(N), ``hidden`` N, ``fan_in`` and
    ``sqrt_fan_in`` the number of inputs and its root.

    Args:
        weight: ``[N, num_inputs]``, overwritten.
    """
    hidden_size, num_inputs = weight.shape
    divisor = {
        "sqrt_hidden": math.sqrt(hidden_size),
        "hidden": hidden_size,
        "fan_in": num_inputs,
        "sqrt_fan_in": math.sqrt(num_inputs),
    }[scale]
    std = sussillo_abbott_alpha(hidden_size) / divisor
    return weight.copy_(_random_normal(hidden_size, num_inputs, generator) * std)


def _layers(rnn: nn.RNNBase) -> list[tuple[Tensor, Tensor]]:
    """(input, recurrent) matrices of every layer and direction."""
    names = [name.removeprefix("weight_ih_") for name, _ in rnn.named_parameters() if name.startswith("weight_ih_")]
    return [(getattr(rnn, f"weight_ih_{name}"), getattr(rnn, f"weight_hh_{name}")) for name in names]


def _zero_biases(rnn: nn.RNNBase) -> None:
    for name, parameter in rnn.named_parameters():
        if name.startswith("bias_"):
            nn.init.zeros_(parameter)


def init_np_rnn_(rnn: nn.RNN, scale: InputScale = "sqrt_hidden", generator: torch.Generator | None = None) -> nn.RNN:
    """Make every layer and direction of a ReLU ``nn.RNN`` an np-RNN, biases 0; ``ValueError`` for a tanh network."""
    if getattr(rnn, "nonlinearity", None) != "relu":
        raise ValueError('np-RNN is an initialisation for ReLU networks: make it nn.RNN(..., nonlinearity="relu")')
    for weight_ih, weight_hh in _layers(rnn):
        np_rnn_(weight_hh, generator)
        np_rnn_input_(weight_ih, scale, generator)
    _zero_biases(rnn)
    return rnn


def init_irnn_(rnn: nn.RNN, scale: float = 1.0, generator: torch.Generator | None = None) -> nn.RNN:
    """IRNN: W_hh = scale * I, W_xh ~ N(0, 0.001^2), biases 0 (Le, Jaitly & Hinton, arXiv 1504.00941)."""
    for weight_ih, weight_hh in _layers(rnn):
        scaled_identity_(weight_hh, scale)
        nn.init.normal_(weight_ih, std=0.001, generator=generator)
    _zero_biases(rnn)
    return rnn


def init_nrnn_(rnn: nn.RNN, scale: InputScale = "sqrt_hidden", generator: torch.Generator | None = None) -> nn.RNN:
    """nRNN: as np-RNN, with a symmetric recurrent matrix that is not positive definite."""
    for weight_ih, weight_hh in _layers(rnn):
        nrnn_(weight_hh, generator)
        np_rnn_input_(weight_ih, scale, generator)
    _zero_biases(rnn)
    return rnn


def init_gaussian_rnn_(rnn: nn.RNN, generator: torch.Generator | None = None) -> nn.RNN:
    """Plain RNN: W_hh ~ N(0, 1/N), W_xh Glorot normal, biases 0."""
    for weight_ih, weight_hh in _layers(rnn):
        gaussian_(weight_hh, generator)
        nn.init.xavier_normal_(weight_ih, generator=generator)
    _zero_biases(rnn)
    return rnn


def init_gated_(rnn: nn.LSTM | nn.GRU, generator: torch.Generator | None = None) -> nn.LSTM | nn.GRU:
    """LSTM and GRU baselines: Glorot input and orthogonal recurrent matrix per gate, biases 0, LSTM forget bias 1."""
    hidden_size = rnn.hidden_size
    for weight_ih, weight_hh in _layers(rnn):
        for gate in weight_ih.split(hidden_size):
            nn.init.xavier_uniform_(gate, generator=generator)
        for gate in weight_hh.split(hidden_size):
            nn.init.orthogonal_(gate, generator=generator)
    _zero_biases(rnn)
    if isinstance(rnn, nn.LSTM):
        for name, parameter in rnn.named_parameters():
            if name.startswith("bias_ih_"):
                nn.init.ones_(parameter[hidden_size : 2 * hidden_size])
    return rnn
