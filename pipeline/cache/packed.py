"""All features of a dataset in one memory-mapped file, for training: a copy of the store's entries.

<cache>/<fingerprint>/packed/<dataset>-<key>.npy       features of all videos and views, one after another
<cache>/<fingerprint>/packed/<dataset>.index           the rows of each video, and the entries they were copied from

(``FeatureStore.packed``; of an object store, in the user's cache folder.)

A copy is valid while every requested entry has the size and modification time (an object: tag) it had when it was
copied. The index is
written last and names the file of features, so that a reader sees either the old pair or the new one.
"""

import hashlib
import json
import sys
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.atomic import write_atomically
from data.objects import map_places
from data.progress import Progress
from models.preprocessing import CENTER
from pipeline.cache import indices
from pipeline.cache.store import DamagedEntry, FeatureStore, StoreError
from pipeline.features.recipe import Origin, VideoFeatures

_HEADER_BYTES = 128  # of a .npy file with a matrix; numpy pads it for any number of rows
_NO_ENTRY = (-1, -1)
_INDEX = ".index"  # a safetensors file, but not named like an entry


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


@dataclass(frozen=True, eq=False)
class PackedFeatures:
    """Features of many videos in one array, in memory or mapped from a file.

    Attributes:
        features: float16 ``[num_rows, feature_dim]``. If mapped, the mapping is private: writes never reach the file.
        frame_indices: int32 ``[num_rows]``, the frame of the video that each row belongs to.
        views: the views of every video.
        videos: the rows of each video, by video id.
    """

    features: npt.NDArray[np.float16]
    frame_indices: npt.NDArray[np.int32]
    views: tuple[str, ...]
    videos: dict[str, PackedVideo]

    @classmethod
    def in_memory(
        cls, videos: Mapping[str, Sequence[VideoFeatures]], views: tuple[str, ...] = (CENTER,)
    ) -> "PackedFeatures":
        """Pack the features of each video, one ``VideoFeatures`` per view. Raises ``StoreError`` as ``pack`` does."""
        layout = _Layout(len(views))
        for video_id, video_views in videos.items():
            layout.add(video_id, video_views)
        blocks = [view.features for video_views in videos.values() for view in video_views]
        features = np.concatenate(blocks or [np.empty((0, 0), np.float16)])
        return cls(features, layout.frame_indices(), views, layout.videos)

    def digests(self) -> dict[str, str]:
        """sha256 of each video's features in all views, the first 32 hexadecimal digits, by video id."""
        found = {}
        for video_id, video in self.videos.items():
            rows = self.features[video.start : video.start + video.num_frames * len(self.views)]
            digest = hashlib.sha256(str(rows.shape).encode())
            digest.update(np.ascontiguousarray(rows).data)
            found[video_id] = digest.hexdigest()[:32]
        return found


