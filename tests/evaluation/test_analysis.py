"""pipeline/evaluation/analysis.py: where a model is right and wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from pipeline.evaluation.analysis import (
    accuracy,
    accuracy_against_length,
    accuracy_against_share_seen,
    confusion_order,
    map_positions,
)
from tests.evaluation.test_metrics import predictions_of


def test_groups_widen_the_interval() -> None:
    """Copies count as one video; where all are right, the interval is that of as many videos as groups."""
    correct, groups = np.tile([True, True, False, True] * 5, 10), np.tile(np.arange(20), 10)
    grouped, sources = accuracy(correct, groups), accuracy(correct[:20])
    assert (grouped.low, grouped.high) == pytest.approx((sources.low, sources.high), abs=0.01)
    assert accuracy(np.ones(200, bool), groups).low == pytest.approx(accuracy(np.ones(20, bool)).low)
    assert accuracy(correct[:20], groups[:20]) == sources


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_the_interval_is_wilsons(correct: list[bool]) -> None:
    """The bounds solve Wilson's equation, enclose the share, and stay within [0, 1] even if all are correct."""
    result = accuracy(correct)
    z, n = norm.ppf(0.975), len(correct)
    for bound in (result.low, result.high):
        assert abs(result.share - bound) == pytest.approx(z * np.sqrt(bound * (1 - bound) / n), abs=1e-6)
    assert 0 <= result.low <= result.share + 1e-9
    assert result.share - 1e-9 <= result.high <= 1


def test_videos_of_one_length_stay_together() -> None:
    """Bins contain each video of known length once, are in order, and never separate videos of equal length."""
    answers = [(video, [1.0, 0.0]) for video in range(60)]
    predictions = predictions_of([0] * 30 + [1] * 30, answers, num_classes=2)
    lengths = {f"v{video}": 1.0 + (video // 10) for video in range(60) if video != 59}
    bins = accuracy_against_length(predictions, lengths)
    assert sum(part.accuracy.num_videos for part in bins) == 59
    assert bins[0].accuracy.share == 1
    assert bins[-1].accuracy.share == 0
    edges = [(part.shortest, part.longest) for part in bins]
    assert all(earlier[1] < later[0] for earlier, later in zip(edges, edges[1:], strict=False))


def test_equal_lengths_give_no_bins() -> None:
    """There are no bins where all videos are equally long or no length is known."""
    predictions = predictions_of([0, 0], [(0, [1.0]), (1, [1.0])], num_classes=1)
    assert accuracy_against_length(predictions, {"v0": 3.0, "v1": 3.0}) == []
    assert accuracy_against_length(predictions, {}) == []


def test_accuracy_against_frames_seen_by_hand() -> None:
    """One video is correct from the first of two frames on, one from the seventh of ten, and a missing one never."""
    right, wrong = [0.9, 0.1], [0.1, 0.9]
    predictions = predictions_of([0, 0, 0], [(0, right), (1, right)], num_classes=2)
    over_time = {"v0": np.array([right, right]), "v1": np.array([wrong] * 6 + [right] * 4)}
    shares = [part.share for part in accuracy_against_share_seen(predictions, over_time)]
    assert shares == pytest.approx([1 / 3] * 6 + [2 / 3] * 4)


def test_confused_classes_are_adjacent() -> None:
    """Classes 0 and 4, and 1 and 3, are confused with each other: each two are neighbours in the order, which contains
    each class once, also one without test videos."""
    counts = np.zeros((6, 7), dtype=np.int64)
    np.fill_diagonal(counts, [5, 5, 5, 5, 5, 0])
    for one, other in ((0, 4), (1, 3)):
        counts[one, other] = counts[other, one] = 4
    order = confusion_order(counts)
    assert sorted(order) == list(range(6))
    assert abs(order.index(0) - order.index(4)) == 1
    assert abs(order.index(1) - order.index(3)) == 1
    assert confusion_order(counts[:1, :2]) == [0]


def test_the_map_shows_the_two_directions_of_largest_variance() -> None:
    """Positions are those of a singular value decomposition, up to sign, and their variances are shares of it all."""
    values = np.random.default_rng(0).normal(size=(50, 6)) * [1, 5, 1, 3, 1, 1] + 7
    values[3], values[8, 2] = np.nan, np.inf
    positions = map_positions(values)
    assert positions is not None
    assert np.isnan(positions[[3, 8]]).all()
    kept, seen = np.delete(values, [3, 8], axis=0), np.delete(positions, [3, 8], axis=0)
    left, singular, _ = np.linalg.svd(kept - kept.mean(axis=0), full_matrices=False)
    total = np.sqrt(kept.var(axis=0).sum())
    np.testing.assert_allclose(np.abs(seen), np.abs(left * singular)[:, :2] / total, atol=1e-9)
    assert seen.var(axis=0) == pytest.approx(singular[:2] ** 2 / (singular**2).sum())


def test_a_map_needs_videos_that_differ() -> None:
    """Fewer than three videos, or equal ones, have no map; a representation of one number has a line."""
    assert map_positions(np.eye(2)) is None
    assert map_positions(np.ones((5, 3))) is None
    line = map_positions(np.array([[1.0], [2.0], [4.0]]))
    assert line is not None and (line[:, 1] == 0).all() and len(np.unique(line[:, 0])) == 3
