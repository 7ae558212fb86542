"""Sequences that hold millions of videos in little memory: a ``VideoRecord`` is made whenever one is asked for.

A record takes about 700 bytes; a video of a ``VideoList`` takes the length of its id and 20 bytes.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from data.records import VideoRecord
from data.texts import Texts

Value = TypeVar("Value")


class Column(Generic[Value]):
    """Values of which few differ, as numbers."""

    def __init__(self) -> None:
        self.distinct: dict[Value, int] = {}
        self._values: list[Value] = []
        self._numbers = array("I")

    def append(self, value: Value) -> None:
        number = self.distinct.setdefault(value, len(self._values))
        if number == len(self._values):
            self._values.append(value)
        self._numbers.append(number)

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Value]:
        return map(self._values.__getitem__, self._numbers)

    def __getitem__(self, index: int) -> Value:
        return self._values[self._numbers[index]]


class VideoList(Sequence[VideoRecord]):
    """Videos, one in each row of these columns.

    Args:
        video_ids: their ids.
        folders: the folders that the ids are relative to.
        labels: indices into the classes.
        groups: their groups; ``video_ids`` if every video is a group of its own.
    """

    def __init__(
        self, video_ids: Texts, folders: Column[Path], labels: Sequence[int], groups: Texts | Column[str]
    ) -> None:
        self.video_ids, self._folders, self._labels, self._groups = video_ids, folders, labels, groups

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, index: Any) -> Any:
        rows = range(len(self))[index]
        return Selection(self, rows) if isinstance(index, slice) else self._record(rows)

    def __iter__(self) -> Iterator[VideoRecord]:
        return map(self._record, range(len(self)))

    def _record(self, row: int) -> VideoRecord:
        video_id = self.video_ids[row]
        group = video_id if self._groups is self.video_ids else self._groups[row]
        return VideoRecord(video_id, self._folders[row] / video_id, self._labels[row], group)


def ids_of(videos: Sequence[VideoRecord]) -> Iterable[str]:
    """The ids of videos, ten times as fast as by making the records of a ``VideoList``."""
    return videos.video_ids if isinstance(videos, VideoList) else (video.video_id for video in videos)


class Selection(Sequence[VideoRecord]):
    """Some videos of others, in the order of ``rows``."""

    def __init__(self, videos: Sequence[VideoRecord], rows: "range | array[int]") -> None:
        self._videos, self._rows = videos, rows

    @classmethod
    def of(cls, videos: Sequence[VideoRecord], chosen: Iterable[bool]) -> "Selection":
        """The videos that are chosen."""
        return cls(videos, array("q", np.flatnonzero(np.fromiter(chosen, bool, len(videos))).tobytes()))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        rows = self._rows[index]
        return Selection(self._videos, rows) if isinstance(index, slice) else self._videos[rows]

    def __iter__(self) -> Iterator[VideoRecord]:
        return map(self._videos.__getitem__, self._rows)

    def shuffled(self) -> "Selection":
        """The same videos in a random order."""
        return Selection(self._videos, array("q", np.random.default_rng().permutation(self._rows).tobytes()))
