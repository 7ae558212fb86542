"""The written-out ReLU recursion against ``nn.RNN``, which it must equal in everything but time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.flop_counter import FlopCounterMode

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
    """Blocks of three steps, so that small tensors meet every boundary."""
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
    """Equal to ``tolerance`` of the largest value: float32 sums in another order differ in the last digits."""
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= tolerance * reference.abs().max().clamp_min(1e-30)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_nn_rnn(size: tuple[int, int, int, int]) -> None:
    """States, last state and all gradients are those of nn.RNN."""
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
@pytest.mark.parametrize(
    "lengths", [None, [7, 7, 7, 7], [7, 5, 3, 1], [2, 7, 6, 3], [1, 1, 1, 1], [4, 2, 2, 1]], ids=str
)
def test_gradcheck(lengths: list[int] | None) -> None:
    """The backward recursion is the derivative of the forward one, in float64, over blocks and sequence ends."""
    torch.manual_seed(1)
    rnn, _ = pair(3, 5, torch.float64)
    ends = None if lengths is None else torch.tensor(lengths)
    names, parameters = zip(*rnn.named_parameters(), strict=True)

    def states_and_last(inputs: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(rnn, dict(zip(names, weights, strict=True)), (inputs, ends))

    inputs = torch.randn(7, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(states_and_last, (inputs, *parameters))


@pytest.mark.usefixtures("short_blocks")
@settings(deadline=None, max_examples=60)
@given(data=st.data(), num_steps=st.integers(1, 10), batch=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_lengths_equal_a_packed_sequence(data: st.DataObject, num_steps: int, batch: int, seed: int) -> None:
    """Any lengths in any order: states, zeros behind the end, last states and gradients of nn.RNN on packed input."""
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, num_steps), min_size=batch, max_size=batch)))
    torch.manual_seed(seed)
    ours, reference = pair(3, 8, torch.float64)
    inputs = torch.randn(num_steps, batch, 3, dtype=torch.float64, requires_grad=True)
    grad_states = torch.randn(num_steps, batch, 8, dtype=torch.float64)
    states, last = ours(inputs, lengths)
    packed, expected_last = reference(pack_padded_sequence(inputs, lengths, enforce_sorted=False))
    expected, _ = pad_packed_sequence(packed, total_length=num_steps)
    torch.testing.assert_close(states, expected)
    torch.testing.assert_close(last, expected_last)
    expected_gradients = gradients(expected, inputs, reference, grad_states)
    for name, gradient in gradients(states, inputs, ours, grad_states).items():
        torch.testing.assert_close(gradient, expected_gradients[name])


def test_padding_is_never_read() -> None:
    """What stands behind a sequence's end, even NaN, changes no state, and no gradient goes there."""
    torch.manual_seed(0)
    rnn, _ = pair(4, 16)
    lengths = torch.tensor([30, 12, 1])
    padding = torch.arange(30)[:, None] >= lengths
    inputs = torch.randn(30, 3, 4)
    dirty = inputs.masked_fill(padding[:, :, None], torch.nan).requires_grad_()
    states, last = rnn(dirty, lengths)
    clean_states, clean_last = rnn(inputs, lengths)
    assert torch.equal(states, clean_states) and torch.equal(last, clean_last)
    assert not states[padding].any()
    states.sum().backward()
    assert not dirty.grad[padding].any() and dirty.grad[~padding].all(1).all()
    assert all(parameter.grad.isfinite().all() for parameter in rnn.parameters())


def test_short_sequences_cost_less() -> None:
    """Steps behind a sequence's end are left out: a batch with one long sequence takes a fraction of the products."""
    rnn, _ = pair(4, 32)
    lengths = torch.tensor([400] + [20] * 99)
    counts = []
    for ends in (None, lengths):
        with FlopCounterMode(display=False) as counter:
            rnn(torch.randn(400, 100, 4), ends)[0].sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.2 * counts[0]


def test_inputs_and_gradients_of_any_layout() -> None:
    """Transposed, strided and broadcast tensors give what their contiguous copies give."""
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
    """A resumed run ends with the weights of an unbroken one only if a step is deterministic."""
    torch.manual_seed(0)
    rnn, _ = pair(2, 32)
    inputs = torch.randn(200, 64, 2, requires_grad=True)
    first, second = (gradients(rnn(inputs)[0], inputs, rnn, torch.ones(200, 64, 32)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_inference_mode_and_autocast() -> None:
    """Evaluation runs in inference mode; autocast to half precision is kept out of products into place."""
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


def test_changing_states_in_place_is_noticed() -> None:
    """The backward pass reads the states again: one that has been overwritten must not give a wrong gradient."""
    rnn, _ = pair(3, 16)
    states, _ = rnn(torch.randn(10, 4, 3))
    states.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        states.sum().backward()


def test_second_derivatives_are_refused() -> None:
    """They are not implemented, and must not come out wrong."""
    rnn, _ = pair(3, 4)
    inputs = torch.randn(5, 2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(rnn(inputs)[0].square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_its_weights_are_those_of_nn_rnn() -> None:
    """A checkpoint moves between the two without a change."""
    ours, reference = ReluRNN(3, 8), nn.RNN(3, 8, nonlinearity="relu")
    reference.load_state_dict(ours.state_dict())
    ours.load_state_dict(reference.state_dict())


@pytest.mark.parametrize(
    ("shape", "lengths", "message"),
    [
        ((5, 4), None, r"\[T, B, 3\].*\[5, 4\]"),
        ((5, 4, 2), None, r"\[T, B, 3\].*\[5, 4, 2\]"),
        ((0, 4, 3), None, r"T > 0.*\[0, 4, 3\]"),
        ((5, 2, 3), [5, 6], r"2 numbers from 1 to 5; got \[5, 6\]"),
        ((5, 2, 3), [0, 5], r"2 numbers from 1 to 5; got \[0, 5\]"),
        ((5, 2, 3), [5], r"2 numbers from 1 to 5; got \[5\]"),
    ],
)
def test_wrong_shapes_are_named(shape: tuple[int, ...], lengths: list[int] | None, message: str) -> None:
    """A batch-first batch or a length out of range is an error that says what was given, not a wrong state."""
    with pytest.raises(ValueError, match=message):
        ReluRNN(3, 4)(torch.zeros(shape), None if lengths is None else torch.tensor(lengths))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("lengths", [None, [9, 4, 9, 1]])
def test_gpu_gives_what_the_cpu_gives(lengths: list[int] | None) -> None:
    """cuDNN does the work on a GPU: same states, same zeros behind the end, same last states, same gradients."""
    torch.manual_seed(0)
    rnn, _ = pair(3, 16)
    inputs = torch.randn(9, 4, 3)
    results = {}
    for device in ("cpu", "cuda"):
        rnn.to(device)
        leaf = inputs.to(device).requires_grad_()
        states, last = rnn(leaf, None if lengths is None else torch.tensor(lengths, device=device))
        found = gradients(states, leaf, rnn, torch.ones_like(states))
        results[device] = [tensor.cpu() for tensor in (states, last, *found.values())]
    for cpu, cuda in zip(results["cpu"], results["cuda"], strict=True):
        torch.testing.assert_close(cuda, cpu, atol=1e-4, rtol=1e-3)
