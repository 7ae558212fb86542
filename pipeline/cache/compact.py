"""Put the entries of a store into archives: ``python -m pipeline.cache compact``."""

import itertools
import json
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from data.command import parse_arguments
from data.objects import ObjectPath, Place, map_places
from data.progress import Progress
from pipeline.store.archives import Archives, ArchiveSize
from pipeline.store.listing import DatasetFolder, Entry, list_entries, list_loose
from pipeline.store.store import (
    DamagedEntry,
    FeatureStore,
    StoreError,
    dataset_folders,
    find_stores,
    open_store,
    select_stores,
    version_of,
)

ARCHIVE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class CompactArguments:
    """Put the features of many videos into one tar file each, so that millions of videos need few files.

    Everything else reads them as before. Jobs may go on meanwhile: a video that one of them writes at this moment may
    be extracted again. Features that come later are files again, until the next compact. The command can be killed and
    repeated at any time. tar -xf in the dataset's folder restores the files.
    """

    cache: Place = Path("cache")
    """the feature store"""
    fingerprint: tuple[str, ...] = ()
    """only the stores whose fingerprints start with one of these (default: all)"""


@dataclass(frozen=True)
class Compacted:
    """Entries that moved into new archives, these archives, and entries that stay because they are damaged."""

    num_entries: int = 0
    num_archives: int = 0
    num_damaged: int = 0

    def __add__(self, other: "Compacted") -> "Compacted":
        return Compacted(
            self.num_entries + other.num_entries,
            self.num_archives + other.num_archives,
            self.num_damaged + other.num_damaged,
        )


def compact_command(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 if damaged entries were left where they are. These are named on standard error."""
    options = parse_arguments(CompactArguments, arguments, prog="python -m pipeline.cache compact")
    done = Compacted()
    for path in select_stores(find_stores(options.cache)[0], options.fingerprint):
        store = open_store(path)
        for folder in dataset_folders(path):
            done += compact(store, folder)
    print(json.dumps({"entries": done.num_entries, "archives": done.num_archives, "damaged": done.num_damaged}))
    if done.num_damaged:
        print("python -m pipeline.cache verify --remove removes what is damaged", file=sys.stderr)
    return 1 if done.num_damaged else 0


def compact(store: FeatureStore, folder: DatasetFolder, archive_bytes: int = ARCHIVE_BYTES) -> Compacted:
    """Put a dataset's files, and what archives of less than half the size contain, into archives of about this size.

    Each entry is checked. Its file is removed when the archive is complete, unless it has changed meanwhile.

    Raises:
        StoreError: another process compacts the store, or an import has not ended.
        OSError, ObjectStoreError: the store can't be written. Nothing is lost.
    """
    store.check_import(folder.dataset)
    with _only_process(store):
        archives = store.archives(folder.dataset, folder.view)
        small = [size for size in archives.sizes() if size.used_bytes < archive_bytes / 2]
        merged = {size.tar for size in small}
        num_files = sum(1 for _ in list_loose(folder))
        if not num_files and len(small) < 2 and not any(map(_has_gaps, small)):
            return Compacted()
        sources = (entry for entry in list_entries(folder) if entry.archive is None or entry.archive in merged)
        num_entries = num_archives = 0
        damaged: list[Entry] = []
        total = num_files + sum(size.num_entries for size in small)
        with closing(Progress(total, "file", what=f"compacting {folder.path.name}")) as progress:
            contents = _contents(store, folder, sources, damaged, progress)
            for first in contents:
                moved = _move(archives, folder, itertools.chain([first], contents), archive_bytes)
                num_archives += 1
                num_entries += len(moved)
        for tar in merged - {entry.archive for entry in damaged}:
            archives.remove_archive(tar)
        return Compacted(num_entries, num_archives, len(damaged))


def _contents(
    store: FeatureStore, folder: DatasetFolder, entries: Iterable[Entry], damaged: list[Entry], progress: Progress
) -> Iterator[tuple[Entry, bytes]]:
    """The entries with their contents. Damaged ones are named, and go into ``damaged``."""

    def read(entry: Entry) -> tuple[Entry, bytes | DamagedEntry | None]:
        try:
            return entry, store.read_content(folder.dataset, entry.video_id, folder.view)
        except DamagedEntry as error:
            return entry, error

    for entry, content in map_places(folder.path, read, entries):
        if isinstance(content, DamagedEntry):
            damaged.append(entry)
            progress.note(f"damaged: {content}")
        elif content is not None:  # else another process has removed it
            yield entry, content
        progress.advance()


def _move(
    archives: Archives, folder: DatasetFolder, contents: Iterator[tuple[Entry, bytes]], archive_bytes: int
) -> list[Entry]:
    """Move entries from their files into a new archive until it is large enough; these entries."""
    moved = []

    def enough() -> Iterator[tuple[str, bytes, int, float]]:
        num_bytes = 0
        for entry, content in contents:
            yield entry.video_id, content, entry.version, entry.written
            moved.append(entry)
            num_bytes += len(content)
            if num_bytes >= archive_bytes:
                return

    archives.write(enough())
    for _ in map_places(folder.path, _remove_file, (entry for entry in moved if entry.archive is None)):
        pass
    return moved


def _has_gaps(size: ArchiveSize) -> bool:
    return size.used_bytes < size.num_bytes / 2 - tarfile.RECORDSIZE  # the size that a tar has at least


def _remove_file(entry: Entry) -> None:
    with suppress(FileNotFoundError):
        if version_of(entry.path) == (entry.num_bytes, entry.version):
            entry.path.unlink()


@contextmanager
def _only_process(store: FeatureStore) -> Iterator[None]:
    """Raise ``StoreError`` if another process compacts the store. Objects have no lock, and suffer no harm."""
    if isinstance(store.folder, ObjectPath):
        yield
        return
    try:
        with FileLock(store.folder / ".compact.lock", timeout=0):
            yield
    except Timeout as error:
        raise StoreError(f"another process compacts {store.folder}. Wait for it.") from error
