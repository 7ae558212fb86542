"""All features of a dataset in one memory-mapped file, for training: a copy of the store that may be thrown away.

<cache>/<fingerprint>/packed/<dataset>-<key>.npy       features of all videos and views, one behind the other
<cache>/<fingerprint>/packed/<dataset>.index           which rows are whose, and which entries they were copied from

A copy is used for as long as every entry asked for has the size and modification time that it was copied at. The index
is written last and names its features, so that a reader sees the old pair or the new one.
"""

import json
import os
import sys
import uuid
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from data.atomic import write_atomically
from data.progress import Progress
from models.preprocessing import CENTER
from pipeline.cache.inventory import PACKED
from pipeline.cache.store import DamagedEntry, FeatureStore, StoreError
from pipeline.features.recipe import Origin, VideoFeatures

_HEADER_BYTES = 128  # of a .npy file with a matrix; numpy leaves room in it for any number of rows
_NO_ENTRY = (-1, -1)
_INDEX = ".index"  # a safetensors file, but of another name than the entries have


@dataclass(frozen=True)
class PackedVideo:
    """Where a video's features lie.

    Attributes:
        start: row of its first frame; those of view ``v`` lie from ``start + v * num_frames``, ``num_frames`` of them.
        num_frames: stored frames of each view, at least 1.
        origin: where the features come from.
    """

    start: int
    num_frames: int
    origin: Origin


@dataclass(frozen=True, eq=False)
class PackedFeatures:
    """Features of many videos in one array, in memory or mapped from a file.

    Attributes:
        features: float16 ``[rows, feature_dim]``; where mapped, what is written to it never reaches the file.
        frame_indices: of each row, int32 ``[rows]``: which frame of its video.
        views: the views there are of every video.
        videos: by video id.
    """

    features: npt.NDArray[np.float16]
    frame_indices: npt.NDArray[np.int32]
    views: tuple[str, ...]
    videos: dict[str, PackedVideo]

    @classmethod
    def in_memory(
        cls, videos: Mapping[str, Sequence[VideoFeatures]], views: tuple[str, ...] = (CENTER,)
    ) -> "PackedFeatures":
        """From the features of each video, one ``VideoFeatures`` per view. Raises ``StoreError`` as ``pack`` does."""
        layout = _Layout(len(views))
        for video_id, of_views in videos.items():
            layout.add(video_id, of_views)
        blocks = [video.features for of_views in videos.values() for video in of_views]
        features = np.concatenate(blocks or [np.empty((0, 0), np.float16)])
        return cls(features, layout.frame_indices(), views, layout.videos)