def open_packed(
    store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> PackedFeatures | None:
    """The packed copy of these videos, memory-mapped; ``None`` if there is none or it is out of date.

    A copy with more videos or views is acceptable; the result contains the requested ones only. A copy is out of date
    if it lacks a video or view, if an entry was written or removed since, or if its checksum is wrong.
    """
    path = _index_path(store, dataset)
    index = _read_index(path)
    if index is None:
        return None
    about: dict[str, Any] = json.loads(index["about"].tobytes())
    numbers = {video_id: number for number, video_id in enumerate(about["video_ids"])}
    if tuple(about["views"][: len(views)]) != views or not all(video_id in numbers for video_id in video_ids):
        return None
    rows = [numbers[video_id] for video_id in video_ids]
    signatures = _signatures(store, dataset, video_ids, views)
    current = np.array([signatures(video_id) for video_id in video_ids], dtype=np.int64)
    if (index["entries"][rows, : len(views)] != current.reshape(len(rows), len(views), 2)).any():
        return None
    try:
        features = _map(path.with_name(about["features"]), about["shape"])
    except (OSError, ValueError):  # removed by another process that packs, or truncated
        return None
    if zlib.crc32(features.data) != about["crc32"]:
        return None
    videos = {}
    for video_id, number, (start, num_frames) in zip(video_ids, rows, index["extents"][rows].tolist(), strict=True):
        videos[video_id] = PackedVideo(start, num_frames, Origin(*about["origins"][number]))
    return PackedFeatures(features, index["frame_indices"], views, videos)


def pack(
    store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> tuple[PackedFeatures, list[str]]:
    """Copy the entries of the videos into one file, which ``open_packed`` then finds.

    Every entry's checksum is verified. Only one video at a time is in memory. If the file can't be written, a message
    on standard error says so and the features are kept in memory instead.

    Returns:
        the packed features; and the ids of the videos that are left out because an entry is missing or damaged.
        Damaged entries are named on standard error and removed.

    Raises:
        StoreError: the features differ in dimension.
    """
    try:
        packed = _pack_into_file(store, dataset, video_ids, views)
    except OSError as error:
        print(f"no packed copy of {dataset}, its features are kept in memory: {error}", file=sys.stderr)
        read = partial(_read, store, dataset, views=views)
        found = zip(video_ids, map_places(store.folder, read, video_ids), strict=True)
        intact = {video_id: video_views for video_id, video_views in found if video_views is not None}
        packed = PackedFeatures.in_memory(intact, views)
    return packed, [video_id for video_id in video_ids if video_id not in packed.videos]


def stale_files(store: FeatureStore) -> list[Path]:
    """Files of packed copies that are out of date or damaged, or that no index names; not those being written."""
    in_use: set[Path] = set()
    files = [path for path in store.packed.glob("*") if not path.name.startswith(".")]
    for path in files:
        index = _read_index(path) if path.suffix == _INDEX else None
        if index is not None:
            about = json.loads(index["about"].tobytes())
            if open_packed(store, path.stem, about["video_ids"], tuple(about["views"])) is not None:
                in_use |= {path, path.with_name(about["features"])}
    return sorted(set(files) - in_use)


class _Layout:
    """Assigns rows to videos, one after another."""

    def __init__(self, num_views: int) -> None:
        self.videos: dict[str, PackedVideo] = {}
        self.num_rows = 0
        self.feature_dim = 0
        self._num_views = num_views
        self._frame_indices: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)]

    def add(self, video_id: str, views: Sequence[VideoFeatures]) -> None:
        first = views[0]
        num_frames, feature_dim = first.features.shape
        assert len(views) == self._num_views, video_id
        assert all(view.features.shape == first.features.shape for view in views), video_id
        if self.videos and feature_dim != self.feature_dim:
            raise StoreError(
                f"the features of {video_id} have {feature_dim} dimensions, earlier ones {self.feature_dim}: another "
                "program wrote one of them into the store. Remove it and run again."
            )
        self.videos[video_id] = PackedVideo(self.num_rows, num_frames, first.origin)
        self.num_rows += num_frames * self._num_views
        self.feature_dim = feature_dim
        self._frame_indices += [view.frame_indices for view in views]

    def frame_indices(self) -> npt.NDArray[np.int32]:
        return np.concatenate(self._frame_indices)


@dataclass(frozen=True, eq=False)
class _Copied:
    """A written file of features: its rows, and the sizes and times of the entries that they were copied from."""

    features: npt.NDArray[np.float16]
    crc32: int
    layout: _Layout
    entries: list[list[tuple[int, int]]]


