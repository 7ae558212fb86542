"""What a model said about every video of a list."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError

FloatArray = NDArray[np.float64]


IntArray = NDArray[np.int64]


NOT_PREDICTED = -1


SUM_TOLERANCE = 1e-3


class EvaluationError(UserError):
    """What was to be evaluated is not sound. The message names the video, the value, and what to do."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about every video of a list.

    Attributes:
        classes: class names; their order gives the labels and the columns.
        video_ids: every video of the list, also those that could not be decoded.
        labels: int64 ``[num_videos]``, index into ``classes``.
        clip_probabilities: float64 ``[num_clips, num_classes]``; each row sums to 1.
        clip_videos: int64 ``[num_clips]``, index into ``video_ids``. A video that no clip names is *missing*: it
            counts as a wrong answer.

    Raises ``EvaluationError`` where shapes, indices or probabilities can't be right.
    """

    classes: tuple[str, ...]
    video_ids: tuple[str, ...]
    labels: IntArray
    clip_probabilities: FloatArray
    clip_videos: IntArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _indices("labels", self.labels, len(self.classes)))
        object.__setattr__(self, "clip_videos", _indices("clip_videos", self.clip_videos, len(self.video_ids)))
        object.__setattr__(self, "clip_probabilities", np.asarray(self.clip_probabilities, dtype=np.float64))
        self._check_names()
        self._check_shapes()
        self._check_probabilities()

    def _check_names(self) -> None:
        for what, names in (("classes", self.classes), ("video_ids", self.video_ids)):
            if not names:
                raise EvaluationError(f"{what} is empty, so there is nothing to evaluate. Has the split test videos?")
            if len(set(names)) < len(names):
                twice = next(name for index, name in enumerate(names) if name in names[:index])
                raise EvaluationError(f"{what} holds {twice!r} twice; each may stand there once. Rename one of them.")

    def _check_shapes(self) -> None:
        if self.labels.shape != (len(self.video_ids),):
            raise EvaluationError(
                f"labels has shape {self.labels.shape} for {len(self.video_ids)} videos; each video takes one label."
            )
        expected = (len(self.clip_videos), len(self.classes))
        if self.clip_probabilities.shape != expected:
            raise EvaluationError(
                f"clip_probabilities has shape {self.clip_probabilities.shape}, expected [num_clips, num_classes] = "
                f"{expected}. Was the model trained on another list of classes?"
            )

    def _check_probabilities(self) -> None:
        finite = np.isfinite(self.clip_probabilities).all(axis=1)
        if not finite.all():
            raise EvaluationError(
                f"{self._clip_name(int(finite.argmin()))} has a probability that is NaN or infinite. Either the model "
                "diverged (train again with a lower learning rate) or this video's features are not finite."
            )
        sums = self.clip_probabilities.sum(axis=1)
        wrong = (self.clip_probabilities < 0).any(axis=1) | (np.abs(sums - 1) > SUM_TOLERANCE)
        if wrong.any():
            clip = int(wrong.argmax())
            raise EvaluationError(
                f"the probabilities of {self._clip_name(clip)} are no distribution (sum {sums[clip]:.4g}, smallest "
                f"{self.clip_probabilities[clip].min():.4g}). Pass scores through a softmax first."
            )

    def _clip_name(self, clip: int) -> str:
        return f"video {self.video_ids[self.clip_videos[clip]]!r} (row {clip} of clip_probabilities)"

    @property
    def clip_counts(self) -> IntArray:
        """int64 ``[num_videos]``: how many clips each video has."""
        return np.bincount(self.clip_videos, minlength=len(self.video_ids))

    @property
    def missing(self) -> NDArray[np.bool_]:
        """bool ``[num_videos]``: the videos without clips."""
        return np.equal(self.clip_counts, 0)


def _indices(what: str, values: IntArray, limit: int) -> IntArray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise EvaluationError(f"{what} must be a vector of integers, not {array.dtype} of shape {array.shape}.")
    outside = (array < 0) | (array >= limit)
    if outside.any():
        where = int(outside.argmax())
        raise EvaluationError(f"{what}[{where}] is {array[where]}, which is outside 0 .. {limit - 1}.")
    return array.astype(np.int64)


def video_probabilities(predictions: Predictions) -> FloatArray:
    """Mean of each video's clip probabilities.

    Returns float64 ``[num_videos, num_classes]``, never NaN: the row of a video without clips
    (``predictions.missing``) is all zeros.
    """
    sums = np.zeros((len(predictions.video_ids), len(predictions.classes)))
    np.add.at(sums, predictions.clip_videos, predictions.clip_probabilities)
    return sums / np.maximum(predictions.clip_counts, 1)[:, None]


def video_predictions(predictions: Predictions) -> IntArray:
    """int64 ``[num_videos]``: the class each video is taken for; ``NOT_PREDICTED`` for a video without clips."""
    return np.where(predictions.missing, NOT_PREDICTED, video_probabilities(predictions).argmax(axis=1))


def true_class_ranks(probabilities: FloatArray, labels: IntArray) -> IntArray:
    """Rank of each row's true class, 0 for the best; a tie is ordered by class index.

    ``probabilities`` is ``[num_rows, num_classes]``, ``labels`` int64 ``[num_rows]``; returns int64 ``[num_rows]``.

    >>> true_class_ranks(np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2]]), np.array([0, 1]))
    array([0, 1])
    """
    true_probability = np.take_along_axis(probabilities, labels[:, None], axis=1)
    higher = probabilities > true_probability
    equal_before = (probabilities == true_probability) & (np.arange(probabilities.shape[1]) < labels[:, None])
    ranks: IntArray = (higher | equal_before).sum(axis=1, dtype=np.int64)
    return ranks
