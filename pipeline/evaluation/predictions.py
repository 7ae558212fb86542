"""The predictions of a model on a list of videos, and the file that stores them, ``predictions.safetensors``."""

import itertools
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data.atomic import write_atomically
from data.errors import UserError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

FILE_NAME = "predictions.safetensors"
NOT_PREDICTED = -1
SUM_TOLERANCE = 1e-3
NUM_TOP = 5


class EvaluationError(UserError):
    """An evaluation can't be made, read or compared. The message says what is wrong, where, and what to do."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """The class probabilities of every clip of a list of videos, with the true classes.

    A video without clips is *missing*: it could not be decoded, and counts as a wrong answer.

    Attributes:
        classes: class names, in the order of the labels and of the probability columns.
        video_ids: every video of the list, including missing ones.
        labels: int64 ``[num_videos]``, indices into ``classes``.
        clip_probabilities: float64 ``[num_clips, num_classes]``; each row sums to 1.
        clip_videos: int64 ``[num_clips]``, indices into ``video_ids``.
        groups: the group of each video; empty where unknown. Then each video is its own group.
        positions: float64 ``[num_videos, 2]``, where the videos are on the map (see ``analysis.map_positions``), NaN
            where a video is not on it; ``None``: there is no map.

    Raises:
        EvaluationError: shapes, names, indices or probabilities are not valid.
    """

    classes: tuple[str, ...]
    video_ids: tuple[str, ...]
    labels: IntArray
    clip_probabilities: FloatArray
    clip_videos: IntArray
    groups: tuple[str, ...] = ()
    positions: FloatArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _indices("labels", self.labels, len(self.classes)))
        object.__setattr__(self, "clip_videos", _indices("clip_videos", self.clip_videos, len(self.video_ids)))
        object.__setattr__(self, "clip_probabilities", np.asarray(self.clip_probabilities, dtype=np.float64))
        if self.positions is not None:
            object.__setattr__(self, "positions", np.asarray(self.positions, dtype=np.float64))
        self._check_names()
        self._check_shapes()
        self._check_probabilities()

    def _check_names(self) -> None:
        for what, names in (("classes", self.classes), ("video_ids", self.video_ids)):
            if not names:
                raise EvaluationError(f"{what} is empty, so there is nothing to evaluate. Does the split have videos?")
            if not all(isinstance(name, str) for name in (*names, *self.groups)):
                raise EvaluationError(f"{what} and groups must be texts.")
            if len(set(names)) < len(names):
                ((repeated, _),) = Counter(names).most_common(1)
                raise EvaluationError(f"{what} contains {repeated!r} twice. Names must be unique: rename one of them.")

    def _check_shapes(self) -> None:
        if self.labels.shape != (len(self.video_ids),):
            raise EvaluationError(
                f"labels has shape {self.labels.shape} for {len(self.video_ids)} videos. Pass one label per video."
            )
        if len(self.groups) not in (0, len(self.video_ids)):
            raise EvaluationError(
                f"there are {len(self.groups)} groups for {len(self.video_ids)} videos. Pass one each."
            )
        expected = (len(self.clip_videos), len(self.classes))
        if self.clip_probabilities.shape != expected:
            raise EvaluationError(
                f"clip_probabilities has shape {self.clip_probabilities.shape}, expected [num_clips, num_classes] = "
                f"{expected}. Was the model trained on another list of classes?"
            )
        if self.positions is not None and (
            self.positions.shape != (len(self.video_ids), 2) or np.isinf(self.positions).any()
        ):
            raise EvaluationError(
                f"positions has shape {self.positions.shape} for {len(self.video_ids)} videos, or is infinite. Pass "
                "two numbers per video, NaN where a video is not on the map."
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
                f"the probabilities of {self._clip_name(clip)} are not a distribution (sum {sums[clip]:.4g}, minimum "
                f"{self.clip_probabilities[clip].min():.4g}). Apply a softmax to the scores first."
            )

    def _clip_name(self, clip: int) -> str:
        return f"video {self.video_ids[self.clip_videos[clip]]!r} (row {clip} of clip_probabilities)"

    @cached_property
    def group_indices(self) -> IntArray:
        """int64 ``[num_videos]``: the number of each video's group, in the order in which groups first occur."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(group, len(numbers)) for group in self.groups or self.video_ids])

    @property
    def num_groups(self) -> int:
        return int(self.group_indices.max()) + 1

    @cached_property
    def clip_counts(self) -> IntArray:
        """int64 ``[num_videos]``: the number of clips of each video."""
        return np.bincount(self.clip_videos, minlength=len(self.video_ids))

    @cached_property
    def missing(self) -> BoolArray:
        """bool ``[num_videos]``: the videos without clips."""
        return np.equal(self.clip_counts, 0)

    @cached_property
    def video_probabilities(self) -> FloatArray:
        """float64 ``[num_videos, num_classes]``: mean of each video's clip probabilities; zeros where it is missing."""
        sums = np.zeros((len(self.video_ids), len(self.classes)))
        np.add.at(sums, self.clip_videos, self.clip_probabilities)
        return sums / np.maximum(self.clip_counts, 1)[:, None]

    @cached_property
    def predicted(self) -> IntArray:
        """int64 ``[num_videos]``: the most probable class; ``NOT_PREDICTED`` where the video is missing."""
        return np.where(self.missing, NOT_PREDICTED, self.video_probabilities.argmax(axis=1))

    @cached_property
    def correct(self) -> BoolArray:
        """bool ``[num_videos]``: whether the predicted class is the true one; False where the video is missing."""
        return np.equal(self.predicted, self.labels)

    @cached_property
    def confidence(self) -> FloatArray:
        """float64 ``[num_videos]``: probability of the predicted class; 0 where the video is missing."""
        return self.video_probabilities.max(axis=1)

    @cached_property
    def true_probability(self) -> FloatArray:
        """float64 ``[num_videos]``: probability of the true class; 0 where the video is missing."""
        return self.video_probabilities[np.arange(len(self.labels)), self.labels]

    @cached_property
    def top_classes(self) -> IntArray:
        """int64 ``[num_videos, min(5, num_classes)]``: the most probable classes, best first."""
        return np.argsort(-self.video_probabilities, axis=1, kind="stable")[:, :NUM_TOP]

    def without(self, video_ids: Collection[str]) -> "Predictions | None":
        """The predictions for the other videos; ``None`` if there are no others."""
        kept = np.array([name not in video_ids for name in self.video_ids])
        if not kept.any():
            return None
        clips = kept[self.clip_videos]
        return Predictions(
            classes=self.classes,
            video_ids=tuple(itertools.compress(self.video_ids, kept)),
            labels=self.labels[kept],
            clip_probabilities=self.clip_probabilities[clips],
            clip_videos=(np.cumsum(kept) - 1)[self.clip_videos[clips]],
            groups=tuple(itertools.compress(self.groups, kept)) if self.groups else (),
        )

    def save(self, path: Path) -> None:
        """Write all of it to a safetensors file, atomically and with a checksum. Raises ``OSError``."""
        names = {name: json.dumps(getattr(self, name)) for name in ("classes", "video_ids", "groups")}
        arrays = {
            "labels": self.labels,
            "clip_probabilities": self.clip_probabilities,
            "clip_videos": self.clip_videos,
        }
        if self.positions is not None:
            arrays["positions"] = self.positions
        content = save(arrays, {**names, "crc32": _checksum(names, arrays)})
        write_atomically(path, lambda temporary: temporary.write_bytes(content))

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read the file that ``save`` wrote to ``<run>/<evaluation>/predictions.safetensors``.

        Files of earlier versions contain no groups and no positions. Raises ``EvaluationError`` where there is no such
        file or it is damaged.
        """
        again = f"Evaluate the run again: python evaluate.py {path.parent.parent} --again"
        if path.exists() and not path.is_file():  # opening a pipe would block
            raise EvaluationError(f"{path} is not a file. {again}")
        try:
            with safe_open(path, framework="numpy") as file:
                names = file.metadata()
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if names.pop("crc32") != _checksum(names, arrays):
                raise ValueError("its checksum does not match its content")
            classes, video_ids, groups = (
                tuple(json.loads(names.get(name, "[]"))) for name in ("classes", "video_ids", "groups")
            )
            return cls(classes=classes, video_ids=video_ids, groups=groups, **arrays)
        except FileNotFoundError as error:
            raise EvaluationError(
                f"there is no {path}: the evaluation did not finish, or an earlier version made it. {again}"
            ) from error
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise EvaluationError(f"{path} is damaged ({error}). {again}") from error

    def csv_rows(self) -> Iterator[list[object]]:
        """The column names and one row per video, for ``predictions.csv``: an export for people, never read back."""
        ranks = range(1, self.top_classes.shape[1] + 1)
        yield [
            *("video_id", "label", "predicted", "correct", "confidence", "num_clips", "group"),
            *(f"top{rank}_{what}" for rank in ranks for what in ("class", "probability")),
            *(f"p:{name}" for name in self.classes),
        ]
        for video, video_id in enumerate(self.video_ids):
            label, group = self.classes[self.labels[video]], self.groups[video] if self.groups else video_id
            if self.missing[video]:
                yield [video_id, label, "", 0, "", 0, group]
                continue
            # Nine digits identify a float32 exactly.
            probabilities = [f"{probability:.9g}" for probability in self.video_probabilities[video].tolist()]
            predicted = self.predicted[video]
            yield [
                *(video_id, label, self.classes[predicted], int(self.correct[video]), probabilities[predicted]),
                *(int(self.clip_counts[video]), group),
                *(cell for top in self.top_classes[video] for cell in (self.classes[top], probabilities[top])),
                *probabilities,
            ]


def _indices(what: str, values: IntArray, limit: int) -> IntArray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise EvaluationError(f"{what} must be a vector of integers, not {array.dtype} of shape {array.shape}.")
    outside = (array < 0) | (array >= limit)
    if outside.any():
        position = int(outside.argmax())
        raise EvaluationError(f"{what}[{position}] is {array[position]}, which is outside 0 .. {limit - 1}.")
    return array.astype(np.int64)


def _checksum(names: dict[str, str], arrays: dict[str, NDArray[Any]]) -> str:
    """CRC-32 of the names and of the arrays with their types and shapes."""
    described = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    checksum = zlib.crc32(json.dumps([names, described], sort_keys=True).encode())
    for _, array in sorted(arrays.items()):
        checksum = zlib.crc32(array.tobytes(), checksum)
    return str(checksum)


def true_class_ranks(probabilities: FloatArray, labels: IntArray) -> IntArray:
    """Rank of each row's true class, 0 for the best; tied classes are ranked by index.

    ``probabilities`` is ``[num_rows, num_classes]``, ``labels`` int64 ``[num_rows]``; returns int64 ``[num_rows]``.

    >>> true_class_ranks(np.array([[0.4, 0.4, 0.2], [0.4, 0.4, 0.2]]), np.array([0, 1]))
    array([0, 1])
    """
    true_probability = np.take_along_axis(probabilities, labels[:, None], axis=1)
    higher = probabilities > true_probability
    equal_before = (probabilities == true_probability) & (np.arange(probabilities.shape[1]) < labels[:, None])
    ranks: IntArray = (higher | equal_before).sum(axis=1, dtype=np.int64)
    return ranks
