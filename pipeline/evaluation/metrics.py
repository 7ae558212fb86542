"""Clip scores -> video scores -> metrics. Pure functions; nothing here reads or writes a file.

The protocol, in full:

* *Clip-level*: each sampled clip counts once, with its video's label. A video without clips (it could not be decoded)
  counts as one wrong clip.
* *Video-level*: the mean of a video's clip probabilities; each video counts once. A video without clips is wrong.
* *Top-k*: the rank of the true class is the number of classes with a higher probability, plus the number of classes
  with an equal probability and a lower index; it is in the top k if its rank is below k. So a tie never helps, and
  top-1 agrees with ``argmax``. With fewer than five classes, top-5 is top-``num_classes``.
* *Mean-class accuracy*: the share of right videos within each class that has test videos, averaged over these classes.
* *Intervals*: 95 % percentile bootstrap over videos, each drawn with all of its clips, because the clips of one video
  are not independent. Classes that a draw misses are left out of that draw's mean-class accuracy. At exactly 0 or 1
  every draw agrees and the interval has no width: a limit of the method, not certainty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from pipeline.evaluation.predictions import (
    EvaluationError,
    FloatArray,
    IntArray,
    Predictions,
    true_class_ranks,
    video_predictions,
    video_probabilities,
)

METRICS = ("clip_top1", "clip_top5", "video_top1", "video_top5", "mean_class_accuracy")


class _Tally(NamedTuple):
    """What each video adds to the metrics; every array is ``[num_videos]``."""

    labels: IntArray
    num_clips: IntArray
    right_clips_top1: IntArray
    right_clips_top5: IntArray
    right_top1: NDArray[np.bool_]
    right_top5: NDArray[np.bool_]


def _tally(predictions: Predictions) -> _Tally:
    labels, clip_videos, num_videos = predictions.labels, predictions.clip_videos, len(predictions.labels)
    clip_ranks = true_class_ranks(predictions.clip_probabilities, labels[clip_videos])
    # A missing video has a row of zeros, in which class 0 ranks first: it must not count as right for that.
    answered = ~predictions.missing
    video_ranks = true_class_ranks(video_probabilities(predictions), labels)
    return _Tally(
        labels=labels,
        num_clips=np.maximum(predictions.clip_counts, 1),
        right_clips_top1=np.bincount(clip_videos[clip_ranks < 1], minlength=num_videos),
        right_clips_top5=np.bincount(clip_videos[clip_ranks < 5], minlength=num_videos),
        right_top1=answered & (video_ranks < 1),
        right_top5=answered & (video_ranks < 5),
    )


def _scores(tally: _Tally, videos: IntArray) -> list[float]:
    """The metrics, in the order of ``METRICS``, of a list of videos (indices) in which one may stand several times."""
    labels, right = tally.labels[videos], tally.right_top1[videos]
    num_clips = tally.num_clips[videos].sum()
    support = np.bincount(labels)
    tested = support > 0
    return [
        tally.right_clips_top1[videos].sum() / num_clips,
        tally.right_clips_top5[videos].sum() / num_clips,
        right.mean(),
        tally.right_top5[videos].mean(),
        (np.bincount(labels, weights=right)[tested] / support[tested]).mean(),
    ]


def bootstrap_scores(predictions: Predictions, resamples: int = 1000, seed: int = 0) -> FloatArray:
    """The metrics of ``resamples`` lists of videos drawn with replacement, each video with all of its clips.

    Returns float64 ``[resamples, 5]``, columns in the order of ``METRICS``. The draws depend on ``seed`` and the number
    of videos only, so two models' rows on one list of videos are paired: subtract them to compare the models.
    """
    if resamples < 1:
        raise EvaluationError(f"resamples is {resamples}; a bootstrap takes at least 1, usually 1000.")
    tally = _tally(predictions)
    generator = np.random.default_rng(seed)
    num_videos = len(tally.labels)
    return np.array([_scores(tally, generator.integers(num_videos, size=num_videos)) for _ in range(resamples)])


def metrics(predictions: Predictions, resamples: int = 1000, seed: int = 0) -> dict[str, object]:
    """All metrics of the protocol above, ready for JSON.

    Returns ``clip_top1, clip_top5, video_top1, video_top5, mean_class_accuracy`` in [0, 1]; ``intervals``: for each of
    them ``[low, high]``, the 95 % percentile bootstrap over videos (``resamples`` draws from ``seed``); and the counts
    ``num_clips`` (sampled ones: those of missing videos are not in it), ``num_videos``, ``num_classes``,
    ``num_missing``.
    """
    scores = _scores(_tally(predictions), np.arange(len(predictions.video_ids)))
    low, high = np.percentile(bootstrap_scores(predictions, resamples, seed), [2.5, 97.5], axis=0)
    return {
        **{name: float(score) for name, score in zip(METRICS, scores, strict=True)},
        "intervals": {name: [float(low[i]), float(high[i])] for i, name in enumerate(METRICS)},
        "num_clips": len(predictions.clip_videos),
        "num_videos": len(predictions.video_ids),
        "num_classes": len(predictions.classes),
        "num_missing": int(predictions.missing.sum()),
    }


def confusion_matrix(predictions: Predictions) -> IntArray:
    """Number of videos by true and predicted class.

    Returns int64 ``[num_classes, num_classes + 1]``: row = true class, column = predicted class, last column = videos
    without clips. Each row sums to its class's number of videos.
    """
    num_classes = len(predictions.classes)
    columns = np.where(predictions.missing, num_classes, video_predictions(predictions))
    counts = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    np.add.at(counts, (predictions.labels, columns), 1)
    return counts


@dataclass(frozen=True)
class ConfusedPair:
    """Videos of one class that were taken for one other class.

    Attributes:
        count: how many videos.
        share: ``count`` / videos of the true class.
    """

    true: str
    predicted: str
    count: int
    share: float


def confused_pairs(predictions: Predictions) -> list[ConfusedPair]:
    """Every pair of classes with at least one confused video: the most videos first, then the largest share."""
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
    """How one class did, at the video level.

    Attributes:
        precision: ``None`` if no video was taken for this class.
        recall: ``None`` if the class has no test videos.
        f1: ``None`` if neither.
        support: number of test videos, missing ones included.
        confused_with: the class that most of its wrong videos were taken for; ``None`` if there is none.
        num_confused: how many were.
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
    precision, recall, f1, support = precision_recall_fscore_support(
        predictions.labels,
        video_predictions(predictions),
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
    """The videos whose confidence (probability of the class they are taken for) is in ``(low, high]``.

    Attributes:
        count: how many videos.
        confidence, accuracy: their mean confidence, and the share of them that is right; ``None`` if there are none.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def calibration(predictions: Predictions, num_bins: int = 15) -> list[CalibrationBin]:
    """Are answers given with a confidence of 0.8 right in 80 % of the cases? Videos by confidence, in equal bins.

    Missing videos have no confidence and are left out. Returns ``num_bins`` bins that cover (0, 1].
    """
    answered = ~predictions.missing
    confidence = video_probabilities(predictions)[answered].max(axis=1)
    right = (video_predictions(predictions) == predictions.labels)[answered]
    edges = np.linspace(0, 1, num_bins + 1)
    # A mean of probabilities may come out a rounding error above 1.
    bins = np.clip(np.searchsorted(edges, confidence) - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    confidences, rights = (np.bincount(bins, weights=values, minlength=num_bins) for values in (confidence, right))
    return [
        CalibrationBin(
            low=float(edges[place]),
            high=float(edges[place + 1]),
            count=int(count),
            confidence=float(confidences[place] / count) if count else None,
            accuracy=float(rights[place] / count) if count else None,
        )
        for place, count in enumerate(counts)
    ]


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float | None:
    """Mean distance between confidence and accuracy, each bin weighted by its videos; ``None`` without videos.

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
