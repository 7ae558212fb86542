"""Paired statistics of two models, A and B, that were evaluated on the same videos. Pure functions.

Such models are right and wrong on much the same videos, so their separate intervals say little about their difference.
Everything here is paired: it compares the two answers to each video.

* *Difference*: B's metric minus A's, at the video level.
* *Its interval*: 95 % percentile bootstrap over groups; each draw takes the same videos for both models.
* *McNemar's test*: among the videos that exactly one of the two models classifies correctly, is B the correct one in
  half of the cases? The exact two-sided binomial test. Videos of one group are not independent, so where there are
  groups, each group's difference is what has an equal chance to be positive or negative: the exact sign-flip test, of
  which the binomial test is the case of one video per group.
* *Holm's correction*: of several p-values, so that the chance of even one false alarm stays below the level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluation.metrics import METRICS, bootstrap_scores, class_scores, confusion_matrix, scores
from pipeline.evaluation.predictions import BoolArray, EvaluationError, FloatArray, IntArray, Predictions

PAIRED_METRICS = ("video_top1", "video_top5", "mean_class_accuracy")


def aligned(predictions: Predictions, like: Predictions, names: tuple[str, str]) -> Predictions:
    """The same predictions with videos and classes in the order of ``like``.

    ``names`` are the names of ``predictions`` and ``like`` in error messages. Raises ``EvaluationError`` where the two
    differ in their videos, labels or classes.
    """
    name, like_name = names
    for what, values, like_values in (
        ("classes", predictions.classes, like.classes),
        ("videos", predictions.video_ids, like.video_ids),
    ):
        extra, lacking = sorted(set(values) - set(like_values)), sorted(set(like_values) - set(values))
        if extra or lacking:
            listed = [_only_in(owner, only) for owner, only in ((like_name, lacking), (name, extra)) if only]
            raise EvaluationError(
                f"{like_name} and {name} were evaluated on different {what}: {' and '.join(listed)}. Only runs with "
                "the same test list can be compared video by video."
            )
    video_index = {video_id: index for index, video_id in enumerate(predictions.video_ids)}
    class_index = {class_name: index for index, class_name in enumerate(predictions.classes)}
    videos = np.array([video_index[video_id] for video_id in like.video_ids])
    columns = np.array([class_index[class_name] for class_name in like.classes])
    labels = np.argsort(columns)[predictions.labels[videos]]
    if (differing := np.flatnonzero(labels != like.labels)).size:
        first = differing[0]
        raise EvaluationError(
            f"{like_name} and {name} have different labels for {len(differing)} of {len(labels)} videos: "
            f"{like.video_ids[first]!r} is {like.classes[like.labels[first]]!r} in the former and "
            f"{like.classes[labels[first]]!r} in the latter. Evaluate both on the current dataset."
        )
    return Predictions(
        like.classes,
        like.video_ids,
        like.labels,
        predictions.clip_probabilities[:, columns],
        np.argsort(videos)[predictions.clip_videos],
        like.groups or tuple(predictions.groups[video] for video in videos if predictions.groups),
        None if predictions.positions is None else predictions.positions[videos],
    )


def _only_in(name: str, only: Sequence[str]) -> str:
    verb = "are" if len(only) > 1 else "is"
    examples = ", ".join(only[:3]) + (" ..." if len(only) > 3 else "")
    return f"{len(only)} {verb} only in {name} ({examples})"


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """A model's metrics, and their values on lists of groups drawn with replacement.

    Attributes:
        scores: each of ``METRICS``, in [0, 1].
        draws: float64 ``[resamples, 5]``, columns in the order of ``METRICS``.
        num_videos: number of videos that the model was evaluated on.
        num_groups: length of each list.
    """

    scores: Mapping[str, float]
    draws: FloatArray
    num_videos: int
    num_groups: int


def bootstrap(predictions: Predictions, resamples: int = 1000, seed: int = 0) -> Bootstrap:
    """Draw lists of groups. Models with the same videos in the same order get the same lists from the same seed."""
    draws = bootstrap_scores(predictions, resamples, seed)
    return Bootstrap(scores(predictions), draws, len(predictions.video_ids), predictions.num_groups)


@dataclass(frozen=True)
class PairedDifference:
    """B's metric minus A's, in [-1, 1], with its 95 % interval.

    Attributes:
        num_videos: the number of videos that both were evaluated on.
        num_groups: the number of their groups; ``None``: each video is its own.
    """

    difference: float
    low: float
    high: float
    num_videos: int
    num_groups: int | None = None


def paired_differences(a: Bootstrap, b: Bootstrap) -> dict[str, PairedDifference]:
    """The difference in each of ``PAIRED_METRICS``; both bootstraps must have drawn the same lists of groups."""
    low, high = np.percentile(b.draws - a.draws, [2.5, 97.5], axis=0)
    return {
        name: PairedDifference(
            b.scores[name] - a.scores[name], float(low[i]), float(high[i]), a.num_videos, a.num_groups
        )
        for i, name in enumerate(METRICS)
        if name in PAIRED_METRICS
    }


def order_drops(forward: Predictions, reordered: Mapping[str, Predictions]) -> dict[str, dict[str, Any]]:
    """How much accuracy a model loses when the frames of every clip are in another order, ready for JSON.

    Args:
        forward: predictions for the frames in order.
        reordered: predictions of the same model for the same videos, by name of the order.

    Returns:
        For each order ``video_top1`` in [0, 1], ``drop`` (video top-1 in order minus this) in [-1, 1], and
        ``interval``: ``[low, high]``, the 95 % interval of the drop.
    """
    in_order = bootstrap(forward)
    drops = {}
    for order, predictions in reordered.items():
        draws = bootstrap(predictions)
        drop = paired_differences(draws, in_order)["video_top1"]
        drops[order] = {
            "video_top1": draws.scores["video_top1"],
            "drop": drop.difference,
            "interval": [drop.low, drop.high],
        }
    return drops


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of two models on the same videos.

    Attributes:
        both, only_a, only_b, neither: numbers of videos, by which of the models is correct.
        p_value: the probability of an imbalance between ``only_a`` and ``only_b`` at least as large as this one if both
            models are equally good; 1 where both counts are equal.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float


def mcnemar(correct_a: BoolArray, correct_b: BoolArray, groups: IntArray | None = None) -> McNemar:
    """McNemar's test of two models on the same videos.

    Args:
        correct_a, correct_b: bool ``[num_videos]``.
        groups: the group of each video, int64 ``[num_videos]``; ``None``: each is its own.

    >>> mcnemar(np.array([True] * 6), np.array([False] * 6)).p_value
    0.03125
    >>> mcnemar(np.array([True] * 6), np.array([False] * 6), np.array([0, 0, 0, 1, 1, 1])).p_value
    0.5
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    difference = correct_b.astype(np.float64) - correct_a
    if groups is not None:
        difference = np.bincount(groups, difference).astype(np.float64)
    return McNemar(
        both=int((correct_a & correct_b).sum()),
        only_a=only_a,
        only_b=only_b,
        neither=int((~correct_a & ~correct_b).sum()),
        p_value=sign_flip_p(difference),
    )


