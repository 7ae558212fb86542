"""Archives: tar files with many entries of the store, each as it was, and an index that says where each begins.

<cache>/<fingerprint>/<dataset>[@<view>]/.archives/<time>-<random>.tar     the entries, under the names of their files
<cache>/<fingerprint>/<dataset>[@<view>]/.archives/<time>-<random>.index   sizes and places of these entries

``tar -xf`` in the dataset's folder restores the files, and WebDataset reads an archive as a shard. A tar never changes:
to remove an entry, the index is written again without it. An entry that has a file or an object of its own is read from
there, because that is newer. An index is written before its tar and removed after it, so that a tar without an index
means that the index is lost: then it is made again from the tar.
"""

import io
import os
import sys
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from data.atomic import write_atomically
from data.objects import ObjectPath, ObjectStoreError, Place, write_place
from data.texts import Texts
from pipeline.store import indices

ARCHIVES = ".archives"
ENTRY_SUFFIX = ".safetensors"
_TAR, _INDEX = ".tar", ".index"
_ATTEMPTS = 3
_SECONDS_BETWEEN_LISTINGS = 10.0  # of an object store, each of which is a request

Result = TypeVar("Result")


@dataclass(frozen=True)
class Member:
    """An entry in an archive; sizes and ``offset`` in bytes, ``written`` in seconds since the epoch.

    ``version`` is the one that the entry's file or object had, so that a packed copy stays valid.
    """

    video_id: str
    tar: Place
    offset: int
    num_bytes: int
    version: int
    written: float

    def __str__(self) -> str:
        return str(self.path)

    @property
    def path(self) -> Place:
        """What names the entry in messages."""
        return self.tar / f"{self.video_id}{ENTRY_SUFFIX}"

    def read_bytes(self, limit: int | None = None) -> bytes:
        """The content, or its first ``limit`` bytes."""
        num_bytes = self.num_bytes if limit is None else min(limit, self.num_bytes)
        if isinstance(self.tar, ObjectPath):
            return self.tar.read_bytes(num_bytes, self.offset)
        with self.tar.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), num_bytes, self.offset)


@dataclass(frozen=True, eq=False)
class _Index:
    """The entries of one archive or of several: a row each.

    ``archives``: number of its archive in ``tars``; ``places``: int64 ``[n, 3]``, offset, size and version.
    """

    tars: list[Place]
    names: indices.Names
    archives: npt.NDArray[np.int32]
    places: npt.NDArray[np.int64]
    written: npt.NDArray[np.float64]

    def member(self, row: int) -> Member:
        offset, num_bytes, version = self.places[row].tolist()
        tar = self.tars[self.archives[row]]
        return Member(self.names.texts[row], tar, offset, num_bytes, version, float(self.written[row]))

    def select(self, chosen: npt.NDArray[np.bool_]) -> "_Index":
        names = self.names.select(chosen)
        return _Index(self.tars, names, self.archives[chosen], self.places[chosen], self.written[chosen])

    def to_bytes(self) -> bytes:
        return indices.to_bytes(self.names.to_arrays() | {"places": self.places, "written": self.written})


@dataclass(frozen=True)
class ArchiveSize:
    """An archive: the size of its tar, and the number of its newest entries with the bytes that they take in a tar."""

    tar: Place
    num_bytes: int
    num_entries: int
    used_bytes: int