def open_packed(
    store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> PackedFeatures | None:
    """The packed copy, memory-mapped, if it is intact and holds the videos as they are in the store now.

    A copy of more videos or views will do; what is returned tells of those asked for alone.

    Returns:
        ``None`` where there is no copy, a video or view is not in it, an entry was written or removed since, or the
        copy is damaged (checked by its checksum).
    """
    path = _index_path(store, dataset)
    index = _read_index(path)
    if index is None:
        return None
    about: dict[str, Any] = json.loads(index["about"].tobytes())
    numbers = {video_id: number for number, video_id in enumerate(about["video_ids"])}
    if tuple(about["views"][: len(views)]) != views or not all(video_id in numbers for video_id in video_ids):
        return None
    wanted = [numbers[video_id] for video_id in video_ids]
    now = np.array([_signatures(store, dataset, video_id, views) for video_id in video_ids], dtype=np.int64)
    if (index["entries"][wanted, : len(views)] != now.reshape(len(wanted), len(views), 2)).any():
        return None
    try:
        features = _map(path.with_name(about["features"]), about["shape"])
    except (OSError, ValueError):  # removed by another process that packs, or cut off
        return None
    if zlib.crc32(features.data) != about["crc32"]:
        return None
    videos = {}
    for video_id, number, (start, num_frames) in zip(video_ids, wanted, index["extents"][wanted].tolist(), strict=True):
        videos[video_id] = PackedVideo(start, num_frames, Origin(*about["origins"][number]))
    return PackedFeatures(features, index["frame_indices"], views, videos)


def pack(
    store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> tuple[PackedFeatures, list[str]]:
    """Copy the entries of the videos into one file, which ``open_packed`` finds from then on.

    Every entry's checksum is verified; the features pass through memory one video at a time. Where the file can't be
    written they stay in memory instead, which is said on stderr.

    Returns:
        the packed features; and the videos that are not among them, for lack of an entry in one of the views or
        because it was damaged. Damaged entries are named on stderr and removed.

    Raises:
        StoreError: not all features have the same dimension.
    """
    try:
        packed = _pack_into_file(store, dataset, video_ids, views)
    except OSError as error:
        print(f"no packed copy of {dataset}, its features are held in memory: {error}", file=sys.stderr)
        found = {video_id: _read(store, dataset, video_id, views) for video_id in video_ids}
        whole = {video_id: of_views for video_id, of_views in found.items() if of_views is not None}
        packed = PackedFeatures.in_memory(whole, views)
    return packed, [video_id for video_id in video_ids if video_id not in packed.videos]


def stale_files(store: FeatureStore) -> list[Path]:
    """Packed copies, and files of theirs, that are of no use any more: an entry was written or removed since they were
    made, they are damaged, or no index names them. What is being written is left out."""
    in_use: set[Path] = set()
    files = [path for path in (store.folder / PACKED).glob("*") if not path.name.startswith(".")]
    for path in files:
        index = _read_index(path) if path.suffix == _INDEX else None
        if index is not None:
            about = json.loads(index["about"].tobytes())
            if open_packed(store, path.stem, about["video_ids"], tuple(about["views"])) is not None:
                in_use |= {path, path.with_name(about["features"])}
    return sorted(set(files) - in_use)


class _Layout:
    """Which rows are whose, while videos are laid one behind the other."""

    def __init__(self, num_views: int) -> None:
        self.videos: dict[str, PackedVideo] = {}
        self.num_rows = 0
        self.feature_dim = 0
        self._num_views = num_views
        self._frame_indices: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)]

    def add(self, video_id: str, of_views: Sequence[VideoFeatures]) -> None:
        first = of_views[0]
        num_frames, feature_dim = first.features.shape
        assert [video.features.shape for video in of_views] == [first.features.shape] * self._num_views, video_id
        if self.videos and feature_dim != self.feature_dim:
            raise StoreError(
                f"the features of {video_id} have {feature_dim} dimensions, those before them {self.feature_dim}: one "
                "of them was put into the store by something else. Remove it, run again."
            )
        self.videos[video_id] = PackedVideo(self.num_rows, num_frames, first.origin)
        self.num_rows += num_frames * self._num_views
        self.feature_dim = feature_dim
        self._frame_indices += [video.frame_indices for video in of_views]

    def frame_indices(self) -> npt.NDArray[np.int32]:
        return np.concatenate(self._frame_indices)


@dataclass(frozen=True, eq=False)
class _Copied:
    """What went into a file of features: the rows of ``layout``, from ``entries`` of that size and time."""

    features: npt.NDArray[np.float16]
    crc32: int
    layout: _Layout
    entries: list[list[tuple[int, int]]]


