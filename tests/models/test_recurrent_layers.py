"""The recurrent layers that PyTorch lacks, against their formulas written out step by step in NumPy."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from models.classifier import SequenceClassifier, for_inference
from models.config import ModelConfig, ModelName
from models.recurrent_layer import RecurrentLayer, diagonal_scan
from models.rivals.indrnn import IndRNN
from models.rivals.lru import LRU, R_MAX, R_MIN
from models.rivals.orthogonal_rnn import OrthogonalRNN
from models.state_networks import STATE_NETWORKS

Array = npt.NDArray[np.float64]
Weights = dict[str, Array]
NUM_STEPS, BATCH, INPUTS, HIDDEN = 6, 3, 4, 6


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def minimal(inputs: Array, weights: Weights, num_parts: int) -> list[Array]:
    """The gates' and the candidates' arguments, ``[T, B, hidden]`` each."""
    return np.split(inputs @ weights["weight_ih"].T + weights["bias_ih"], num_parts, axis=-1)


def positive(values: Array) -> Array:
    return np.where(values >= 0, values + 0.5, sigmoid(values))


def min_gru(inputs: Array, weights: Weights) -> Array:
    hidden, states = np.zeros((BATCH, HIDDEN)), []
    for gate, candidate in zip(*minimal(inputs, weights, 2), strict=True):
        hidden = (1 - sigmoid(gate)) * hidden + sigmoid(gate) * positive(candidate)
        states.append(hidden)
    return np.stack(states)


def min_lstm(inputs: Array, weights: Weights) -> Array:
    hidden, states = np.zeros((BATCH, HIDDEN)), []
    for forget, admit, candidate in zip(*minimal(inputs, weights, 3), strict=True):
        f, i = sigmoid(forget), sigmoid(admit)
        hidden = f / (f + i) * hidden + i / (f + i) * positive(candidate)
        states.append(hidden)
    return np.stack(states)


def indrnn(inputs: Array, weights: Weights) -> Array:
    hidden, states = np.zeros((BATCH, HIDDEN)), []
    for driven in inputs @ weights["weight_ih"].T + weights["bias_ih"]:
        hidden = np.maximum(driven + np.clip(weights["weight_hh"], -(2**0.01), 2**0.01) * hidden, 0)
        states.append(hidden)
    return np.stack(states)


def lru(inputs: Array, weights: Weights) -> Array:
    eigenvalues = np.exp(-np.exp(weights["nu_log"]) + 1j * np.exp(weights["theta_log"]))
    real, imaginary, skip = np.split(weights["weight_ih"], 3)
    read_real, minus_imaginary = np.split(weights["weight_read"], 2, axis=1)
    normal = torch.distributions.Normal(0, 1)
    state, states = np.zeros((BATCH, HIDDEN), np.complex128), []
    for one in inputs:
        state = eigenvalues * state + np.exp(weights["gamma_log"]) * (one @ (real + 1j * imaginary).T)
        output = (state @ (read_real - 1j * minus_imaginary).T).real + one @ skip.T
        gelu = output * normal.cdf(torch.from_numpy(output)).numpy()
        value, gate = np.split(gelu @ weights["glu.weight"].T + weights["glu.bias"], 2, axis=1)
        states.append(value * sigmoid(gate))
    return np.stack(states)


def lem(inputs: Array, weights: Weights) -> Array:
    w_1, w_2, w_z = np.split(weights["weight_hh"], 3)
    y, z, states = np.zeros((BATCH, HIDDEN)), np.zeros((BATCH, HIDDEN)), []
    for one in inputs:
        x_1, x_2, x_z, x_y = np.split(one @ weights["weight_ih"].T + weights["bias_ih"], 4, axis=1)
        step_z, step_y = sigmoid(y @ w_2.T + x_2), sigmoid(y @ w_1.T + x_1)
        z = (1 - step_z) * z + step_z * np.tanh(y @ w_z.T + x_z)
        y = (1 - step_y) * y + step_y * np.tanh(z @ weights["weight_hh_y"].T + x_y)
        states.append(y)
    return np.stack(states)


def orthogonal_kept(inputs: Array, weights: Weights) -> Array:
    hidden, states = np.zeros((BATCH, HIDDEN)), []
    for one in inputs:
        driven = one @ weights["weight_ih"].T + hidden @ weights["weight_hh"].T
        hidden = np.sign(driven) * np.maximum(np.abs(driven) + weights["bias"], 0)
        states.append(hidden)
    return np.stack(states)


def layer_norm(values: Array, weight: Array, bias: Array) -> Array:
    centred = values - values.mean(-1, keepdims=True)
    return centred / np.sqrt(centred.var(-1, keepdims=True) + 1e-5) * weight + bias


def attentive(inputs: Array, weights: Weights) -> Array:
    """Two heads of three units; the softmax of each step runs over all frames so far."""

    def linear(name: str, values: Array) -> Array:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, values: Array) -> Array:
        return layer_norm(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    angles = np.arange(NUM_STEPS)[:, None] * 10000.0 ** -(np.arange(3) / 3)
    positions = np.concatenate([np.sin(angles), np.cos(angles)], 1)[:, None]
    frames = norm("norm_frames", linear("embedding", inputs) + positions)
    keys, values = np.split(linear("keys_and_values", frames), 2, axis=-1)
    query, states = linear("queries", weights["query"]), []
    for number in range(1, NUM_STEPS + 1):
        attended = np.empty((BATCH, HIDDEN))
        for head in (slice(3), slice(3, 6)):
            scores = np.exp(keys[:number, :, head] @ query[head] / np.sqrt(3))[..., None]
            attended[:, head] = (scores * values[:number, :, head]).sum(0) / scores.sum(0)
        attended += weights["query"]
        inner = linear("mlp.0", norm("norm_attended", attended))
        inner = inner * torch.distributions.Normal(0, 1).cdf(torch.from_numpy(inner)).numpy()
        states.append(attended + linear("mlp.2", inner))
    return np.stack(states)


def rank_pooling(inputs: Array, weights: Weights) -> Array:
    """The weights of a prefix are 2 s - n + 1, divided so that n times their square has the sum n."""
    states = [np.zeros((BATCH, HIDDEN))]
    for number in range(2, NUM_STEPS + 1):
        times = 2 * np.arange(number) - number + 1
        times = times / (number * times.std())
        states.append(np.tensordot(times, inputs[:number], 1) @ weights["weight_ih"].T)
    return np.stack(states)


FORMULAS: dict[ModelName, Callable[[Array, Weights], Array]] = {
    "min_gru": min_gru,
    "min_lstm": min_lstm,
    "indrnn": indrnn,
    "lru": lru,
    "lem": lem,
    "orthogonal_kept": orthogonal_kept,
    "attentive": attentive,
    "rank_pooling": rank_pooling,
}
every_layer = pytest.mark.parametrize("name", FORMULAS)


def make_layer(name: ModelName) -> RecurrentLayer:
    """A float64 layer in evaluation mode whose parameters all differ from their initial values."""
    torch.manual_seed(0)
    layer = STATE_NETWORKS[name](INPUTS, ModelConfig(hidden_size=HIDDEN)).double().eval()
    assert isinstance(layer, RecurrentLayer)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return layer


def make_inputs() -> Tensor:
    return torch.randn(NUM_STEPS, BATCH, INPUTS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_every_layer_has_its_formula() -> None:
    """A new layer is compared with its formula."""
    made = {name: make(INPUTS, ModelConfig(hidden_size=HIDDEN)) for name, make in STATE_NETWORKS.items()}
    assert {name for name, layer in made.items() if isinstance(layer, RecurrentLayer)} == set(FORMULAS)


@every_layer
def test_the_states_follow_the_formula(name: ModelName) -> None:
    """The hidden states of all steps are those of the published formula."""
    layer, inputs = make_layer(name), make_inputs()
    weights = {key: value.detach().numpy() for key, value in layer.named_parameters()}
    if isinstance(layer, OrthogonalRNN):
        weights["weight_hh"] = layer.weight_hh.detach().numpy()
    states, _ = layer(inputs)
    assert states.shape == (NUM_STEPS, BATCH, HIDDEN)
    np.testing.assert_allclose(states.detach().numpy(), FORMULAS[name](inputs.numpy(), weights), rtol=1e-9, atol=1e-9)


@torch.no_grad()
@every_layer
def test_steps_and_pieces_continue_each_other(name: ModelName) -> None:
    """Whole, in two pieces and step by step, a sequence has the same hidden states and the same last state."""
    layer, inputs = make_layer(name), make_inputs()
    whole, last = layer(inputs)
    first, between = layer(inputs[:2])
    second, after = layer(inputs[2:], between)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(after, last)
    assert last.shape == (1, BATCH, layer.state_size)
    state = torch.zeros(BATCH, layer.state_size, dtype=torch.float64)
    for one, expected in zip(inputs, whole, strict=True):
        hidden, state = layer.advance(one, state)
        torch.testing.assert_close(hidden, expected)
    torch.testing.assert_close(state, last[0])


@every_layer
def test_gradcheck(name: ModelName) -> None:
    """The backward pass is the derivative of the forward pass, for the inputs and every parameter."""
    layer = make_layer(name)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def states(inputs: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (inputs,))[0]

    assert torch.autograd.gradcheck(states, (make_inputs()[:4, :2].requires_grad_(), *parameters))


@every_layer
def test_autocast_keeps_the_precision_of_the_states(name: ModelName) -> None:
    """Under autocast only products are in half precision; states and the gradient's sums are in float32."""
    layer, inputs = make_layer(name).float(), make_inputs().float()
    expected, expected_last = layer(inputs)
    with torch.autocast("cpu", torch.bfloat16):
        states, last = layer(inputs)
    assert last.dtype == torch.float32
    torch.testing.assert_close(last, expected_last, rtol=0.1, atol=0.1)
    torch.testing.assert_close(states.float(), expected, rtol=0.1, atol=0.1)
    states.float().sum().backward()


