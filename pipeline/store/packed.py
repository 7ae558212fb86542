"""All features of a dataset in one memory-mapped file, for training: a copy of the store's entries.

<cache>/<fingerprint>/packed/<dataset>-<key>.npy       features of all videos and views, one after another
<cache>/<fingerprint>/packed/<dataset>.table           the rows of each video, and the entries they were copied from

(``FeatureStore.packed``; of an object store, in the user's cache folder.)

A copy is valid while every requested entry has the size and modification time (an object: tag) it had when it was
copied. The table is written last and names the file of features, so that a reader sees either the old pair or the new
one.
"""

import hashlib
import itertools
import json
import sys
import uuid
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.atomic import write_atomically
from data.objects import map_places
from data.progress import Progress
from data.texts import Texts
from models.cnn.preprocessing import CENTER
from pipeline.features.recipe import VideoFeatures
from pipeline.store import indices
from pipeline.store.packed_videos import PackedVideo, PackedVideos
from pipeline.store.store import DamagedEntry, FeatureStore, StoreError

_HEADER_BYTES = 128  # of a .npy file with a matrix; numpy pads it for any number of rows
_NO_ENTRY = (-1, -1)
_INDEX = ".table"  # a safetensors file, but not named like an entry; ``.index`` was one of an earlier version


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
    videos: Mapping[str, PackedVideo]

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
        return cls(features, layout.frame_indices(), views, layout.videos())

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
    if index is None or tuple(index.about["views"][: len(views)]) != views:
        return None
    videos = index.videos.chosen(video_ids)
    if videos is None:
        return None
    versions = _versions(store, dataset, video_ids, views)
    for number, video_id in zip(videos.rows, video_ids, strict=True):
        if (index.entries[number, : len(views)] != versions(video_id)).any():
            return None
    try:
        features = _map(path.with_name(index.about["features"]), index.about["shape"])
    except (OSError, ValueError):  # removed by another process that packs, or truncated
        return None
    if zlib.crc32(features.data) != index.about["crc32"]:
        return None
    return PackedFeatures(features, index.frame_indices, views, videos)


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
        if index is None:
            continue
        if open_packed(store, path.stem, list(index.videos), tuple(index.about["views"])) is not None:
            in_use |= {path, path.with_name(index.about["features"])}
    return sorted(set(files) - in_use)


class _Layout:
    """Assigns rows to videos, one after another."""

    def __init__(self, num_views: int) -> None:
        self.num_rows = 0
        self.feature_dim = 0
        self._num_views = num_views
        self._names, self._origins = Texts(), Texts()
        self._extents, self._frame_indices = array("q"), array("i")

    def add(self, video_id: str, views: Sequence[VideoFeatures]) -> None:
        first = views[0]
        num_frames, feature_dim = first.features.shape
        assert len(views) == self._num_views, video_id
        assert all(view.features.shape == first.features.shape for view in views), video_id
        if self.num_rows and feature_dim != self.feature_dim:
            raise StoreError(
                f"the features of {video_id} have {feature_dim} dimensions, earlier ones {self.feature_dim}: another "
                "program wrote one of them into the store. Remove it and run again."
            )
        self._names.append(video_id)
        self._origins.append(json.dumps([*vars(first.origin).values()]))
        self._extents.extend((self.num_rows, num_frames))
        self.num_rows += num_frames * self._num_views
        self.feature_dim = feature_dim
        for view in views:
            self._frame_indices.frombytes(view.frame_indices.astype(np.int32).tobytes())

    def videos(self) -> PackedVideos:
        extents = np.array(self._extents, dtype=np.int64).reshape(-1, 2)
        return PackedVideos(indices.Names(self._names), extents, self._origins)

    def frame_indices(self) -> npt.NDArray[np.int32]:
        return np.array(self._frame_indices, dtype=np.int32)


@dataclass(frozen=True, eq=False)
class _Copied:
    """A written file of features: its rows, and the sizes and versions of the entries that they were copied from."""

    features: npt.NDArray[np.float16]
    crc32: int
    layout: _Layout
    entries: "array[int]"


@dataclass(frozen=True, eq=False)
class _Index:
    """What is in a ``.table``.

    ``about``: name, checksum and shape of the file of features, and its views; ``entries``: int64
    ``[num_videos, num_views, 2]``, size and version; ``frame_indices``: one per row.
    """

    about: dict[str, Any]
    videos: PackedVideos
    entries: npt.NDArray[np.int64]
    frame_indices: npt.NDArray[np.int32]

    def to_bytes(self) -> bytes:
        about = np.frombuffer(json.dumps(self.about).encode(), dtype=np.uint8)
        arrays: indices.Arrays = {"about": about, "entries": self.entries, "frame_indices": self.frame_indices}
        return indices.to_bytes(arrays | self.videos.to_arrays())


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
        write_atomically(index_path, lambda temporary: temporary.write_bytes(index.to_bytes()))
    except OSError:
        features_path.unlink(missing_ok=True)
        raise
    _remove_older(features_path, dataset)
    return PackedFeatures(copied.features, index.frame_indices, views, index.videos)


def _copy_entries(
    path: Path, store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> _Copied:
    """Copy the features of all videos that have them into the file ``path``."""
    layout, entries, checksum = _Layout(len(views)), array("q"), 0
    versions = _versions(store, dataset, video_ids, views)

    def read(video_id: str) -> tuple[str, list[tuple[int, int]], tuple[VideoFeatures, ...] | None]:
        # The versions are taken before reading, so that an entry that is replaced meanwhile is newer than the copy.
        return video_id, versions(video_id), _read(store, dataset, video_id, views)

    with path.open("wb") as file, closing(Progress(len(video_ids), "video", what="packing features")) as progress:
        file.seek(_HEADER_BYTES)
        for video_id, entry, video_views in map_places(store.folder, read, video_ids):
            if video_views is not None:
                layout.add(video_id, video_views)
                entries.extend(itertools.chain.from_iterable(entry))
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


def _make_index(copied: _Copied, features_name: str, views: tuple[str, ...]) -> _Index:
    about = {"features": features_name, "crc32": copied.crc32, "shape": copied.features.shape, "views": views}
    videos, entries = copied.layout.videos(), np.array(copied.entries, dtype=np.int64)
    return _Index(about, videos, entries.reshape(len(videos), len(views), 2), copied.layout.frame_indices())


def _read_index(path: Path) -> _Index | None:
    """``None`` if it is missing or damaged."""
    try:
        arrays = indices.read(path)
        if arrays is None:
            return None
        about, videos = json.loads(arrays["about"].tobytes()), PackedVideos.from_arrays(arrays)
        return _Index(about, videos, arrays["entries"], arrays["frame_indices"])
    except (OSError, KeyError, ValueError):
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
    if any(not np.array_equal(video.frame_indices, intact[0].frame_indices) for video in intact[1:]):
        # Extracted at different times, by decoders that disagree about the file.
        print(f"damaged entry, extracted again: the views of {video_id} have different frames", file=sys.stderr)
        for view in views:
            _discard(store, dataset, video_id, view)
        return None
    return intact


def _discard(store: FeatureStore, dataset: str, video_id: str, view: str) -> None:
    with suppress(OSError):  # in a read-only store; extracting the entry again will report it
        store.remove(dataset, video_id, view)


def _versions(
    store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> Callable[[str], list[tuple[int, int]]]:
    """A function from a video to the size and version of each of its entries.

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