def sign_flip_p(differences: FloatArray) -> float:
    """The probability of a sum at least as far from 0 if each difference were as likely to have the other sign.

    ``differences`` are whole numbers, ``[num_groups]``.
    """
    sizes = np.abs(differences).astype(np.int64)
    # probabilities[k] is that of the sum 2 k - total: with each difference, half moves up by its size.
    probabilities = np.ones(1)
    for size in sizes[sizes > 0]:
        longer = np.zeros(len(probabilities) + size)
        longer[: len(probabilities)] += probabilities / 2
        longer[size:] += probabilities / 2
        probabilities = longer
    sums = 2 * np.arange(len(probabilities)) - sizes.sum()
    return float(min(1.0, probabilities[np.abs(sums) >= abs(differences.sum())].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for multiple testing, in the order given.

    Holm, "A simple sequentially rejective multiple test procedure" (1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True, eq=False)
class ConfusionDifference:
    """The confusion matrices of two models on the same videos, as ``confusion_matrix`` returns them.

    Attributes:
        a, b: int64 ``[num_classes, num_classes + 1]``, in videos.
    """

    a: IntArray
    b: IntArray

    @property
    def counts(self) -> IntArray:
        """int64: B's matrix minus A's, in videos."""
        return self.b - self.a

    @property
    def shares(self) -> FloatArray:
        """float64: B's matrix minus A's, as shares of the videos of each row; 0 for a class without test videos."""
        return self.counts / np.maximum(self.a.sum(axis=1, keepdims=True), 1)


def confusion_difference(a: Predictions, b: Predictions) -> ConfusionDifference:
    """The confusion matrices of two aligned predictions."""
    return ConfusionDifference(confusion_matrix(a), confusion_matrix(b))


@dataclass(frozen=True, eq=False)
class Flips:
    """The videos that A and B classify differently, as indices int64 ``[number]``.

    Each list starts with the largest change of the true class's probability.

    Attributes:
        lost: correct in A, wrong in B.
        gained: wrong in A, correct in B.
        otherwise_wrong: wrong in both.
    """

    lost: IntArray
    gained: IntArray
    otherwise_wrong: IntArray


def flips(a: Predictions, b: Predictions) -> Flips:
    """The videos that two aligned predictions classify differently."""
    largest_first = np.argsort(-np.abs(b.true_probability - a.true_probability), kind="stable")

    def ordered(chosen: BoolArray) -> IntArray:
        return largest_first[chosen[largest_first]]

    return Flips(
        lost=ordered(a.correct & ~b.correct),
        gained=ordered(~a.correct & b.correct),
        otherwise_wrong=ordered(~a.correct & ~b.correct & (a.predicted != b.predicted)),
    )


@dataclass(frozen=True)
class RecallDifference:
    """The recall of one class in A and in B, in [0, 1], over ``support`` videos."""

    name: str
    a: float
    b: float
    support: int

    @property
    def difference(self) -> float:
        return self.b - self.a


def recall_differences(a: Predictions, b: Predictions) -> list[RecallDifference]:
    """Recalls of every class that has test videos, by decreasing difference; ``a`` and ``b`` are aligned."""
    rows = [
        RecallDifference(scores_a.name, scores_a.recall, scores_b.recall, scores_a.support)
        for scores_a, scores_b in zip(class_scores(a), class_scores(b), strict=True)
        if scores_a.recall is not None and scores_b.recall is not None
    ]
    return sorted(rows, key=lambda row: -abs(row.difference))