@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@every_layer
def test_a_traced_layer_steps_through_its_inputs(name: ModelName) -> None:
    """A graph made of one sequence answers for another: nothing in it is a constant."""
    layer, inputs = make_layer(name), make_inputs()
    traced = torch.jit.trace(layer, (torch.zeros_like(inputs),))
    torch.testing.assert_close(traced(inputs)[0], layer(inputs)[0])


@pytest.mark.parametrize(("dtype", "relu"), [(torch.float64, False), (torch.float64, True), (torch.complex128, False)])
def test_the_diagonal_scan(dtype: torch.dtype, relu: bool) -> None:
    """The scan is its loop, and its gradient is exact: real and complex, with a decay per step or a constant one."""
    torch.manual_seed(0)
    drive = torch.randn(5, 2, 3, dtype=dtype, requires_grad=True)
    for shape in ((5, 2, 3), (3,)):
        decay = torch.randn(shape, dtype=dtype, requires_grad=True)
        state, expected = torch.zeros(2, 3, dtype=dtype), []
        for factor, added in zip(decay.expand(5, 2, 3), drive, strict=True):
            state = factor * state + added
            state = state.relu() if relu else state
            expected.append(state)
        torch.testing.assert_close(diagonal_scan(decay, drive, relu=relu), torch.stack(expected))
        assert torch.autograd.gradcheck(lambda *both: diagonal_scan(*both, relu=relu), (decay, drive))


