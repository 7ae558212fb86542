"""``ReluRNN`` against ``nn.RNN``, which it must equal in everything but time."""

import pytest
import torch
from torch import Tensor, nn

from models import relu_rnn
from models.initializers import init_np_rnn_
from models.relu_rnn import ReluRNN

SIZES = [
    # T, B, input, hidden
    (784, 100, 1, 100),
    (150, 64, 2, 100),
    (100, 32, 2, 128),
    (25, 64, 1280, 512),
    (1, 1, 1, 1),
    (1, 40, 3, 8),
    (9, 1, 3, 8),
]


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three steps, so that small tensors span several blocks."""
    monkeypatch.setattr(relu_rnn, "_BLOCK_SIZE", 0)
    monkeypatch.setattr(relu_rnn, "_MIN_BLOCK_STEPS", 3)


def pair(num_inputs: int, hidden: int, dtype: torch.dtype = torch.float32) -> tuple[ReluRNN, nn.RNN]:
    """An np-RNN with biases and an ``nn.RNN`` with the same weights."""
    ours = init_np_rnn_(ReluRNN(num_inputs, hidden), "hidden")
    nn.init.normal_(ours.bias_ih_l0, std=0.1)
    nn.init.normal_(ours.bias_hh_l0, std=0.1)
    reference = nn.RNN(num_inputs, hidden, nonlinearity="relu")
    reference.load_state_dict(ours.state_dict())
    return ours.to(dtype), reference.to(dtype)


def gradients(states: Tensor, inputs: Tensor, rnn: nn.RNN, grad_states: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*rnn.named_parameters(), strict=True)
    values = torch.autograd.grad(states, (inputs, *parameters), grad_states)
    return dict(zip(("inputs", *names), values, strict=True))


def assert_close(ours: Tensor, reference: Tensor, tolerance: float = 1e-5) -> None:
    """Equal within ``tolerance`` of the largest value: the order of float32 sums changes the last digits."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max().clamp_min(1e-30)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_nn_rnn(size: tuple[int, int, int, int]) -> None:
    """States, last state and all gradients equal those of nn.RNN."""
    num_steps, batch, num_inputs, hidden = size
    torch.manual_seed(0)
    ours, reference = pair(num_inputs, hidden)
    inputs = torch.randn(num_steps, batch, num_inputs, requires_grad=True)
    grad_states = torch.randn(num_steps, batch, hidden)
    expected, expected_last = reference(inputs)
    expected_gradients = gradients(expected, inputs, reference, grad_states)
    states, last = ours(inputs)
    assert_close(states, expected)
    assert_close(last, expected_last)
    for name, gradient in gradients(states, inputs, ours, grad_states).items():
        assert_close(gradient, expected_gradients[name])


