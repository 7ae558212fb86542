"""Initial weights: the exact properties of each matrix, and mistakes seen in public np-RNN code."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from models.initializers import (
    gaussian_,
    init_gated_,
    init_gaussian_rnn_,
    init_irnn_,
    init_np_rnn_,
    init_nrnn_,
    init_orthogonal_rnn_,
    np_rnn_,
    np_rnn_input_,
    nrnn_,
    orthogonal_,
    scaled_identity_,
    sussillo_abbott_alpha,
)

SIZES = [1, 2, 3, 7, 40, 100, 256, 512, 1000, 2048]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def np_rnn_matrix(size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return np_rnn_(torch.empty(size, size, dtype=dtype), seeded(seed))


def assert_np_rnn(weight: Tensor) -> None:
    """Check for symmetry, positive definiteness and a largest eigenvalue of 1."""
    assert torch.equal(weight, weight.T)
    eigenvalues = torch.linalg.eigvalsh(weight.double())
    assert abs(eigenvalues[-1] - 1) < 1e-5
    assert eigenvalues[0] > 0


@pytest.mark.parametrize("size", SIZES)
def test_np_rnn_is_symmetric_positive_definite_with_spectral_radius_one(size: int) -> None:
    """From one unit to 2048 the matrix fits the definition, without which the network explodes or forgets."""
    assert_np_rnn(np_rnn_matrix(size))


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 160), seed=st.integers(0, 2**32 - 1))
def test_np_rnn_holds_for_every_size_and_seed(size: int, seed: int) -> None:
    """The properties are exact, so they hold for every random draw."""
    assert_np_rnn(np_rnn_matrix(size, seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_np_rnn_is_the_same_matrix_in_every_dtype(dtype: torch.dtype) -> None:
    """In float64 the largest eigenvalue is 1 to full precision, and other dtypes get the same matrix, rounded."""
    weight, exact = np_rnn_matrix(64, dtype=dtype), np_rnn_matrix(64, dtype=torch.float64)
    assert weight.dtype == dtype
    assert torch.equal(weight, exact.to(dtype))
    assert abs(torch.linalg.eigvalsh(exact)[-1] - 1) < 1e-14


@settings(deadline=None, max_examples=30)
@given(size=st.integers(2, 160), identity_weight=st.floats(0.01, 1e3))
def test_more_identity_raises_the_smaller_eigenvalues(size: int, identity_weight: float) -> None:
    """The largest eigenvalue is 1 for every weight of the identity, and the others grow with that weight."""
    weight = np_rnn_(torch.empty(size, size, dtype=torch.float64), seeded(), identity_weight)
    eigenvalues = torch.linalg.eigvalsh(weight)
    assert abs(eigenvalues[-1] - 1) < 1e-12
    torch.testing.assert_close(weight, weight.T, rtol=0, atol=1e-14)
    more = np_rnn_(torch.empty(size, size, dtype=torch.float64), seeded(), 2 * identity_weight)
    assert 1 > torch.linalg.eigvalsh(more)[0] > eigenvalues[0] > 0


@pytest.mark.parametrize("identity_weight", [1.0, 10.0, 100.0])
def test_identity_weight_sets_the_memory(identity_weight: float) -> None:
    """Without input, each step with a ReLU multiplies the state by (c + 2.9) / (c + 4), as documented."""
    weight = np_rnn_(torch.empty(500, 500, dtype=torch.float64), seeded(), identity_weight)
    state = torch.rand(500, dtype=torch.float64, generator=seeded())
    for _ in range(3000):
        previous, state = state, torch.relu(weight @ (state / state.norm()))
    expected = (identity_weight + 2.9) / (identity_weight + 4)
    assert state.norm() == pytest.approx(expected, rel=0.025) and 0.3 < (previous > 0).double().mean() < 0.7


def test_negative_identity_weight_raises() -> None:
    """A negative weight, which could make the matrix indefinite, is an error that names the value."""
    with pytest.raises(ValueError, match="identity_weight.*-1"):
        np_rnn_(torch.empty(3, 3), identity_weight=-1)


def spectrum_of_np_rnn(eigenvalues: Tensor) -> bool:
    """Whether eigenvalues fit R^T R / N + I at N = 512, divided by its largest eigenvalue (Marchenko-Pastur)."""
    close_to_one = (eigenvalues > 0.9).sum().item()
    return (
        abs(eigenvalues[-1].item() - 1) < 1e-5
        and abs(eigenvalues[0].item() - 1 / 5) < 0.01  # (0 + 1) / (4 + 1)
        and abs(eigenvalues.mean().item() - 2 / 5) < 0.01  # (1 + 1) / (4 + 1)
        and 9 <= close_to_one <= 13
    )


def mistaken_np_rnn(mistake: str) -> Tensor:
    size = 512
    gaussian = torch.randn(size, size, dtype=torch.float64, generator=seeded())
    identity = torch.eye(size, dtype=torch.float64)
    if mistake == "R is a vector":
        gaussian = gaussian[:1]
    product = gaussian.T @ gaussian / (size**2 if mistake == "1/N^2" else size)
    matrix = product if mistake == "no + I" else product + identity
    eigenvalues = torch.linalg.eigvalsh(matrix)
    divisor = eigenvalues[0] if mistake == "divided by the first eigenvalue" else eigenvalues[-1]
    return matrix if mistake == "not divided" else matrix / divisor


MISTAKES = ["divided by the first eigenvalue", "not divided", "1/N^2", "R is a vector", "no + I"]


def test_np_rnn_spectrum() -> None:
    """The eigenvalues are spread over [0.2, 1] with mean 0.4: few directions decay slowly, most decay fast."""
    assert spectrum_of_np_rnn(torch.linalg.eigvalsh(np_rnn_matrix(512).double()))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_np_rnn_spectrum_detects_mistakes_of_public_code(mistake: str) -> None:
    """The spectrum test above fails for each known misreading of the formula and passes for the right one."""
    assert not spectrum_of_np_rnn(torch.linalg.eigvalsh(mistaken_np_rnn(mistake)))
    right = mistaken_np_rnn("none")
    assert spectrum_of_np_rnn(torch.linalg.eigvalsh(right))
    torch.testing.assert_close(np_rnn_matrix(512, dtype=torch.float64), right, atol=1e-14, rtol=0)


def test_alpha_equals_sussillo_and_abbott() -> None:
    """Alpha is 1.460 at N = 40 (a misplaced parenthesis gives 0.132) and constant up to 6 units."""
    assert sussillo_abbott_alpha(40) == pytest.approx(1.4601, abs=1e-4)
    assert sussillo_abbott_alpha(1) == sussillo_abbott_alpha(6) == pytest.approx(math.sqrt(2) * math.exp(1 / 3))
    assert sussillo_abbott_alpha(10**9) == pytest.approx(math.sqrt(2))


DIVISORS = {"sqrt_hidden": math.sqrt(200), "hidden": 200, "fan_in": 90, "sqrt_fan_in": math.sqrt(90)}


@pytest.mark.parametrize("scale", DIVISORS)
def test_np_rnn_input_weights_are_gaussian_with_the_named_deviation(scale: str) -> None:
    """A Kolmogorov-Smirnov test accepts N(0, alpha / d) for the selected d and rejects every other d."""
    weight = np_rnn_input_(torch.empty(200, 90), scale, seeded())  # type: ignore[arg-type]
    for name, divisor in DIVISORS.items():
        std = sussillo_abbott_alpha(200) / divisor
        p_value = stats.kstest(weight.flatten().numpy(), "norm", args=(0, std)).pvalue
        assert p_value > 0.01 if name == scale else p_value < 1e-6


@pytest.mark.parametrize("size", [20, 100, 512])
def test_nrnn_is_symmetric_with_largest_eigenvalue_one_and_not_positive_definite(size: int) -> None:
    """nRNN shares np-RNN's symmetry and largest eigenvalue but is indefinite, as the paper's comparison needs."""
    weight = nrnn_(torch.empty(size, size), seeded())
    eigenvalues = torch.linalg.eigvalsh(weight.double())
    assert torch.equal(weight, weight.T)
    assert abs(eigenvalues[-1] - 1) < 1e-5
    assert -0.6 < eigenvalues[0] < -0.2


@settings(deadline=None, max_examples=20)
@given(size=st.integers(1, 100), seed=st.integers(0, 2**32 - 1))
def test_orthogonal_matrix(size: int, seed: int) -> None:
    """W W^T = I for every size and seed."""
    weight = orthogonal_(torch.empty(size, size, dtype=torch.float64), seeded(seed))
    torch.testing.assert_close(weight @ weight.T, torch.eye(size, dtype=torch.float64))


@given(size=st.integers(1, 50), scale=st.floats(-2, 2))
def test_scaled_identity(size: int, scale: float) -> None:
    """The result is exactly scale * I, whatever the tensor contained before."""
    weight = torch.full((size, size), math.nan, dtype=torch.float64)
    assert torch.equal(scaled_identity_(weight, scale), torch.eye(size, dtype=torch.float64) * scale)


def test_gaussian_matrix_has_variance_one_over_n() -> None:
    """The variance is 1/N, which makes the spectral radius about 1."""
    weight = gaussian_(torch.empty(150, 150), seeded())
    assert stats.kstest(weight.flatten().numpy(), "norm", args=(0, 150**-0.5)).pvalue > 0.01


@pytest.mark.parametrize("initializer", [np_rnn_, nrnn_, partial(scaled_identity_, scale=1.0), gaussian_, orthogonal_])
def test_recurrent_matrix_must_be_square(initializer) -> None:  # type: ignore[no-untyped-def]
    """A matrix that is not square, such as an LSTM's stacked gates, is an error that names its shape."""
    with pytest.raises(ValueError, match=r"square.*\[8, 4\]"):
        initializer(torch.empty(8, 4))


