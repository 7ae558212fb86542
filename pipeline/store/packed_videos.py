"""Which rows of a packed copy belong to which video, in little memory."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data.texts import Texts
from pipeline.features.recipe import Origin
from pipeline.store import indices


@dataclass(frozen=True)
class PackedVideo:
    """The rows of a video.

    Attributes:
        start: first row. View ``v`` has ``num_frames`` rows from ``start + v * num_frames``.
        num_frames: stored frames per view, at least 1.
        origin: the video file, and the programs that extracted the features.
    """

    start: int
    num_frames: int
    origin: Origin


class PackedVideos(Mapping[str, PackedVideo]):
    """Videos by their ids, in the order of ``rows``: 300 bytes each, where objects need 1,700."""

    def __init__(
        self,
        names: indices.Names,
        extents: npt.NDArray[np.int64],
        origins: Texts,
        rows: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """``extents``: first row and number of frames of each name; ``origins``: JSON; ``rows``: all, or some names."""
        self._names, self._extents, self._origins = names, extents, origins
        self._rows = np.arange(len(names)) if rows is None else rows
        self._is_chosen = np.zeros(len(names), bool)
        self._is_chosen[self._rows] = True

    def __getitem__(self, video_id: str) -> PackedVideo:
        for row in self._names.find(video_id):
            if self._is_chosen[row]:
                start, num_frames = self._extents[row].tolist()
                return PackedVideo(start, num_frames, Origin(*json.loads(self._origins[row])))
        raise KeyError(video_id)

    def __contains__(self, video_id: object) -> bool:
        return isinstance(video_id, str) and any(self._is_chosen[row] for row in self._names.find(video_id))

    def __iter__(self) -> Iterator[str]:
        return (self._names.texts[row] for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def chosen(self, video_ids: Sequence[str]) -> "PackedVideos | None":
        """These videos only; ``None`` if one is missing."""
        rows = np.fromiter(((self._names.find(video_id) or [-1])[0] for video_id in video_ids), np.int64)
        return None if (rows < 0).any() else PackedVideos(self._names, self._extents, self._origins, rows)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        return self._rows

    @classmethod
    def from_arrays(cls, arrays: indices.Arrays) -> "PackedVideos":
        """Raises ``KeyError`` or ``ValueError``."""
        names, origins = indices.Names.from_arrays(arrays), Texts.from_arrays(arrays["origins"], arrays["origin_ends"])
        return cls(names, arrays["extents"], origins)

    def to_arrays(self) -> indices.Arrays:
        origins: indices.Arrays = {"origins": self._origins.content, "origin_ends": self._origins.ends}
        return self._names.to_arrays() | origins | {"extents": self._extents}
