"""The metrics of an evaluation. Pure functions.

The protocol:

* *Clip-level*: each sampled clip counts once, with the label of its video. A missing video (it has no clips because it
  could not be decoded) counts as one wrong clip.
* *Video-level*: the mean of a video's clip probabilities; each video counts once. A missing video is wrong.
* *Top-k*: the rank of the true class is the number of classes with a higher probability, plus the number of classes
  with an equal probability and a lower index; it is in the top k if its rank is below k. A tie therefore never helps,
  and top-1 agrees with ``argmax``. With fewer than five classes, top-5 is top-``num_classes``.
* *Mean-class accuracy*: the mean recall of the classes that have test videos.
* *Negative log-likelihood*: the mean over videos of -log of the true class's probability, which counts as at least
  1e-12. Missing videos have no probabilities: they are left out here and of the calibration error, unlike above.
* *Intervals*: 95 % percentile bootstrap over groups, or over videos where each is its own group. A group is drawn with
  all of its videos, and a video with all of its clips, because these are not independent. The mean-class accuracy of a
  draw leaves out classes that the draw has no video of. At exactly 0 or 1 all draws agree and the interval has no
  width: a limit of the method, not certainty.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.predictions import (
    BoolArray,
    EvaluationError,
    FloatArray,
    IntArray,
    Predictions,
    true_class_ranks,
)

METRICS = ("clip_top1", "clip_top5", "video_top1", "video_top5", "mean_class_accuracy")
SMALLEST_PROBABILITY = 1e-12  # of the true class in the negative log-likelihood: keeps it finite
COUNTS = ("num_videos", "num_groups", "num_clips", "num_classes", "num_missing")
_DRAWS_AT_ONCE = 100  # limits the memory for the counts of the drawn groups


class _Tally(NamedTuple):
    """The contribution of each video to the metrics; every array is ``[num_videos]``."""

    labels: IntArray
    num_clips: IntArray
    correct_clips_top1: IntArray
    correct_clips_top5: IntArray
    correct_top1: BoolArray
    correct_top5: BoolArray


def _tally(predictions: Predictions) -> _Tally:
    labels, clip_videos, num_videos = predictions.labels, predictions.clip_videos, len(predictions.labels)
    clip_ranks = true_class_ranks(predictions.clip_probabilities, labels[clip_videos])
    # The probabilities of a missing video are zeros, among which class 0 ranks first: that is not a correct answer.
    answered = ~predictions.missing
    video_ranks = true_class_ranks(predictions.video_probabilities, labels)
    return _Tally(
        labels=labels,
        num_clips=np.maximum(predictions.clip_counts, 1),
        correct_clips_top1=np.bincount(clip_videos[clip_ranks < 1], minlength=num_videos),
        correct_clips_top5=np.bincount(clip_videos[clip_ranks < 5], minlength=num_videos),
        correct_top1=answered & (video_ranks < 1),
        correct_top5=answered & (video_ranks < 5),
    )


def _scores_of_draws(tally: _Tally, groups: IntArray, times: IntArray) -> FloatArray:
    """The metrics of lists of groups, each group with all of its videos.

    Args:
        groups: the group of each video, int64 ``[num_videos]``.
        times: how often each list contains each group, int64 ``[num_lists, num_groups]``.

    Returns:
        float64 ``[num_lists, 5]``, columns in the order of ``METRICS``.
    """
    num_groups = times.shape[1]
    shape = (int(tally.labels.max()) + 1, num_groups)

    def totals(of_videos: NDArray[Any]) -> FloatArray:
        return times.astype(np.float64) @ np.bincount(groups, of_videos, num_groups)

    def by_class(of_videos: NDArray[Any]) -> FloatArray:
        from scipy.sparse import coo_array  # here, because it takes a quarter of a second

        return coo_array((of_videos.astype(float), (tally.labels, groups)), shape).tocsr() @ times.T

    num_videos, num_clips = totals(np.ones(len(groups))), totals(tally.num_clips)
    support, correct = by_class(np.ones(len(groups))), by_class(tally.correct_top1)
    columns = (
        totals(tally.correct_clips_top1) / num_clips,
        totals(tally.correct_clips_top5) / num_clips,
        totals(tally.correct_top1) / num_videos,
        totals(tally.correct_top5) / num_videos,
        (correct / np.maximum(support, 1)).sum(axis=0) / (support > 0).sum(axis=0),
    )
    return np.stack(columns, axis=1)


def bootstrap_scores(predictions: Predictions, resamples: int = 1000, seed: int = 0) -> FloatArray:
    """The metrics of ``resamples`` lists of groups drawn with replacement, each group with all of its videos.

    Returns float64 ``[resamples, 5]``, columns in the order of ``METRICS``. The draws depend only on ``seed`` and the
    number of groups, so the rows of two models on the same list of videos are paired: subtract them to compare.
    """
    if resamples < 1:
        raise EvaluationError(f"resamples is {resamples}; a bootstrap needs at least 1, usually 1000.")
    tally, groups, num_groups = _tally(predictions), predictions.group_indices, predictions.num_groups
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, resamples, _DRAWS_AT_ONCE):
        drawn = generator.integers(num_groups, size=(min(_DRAWS_AT_ONCE, resamples - start), num_groups))
        times = np.array([np.bincount(row, minlength=num_groups) for row in drawn])
        parts.append(_scores_of_draws(tally, groups, times))
    return np.concatenate(parts)


def bootstrap_group_means(
    values: FloatArray, groups: Sequence[str], resamples: int = 1000, seed: int = 0
) -> FloatArray:
    """Means of the values of videos in ``resamples`` lists of groups, drawn with replacement.

    A group is drawn with all of its videos, because these are not independent. The rows get the same lists of groups,
    so they are paired: subtract them to compare.

    Args:
        values: float64 ``[num_rows, num_videos]``.
        groups: the group of each video.

    Returns:
        float64 ``[num_rows, resamples]``.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group_of)
    sums = np.array([np.bincount(group_of, weights=row) for row in values])
    draws = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    means: FloatArray = sums[:, draws].sum(axis=2) / sizes[draws].sum(axis=1)
    return means