@pytest.mark.usefixtures("short_blocks")
@pytest.mark.parametrize("num_steps", [1, 3, 4, 7])
def test_gradcheck(num_steps: int) -> None:
    """In float64 the backward pass is the derivative of the forward pass, for whole and broken blocks."""
    torch.manual_seed(1)
    rnn, _ = pair(3, 5, torch.float64)
    names, parameters = zip(*rnn.named_parameters(), strict=True)

    def states_and_last(inputs: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(rnn, dict(zip(names, weights, strict=True)), (inputs,))

    inputs = torch.randn(num_steps, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(states_and_last, (inputs, *parameters))


def test_inputs_and_gradients_of_any_layout() -> None:
    """Transposed, strided and broadcast tensors give the same results as their contiguous copies."""
    torch.manual_seed(0)
    rnn, _ = pair(6, 24)
    inputs = torch.randn(40, 12, 12).transpose(0, 1)[..., ::2]
    grad_states = torch.randn(24).expand(12, 40, 24)
    assert not inputs.is_contiguous() and not grad_states.is_contiguous()
    results = []
    for given_inputs, given_grad in ((inputs, grad_states), (inputs.contiguous(), grad_states.contiguous())):
        leaf = given_inputs.detach().requires_grad_()
        states, _ = rnn(leaf)
        results.append((states, gradients(states, leaf, rnn, given_grad)))
    (states, found), (expected_states, expected) = results
    assert torch.equal(states, expected_states)
    for name in found:
        assert_close(found[name], expected[name], 1e-6)


def test_the_same_run_gives_the_same_bits() -> None:
    """A step is deterministic; otherwise a resumed run would end with other weights than an uninterrupted one."""
    torch.manual_seed(0)
    rnn, _ = pair(2, 32)
    inputs = torch.randn(200, 64, 2, requires_grad=True)
    first, second = (gradients(rnn(inputs)[0], inputs, rnn, torch.ones(200, 64, 32)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_inference_mode_and_autocast() -> None:
    """It works in inference mode, as in evaluation, and computes in float32 under autocast."""
    torch.manual_seed(0)
    rnn, reference = pair(3, 16)
    inputs = torch.randn(10, 64, 3)
    expected, _ = reference(inputs)
    with torch.inference_mode():
        assert_close(rnn(inputs)[0], expected)
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = rnn(inputs)
    assert states.dtype == torch.float32
    assert_close(states, expected)


@pytest.mark.parametrize("num_inputs", [3, 30])
def test_training_leaves_a_memory_as_it_is(num_inputs: int) -> None:
    """Whatever is learned, a memory unit's own block of W_hh stays the identity, and it gets no inputs and no bias;
    what it gets from the other units and all of their weights are learned, on a CPU as by nn.RNN."""
    torch.manual_seed(0)
    rnn = init_np_rnn_(ReluRNN(num_inputs, 30, memory_units=10), memory_units=10)
    before = {name: weight.detach().clone() for name, weight in rnn.named_parameters()}
    optimizer = torch.optim.AdamW([rnn.weight_ih_l0, rnn.bias_ih_l0, rnn.bias_hh_l0], weight_decay=0.1)
    optimizer.add_param_group({"params": [rnn.weight_hh_l0], "weight_decay": 0.0})
    for network in (rnn, super(ReluRNN, rnn)):
        optimizer.zero_grad()
        network.forward(torch.randn(20, 8, num_inputs))[0].square().mean().backward()
        optimizer.step()
    changed = {name: weight != before[name] for name, weight in rnn.named_parameters()}
    own, rest = changed["weight_hh_l0"][:10, :10], changed["weight_hh_l0"]
    assert not own.any() and rest[:10, 10:].all() and rest[10:].any(1).all()
    for name in ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"):
        assert not changed[name][:10].any() and changed[name][10:].all()


def test_a_memory_keeps_what_the_untrained_network_forgets() -> None:
    """A change of the first state is there after 1,000 steps, unchanged, in a memory unit; an np-RNN of the paper has
    lost it, although the largest eigenvalue of its W_hh is 1 too."""
    torch.manual_seed(0)
    inputs, state = torch.rand(1000, 4, 2), torch.rand(1, 4, 50)
    change = torch.zeros(50)
    change[:10] = 0.5
    left = {}
    for memory_units in (0, 10):
        rnn = init_np_rnn_(ReluRNN(2, 50, memory_units), memory_units=memory_units)
        with torch.no_grad():
            left[memory_units] = rnn(inputs, state + change)[1] - rnn(inputs, state)[1]
    assert left[0].abs().max() < 1e-6
    torch.testing.assert_close(left[10], change.expand(1, 4, 50), atol=1e-3, rtol=0)


def test_states_changed_in_place_raise() -> None:
    """The backward pass needs the states: overwriting them is an error, not a wrong gradient."""
    rnn, _ = pair(3, 16)
    states, _ = rnn(torch.randn(10, 4, 3))
    states.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        states.sum().backward()


def test_second_derivatives_raise() -> None:
    """Second derivatives are not implemented, and asking for them is an error, not a wrong result."""
    rnn, _ = pair(3, 4)
    inputs = torch.randn(5, 2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(rnn(inputs)[0].square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_state_dict_is_interchangeable_with_nn_rnn() -> None:
    """A checkpoint of either loads into the other."""
    ours, reference = ReluRNN(3, 8), nn.RNN(3, 8, nonlinearity="relu")
    reference.load_state_dict(ours.state_dict())
    ours.load_state_dict(reference.state_dict())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 4), r"\[T, B, 3\].*\[5, 4\]"),
        ((5, 4, 2), r"\[T, B, 3\].*\[5, 4, 2\]"),
        ((0, 4, 3), r"T > 0.*\[0, 4, 3\]"),
    ],
)
def test_wrong_shapes_raise(shape: tuple[int, ...], message: str) -> None:
    """Inputs of another shape are an error that names the expected and the given shape."""
    with pytest.raises(ValueError, match=message):
        ReluRNN(3, 4)(torch.zeros(shape))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu() -> None:
    """cuDNN computes the same states, last state and gradients as the CPU."""
    torch.manual_seed(0)
    rnn, _ = pair(3, 16)
    inputs = torch.randn(9, 4, 3)
    results = {}
    for device in ("cpu", "cuda"):
        rnn.to(device)
        leaf = inputs.to(device).requires_grad_()
        states, last = rnn(leaf)
        found = gradients(states, leaf, rnn, torch.ones_like(states))
        results[device] = [tensor.cpu() for tensor in (states, last, *found.values())]
    for cpu, cuda in zip(results["cpu"], results["cuda"], strict=True):
        torch.testing.assert_close(cuda, cpu, atol=1e-4, rtol=1e-3)
