"""The sentence about the best model, from predictions made by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.predictions import EvaluationError, Predictions
from pipeline.reports.compare_models import ModelPair, best_models, compare_models
from pipeline.reports.leaderboard import experiments

CLASSES = ("run", "walk")


def predictions(right: list[bool], prefix: str = "") -> Predictions:
    """One clip per video of class "run"; three videos per group."""
    probabilities = np.array([[0.9, 0.1] if is_right else [0.1, 0.9] for is_right in right])
    number = len(right)
    names = tuple(f"{prefix}{video}" for video in range(number))
    groups = tuple(f"{prefix}g{video // 3}" for video in range(number))
    return Predictions(CLASSES, names, np.zeros(number, np.int64), probabilities, np.arange(number), groups)


class Board:
    """Rows of a leaderboard, and their predictions."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._of: dict[int, Predictions] = {}

    def add(self, model: str, right: list[bool], prefix: str = "", **facts: object) -> None:
        row = {
            "dataset": "demo",
            "model": model,
            "split": "1",
            "seed": 0,
            **dict.fromkeys(METRICS, np.mean(right)),
            **facts,
        }
        self.rows.append(row)
        self._of[id(row)] = predictions(right, prefix)

    def pairs(self) -> list[ModelPair]:
        return compare_models(experiments(self.rows), lambda row: self._of[id(row)])  # type: ignore[index]

    def sentences(self) -> list[str]:
        return best_models(self.rows, lambda row: self._of[id(row)])  # type: ignore[index]


def test_the_first_is_compared_with_the_frame_average() -> None:
    """Not with the second: the frame average is what a model must be better than."""
    board = Board()
    for seed in (0, 1):
        for split in ("1", "2"):
            facts = {"prefix": split, "seed": seed, "split": split}
            board.add("np_rnn", [True] * 12, **facts)  # type: ignore[arg-type]
            board.add("gru", [True] * 11 + [False], **facts)  # type: ignore[arg-type]
            board.add("mean", [True] * 6 + [False] * 6, **facts)  # type: ignore[arg-type]
    (sentence,) = board.sentences()
    assert sentence.startswith("np_rnn is first: 100.0 %, 50.0 points above the frame average [")
    assert sentence.endswith("], over 2 splits and 2 seeds.")
    low, high = map(float, sentence.split("[")[1].split("]")[0].split(", "))
    assert 0 < low < 50 < high


def test_the_difference_is_paired() -> None:
    """Where every group has the same difference, the interval has no width, however much the groups differ."""
    board = Board()
    board.add("np_rnn", [True, True, True, True, False, False] * 2)
    board.add("mean", [True, True, False, False, False, False] * 2)
    board.rows.reverse()
    assert "33.3 points above the frame average [33.3, 33.3]" in board.sentences()[0]


def test_without_a_frame_average_the_second_is_named(tmp_path: Path) -> None:
    """And models of one name are told apart by what differs."""
    board = Board()
    board.add("np_rnn", [True] * 6, settings="hidden 64")
    board.add("np_rnn", [True] * 3 + [False] * 3, settings="hidden 32")
    assert "np_rnn (hidden 64) is first: 100.0 %, 50.0 points above np_rnn (hidden 32) [" in board.sentences()[0]


def test_models_with_other_videos_or_without_predictions_are_not_compared() -> None:
    """Nothing is paired that can't be, and one damaged file does not take the leaderboard away."""
    board = Board()
    board.add("np_rnn", [True] * 6)
    board.add("mean", [False] * 6, prefix="other")
    assert board.sentences() == []

    def missing(row: object) -> Predictions:
        raise EvaluationError("there are none")

    assert best_models(board.rows, missing) == []


def test_one_correction_for_the_pairs_of_models_whatever_the_number_of_runs() -> None:
    """Three models with four seeds each are three pairs, not 66, and a clear difference is called significant."""
    board = Board()
    for seed in range(4):
        board.add("np_rnn", [True] * 30, seed=seed)
        board.add("gru", [True] * 30, seed=seed)
        board.add("mean", [True, True, False] * 10, seed=seed)
    pairs = board.pairs()
    assert [(pair.a, pair.b) for pair in pairs] == [
        ("np_rnn", "gru"),
        ("np_rnn", "frame average"),
        ("gru", "frame average"),
    ]
    assert [pair.is_significant for pair in pairs] == [False, True, True]
    # Ten groups with a difference of the same sign: 2 / 2 ** 10, and the smallest of three p-values counts thrice.
    assert pairs[1].corrected_p == pytest.approx(3 * 2 / 2**10)
    assert pairs[1].verdict.startswith(
        "np_rnn is better than the frame average by 33.3 points [33.3, 33.3], p = 0.0059"
    )
    assert pairs[1].verdict.endswith("over 1 split and 4 seeds.")
    assert pairs[0].verdict.startswith("No significant difference between np_rnn and gru: 0.0 points")
    assert len(pairs[1].flips) == 10 and pairs[1].flips[0].video_id == "2"


def test_a_pair_is_compared_where_both_were_run() -> None:
    """Other splits and seeds of one of them make no difference to it."""
    board = Board()
    for split in ("1", "2", "3"):
        board.add("np_rnn", [True] * 6 if split == "1" else [False] * 6, prefix=split, split=split)
    board.add("gru", [True] * 3 + [False] * 3, prefix="1", split="1")
    (pair,) = board.pairs()
    assert (pair.difference, pair.num_splits, pair.num_videos) == (0.5, 1, 6)


@pytest.mark.parametrize("other", [{"dataset": "weizmann"}, {"split": "2", "model": "np_rnn"}])
def test_a_model_alone_is_not_first(other: dict[str, Any]) -> None:
    """One model, on whatever splits, or models of different datasets give no sentence."""
    board = Board()
    board.add("np_rnn", [True] * 6)
    board.add(other.pop("model", "gru"), [True] * 6, **other)
    assert board.sentences() == []
