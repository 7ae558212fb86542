"""Two evaluations of the same videos against each other: paired statistics. Nothing here writes a file.

Two models that are tested on the same videos are right and wrong on much the same ones, so their two intervals say
little about their difference. Everything here is paired: it looks at what happened on the same video.

* *Difference*: the metric of B minus that of A, both from the probabilities of whole videos.
* *Its interval*: 95 % percentile bootstrap; a draw takes the same videos for both models.
* *McNemar's test*: of the videos that exactly one of the two models has right, is the share that B has right one half?
  The exact binomial test, two-sided, at any number of videos.
* *Holm's correction*: of p-values that were looked at together, so that the chance of even one false alarm stays below
  the level.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from data.errors import UserError
from pipeline.evaluation.metrics import METRICS, bootstrap_scores, class_scores, confusion_matrix, metrics
from pipeline.evaluation.predictions import FloatArray, IntArray, Predictions, video_predictions, video_probabilities

BoolArray = NDArray[np.bool_]

PAIRED_METRICS = ("video_top1", "video_top5", "mean_class_accuracy")
PROBABILITY = "p:"  # begins the columns of predictions.csv that hold a class's probability


class ComparisonError(UserError):
    """Evaluations can't be read or can't be compared. The message says which, how they differ, and what to do."""


@dataclass(frozen=True, eq=False)
class VideoPredictions:
    """What a model said about every video of a list, one row of probabilities each.

    Attributes:
        name: what errors call it.
        classes: class names; their order gives the labels and the columns.
        video_ids: every video of the list, also those that could not be decoded.
        labels: int64 ``[num_videos]``, index into ``classes``.
        probabilities: float64 ``[num_videos, num_classes]``; the row of a missing video is all zeros.
        missing: bool ``[num_videos]``: the videos that could not be decoded; they count as wrong answers.
    """

    name: str
    classes: tuple[str, ...]
    video_ids: tuple[str, ...]
    labels: IntArray
    probabilities: FloatArray
    missing: BoolArray

    def as_clips(self) -> Predictions:
        """The same with each video as its only clip, for the functions of ``pipeline.evaluation``: their video-level
        metrics are those of this list, their clip-level ones mean nothing.

        Raises ``EvaluationError`` where labels or probabilities can't be right.
        """
        answered = np.flatnonzero(~self.missing)
        return Predictions(self.classes, self.video_ids, self.labels, self.probabilities[answered], answered)

    @cached_property
    def predicted(self) -> IntArray:
        """int64 ``[num_videos]``: the class each video is taken for; ``NOT_PREDICTED`` for a missing one."""
        return video_predictions(self.as_clips())

    @cached_property
    def right(self) -> BoolArray:
        """bool ``[num_videos]``: a missing video is wrong."""
        return np.equal(self.predicted, self.labels)


def video_level(predictions: Predictions, name: str) -> VideoPredictions:
    """The video-level answers of an evaluation that is still in memory."""
    return VideoPredictions(
        name,
        predictions.classes,
        predictions.video_ids,
        predictions.labels,
        video_probabilities(predictions),
        predictions.missing,
    )


def read_video_predictions(evaluation_folder: Path) -> VideoPredictions:
    """The answers in an evaluation's ``predictions.csv``, named after the run that the evaluation is of.

    Probabilities stand there with nine digits. Raises ``ComparisonError`` where the file is missing or damaged.
    """
    path = evaluation_folder / "predictions.csv"
    again = f"Evaluate the run again: python evaluate.py {evaluation_folder.parent}"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
    except FileNotFoundError as error:
        raise ComparisonError(f"there is no {path}, so nothing to compare. {again}") from error
    except (ValueError, csv.Error) as error:  # no line at all, or not UTF-8
        raise ComparisonError(f"{path} is empty or no text ({error}). {again}") from error
    classes = tuple(name.removeprefix(PROBABILITY) for name in header if name.startswith(PROBABILITY))
    lacking = [name for name in ("video_id", "label", "predicted", "num_clips") if name not in header]
    if lacking or not classes:
        raise ComparisonError(f"{path} lacks the columns {', '.join(lacking or [PROBABILITY + 'CLASS'])}. {again}")
    number = header.index("num_clips")
    for line, row in enumerate(rows, start=2):
        if row[number : number + 1] == ["0"]:  # a missing video has no probabilities
            row += [""] * (len(header) - len(row))
        if len(row) != len(header):
            raise ComparisonError(f"{path}, record {line}: {len(row)} cells under {len(header)} columns. {again}")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
    places = {name: place for place, name in enumerate(classes)}
    try:
        of_classes = [[cell or "0" for cell in columns[PROBABILITY + name]] for name in classes]
        read = VideoPredictions(
            name=evaluation_folder.absolute().parent.name,
            classes=classes,
            video_ids=columns["video_id"],
            labels=np.array([places[label] for label in columns["label"]], dtype=np.int64),
            probabilities=np.array(of_classes, dtype=np.float64).T,
            missing=np.array([int(number) == 0 for number in columns["num_clips"]], dtype=bool),
        )
        read.as_clips()  # checks that what was read can be
    except KeyError as error:
        raise ComparisonError(f"{path}: the label {error} has no column of probabilities. {again}") from error
    except ValueError as error:
        raise ComparisonError(f"{path} is damaged: {error} {again}") from error
    # Two probabilities that nine digits can't tell apart may change places, so the value is compared and not the class.
    for video in np.flatnonzero(~read.missing):
        said = columns["predicted"][video]
        if said not in places or read.probabilities[video, places[said]] < read.probabilities[video].max():
            raise ComparisonError(
                f"{path}: {columns['video_id'][video]!r} is said to be predicted as {said!r}, which has not the "
                f"highest probability. {again}"
            )
    return read


def aligned(predictions: VideoPredictions, like: VideoPredictions) -> VideoPredictions:
    """The same answers with videos and classes in the order of ``like``.

    Raises ``ComparisonError`` where the two are not of the same videos, labels and classes.
    """
    for what, own, others in (
        ("classes", predictions.classes, like.classes),
        ("videos", predictions.video_ids, like.video_ids),
    ):
        only_here, only_there = sorted(set(own) - set(others)), sorted(set(others) - set(own))
        if only_here or only_there:
            counted = " and ".join(
                f"{len(names)} {'are' if len(names) > 1 else 'is'} only in {run} ({', '.join(names[:3])}"
                f"{' ...' if len(names) > 3 else ''})"
                for run, names in ((like.name, only_there), (predictions.name, only_here))
                if names
            )
            raise ComparisonError(
                f"{like.name} and {predictions.name} were evaluated on different {what}: {counted}. Only runs with the "
                "same test list can be compared video by video."
            )
    video_places = {video_id: place for place, video_id in enumerate(predictions.video_ids)}
    class_places = {name: place for place, name in enumerate(predictions.classes)}
    videos = np.array([video_places[video_id] for video_id in like.video_ids])
    columns = np.array([class_places[name] for name in like.classes])
    labels = np.argsort(columns)[predictions.labels[videos]]
    if (differ := np.flatnonzero(labels != like.labels)).size:
        first = differ[0]
        raise ComparisonError(
            f"{like.name} and {predictions.name} give {len(differ)} of {len(labels)} videos different labels: "
            f"{like.video_ids[first]!r} is {like.classes[like.labels[first]]!r} in the one and "
            f"{like.classes[labels[first]]!r} in the other. Evaluate both on the dataset as it is now."
        )
    return VideoPredictions(
        predictions.name,
        like.classes,
        like.video_ids,
        like.labels,
        predictions.probabilities[videos][:, columns],
        predictions.missing[videos],
    )


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """One model's metrics, and what they are on lists of videos drawn with replacement.

    Attributes:
        scores: each of ``PAIRED_METRICS``, in [0, 1].
        draws: for each of them float64 ``[resamples]``.
        num_videos: in each list.
    """

    scores: Mapping[str, float]
    draws: Mapping[str, FloatArray]
    num_videos: int


def bootstrap(predictions: VideoPredictions, resamples: int = 1000, seed: int = 0) -> Bootstrap:
    """Draw lists of videos; models whose videos stand in the same order get the same lists."""
    clips = predictions.as_clips()
    scores = metrics(clips, resamples=1)
    draws = bootstrap_scores(clips, resamples, seed)
    return Bootstrap(
        scores={name: cast(float, scores[name]) for name in PAIRED_METRICS},
        draws={name: draws[:, METRICS.index(name)] for name in PAIRED_METRICS},
        num_videos=len(predictions.video_ids),
    )


@dataclass(frozen=True)
class PairedDifference:
    """By how much B is better than A in one metric (negative: worse); all in [-1, 1].

    Attributes:
        difference: B's metric minus A's.
        low, high: its 95 % interval.
        num_videos: that both were tested on.
    """

    difference: float
    low: float
    high: float
    num_videos: int


def paired_difference(
    a: VideoPredictions, b: VideoPredictions, metric: str = "video_top1", resamples: int = 1000, seed: int = 0
) -> PairedDifference:
    """B's ``metric`` minus A's with its 95 % interval, by a paired percentile bootstrap over videos.

    ``metric`` is one of ``PAIRED_METRICS``. The two lists may stand in any order. Raises ``ComparisonError`` where they
    are not of the same videos, labels and classes.
    """
    return difference_of(bootstrap(a, resamples, seed), bootstrap(aligned(b, a), resamples, seed), metric)


def difference_of(a: Bootstrap, b: Bootstrap, metric: str) -> PairedDifference:
    """``paired_difference`` from draws that were made before, with one seed and from videos in one order."""
    if metric not in PAIRED_METRICS:
        raise ComparisonError(f"{metric!r} is not compared by video; there are {', '.join(PAIRED_METRICS)}.")
    low, high = np.percentile(b.draws[metric] - a.draws[metric], [2.5, 97.5])
    return PairedDifference(b.scores[metric] - a.scores[metric], float(low), float(high), a.num_videos)


@dataclass(frozen=True)
class McNemar:
    """How often two models are right on the same videos, and McNemar's exact test.

    Attributes:
        both, only_a, only_b, neither: numbers of videos, by which of the two is right.
        p_value: the chance of an imbalance like that of ``only_a`` and ``only_b`` or a greater one, were the two
            equally good; 1 where both are 0.
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float