def scores(predictions: Predictions) -> dict[str, float]:
    """Each of ``METRICS``, in [0, 1]."""
    once = np.ones((1, predictions.num_groups), dtype=np.int64)
    (values,) = _scores_of_draws(_tally(predictions), predictions.group_indices, once)
    return {name: float(value) for name, value in zip(METRICS, values, strict=True)}


def metrics(predictions: Predictions, resamples: int = 1000, seed: int = 0) -> dict[str, object]:
    """All metrics and counts, ready for JSON.

    Returns each of ``METRICS`` in [0, 1]; ``intervals``: for each of them ``[low, high]``, the 95 % percentile
    bootstrap over groups (``resamples`` draws from ``seed``); ``expected_calibration_error`` in [0, 1] and
    ``negative_log_likelihood`` in nats, both ``None`` if all videos are missing; and ``COUNTS``, where ``num_clips``
    counts sampled clips only, none for a missing video.
    """
    low, high = np.percentile(bootstrap_scores(predictions, resamples, seed), [2.5, 97.5], axis=0)
    return {
        **scores(predictions),
        "intervals": {name: [float(low[i]), float(high[i])] for i, name in enumerate(METRICS)},
        "expected_calibration_error": expected_calibration_error(calibration(predictions)),
        "negative_log_likelihood": negative_log_likelihood(predictions),
        "num_clips": len(predictions.clip_videos),
        "num_videos": len(predictions.video_ids),
        "num_groups": predictions.num_groups,
        "num_classes": len(predictions.classes),
        "num_missing": int(predictions.missing.sum()),
    }


def metrics_without(predictions: Predictions, excluded: Collection[str]) -> dict[str, object]:
    """The scores with some videos left out, ready for JSON; empty if none of them is in the list.

    Returns ``num_excluded`` and ``without_excluded``: each of ``METRICS``, their ``intervals``, ``num_videos`` and
    ``num_groups``, all as in ``metrics``; ``None`` if no video is left.
    """
    others = predictions.without(excluded)
    num_excluded = len(predictions.video_ids) - (len(others.video_ids) if others else 0)
    if not num_excluded:
        return {}
    names = (*METRICS, "intervals", "num_videos", "num_groups")
    kept = {name: value for name, value in metrics(others).items() if name in names} if others else None
    return {"num_excluded": num_excluded, "without_excluded": kept}