def _pack_into_file(
    store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> PackedFeatures:
    """Raises ``OSError`` if the files can't be written. Then none is left behind."""
    index_path = _index_path(store, dataset)
    # Every copy has a unique name: processes can keep an older one mapped, and two that pack at once don't conflict.
    features_path = index_path.with_name(f"{dataset}-{uuid.uuid4().hex[:16]}.npy")
    done: list[_Copied] = []
    write_atomically(
        features_path, lambda temporary: done.append(_copy_entries(temporary, store, dataset, video_ids, views))
    )
    (copied,) = done
    index = _make_index(copied, features_path.name, views)
    try:
        write_atomically(index_path, lambda temporary: temporary.write_bytes(indices.to_bytes(index)))
    except OSError:
        features_path.unlink(missing_ok=True)
        raise
    _remove_older(features_path, dataset)
    return PackedFeatures(copied.features, index["frame_indices"], views, copied.layout.videos)


def _copy_entries(
    path: Path, store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> _Copied:
    """Copy the features of all videos that have them into the file ``path``."""
    layout, entries, checksum = _Layout(len(views)), [], 0
    signatures = _signatures(store, dataset, video_ids, views)

    def read(video_id: str) -> tuple[str, list[tuple[int, int]], tuple[VideoFeatures, ...] | None]:
        # The signatures are taken before reading, so that an entry that is replaced meanwhile is newer than the copy.
        return video_id, signatures(video_id), _read(store, dataset, video_id, views)

    with path.open("wb") as file, closing(Progress(len(video_ids), "video", what="packing features")) as progress:
        file.seek(_HEADER_BYTES)
        for video_id, entry, video_views in map_places(store.folder, read, video_ids):
            if video_views is not None:
                layout.add(video_id, video_views)
                entries.append(entry)
                for view in video_views:
                    content = np.ascontiguousarray(view.features).data
                    checksum = zlib.crc32(content, checksum)
                    file.write(content)
            progress.advance()
        shape = (layout.num_rows, layout.feature_dim)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        assert file.tell() == _HEADER_BYTES
    # Map the file before it gets its final name, under which another process may remove it.
    return _Copied(_map(path, shape), checksum, layout, entries)


def _make_index(copied: _Copied, features_name: str, views: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """The arrays that ``_read_index`` returns."""
    videos = copied.layout.videos
    about = {
        "features": features_name,
        "crc32": copied.crc32,
        "shape": copied.features.shape,
        "views": views,
        "video_ids": list(videos),
        "origins": [astuple(video.origin) for video in videos.values()],
    }
    extents = [(video.start, video.num_frames) for video in videos.values()]
    index: dict[str, npt.NDArray[Any]] = {
        # Not in the file's header, which is limited to 100 MB: about half a million videos.
        "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        "entries": np.array(copied.entries, dtype=np.int64).reshape(len(videos), len(views), 2),
        "extents": np.array(extents, dtype=np.int64).reshape(len(videos), 2),
        "frame_indices": copied.layout.frame_indices(),
    }
    return index


def _read_index(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    """The index as arrays by name; ``None`` if it is missing or damaged.

    ``about``: JSON; ``entries``: size and time per video and view; ``extents``: first row and number of frames per
    video; ``frame_indices``: per row.
    """
    try:
        return indices.from_bytes(path.read_bytes())
    except OSError:
        return None


def _map(path: Path, shape: Sequence[int]) -> npt.NDArray[np.float16]:
    """Map the features in a file, copy-on-write, because PyTorch warns about read-only arrays.

    Raises ``OSError`` if the file can't be opened, ``ValueError`` if it is too short.
    """
    return np.memmap(path, dtype="<f2", mode="c", offset=_HEADER_BYTES, shape=tuple(shape))


def _read(store: FeatureStore, dataset: str, video_id: str, views: tuple[str, ...]) -> tuple[VideoFeatures, ...] | None:
    """All views of a video; ``None`` if one is missing or damaged. Damaged ones are removed."""
    found = []
    for view in views:
        try:
            found.append(store.read(dataset, video_id, view))
        except DamagedEntry as error:
            print(f"damaged entry, extracted again: {error}", file=sys.stderr)
            _discard(store, dataset, video_id, view)
            found.append(None)
    intact = tuple(video for video in found if video is not None)
    if len(intact) < len(views):
        return None
    if any(not np.array_equal(video.frame_indices, intact[0].frame_indices) for video in intact):
        # Extracted at different times, by decoders that disagree about the file.
        print(f"damaged entry, extracted again: the views of {video_id} have different frames", file=sys.stderr)
        for view in views:
            _discard(store, dataset, video_id, view)
        return None
    return intact


def _discard(store: FeatureStore, dataset: str, video_id: str, view: str) -> None:
    with suppress(OSError):  # in a read-only store; extracting the entry again will report it
        store.remove(dataset, video_id, view)


def _signatures(
    store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> Callable[[str], list[tuple[int, int]]]:
    """A function from a video to the size and version of each of its entries, which show whether one was rewritten.

    Files are looked up one by one, objects are listed now.
    """

    def look_up(video_id: str) -> list[tuple[int, int]]:
        return [store.version(dataset, video_id, view) or _NO_ENTRY for view in views]

    if isinstance(store.folder, Path):
        return look_up
    listed = [store.listed(dataset, set(video_ids), view) for view in views]
    found = [{video_id: (entry.num_bytes, entry.version) for video_id, entry in view.items()} for view in listed]
    return lambda video_id: [view.get(video_id, _NO_ENTRY) for view in found]


def _index_path(store: FeatureStore, dataset: str) -> Path:
    return store.packed / f"{dataset}{_INDEX}"


def _remove_older(features_path: Path, dataset: str) -> None:
    """Remove the dataset's earlier copies. A process that has one mapped keeps it."""
    for path in features_path.parent.glob("*.npy"):
        name, _, _ = path.stem.rpartition("-")
        with suppress(OSError):
            if name == dataset and path.stat().st_mtime_ns < features_path.stat().st_mtime_ns:
                path.unlink()