INITIALIZERS = [init_np_rnn_, init_nrnn_, init_gaussian_rnn_, init_orthogonal_rnn_, init_irnn_]


@pytest.mark.parametrize("init", INITIALIZERS)
def test_every_layer_and_direction_is_initialised(init) -> None:  # type: ignore[no-untyped-def]
    """No weight of a stacked bidirectional network keeps PyTorch's default, whatever its other options are."""
    for batch_first in (False, True):
        for bias in (False, True):
            rnn = nn.RNN(3, 16, 3, "relu", bias, batch_first, bidirectional=True)
            before = {name: parameter.clone() for name, parameter in rnn.named_parameters()}
            assert init(rnn, generator=seeded()) is rnn
            assert len(before) == 3 * 2 * (4 if bias else 2)
            for name, parameter in rnn.named_parameters():
                assert parameter.requires_grad and not torch.equal(parameter, before[name])
                if name.startswith("bias"):
                    assert not parameter.any()


def test_init_np_rnn_draws_each_layer_separately() -> None:
    """Every recurrent matrix is a separate draw, and a deeper layer's fan-in counts both directions."""
    rnn = init_np_rnn_(nn.RNN(30, 200, 2, "relu", bidirectional=True), "fan_in", seeded())
    recurrent = [parameter for name, parameter in rnn.named_parameters() if "weight_hh" in name]
    assert len(recurrent) == 4
    for weight in recurrent:
        assert_np_rnn(weight.detach())
    assert not torch.equal(recurrent[0], recurrent[1])
    for name, fan_in in (("weight_ih_l0", 30), ("weight_ih_l0_reverse", 30), ("weight_ih_l1_reverse", 400)):
        weight = getattr(rnn, name).detach()
        std = sussillo_abbott_alpha(200) / fan_in
        assert stats.kstest(weight.flatten().numpy(), "norm", args=(0, std)).pvalue > 0.01


