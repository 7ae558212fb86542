"""In-place initialisation of recurrent networks, in the style of ``torch.nn.init``.

The np-RNN ("normalised positive-definite") initialisation is Talathi & Vartak, "Improving performance of recurrent
neural network with relu nonlinearity", arXiv 1511.03771. Near h = 0 a ReLU network is a linear dynamical system that
the eigenvalues of the recurrent matrix govern: with one above 1 the state explodes, and with all of them at 1 (the
identity of IRNN) no perturbation ever decays. np-RNN has exactly one eigenvalue at 1 and the others in (0, 1): one
direction persists and the rest decays.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.config import InputScale

AnyRNN = TypeVar("AnyRNN", bound=nn.RNNBase)


def _normal(rows: int, columns: int, generator: torch.Generator | None) -> Tensor:
    """Draw in float64 on the CPU, so that a generator gives the same matrix for every dtype and device."""
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator)


def _hidden_size(weight: Tensor) -> int:
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        raise ValueError(f"a recurrent matrix must be square, [hidden, hidden]; got shape {list(weight.shape)}")
    return weight.shape[0]


def _with_largest_eigenvalue_one(symmetric: Tensor) -> Tensor:
    return symmetric / torch.linalg.eigvalsh(symmetric)[-1]


@torch.no_grad()
def np_rnn_(weight: Tensor, generator: torch.Generator | None = None, identity_weight: float = 1.0) -> Tensor:
    """Fill with np-RNN's recurrent matrix: W = (A + c I) / lambda_max(A + c I), A = R^T R / N, R_ij ~ N(0, 1).

    Symmetric positive definite; the largest eigenvalue is 1 and the others are in about [c / (c + 4), 1). c = 1 is the
    matrix of arXiv 1511.03771. A larger c (our addition) brings it closer to the identity: with the ReLU, which leaves
    about half of the units active, each step multiplies the state by about (c + 2.9) / (c + 4), so it lasts for about
    c + 4 steps.

    Args:
        weight: ``[N, N]``, overwritten; any dtype and device.
        generator: a CPU generator.
        identity_weight: c, at least 0.

    Returns:
        ``weight``.

    Raises:
        ValueError: ``weight`` is not square, or c is negative.
    """
    size = _hidden_size(weight)
    if identity_weight < 0:
        raise ValueError(f"identity_weight must be at least 0, not {identity_weight}")
    gaussian = _normal(size, size, generator)
    matrix = gaussian.T @ gaussian / size + identity_weight * torch.eye(size, dtype=torch.float64)
    return weight.copy_(_with_largest_eigenvalue_one(matrix))


@torch.no_grad()
def nrnn_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill with the recurrent matrix of the nRNN baseline: (S + I) / lambda_max(S + I).

    It is symmetric but not positive definite. S = (R + R^T) / sqrt(2 N) with R_ij ~ N(0, 1). The eigenvalues of S form
    a semicircle over about [-2, 2], so after the division the smallest is near -1/3. ``weight`` is ``[N, N]``. With
    fewer than about ten units lambda_max can be close to 0, and the result very large.
    """
    size = _hidden_size(weight)
    gaussian = _normal(size, size, generator)
    matrix = (gaussian + gaussian.T) / math.sqrt(2 * size) + torch.eye(size, dtype=torch.float64)
    return weight.copy_(_with_largest_eigenvalue_one(matrix))


@torch.no_grad()
def scaled_identity_(weight: Tensor, scale: float) -> Tensor:
    """Fill with ``scale`` times the identity; ``weight`` is ``[N, N]``.

    ``scale`` 1 is IRNN (Le, Jaitly & Hinton, arXiv 1504.00941), another the iRNN of arXiv 1511.03771.
    """
    size = _hidden_size(weight)
    return weight.copy_(torch.eye(size, dtype=torch.float64) * scale)