def _pack_into_file(
    store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> PackedFeatures:
    """Raises ``OSError`` where that can't be written; nothing is left of it then."""
    index_path = _index_path(store, dataset)
    # A name of its own for each copy: a process that maps an older one keeps it, and two that pack don't mix theirs.
    features_path = index_path.with_name(f"{dataset}-{uuid.uuid4().hex[:16]}.npy")
    done: list[_Copied] = []
    write_atomically(
        features_path, lambda temporary: done.append(_copy_entries(temporary, store, dataset, video_ids, views))
    )
    (copied,) = done
    index = _make_index(copied, features_path.name, views)
    try:
        write_atomically(index_path, lambda temporary: temporary.write_bytes(save(index)))
    except OSError:
        features_path.unlink(missing_ok=True)
        raise
    _remove_older(features_path, dataset)
    return PackedFeatures(copied.features, index["frame_indices"], views, copied.layout.videos)


def _copy_entries(
    path: Path, store: FeatureStore, dataset: str, video_ids: Sequence[str], views: tuple[str, ...]
) -> _Copied:
    """The features of all videos that have them, into the file ``path``."""
    layout, entries, checksum = _Layout(len(views)), [], 0
    with path.open("wb") as file, closing(Progress(len(video_ids), "video", what="packing features")) as progress:
        file.seek(_HEADER_BYTES)
        for video_id in video_ids:
            # Looked at before it is read: an entry that is replaced meanwhile is found to be newer than the copy.
            signatures = _signatures(store, dataset, video_id, views)
            of_views = _read(store, dataset, video_id, views)
            if of_views is not None:
                layout.add(video_id, of_views)
                entries.append(signatures)
                for video in of_views:
                    content = np.ascontiguousarray(video.features).data
                    checksum = zlib.crc32(content, checksum)
                    file.write(content)
            progress.advance()
        shape = (layout.num_rows, layout.feature_dim)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        assert file.tell() == _HEADER_BYTES
    # Mapped before the file has its final name, for under that another process may remove it.
    return _Copied(_map(path, shape), checksum, layout, entries)


def _make_index(copied: _Copied, features_name: str, views: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """What ``_read_index`` reads."""
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
        # Not in the file's header, which may hold 100 MB at most: about half a million videos.
        "about": np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
        "entries": np.array(copied.entries, dtype=np.int64).reshape(len(videos), len(views), 2),
        "extents": np.array(extents, dtype=np.int64).reshape(len(videos), 2),
        "frame_indices": copied.layout.frame_indices(),
    }
    return index | {"crc32": np.array([_checksum(index)], dtype=np.int64)}


def _read_index(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    """Arrays by name: ``about`` (JSON), and for each video ``entries`` (size and time of each view's) and ``extents``
    (start and number of frames), for each row ``frame_indices``. ``None`` where there is no index or it is damaged."""
    try:
        index = load_file(path)
        return index if int(index.pop("crc32")[0]) == _checksum(index) else None
    except (OSError, SafetensorError, LookupError, TypeError, ValueError):
        return None


def _map(path: Path, shape: Sequence[int]) -> npt.NDArray[np.float16]:
    """The features in a file; written to, they differ from it (PyTorch warns of arrays that can't be written to).

    Raises ``OSError`` where there is no such file, ``ValueError`` where it is too short.
    """
    return np.memmap(path, dtype="<f2", mode="c", offset=_HEADER_BYTES, shape=tuple(shape))


def _read(store: FeatureStore, dataset: str, video_id: str, views: tuple[str, ...]) -> tuple[VideoFeatures, ...] | None:
    """All views of a video; ``None`` where one is missing or damaged, which is then removed."""
    found = []
    for view in views:
        try:
            found.append(store.read(dataset, video_id, view))
        except DamagedEntry as error:
            print(f"damaged entry, made again: {error}", file=sys.stderr)
            _discard(store, dataset, video_id, view)
            found.append(None)
    of_views = tuple(video for video in found if video is not None)
    if len(of_views) < len(views):
        return None
    if any(not np.array_equal(video.frame_indices, of_views[0].frame_indices) for video in of_views):
        # Made at different times, and the decoders did not agree on what is in the file.
        print(f"damaged entry, made again: the views of {video_id} are of different frames", file=sys.stderr)
        for view in views:
            _discard(store, dataset, video_id, view)
        return None
    return of_views


def _discard(store: FeatureStore, dataset: str, video_id: str, view: str) -> None:
    with suppress(OSError):  # from a store that can only be read; making the entry again will say so
        store.remove(dataset, video_id, view)


def _signatures(store: FeatureStore, dataset: str, video_id: str, views: tuple[str, ...]) -> list[tuple[int, int]]:
    """Size and modification time (nanoseconds) of a video's entries, by which one that was written anew is known."""
    signatures = []
    for view in views:
        try:
            status = os.stat(store.path(dataset, video_id, view))
            signatures.append((status.st_size, status.st_mtime_ns))
        except OSError:
            signatures.append(_NO_ENTRY)
    return signatures


def _checksum(index: Mapping[str, npt.NDArray[Any]]) -> int:
    """Of arrays with their names, types and shapes."""
    checksum = 0
    for name, array in sorted(index.items()):
        checksum = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum


def _index_path(store: FeatureStore, dataset: str) -> Path:
    return store.folder / PACKED / f"{dataset}{_INDEX}"


def _remove_older(features_path: Path, dataset: str) -> None:
    """Remove the dataset's features that were packed before these; a process that maps some keeps them."""
    for path in features_path.parent.glob("*.npy"):
        name, _, _ = path.stem.rpartition("-")
        with suppress(OSError):
            if name == dataset and path.stat().st_mtime_ns < features_path.stat().st_mtime_ns:
                path.unlink()
