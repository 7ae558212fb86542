"""The entries of a dataset in a store: files or objects of their own, and members of archives. None is opened."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data.objects import ObjectPath, ObjectStatus, Place
from pipeline.store.archives import ENTRY_SUFFIX, Archives


@dataclass(frozen=True)
class DatasetFolder:
    """The folder with the entries of one dataset in one view, in one store."""

    dataset: str
    view: str
    path: Place


@dataclass(frozen=True, slots=True)
class Entry:
    """The features of one video, which may be damaged; ``written`` in seconds since the epoch.

    ``version`` differs if the entry was written again: its time in nanoseconds, or an object's tag. If the entry is in
    ``archive``, ``path`` names it in messages only.
    """

    video_id: str
    path: Place
    num_bytes: int
    written: float
    version: int
    archive: Place | None = None


def list_entries(folder: DatasetFolder) -> Iterator[Entry]:
    """The entries of a dataset, one per video, in no order. Those that another process removes meanwhile are left out.

    100,000 files take about a second, and 1,000 objects one request.
    """
    # Listed before the files: what moves into an archive meanwhile is found twice, not missed.
    archives = Archives(folder.path)
    seen_twice = set()
    for entry in list_loose(folder):
        if archives.find(entry.video_id) is not None:
            seen_twice.add(entry.video_id)
        yield entry
    for member in archives:
        if member.video_id not in seen_twice:
            yield Entry(
                member.video_id, member.path, member.num_bytes, member.written, member.version, archive=member.tar
            )


def list_loose(folder: DatasetFolder) -> Iterator[Entry]:
    """The entries that are not in an archive."""
    if isinstance(folder.path, ObjectPath):
        return (
            Entry(video_id_of(found, folder.path), found.path, found.st_size, found.st_mtime, found.version)
            for found in folder.path.walk()
            if found.path.name.endswith(ENTRY_SUFFIX)
        )
    return _walk(str(folder.path), "")


def video_id_of(found: ObjectStatus, folder: ObjectPath) -> str:
    """The video of an entry or a failure, whose name is relative to ``folder`` and has one suffix."""
    return found.path.key.removeprefix(f"{folder.key}/").rpartition(".")[0]


def _walk(folder: str, prefix: str) -> Iterator[Entry]:
    with suppress(FileNotFoundError), os.scandir(folder) as children:
        for child in children:
            if child.is_dir():
                yield from _walk(child.path, f"{prefix}{child.name}/")
            elif child.name.endswith(ENTRY_SUFFIX):
                with suppress(FileNotFoundError):
                    status = child.stat()
                    video_id = prefix + child.name.removesuffix(ENTRY_SUFFIX)
                    yield Entry(video_id, Path(child.path), status.st_size, status.st_mtime, status.st_mtime_ns)
