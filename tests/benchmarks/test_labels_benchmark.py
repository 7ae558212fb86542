"""benchmarks/labels.py: what is planted, and how finds are counted."""

import numpy as np
import pytest

from benchmarks.labels import plant, score


def test_planted_labels_are_wrong_and_reproducible() -> None:
    """Exactly the given share of the videos gets another label; the same seed plants the same ones."""
    labels = np.arange(200) % 4
    given, planted = plant(labels, 4, 0.05, seed=1)
    assert planted.sum() == 10 and np.array_equal(given != labels, planted)
    assert np.array_equal(given, plant(labels, 4, 0.05, seed=1)[0])
    assert not np.array_equal(planted, plant(labels, 4, 0.05, seed=2)[1])


def test_finds_are_counted_down_to_a_precision_of_one_half() -> None:
    """A model that knows the true classes finds all and is always right; one that contradicts true labels and agrees
    with the planted ones finds nothing."""
    pytest.importorskip("cleanlab", reason="cleanlab is not installed (pip install -e '.[labels]')")
    labels = np.arange(200) % 4
    given, planted = plant(labels, 4, 0.05, seed=0)
    knows = np.full((200, 4), 0.01) + 0.96 * np.eye(4)[labels]
    result = score(knows, given, labels, planted)
    assert (result.found, result.listed, result.precision, result.top1) == (1, 1, 1, 1)
    misled = np.full((200, 4), 0.01) + 0.96 * np.eye(4)[np.where(planted, given, (labels + 1) % 4)]
    result = score(misled, given, labels, planted)
    assert (result.found, result.listed, result.top1) == (0, 0, 0)