def mcnemar(right_a: BoolArray, right_b: BoolArray) -> McNemar:
    """McNemar's test of two models on the same videos; both arguments are bool ``[num_videos]``.

    >>> mcnemar(np.array([True] * 6), np.array([False] * 6)).p_value
    0.03125
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return McNemar(
        both=int((right_a & right_b).sum()),
        only_a=only_a,
        only_b=only_b,
        neither=int((~right_a & ~right_b).sum()),
        p_value=float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for having been looked at together (Holm 1979), in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True, eq=False)
class ConfusionDifference:
    """Two confusion matrices of the same videos.

    Attributes:
        of_a, of_b: int64 ``[num_classes, num_classes + 1]``, in videos: row = true class, column = predicted class,
            last column = missing videos.
    """

    of_a: IntArray
    of_b: IntArray

    @property
    def counts(self) -> IntArray:
        """int64, B's matrix minus A's, in videos."""
        return self.of_b - self.of_a

    @property
    def shares(self) -> FloatArray:
        """float64, B's matrix minus A's with each row as shares of its videos; 0 in a class without test videos."""
        return self.counts / np.maximum(self.of_a.sum(axis=1, keepdims=True), 1)


def confusion_difference(a: VideoPredictions, b: VideoPredictions) -> ConfusionDifference:
    """Of two lists in the same order (see ``aligned``)."""
    return ConfusionDifference(confusion_matrix(a.as_clips()), confusion_matrix(b.as_clips()))


@dataclass(frozen=True, eq=False)
class Flips:
    """Videos whose answer is another in B than in A, as indices int64 ``[number]``; the largest change of the true
    class's probability first.

    Attributes:
        lost: right in A, wrong in B.
        gained: wrong in A, right in B.
        otherwise_wrong: wrong in both, but not taken for the same class.
    """

    lost: IntArray
    gained: IntArray
    otherwise_wrong: IntArray


def flips(a: VideoPredictions, b: VideoPredictions) -> Flips:
    """Of two lists in the same order (see ``aligned``)."""
    rows = np.arange(len(a.labels))
    change = np.abs(b.probabilities[rows, a.labels] - a.probabilities[rows, a.labels])
    largest_first = np.argsort(-change, kind="stable")

    def chosen(videos: BoolArray) -> IntArray:
        return largest_first[videos[largest_first]]

    right_a, right_b = a.right, b.right
    return Flips(
        lost=chosen(right_a & ~right_b),
        gained=chosen(~right_a & right_b),
        otherwise_wrong=chosen(~right_a & ~right_b & (a.predicted != b.predicted)),
    )


@dataclass(frozen=True)
class RecallDifference:
    """One class's recall in A and in B, in [0, 1], over ``support`` videos."""

    name: str
    a: float
    b: float
    support: int

    @property
    def difference(self) -> float:
        return self.b - self.a


def recall_differences(a: VideoPredictions, b: VideoPredictions) -> list[RecallDifference]:
    """Every class that has test videos, the largest difference first; of two lists in the same order."""
    rows = [
        RecallDifference(of_a.name, of_a.recall, of_b.recall, of_a.support)
        for of_a, of_b in zip(class_scores(a.as_clips()), class_scores(b.as_clips()), strict=True)
        if of_a.recall is not None and of_b.recall is not None
    ]
    return sorted(rows, key=lambda row: -abs(row.difference))