class Archives:
    """The entries in all archives of one dataset in one view.

    What other processes change is noticed at once in a folder, and after ten seconds in an object store.
    """

    def __init__(self, folder: Place) -> None:
        """``folder``: that of the dataset's entries."""
        self.parent, self.folder = folder, folder / ARCHIVES
        self._folder_name = str(self.folder)
        self._state: object = None
        self._found: tuple[str, Member | None] | None = None
        self._index = _concatenate([])
        self._is_newest = np.empty(0, bool)
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Member]:
        """All entries, of each video the newest one."""
        self._refresh()
        index = self._index
        return (index.member(int(row)) for row in np.flatnonzero(self._is_newest))

    def find(self, video_id: str) -> Member | None:
        self._refresh()
        found = self._found
        if found is None or found[0] != video_id:  # who asks for a version mostly reads the entry next
            index, is_newest = self._index, self._is_newest
            rows = [row for row in index.names.find(video_id) if is_newest[row]]
            self._found = found = (video_id, index.member(rows[0]) if rows else None)
        return found[1]

    def read(self, video_id: str, read: Callable[[Member], Result]) -> Result:
        """``read`` of the video's entry. Raises ``FileNotFoundError`` if there is none, and what ``read`` raises."""
        for attempt in range(_ATTEMPTS):
            member = self.find(video_id)
            if member is None:
                break
            try:
                return read(member)
            except FileNotFoundError:  # another process has merged this archive into a larger one
                if attempt == _ATTEMPTS - 1:
                    raise
                self._state = None
        raise FileNotFoundError(f"{self.parent} has no features of {video_id}")

    def remove(self, *video_ids: str) -> None:
        """Remove the entries of videos from the indices.

        There is no lock: of two processes that remove from one archive at once, one may undo the other's removal.

        Raises ``OSError`` or ``ObjectStoreError``.
        """
        self._refresh()
        rows = [row for video_id in video_ids for row in self._index.names.find(video_id)]
        for number in {int(self._index.archives[row]) for row in rows}:
            tar = self._index.tars[number]
            index = _read_index(tar)
            if index is not None:
                kept = np.ones(len(index.names), bool)
                kept[[row for video_id in video_ids for row in index.names.find(video_id)]] = False
                write_place(_index_of(tar), index.select(kept).to_bytes())
        if rows:
            self._state = None

    def write(self, contents: Iterable[tuple[str, bytes, int, float]]) -> None:
        """Write a new archive.

        Args:
            contents: of each entry the video, the content, the version and the time at which it was written.

        Raises ``OSError`` or ``ObjectStoreError``; then there is no archive.
        """
        # Names sort by time, which helps who looks at them; nothing depends on it.
        tar = self.folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}{_TAR}"
        if isinstance(tar, ObjectPath):
            buffer = io.BytesIO()
            write_place(_index_of(tar), _write_tar(buffer, tar, contents).to_bytes())
            tar.write_bytes(buffer.getvalue())
        else:
            write_atomically(tar, partial(_write_both, tar=tar, contents=contents))
        self._state = None

    def remove_archive(self, tar: Place) -> None:
        tar.unlink(missing_ok=True)
        _index_of(tar).unlink(missing_ok=True)
        self._state = None

    def sizes(self) -> list[ArchiveSize]:
        self._refresh()
        index, found = self._index, []
        for number, tar in enumerate(index.tars):
            rows = self._is_newest & (index.archives == number)
            with suppress(FileNotFoundError):
                blocks = 1 - (-index.places[rows, 1] // tarfile.BLOCKSIZE)  # one for the name
                found.append(ArchiveSize(tar, tar.stat().st_size, len(blocks), int(blocks.sum()) * tarfile.BLOCKSIZE))
        return found

    def _refresh(self) -> None:
        """Read the indices, if archives were added or removed, or an index was written again."""
        state: object
        if isinstance(self.folder, ObjectPath):
            state = time.monotonic() // _SECONDS_BETWEEN_LISTINGS + 1
        else:
            try:
                state = os.stat(self._folder_name).st_mtime_ns
            except (FileNotFoundError, NotADirectoryError):
                state = 0
        if state == self._state:
            return
        with self._lock:
            if state != self._state:
                self._index = _concatenate([index for tar in _tars(self.folder) if (index := _read_index(tar))])
                self._is_newest = _newest(self._index)
                self._found = None
                self._state = state


def stray_indices(folder: Place) -> list[Place]:
    """Indices in a dataset's folder without a tar: of one that is being written, or of one that was removed."""
    found = _files(folder / ARCHIVES)
    return [path for name, path in found.items() if name.endswith(_INDEX) and _tar_name(name) not in found]


def _write_both(temporary: Path, tar: Path, contents: Iterable[tuple[str, bytes, int, float]]) -> None:
    """Write the tar under a temporary name, and its index."""
    with temporary.open("wb") as file:
        index = _write_tar(file, tar, contents)
    write_place(_index_of(tar), index.to_bytes())


def _write_tar(file: BinaryIO, tar: Place, contents: Iterable[tuple[str, bytes, int, float]]) -> _Index:
    names, places, times = [], [], []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for video_id, content, version, written in contents:
            info = tarfile.TarInfo(f"{video_id}{ENTRY_SUFFIX}")
            info.size, info.mtime, info.mode = len(content), int(written), 0o644
            archive.addfile(info, io.BytesIO(content))
            padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            names.append(video_id)
            places.append((file.tell() - padded, len(content), version))
            times.append(written)
    return _make_index(tar, names, places, times)


def _make_index(
    tar: Place, names: Iterable[str], places: Sequence[tuple[int, int, int]], times: Sequence[float]
) -> _Index:
    return _Index(
        [tar],
        indices.Names(Texts(names)),
        np.zeros(len(places), np.int32),
        np.array(places, np.int64).reshape(-1, 3),
        np.array(times, np.float64),
    )


def _read_index(tar: Place) -> _Index | None:
    """The index of an archive, made again from the tar if it is lost or damaged; ``None`` if the tar is gone too."""
    try:
        num_bytes = tar.stat().st_size
        with suppress(FileNotFoundError, KeyError, ValueError):
            arrays = indices.read(_index_of(tar))
            if arrays is not None:
                names, places, written = indices.Names.from_arrays(arrays), arrays["places"], arrays["written"]
                index = _Index([tar], names, np.zeros(len(places), np.int32), places, written)
                _check(index, num_bytes)
                return index
        index = _scan(tar)
    except FileNotFoundError:
        return None
    print(f"{_index_of(tar)} was missing or damaged: {len(index.names)} entries found in the archive", file=sys.stderr)
    with suppress(OSError, ObjectStoreError):  # in a read-only store
        write_place(_index_of(tar), index.to_bytes())
    return index


def _check(index: _Index, num_bytes: int) -> None:
    """Raise ``ValueError`` if an index is not one, or names files outside the dataset's folder.

    Entries that end after ``num_bytes``, the size of the tar, are cut off there, so that they are found to be damaged.
    """
    num_rows = len(index.names)
    if index.places.shape != (num_rows, 3) or index.written.shape != (num_rows,):
        raise ValueError("the arrays of the index differ in length")
    begin, size = index.places[:, 0], index.places[:, 1]
    if (begin < 0).any() or (size < 0).any():
        raise ValueError("a place in the index is negative")
    size[:] = np.minimum(size, np.maximum(num_bytes - begin, 0))
    # A million names take a second to look at, their bytes take no time.
    content = index.names.texts.content.tobytes()
    if (b".." in content or b"/" in index.names.texts.first_bytes()) and not all(map(_is_inside, index.names.texts)):
        raise ValueError("the index names files outside the folder")


def _is_inside(video_id: str) -> bool:
    return not video_id.startswith("/") and ".." not in PurePosixPath(video_id).parts


def _scan(tar: Place) -> _Index:
    """Find the entries in a tar, up to where it is damaged. Raises ``FileNotFoundError``."""
    names, places, times = [], [], []
    file = io.BytesIO(tar.read_bytes()) if isinstance(tar, ObjectPath) else tar.open("rb")
    with file, suppress(tarfile.TarError), tarfile.open(fileobj=file, mode="r:") as archive:
        for info in archive:
            video_id = info.name.removesuffix(ENTRY_SUFFIX)
            if info.isreg() and video_id != info.name and _is_inside(video_id):
                names.append(video_id)
                places.append((info.offset_data, info.size, int(info.mtime * 1e9)))
                times.append(float(info.mtime))
    return _make_index(tar, names, places, times)


def _concatenate(parts: Sequence[_Index]) -> _Index:
    return _Index(
        [tar for part in parts for tar in part.tars],
        indices.Names.concatenate([part.names for part in parts]),
        np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.names) for part in parts]),
        np.concatenate([np.empty((0, 3), np.int64), *(part.places for part in parts)]),
        np.concatenate([np.empty(0), *(part.written for part in parts)]),
    )


def _newest(index: _Index) -> npt.NDArray[np.bool_]:
    """Which rows are the newest of their video."""
    is_newest = np.ones(len(index.names), bool)
    for rows in index.names.repeated():
        is_newest[rows] = False
        is_newest[max(rows, key=lambda row: (index.written[row], row))] = True
    return is_newest


def _tars(folder: Place) -> list[Place]:
    return [path for name, path in sorted(_files(folder).items()) if name.endswith(_TAR)]


def _files(folder: Place) -> dict[str, Place]:
    """The complete files or the objects in a folder, by name."""
    if isinstance(folder, ObjectPath):
        return {found.path.name: found.path for found in folder.walk()}
    with suppress(FileNotFoundError, NotADirectoryError):
        return {path.name: path for path in folder.iterdir() if not path.name.startswith(".")}
    return {}


def _index_of(tar: Place) -> Place:
    return tar.parent / f"{tar.name.removesuffix(_TAR)}{_INDEX}"


def _tar_name(index_name: str) -> str:
    return f"{index_name.removesuffix(_INDEX)}{_TAR}"