def test_the_recurrent_weights_of_indrnn_stay_within_their_bound() -> None:
    """A weight that an update moved beyond 2^(1/T) is cut off, and learns on from there."""
    layer = IndRNN(INPUTS, HIDDEN, num_steps=4).train()
    assert (layer.weight_hh >= 2**-0.25).all() and (layer.weight_hh <= 2**0.25).all()
    with torch.no_grad():
        layer.weight_hh += 5
    states, _ = layer(make_inputs().float())
    states.square().sum().backward()
    assert (layer.weight_hh == 2**0.25).all()
    assert layer.weight_hh.grad is not None and (layer.weight_hh.grad > 0).any()


def test_the_eigenvalues_of_lru_start_on_their_ring() -> None:
    """Their squared radii are uniform between those of the ring, and white noise drives all of them equally."""
    torch.manual_seed(0)
    layer = LRU(8, 4000)
    radius, scale = (-layer.nu_log.exp()).exp().detach(), layer.gamma_log.exp().detach()
    assert R_MIN <= radius.min() < R_MIN + 0.001 and R_MAX - 0.001 < radius.max() <= R_MAX
    assert radius.square().mean() == pytest.approx((R_MIN**2 + R_MAX**2) / 2, abs=0.003)
    torch.testing.assert_close(scale**2 / (1 - radius**2), torch.ones(4000), rtol=1e-3, atol=0)


def test_the_matrix_of_orthogonal_kept_stays_orthogonal() -> None:
    """Updates turn the matrix and change no length, so a state without inputs keeps its norm for a thousand steps."""
    torch.manual_seed(0)
    layer = OrthogonalRNN(INPUTS, HIDDEN)
    before, optimizer = layer.weight_hh.detach().clone(), torch.optim.Adam(layer.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        layer(make_inputs().float())[0].square().sum().backward()
        optimizer.step()
    assert (layer.weight_hh - before).abs().max() > 0.05
    torch.testing.assert_close(layer.weight_hh @ layer.weight_hh.T, torch.eye(HIDDEN))
    with torch.no_grad():
        layer.bias.zero_()
        start = torch.randn(1, 1, HIDDEN)
        states, _ = layer(torch.zeros(1000, 1, INPUTS), start)
    torch.testing.assert_close(states.norm(dim=-1), start.norm(dim=-1).expand(1000, 1), rtol=1e-3, atol=0)


def test_a_classifier_for_inference_has_plain_weights() -> None:
    """A copy without parametrisations answers as the original, which can be trained on."""
    model = SequenceClassifier(ModelConfig("orthogonal_kept", HIDDEN, num_layers=2), INPUTS, 3).train()
    plain, features = for_inference(model), make_inputs().float()
    assert not plain.training and "layers.1.weight_hh" in plain.state_dict()
    assert model.training and "layers.1.parametrizations.weight_hh.original" in model.state_dict()
    torch.testing.assert_close(plain(features), model.eval()(features))


@torch.no_grad()
def test_the_attention_survives_large_scores() -> None:
    """Scores whose exponentials overflow or vanish give finite states, whole and step by step."""
    layer, inputs = make_layer("attentive"), make_inputs()
    layer.query *= 1e3
    whole, _ = layer(inputs)
    state = torch.zeros(BATCH, layer.state_size, dtype=torch.float64)
    for one, expected in zip(inputs, whole, strict=True):
        hidden, state = layer.advance(one, state)
        torch.testing.assert_close(hidden, expected)
    assert whole.isfinite().all()