def test_memory_units_add_up_what_an_np_rnn_sends_them() -> None:
    """Memory units keep their state and have no inputs; what they get is positive, so that no ReLU stops the sum, and
    falls with the length of the sequences. The other units are an np-RNN that they do not disturb."""
    rnn = nn.RNN(4, 60, nonlinearity="relu")
    init_np_rnn_(rnn, "fan_in", seeded(), memory_units=20, memory_steps=50)
    recurrent, inputs = rnn.weight_hh_l0.detach(), rnn.weight_ih_l0.detach()
    assert torch.equal(recurrent[:20, :20], torch.eye(20))
    assert not recurrent[20:, :20].any() and not inputs[:20].any()
    assert_np_rnn(recurrent[20:, 20:])
    assert stats.kstest(50 * recurrent[:20, 20:].flatten().numpy(), "halfnorm").pvalue > 0.01
    std = sussillo_abbott_alpha(40) / 4
    assert stats.kstest(inputs[20:].flatten().numpy(), "norm", args=(0, std)).pvalue > 0.01


def test_init_irnn() -> None:
    """The recurrent matrix is the scaled identity and input weights have deviation 0.001, as in Le et al."""
    rnn = init_irnn_(nn.RNN(50, 100, nonlinearity="relu"), generator=seeded())
    assert torch.equal(rnn.weight_hh_l0, torch.eye(100))
    assert stats.kstest(rnn.weight_ih_l0.detach().flatten().numpy(), "norm", args=(0, 0.001)).pvalue > 0.01
    assert torch.equal(init_irnn_(rnn, 0.5).weight_hh_l0, torch.eye(100) / 2)


