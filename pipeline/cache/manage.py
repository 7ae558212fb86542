"""Commands that manage the feature store: ``python -m pipeline.cache status`` and those in ``COMMANDS``."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from tabulate import tabulate
from tqdm import tqdm

from data.catalog import DataConfig, load_dataset
from data.command import parse_arguments
from data.objects import Place, local_folder, map_places
from data.progress import Progress
from data.records import VideoDataset
from pipeline.cache.compact import compact_command
from pipeline.cache.exports import export_command
from pipeline.cache.garbage import Garbage, find_garbage
from pipeline.cache.imports import import_command
from pipeline.cache.relink import locate, relink_command
from pipeline.store.listing import DatasetFolder, Entry, list_entries
from pipeline.store.store import (
    NETWORKS,
    PACKED,
    RECIPE,
    DamagedEntry,
    FeatureStore,
    StoreError,
    dataset_folders,
    errors_path,
    file_statuses,
    find_stores,
    open_store,
    read_failures,
    select_stores,
)

T = TypeVar("T")

ROWS_PER_KIND = 5


@dataclass(frozen=True)
class OptionalDataset(DataConfig):
    """A dataset, or none."""

    dataset: str = ""
    """ucf101, hmdb51, folder or unlabelled (with --root), or demo (default: all datasets in the store)"""

    def __post_init__(self) -> None:
        if self.dataset:
            super().__post_init__()

    def load(self) -> VideoDataset | None:
        """The dataset; ``None`` if none is set. Raises ``DatasetError``."""
        return load_dataset(self) if self.dataset else None


@dataclass(frozen=True)
class StatusArguments:
    """Show what is cached: entries, sizes and failures by fingerprint and dataset."""

    data: OptionalDataset = field(default_factory=OptionalDataset)
    cache: Place = Path("cache")
    """the feature store"""
    json: bool = False
    """print JSON instead of text"""


@dataclass(frozen=True)
class StatusRow:
    """One dataset in one view in one store.

    Attributes:
        fingerprint: the store's folder.
        made: creation time of the store, ISO 8601.
        dataset: the dataset's folder in the store; empty if the store is empty.
        num_entries: feature files, including those of videos that are no longer in the dataset.
        failed: videos without features that ``errors.jsonl`` lists.
        done: videos of the given dataset that have features; ``None`` if no dataset is given.
        missing: videos of the given dataset that neither have features nor failed.
    """

    fingerprint: str
    backbone: str
    sampling: str
    made: str
    dataset: str = ""
    view: str = ""
    num_entries: int = 0
    num_bytes: int = 0
    failed: int = 0
    done: int | None = None
    missing: int | None = None


def status(arguments: Sequence[str]) -> int:
    """Returns 0, whatever is missing or failed."""
    options = _parse(StatusArguments, "status", arguments)
    dataset = options.data.load()
    stores, others = find_stores(options.cache)
    rows = [row for store in stores for row in status_rows(store, dataset)]
    packed_bytes = sum(_size_of(local_folder(store) / PACKED) for store in stores)
    network_bytes = _size_of(local_folder(options.cache) / NETWORKS)
    if options.json:
        sizes = {"packed_bytes": packed_bytes, "network_bytes": network_bytes}
        print(json.dumps({"stores": [asdict(row) for row in rows], **sizes, "others": [str(path) for path in others]}))
        return 0
    if rows:
        print(_status_table(rows, with_dataset=dataset is not None))
    else:
        which = "features" if dataset is None else f"features of {dataset.store_name}"
        print(f"{options.cache} contains no {which}")
    print(f"\npacked copies for training: {_bytes(packed_bytes)}; exported networks: {_bytes(network_bytes)}")
    for path in others:
        print(f"not a store: {path}")
    return 0


def status_rows(store: Place, dataset: VideoDataset | None) -> list[StatusRow]:
    """The rows of a store: one per dataset and view, for all datasets or the given one.

    A store without datasets has one empty row.
    """
    made = datetime.fromtimestamp((store / RECIPE).stat().st_mtime).astimezone().isoformat(timespec="seconds")
    try:
        opened = open_store(store)
    except StoreError:
        empty = StatusRow(store.name, "(recipe.json is damaged)", "", made)
        name = dataset and dataset.store_name
    else:
        empty = StatusRow(store.name, opened.recipe.backbone, opened.recipe.sampling, made)
        name = dataset and locate(opened, dataset)
    folders = [folder for folder in dataset_folders(store) if name in (None, folder.dataset)]
    if not folders and dataset is None:
        return [empty]
    return [_with_counts(empty, folder, errors_path(store, folder.dataset), dataset) for folder in folders]


def _with_counts(row: StatusRow, folder: DatasetFolder, log: Place, dataset: VideoDataset | None) -> StatusRow:
    failed = {failure.video_id for failure in read_failures(log)}
    video_ids = None if dataset is None else {video.video_id for video in dataset.videos}
    num_entries = num_bytes = num_done = 0
    for entry in list_entries(folder):  # one at a time: there may be millions
        num_entries += 1
        num_bytes += entry.num_bytes
        num_done += video_ids is not None and entry.video_id in video_ids
        failed.discard(entry.video_id)
    done = missing = None
    if video_ids is not None:
        failed &= video_ids
        done = num_done
        missing = len(video_ids) - done - len(failed)
    return replace(
        row,
        dataset=folder.dataset,
        view=folder.view,
        num_entries=num_entries,
        num_bytes=num_bytes,
        failed=len(failed),
        done=done,
        missing=missing,
    )


def _status_table(rows: Sequence[StatusRow], with_dataset: bool) -> str:
    table = []
    for row in rows:
        made = row.made[:16].replace("T", " ")
        cells = [row.fingerprint, row.backbone, row.sampling, made, row.dataset, row.view]
        counts = [row.done, row.missing, row.failed] if with_dataset else [row.failed]
        table.append([*cells, row.num_entries, _bytes(row.num_bytes), *counts])
    head = ["fingerprint", "backbone", "sampling", "created", "dataset", "view", "entries", "size"]
    return _table(table, [*head, *(["done", "missing"] if with_dataset else []), "failed"], num_names=6)


@dataclass(frozen=True)
class VerifyArguments:
    """Read every entry and check its length, its checksum, its recipe and its video."""

    cache: Place = Path("cache")
    """the feature store"""
    fingerprint: tuple[str, ...] = ()
    """only the stores whose fingerprints start with one of these (default: all)"""
    remove: bool = False
    """remove damaged entries; the next caching job extracts them again, except imported ones"""
    json: bool = False
    """print JSON instead of text"""


def verify(arguments: Sequence[str]) -> int:
    """Returns 0 if all entries are intact or the damaged ones were removed, 1 if damaged ones remain."""
    options = _parse(VerifyArguments, "verify", arguments)
    stores = select_stores(find_stores(options.cache)[0], options.fingerprint)
    damaged: dict[Place, str] = {}
    unreadable: dict[Place, str] = {}
    listed = []
    for path in stores:
        try:
            store = open_store(path)
        except StoreError as error:
            unreadable[path] = str(error)
            continue
        listed += [(store, folder, entry) for folder in dataset_folders(path) for entry in list_entries(folder)]
    with closing(Progress(total=len(listed), unit="file", what="verifying")) as progress:
        checked = map_places(options.cache, lambda one: _check(*one), listed)
        for (store, folder, entry), (is_readable, damage) in zip(listed, checked, strict=True):
            if not is_readable:
                unreadable[entry.path] = f"{entry.path} can't be opened: check its permissions"
            if damage is not None:
                damaged[entry.path] = damage.removeprefix(f"{entry.path}: ")
                if options.remove:
                    store.remove(folder.dataset, entry.video_id, folder.view)
            progress.advance(damaged=len(damaged))
    if options.json:
        reasons = {str(path): reason for path, reason in (damaged | unreadable).items()}
        print(json.dumps({"num_entries": len(listed), "damaged": reasons, "removed": options.remove}))
    else:
        for path, reason in damaged.items():
            print(f"damaged: {path}: {reason}")
        for reason in unreadable.values():
            print(f"damaged: {reason}")
        text = f"{len(listed)} entries in {len(stores)} stores, {len(damaged)} damaged"
        if damaged and options.remove:
            text += " and removed. Cache them again (imported ones: import them again)"
        elif damaged:
            text += " (--remove removes them)"
        print(text)
    return 1 if unreadable or (damaged and not options.remove) else 0


def _check(store: FeatureStore, folder: DatasetFolder, entry: Entry) -> tuple[bool, str | None]:
    """Whether an entry can be opened, and what is wrong with its content."""
    try:
        features = store.read(folder.dataset, entry.video_id, folder.view)
    except DamagedEntry as error:
        return True, str(error)
    return features is not None or not entry.path.exists(), None  # another process may have removed it


@dataclass(frozen=True)
class GcArguments:
    """List what is no longer needed, and remove it with --delete.

    That is: stores that no run uses, temporary files of killed jobs, stale packed copies, unused exported networks,
    outdated lines of errors.jsonl, and with --dataset the entries of videos that the dataset no longer contains.
    Imported features, which no job can make again, are kept unless --imported names them.
    """

    data: OptionalDataset = field(default_factory=OptionalDataset)
    cache: Place = Path("cache")
    """the feature store"""
    runs: tuple[Path, ...] = (Path("runs"),)
    """folders of runs; the stores that these runs use are kept"""
    keep_days: float = 7.0
    """keep stores written to and networks used within this many days"""
    imported: tuple[str, ...] = ()
    """names of imported features to remove if no run uses them (default: keep all)"""
    delete: bool = False
    """remove what is listed"""
    json: bool = False
    """print JSON instead of text"""


def gc(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 if something could not be removed."""
    options = _parse(GcArguments, "gc", arguments)
    found = find_garbage(options.cache, options.runs, options.keep_days, options.data.load(), options.imported)
    failed = {}
    if options.delete:
        for garbage in found.garbage:
            try:
                garbage.remove()
            except OSError as error:
                failed[garbage.path] = error
    if options.json:
        rows = []
        for garbage in found.garbage:
            row = {"kind": garbage.kind, "path": str(garbage.path), "num_bytes": garbage.num_bytes}
            row["removed"] = options.delete and garbage.path not in failed
            if garbage.path in failed:
                row["error"] = str(failed[garbage.path])
            rows.append(row)
        print(json.dumps({"garbage": rows, "notes": found.notes}))
    else:
        if found.garbage:
            print(_garbage_table(found.garbage))
        for note in found.notes:
            print(f"kept: {note}")
        for reason in failed.values():
            print(f"not removed: {reason}")
        size = _bytes(sum(garbage.num_bytes for garbage in found.garbage if garbage.path not in failed))
        if not found.garbage:
            print(f"{options.cache} contains nothing to remove")
        elif options.delete:
            print(f"{size} removed")
        else:
            print(f"nothing was removed. --delete removes these {size}")
    return 1 if failed else 0


