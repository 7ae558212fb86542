"""The networks that docs/np_rnn.md compares are what their names say."""

import pytest
import torch

from benchmarks.slow_direction import VARIANTS, Arguments, main, new_network, slowest, train
from models.relu_rnn import ReluRNN


def layer_of(name: str) -> ReluRNN:
    (layer,) = new_network(VARIANTS[name], 0, Arguments()).layers
    assert isinstance(layer, ReluRNN)
    return layer


@pytest.mark.parametrize(
    ("name", "num_slow"), [("flipped", 1), ("positive", 1), ("blocks", 10), ("shift", None), ("identity", 100)]
)
def test_slow_directions_pass_the_relu(name: str, num_slow: int | None) -> None:
    """The largest eigenvalue is 1, as often as the name says, and a direction that belongs to it has one sign only."""
    matrix = layer_of(name).weight_hh_l0.detach().double()
    sizes = torch.linalg.eigvals(matrix).abs()
    assert sizes.max() == pytest.approx(1, abs=1e-4)
    if num_slow is None:  # a rotation of all units: every eigenvalue is on the circle
        assert (sizes > 0.999).all() and torch.equal(matrix @ torch.ones(100).double(), torch.ones(100).double())
        return
    assert int((sizes > 0.999).sum()) == num_slow
    state = torch.rand(100, dtype=torch.float64)
    for _ in range(2000):
        state = (matrix @ state).relu()
    torch.testing.assert_close((matrix @ state).relu(), state, atol=1e-6, rtol=0)
    assert state.max() > 0.01


@pytest.mark.parametrize("name", ["flipped_orthogonal", "positive_orthogonal"])
def test_inputs_can_avoid_the_slow_direction(name: str) -> None:
    """The input weights are orthogonal to the direction of eigenvalue 1, before the ReLU."""
    layer = layer_of(name)
    assert (slowest(layer.weight_hh_l0.detach()) @ layer.weight_ih_l0.detach()).abs().max() < 1e-5


def test_a_memory_can_be_learned_for_comparison() -> None:
    """The two memories start with the same weights, and only one of them keeps its identity in training."""
    kept, learned = layer_of("memory"), layer_of("memory_learned")
    for ours, other in zip(kept.parameters(), learned.parameters(), strict=True):
        assert torch.equal(ours, other)
    for layer, changes in ((kept, False), (learned, True)):
        layer(torch.rand(9, 4, 2))[0].sum().backward()
        assert layer.weight_hh_l0.grad is not None
        assert bool(layer.weight_hh_l0.grad[:10, :10].any()) is changes


def test_short_sequences_are_learned(capsys: pytest.CaptureFixture[str]) -> None:
    """A memory learns addition over ten numbers in a few hundred steps, and the table says when; it can't in ten."""
    options = Arguments(length=10, steps=600, validate_every=100, learning_rate=5e-3, recurrent_learning_rate=2e-3)
    learned, error = train(VARIANTS["memory"], 0, options)
    assert learned is not None and learned <= 600 and error < 0.01
    assert (
        main(["--variants", "memory", "--seeds", "0", "--length", "10", "--steps", "10", "--validate-every", "10"]) == 0
    )
    table = capsys.readouterr().out
    assert "| 10 memory units " in table and "never" in table


def test_a_typo_is_named() -> None:
    """An unknown variant is refused before the first training."""
    with pytest.raises(Exception, match="unknown variant 'memroy'. Did you mean 'memory'"):
        Arguments(variants=("memroy",))
