"""models/features.py: normalisation and padding of feature vectors."""

import pytest
import torch

from models.features import power_normalize, zero_padding


def test_power_normalisation_by_hand() -> None:
    """Signed square roots of unit length, a zero frame and tiny features included; a gradient is an error."""
    features = torch.tensor([[9.0, -16.0, 0.0], [0.0, 0.0, 0.0], [9e-5, -16e-5, 0.0]])
    expected = torch.tensor([[0.6, -0.8, 0.0], [0.0, 0.0, 0.0], [0.6, -0.8, 0.0]])
    before = features.clone()
    torch.testing.assert_close(power_normalize(features), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(features, before)
    with pytest.raises(RuntimeError, match="inplace operation"):
        power_normalize(features.requires_grad_()).sum().backward()


def test_padding_becomes_zero_and_nothing_else() -> None:
    """NaN after a sequence's end is removed too, and the input is not changed."""
    values = torch.ones(3, 2, 2)
    values[1:, 0] = torch.nan
    padded = zero_padding(values, torch.tensor([1, 3]))
    assert padded[:, 0].tolist() == [[1, 1], [0, 0], [0, 0]] and padded[:, 1].eq(1).all()
    assert values[1:, 0].isnan().all()