def _garbage_table(found: Sequence[Garbage]) -> str:
    kinds: dict[str, list[Garbage]] = {}
    for garbage in found:
        kinds.setdefault(garbage.kind, []).append(garbage)
    rows: list[list[object]] = []
    for kind, members in kinds.items():
        rows += [[kind, garbage.path, _bytes(garbage.num_bytes)] for garbage in members[:ROWS_PER_KIND]]
        if others := members[ROWS_PER_KIND:]:
            more = f"... and {len(others)} more (--json lists all)"
            rows.append([kind, more, _bytes(sum(garbage.num_bytes for garbage in others))])
    return _table(rows, ["kind", "path", "size"], num_names=2)


def _parse(kind: type[T], command: str, arguments: Sequence[str]) -> T:
    return parse_arguments(kind, arguments, prog=f"python -m pipeline.cache {command}")


def _table(rows: Sequence[Sequence[object]], head: Sequence[str], num_names: int) -> str:
    """A table with left-aligned name columns, then right-aligned number columns."""
    alignment = ["left"] * num_names + ["right"] * (len(head) - num_names)
    # Without disable_numparse, a fingerprint such as 0012e45 would be printed as a number.
    return tabulate(rows, head, colalign=alignment if rows else None, disable_numparse=True)


def _bytes(count: int) -> str:
    return tqdm.format_sizeof(count, "B")


def _size_of(folder: Path) -> int:
    return sum(file.st_size for file in file_statuses(folder))


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "status": status,
    "verify": verify,
    "gc": gc,
    "relink": relink_command,
    "compact": compact_command,
    "export": export_command,
    "import": import_command,
}
