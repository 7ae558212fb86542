"""The table, the sentence and the intervals follow from the answers to each video."""

import re
from pathlib import Path

import numpy as np
import pytest

from data.records import VideoRecord
from pipeline.settings.config import Config
from pipeline.tune.search import Outcome, Score
from pipeline.tune.search_space import Contender, make_contenders
from pipeline.tune.table import Comparison, render

VIDEOS = [VideoRecord(f"v{number}", Path(), 0, f"g{number // 5}") for number in range(100)]


def make_outcome(name: str, num_right: int, num_seeds: int = 3) -> Outcome:
    """Right on the first ``num_right`` videos with every seed but the last, which gets two videos less right."""
    correct = np.tile(np.arange(len(VIDEOS)) < num_right, (num_seeds, 1))
    correct[-1, num_right - 2 : num_right] = False
    (contender,) = make_contenders(Config(), (name,), 2) if name in ("np_rnn", "gru", "mean") else (make_variant(name),)
    scores = [Score(0.5, 1.0), Score(0.7, 0.8)][: len(contender.configs)]
    return Outcome(contender, [0, 1, 1], len(scores) - 1, scores, correct, np.where(correct, 0.9, 0.1), 60.0)


def make_variant(name: str) -> Contender:
    return Contender(name, ({},), (Config(),))


def test_a_comparison_with_the_frame_average() -> None:
    """Top-1 is the mean over the seeds; the interval is that of groups, and much wider than that of the difference."""
    outcomes = [make_outcome("np_rnn", 72), make_outcome("gru", 80), make_outcome("mean", 62)]
    comparison = Comparison(outcomes, VIDEOS, reference=2)
    np_rnn, gru, mean = comparison.rows
    assert np_rnn.per_seed == pytest.approx([0.72, 0.72, 0.70]) and np_rnn.top1 == pytest.approx(0.72 - 0.02 / 3)
    assert np_rnn.deviation == pytest.approx(0.02 / np.sqrt(3)) and mean.difference is None
    assert np_rnn.loss == pytest.approx(-(np_rnn.top1 * np.log(0.9) + (1 - np_rnn.top1) * np.log(0.1)))
    low, high = np_rnn.interval
    assert low < np_rnn.top1 - 0.1 and np_rnn.top1 + 0.1 < high
    assert np_rnn.difference is not None and np_rnn.difference.value == pytest.approx(0.1)
    paired_low, paired_high = np_rnn.difference.interval
    assert paired_low <= 0.1 <= paired_high and paired_low >= 0
    sentence = (
        r"gru 0.793, frame average 0.613, difference 18.0 points \[.*\]; np_rnn 0.713, difference 8.0 points \[.*\]"
    )
    assert re.fullmatch(sentence, comparison.sentence)
    assert comparison.winner == 1
    table = render(comparison, outcomes)
    assert (
        "points over the frame average" in table
        and "| np_rnn" in table
        and "+10.0 [" in table
        and "(2 of 3 folds)" in table
        and "learning_rate" in table
    )


def test_without_the_frame_average_the_best_is_compared_with_the_first_and_the_next() -> None:
    """So are variants, and so is a reference that is the best. A single seed has no deviation."""
    outcomes = [make_outcome("a", 70), make_outcome("b", 60), make_outcome("c", 65)]
    comparison = Comparison(outcomes, VIDEOS)
    assert comparison.sentence.startswith("a 0.693, c 0.643, difference 5.0 points [")
    assert [row.difference is None for row in comparison.rows] == [True, False, False]
    swapped = Comparison(outcomes[::-1], VIDEOS).sentence
    assert swapped.startswith("a 0.693, c 0.643, difference 5.0 points [") and swapped.count("difference") == 1
    assert "; a 0" not in swapped and "b 0" not in swapped
    assert Comparison(outcomes[:1], VIDEOS).sentence.startswith("a 0.693 [")
    assert Comparison([make_outcome("a", 70, num_seeds=1)], VIDEOS).rows[0].deviation is None


def test_the_lower_loss_decides_a_tie() -> None:
    """best.yaml belongs to the row with the highest top-1, then the lowest loss."""
    outcomes = [make_outcome("a", 70), make_outcome("b", 70)]
    outcomes[1].probability[:] = 0.95
    assert Comparison(outcomes, VIDEOS).winner == 1