@pytest.mark.parametrize("init", [init_np_rnn_, init_nrnn_, init_irnn_])
def test_relu_initialisations_need_a_relu_network(init) -> None:  # type: ignore[no-untyped-def]
    """Initialising a network without a ReLU as np-RNN, nRNN or IRNN is an error."""
    for rnn in (nn.RNN(2, 4), nn.LSTM(2, 4), nn.GRU(2, 4)):
        with pytest.raises(ValueError, match='nonlinearity="relu"'):
            init(rnn)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_init_gated(kind: type[nn.RNNBase]) -> None:
    """Each gate's recurrent matrix is orthogonal; biases are 0, except that an LSTM's forget gate sums to 1."""
    hidden, inputs = 40, 60
    rnn = init_gated_(kind(inputs, hidden, num_layers=2), seeded())
    for layer, fan_in in ((0, inputs), (1, hidden)):
        weight_ih, weight_hh, bias_ih, bias_hh = (parameter.detach() for parameter in rnn.all_weights[layer])
        for gate in weight_hh.split(hidden):
            torch.testing.assert_close(gate @ gate.T, torch.eye(hidden), atol=1e-5, rtol=0)
        std = math.sqrt(2 / (fan_in + hidden))
        assert stats.kstest(weight_ih.flatten().numpy(), "norm", args=(0, std)).pvalue > 0.01
        expected = torch.zeros_like(bias_ih)
        if kind is nn.LSTM:
            expected[hidden : 2 * hidden] = 1
        assert torch.equal(bias_ih + bias_hh, expected)


@pytest.mark.parametrize("init", [*INITIALIZERS, init_gated_])
def test_same_generator_gives_same_weights(init) -> None:  # type: ignore[no-untyped-def]
    """A generator's seed decides the weights in every dtype, and the global random state is not used."""
    make = nn.LSTM if init is init_gated_ else nn.RNN
    options = {} if init is init_gated_ else {"nonlinearity": "relu"}
    first, again, double, other = (make(5, 12, 2, **options) for _ in range(4))
    double = double.double()
    state = torch.get_rng_state()
    for rnn, seed in ((first, 1), (again, 1), (double, 1), (other, 2)):
        init(rnn, generator=seeded(seed))
    assert torch.equal(state, torch.get_rng_state())
    for a, b, c in zip(first.parameters(), again.parameters(), double.parameters(), strict=True):
        assert torch.equal(a, b)
        assert c.dtype == torch.float64 and torch.equal(a, c.float())
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("init", [*INITIALIZERS, init_gated_])
def test_weights_stay_on_their_device(init) -> None:  # type: ignore[no-untyped-def]
    """A network on another device than the CPU can be initialised with a CPU generator."""
    make = nn.GRU if init is init_gated_ else nn.RNN
    options = {} if init is init_gated_ else {"nonlinearity": "relu"}
    device = "cuda" if torch.cuda.is_available() else "meta"
    rnn = init(make(5, 12, device=device, **options), generator=seeded())
    assert all(parameter.device.type == device for parameter in rnn.parameters())