@torch.no_grad()
def gaussian_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill with W_ij ~ N(0, 1/N), whose spectral radius is about 1; ``weight`` is ``[N, N]``."""
    size = _hidden_size(weight)
    return weight.copy_(_normal(size, size, generator) / math.sqrt(size))


@torch.no_grad()
def orthogonal_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill with a random orthogonal matrix, all eigenvalues on the unit circle; ``weight`` is ``[N, N]``."""
    size = _hidden_size(weight)
    return weight.copy_(nn.init.orthogonal_(torch.empty(size, size, dtype=torch.float64), generator=generator))


def sussillo_abbott_alpha(hidden_size: int) -> float:
    """Gain of a ReLU layer of N units: sqrt(2) exp(1.2 / (max(N, 6) - 2.4)) (Sussillo & Abbott, arXiv 1412.6558)."""
    return math.sqrt(2) * math.exp(1.2 / (max(hidden_size, 6) - 2.4))


@torch.no_grad()
def np_rnn_input_(
    weight: Tensor, scale: InputScale = "sqrt_hidden", generator: torch.Generator | None = None
) -> Tensor:
    """Fill with np-RNN's input matrix: Gaussian, mean 0, standard deviation alpha(N) / d.

    Published sources disagree on d, so ``scale`` selects it: sqrt(N) for ``sqrt_hidden``, N for ``hidden``, the number
    of inputs for ``fan_in``, and its square root for ``sqrt_fan_in``.

    Args:
        weight: ``[N, num_inputs]``, overwritten; any dtype and device.
        scale: name of d.
        generator: a CPU generator.

    Returns:
        ``weight``.
    """
    hidden_size, num_inputs = weight.shape
    divisor = {
        "sqrt_hidden": math.sqrt(hidden_size),
        "hidden": hidden_size,
        "fan_in": num_inputs,
        "sqrt_fan_in": math.sqrt(num_inputs),
    }[scale]
    std = sussillo_abbott_alpha(hidden_size) / divisor
    return weight.copy_(_normal(hidden_size, num_inputs, generator) * std)