def confusion_matrix(predictions: Predictions) -> IntArray:
    """Number of videos by true and predicted class.

    Returns int64 ``[num_classes, num_classes + 1]``: row = true class, column = predicted class, last column = missing
    videos. Each row sums to the number of videos of its class.
    """
    num_classes = len(predictions.classes)
    columns = np.where(predictions.missing, num_classes, predictions.predicted)
    counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    np.add.at(counts, (predictions.labels, columns), 1)
    return counts


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes, and the number of videos of the one that were classified as the other.

    Attributes:
        share: ``count`` divided by the number of videos of the true class.
    """

    true: str
    predicted: str
    count: int
    share: float


def confused_pairs(predictions: Predictions) -> list[ConfusedPair]:
    """Every pair of classes with at least one confused video, by decreasing count, then by decreasing share."""
    counts = confusion_matrix(predictions)
    support = counts.sum(axis=1)
    mistakes = counts[:, :-1].copy()
    np.fill_diagonal(mistakes, 0)
    pairs = [
        ConfusedPair(
            true=predictions.classes[true],
            predicted=predictions.classes[predicted],
            count=int(mistakes[true, predicted]),
            share=float(mistakes[true, predicted] / support[true]),
        )
        for true, predicted in np.argwhere(mistakes)
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share))


@dataclass(frozen=True)
class ClassScores:
    """Video-level scores of one class.

    Attributes:
        precision: ``None`` if no video was classified as this class.
        recall: ``None`` if the class has no test videos.
        f1: ``None`` if precision and recall are both undefined.
        support: number of test videos, including missing ones.
        confused_with: the class that its videos are most often mistaken for; ``None`` if there is none.
        num_confused: the number of videos that are mistaken for it.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    confused_with: str | None
    num_confused: int


def class_scores(predictions: Predictions) -> list[ClassScores]:
    """One ``ClassScores`` per class, in the order of the classes. A missing video lowers its class's recall."""
    from sklearn.metrics import precision_recall_fscore_support  # here, because it takes a second

    precision, recall, f1, support = precision_recall_fscore_support(
        predictions.labels,
        predictions.predicted,
        labels=range(len(predictions.classes)),
        average=None,
        zero_division=np.nan,
    )
    worst: dict[str, ConfusedPair] = {}
    for pair in confused_pairs(predictions):
        worst.setdefault(pair.true, pair)

    def defined(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    return [
        ClassScores(
            name=name,
            precision=defined(precision[index]),
            recall=defined(recall[index]),
            f1=defined(f1[index]),
            support=int(support[index]),
            confused_with=worst[name].predicted if name in worst else None,
            num_confused=worst[name].count if name in worst else 0,
        )
        for index, name in enumerate(predictions.classes)
    ]


@dataclass(frozen=True)
class CalibrationBin:
    """The videos whose confidence (probability of the predicted class) is in ``(low, high]``.

    Attributes:
        count: number of videos.
        confidence, accuracy: their mean confidence and their accuracy; ``None`` if there are no videos.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def calibration(predictions: Predictions, num_bins: int = 15) -> list[CalibrationBin]:
    """Videos binned by confidence, in bins of equal width: in each, confidence and accuracy should agree.

    Missing videos have no confidence and are left out. Returns ``num_bins`` bins that cover (0, 1].
    """
    answered = ~predictions.missing
    confidence, correct = predictions.confidence[answered], predictions.correct[answered]
    edges = np.linspace(0, 1, num_bins + 1)
    # A mean of probabilities may exceed 1 by a rounding error.
    bins = np.clip(np.searchsorted(edges, confidence) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    confidences, corrects = (np.bincount(bins, weights=values, minlength=num_bins) for values in (confidence, correct))
    return [
        CalibrationBin(
            low=float(edges[index]),
            high=float(edges[index + 1]),
            count=int(count),
            confidence=float(confidences[index] / count) if count else None,
            accuracy=float(corrects[index] / count) if count else None,
        )
        for index, count in enumerate(counts)
    ]


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float | None:
    """Mean gap between confidence and accuracy, each bin weighted by its number of videos; ``None`` without videos.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.
    """
    num_videos = sum(part.count for part in bins)
    if not num_videos:
        return None
    gaps = (
        part.count * abs(part.confidence - part.accuracy)
        for part in bins
        if part.confidence is not None and part.accuracy is not None
    )
    return sum(gaps) / num_videos


def negative_log_likelihood(predictions: Predictions) -> float | None:
    """Mean over the videos that are not missing of -log of the true class's probability; ``None`` without videos."""
    answered = ~predictions.missing
    if not answered.any():
        return None
    return float(-np.log(predictions.true_probability[answered].clip(SMALLEST_PROBABILITY)).mean())