@torch.no_grad()
def glorot_normal_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill with a Gaussian of variance 2 / (fan_in + fan_out); ``weight`` is ``[fan_out, fan_in]``."""
    fan_out, fan_in = weight.shape
    if weight.is_meta:  # see _layers
        return weight
    return weight.copy_(_normal(fan_out, fan_in, generator) * math.sqrt(2 / (fan_in + fan_out)))


@torch.no_grad()
def init_np_rnn_(
    rnn: nn.RNN,
    scale: InputScale = "sqrt_hidden",
    generator: torch.Generator | None = None,
    identity_weight: float = 1.0,
    memory_units: int = 0,
    memory_steps: int = 100,
) -> nn.RNN:
    """Initialise every layer and direction of a ReLU ``nn.RNN`` as np-RNN, biases 0; ``ValueError`` for tanh.

    The first ``memory_units`` units, if any, are a memory. They keep their state and add to it what the other units
    send them: their own block of W_hh is the identity, their weights from the other units are |N(0, 1)| /
    ``memory_steps``, so that after that many steps they hold about the sum of the other units' mean states, and their
    rows of W_xh are zero. They send nothing at first. The other units are an np-RNN of their own. ``ReluRNN`` keeps
    what is not learned.
    """
    _require_relu(rnn)
    for weight_ih, weight_hh in _layers(rnn):
        np_rnn_(weight_hh[memory_units:, memory_units:], generator, identity_weight)
        np_rnn_input_(weight_ih[memory_units:], scale, generator)
        if memory_units:
            sent = _normal(memory_units, rnn.hidden_size - memory_units, generator).abs() / memory_steps
            weight_hh[:memory_units] = torch.cat([torch.eye(memory_units, dtype=sent.dtype), sent], 1)
            weight_hh[memory_units:, :memory_units] = 0
            weight_ih[:memory_units] = 0
    return _zero_biases(rnn)


def init_nrnn_(rnn: nn.RNN, scale: InputScale = "sqrt_hidden", generator: torch.Generator | None = None) -> nn.RNN:
    """Initialise as nRNN: like np-RNN, but with a symmetric recurrent matrix that is not positive definite."""
    _require_relu(rnn)
    for weight_ih, weight_hh in _layers(rnn):
        nrnn_(weight_hh, generator)
        np_rnn_input_(weight_ih, scale, generator)
    return _zero_biases(rnn)


@torch.no_grad()
def init_irnn_(rnn: nn.RNN, scale: float = 1.0, generator: torch.Generator | None = None) -> nn.RNN:
    """Initialise as IRNN: W_hh = scale * I, W_xh ~ N(0, 0.001^2), biases 0 (arXiv 1504.00941)."""
    _require_relu(rnn)
    for weight_ih, weight_hh in _layers(rnn):
        scaled_identity_(weight_hh, scale)
        weight_ih.copy_(_normal(rnn.hidden_size, weight_ih.shape[1], generator) * 0.001)
    return _zero_biases(rnn)


def init_gaussian_rnn_(rnn: nn.RNN, generator: torch.Generator | None = None) -> nn.RNN:
    """Initialise a ReLU or tanh RNN with Gaussians: W_hh ~ N(0, 1/N), W_xh Glorot normal, biases 0."""
    for weight_ih, weight_hh in _layers(rnn):
        gaussian_(weight_hh, generator)
        glorot_normal_(weight_ih, generator)
    return _zero_biases(rnn)


def init_orthogonal_rnn_(rnn: nn.RNN, generator: torch.Generator | None = None) -> nn.RNN:
    """Initialise a ReLU or tanh RNN with W_hh orthogonal, W_xh Glorot normal, biases 0."""
    for weight_ih, weight_hh in _layers(rnn):
        orthogonal_(weight_hh, generator)
        glorot_normal_(weight_ih, generator)
    return _zero_biases(rnn)


@torch.no_grad()
def init_gated_(rnn: AnyRNN, generator: torch.Generator | None = None) -> AnyRNN:
    """Initialise an LSTM or GRU gate by gate: W_hh orthogonal, W_xh Glorot normal, biases 0, LSTM forget bias 1."""
    for weight_ih, weight_hh in _layers(rnn):
        for gate in weight_ih.split(rnn.hidden_size):
            glorot_normal_(gate, generator)
        for gate in weight_hh.split(rnn.hidden_size):
            orthogonal_(gate, generator)
    _zero_biases(rnn)
    if isinstance(rnn, nn.LSTM):
        for name, bias in rnn.named_parameters():
            if name.startswith("bias_ih_"):  # bias_hh_ stays 0 because nn.LSTM adds the two
                _input, forget, _cell, _output = bias.split(rnn.hidden_size)
                forget.fill_(1)
    return rnn


def _layers(rnn: nn.RNNBase) -> list[tuple[Tensor, Tensor]]:
    """The input and recurrent matrices of every layer and direction that has numbers to fill."""
    if next(rnn.parameters()).is_meta:  # to compute on this device, PyTorch imports its compiler, which takes a second
        return []
    names = [name.removeprefix("weight_ih_") for name, _ in rnn.named_parameters() if name.startswith("weight_ih_")]
    return [(getattr(rnn, f"weight_ih_{name}"), getattr(rnn, f"weight_hh_{name}")) for name in names]


def _zero_biases(rnn: AnyRNN) -> AnyRNN:
    for name, parameter in rnn.named_parameters():
        if name.startswith("bias_"):
            nn.init.zeros_(parameter)
    return rnn


def _require_relu(rnn: nn.RNNBase) -> None:
    if getattr(rnn, "nonlinearity", None) != "relu":
        raise ValueError(f'this initialisation needs a ReLU network, nn.RNN(..., nonlinearity="relu"); got {rnn}')
