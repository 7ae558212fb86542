"""The manager of the feature store: ``python -m pipeline.cache status|verify|gc|export|import``."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from tabulate import tabulate
from tqdm import tqdm

from data.catalog import DataConfig, load_dataset
from data.progress import Progress
from data.records import VideoDataset
from pipeline.cache import exchange
from pipeline.cache.garbage import Garbage, find_garbage
from pipeline.cache.inventory import (
    NETWORKS,
    PACKED,
    DatasetFolder,
    dataset_folders,
    failure_log,
    files_below,
    find_stores,
    list_entries,
    open_store,
    read_failures,
    read_recipe,
    select_stores,
)
from pipeline.cache.store import DamagedEntry, StoreError

T = TypeVar("T")

NAMED_OF_A_KIND = 5


@dataclass(frozen=True)
class OneDataset(DataConfig):
    """A dataset, where one is meant at all."""

    dataset: str = ""
    """ucf101, hmdb51, folder or unlabelled (with --root), or demo (default: none in particular)"""

    def __post_init__(self) -> None:
        if self.dataset:
            super().__post_init__()

    def load(self) -> VideoDataset | None:
        """``None`` where none was asked for; raises ``DatasetError``."""
        return load_dataset(self) if self.dataset else None


@dataclass(frozen=True)
class StatusArguments:
    """What is cached: entries, sizes and failures, by fingerprint and dataset."""

    data: Annotated[OneDataset, tyro.conf.arg(name="")] = field(default_factory=OneDataset)
    cache: Path = Path("cache")
    """the feature store"""
    json: bool = False
    """print JSON, for machines"""


@dataclass(frozen=True)
class StatusRow:
    """One dataset, seen in one view, in one store.

    Attributes:
        fingerprint: the store's folder.
        made: when the store was begun, ISO 8601.
        dataset: the dataset's folder in the store; empty where the store is.
        num_entries: files of features, of whichever videos.
        failed: videos that have no features and are named in ``errors.jsonl``.
        done: videos of the dataset asked for that have features; ``None`` where none was asked for.
        missing: its videos that neither have features nor failed.
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
    """0, always: what is missing or failed is in the table."""
    asked = _parse(StatusArguments, "status", arguments)
    dataset = asked.data.load()
    stores, others = find_stores(asked.cache)
    rows = [row for store in stores for row in status_rows(store, dataset)]
    packed_bytes = sum(_size_of(store / PACKED) for store in stores)
    network_bytes = _size_of(asked.cache / NETWORKS)
    if asked.json:
        sizes = {"packed_bytes": packed_bytes, "network_bytes": network_bytes}
        print(json.dumps({"stores": [asdict(row) for row in rows], **sizes, "others": [str(path) for path in others]}))
        return 0
    if rows:
        print(_status_table(rows, with_dataset=dataset is not None))
    else:
        print(f"nothing {f'of {dataset.store_name} ' if dataset else ''}is cached in {asked.cache}")
    print(f"\npacked copies for training: {_bytes(packed_bytes)}; exported networks: {_bytes(network_bytes)}")
    for path in others:
        print(f"not a store: {path}")
    return 0


def status_rows(store: Path, dataset: VideoDataset | None) -> list[StatusRow]:
    """What a store holds: of all datasets (one empty row where there are none), or of one against its videos."""
    made = datetime.fromtimestamp((store / "recipe.json").stat().st_mtime).astimezone().isoformat(timespec="seconds")
    try:
        recipe = read_recipe(store)
        empty = StatusRow(store.name, recipe.backbone, recipe.sampling, made)
    except StoreError:
        empty = StatusRow(store.name, "(recipe.json is damaged)", "", made)
    folders = [folder for folder in dataset_folders(store) if dataset is None or folder.dataset == dataset.store_name]
    rows = [_with_counts(empty, folder, failure_log(store, folder.dataset), dataset) for folder in folders]
    return rows or ([empty] if dataset is None else [])


def _with_counts(row: StatusRow, folder: DatasetFolder, log: Path, dataset: VideoDataset | None) -> StatusRow:
    sizes = {entry.video_id: entry.num_bytes for entry in list_entries(folder)}
    failed = {failure.video_id for failure in read_failures(log)} - sizes.keys()
    done = missing = None
    if dataset is not None:
        wanted = {video.video_id for video in dataset.videos}
        failed &= wanted
        done = len(wanted & sizes.keys())
        missing = len(wanted) - done - len(failed)
    return replace(
        row,
        dataset=folder.dataset,
        view=folder.view,
        num_entries=len(sizes),
        num_bytes=sum(sizes.values()),
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
    head = ["fingerprint", "backbone", "sampling", "made", "dataset", "view", "entries", "size"]
    return _table(table, [*head, *(["done", "missing"] if with_dataset else []), "failed"], num_names=6)


@dataclass(frozen=True)
class VerifyArguments:
    """Read every entry and check its length, its checksum and that it is this video's, made by this recipe."""

    cache: Path = Path("cache")
    """the feature store"""
    fingerprint: tuple[str, ...] = ()
    """only the stores whose fingerprints begin so (default: all)"""
    remove: bool = False
    """remove the damaged entries: the next caching job makes them again"""
    json: bool = False
    """print JSON, for machines"""


def verify(arguments: Sequence[str]) -> int:
    """0: all are whole, or the damaged ones were removed; 1: some are damaged."""
    asked = _parse(VerifyArguments, "verify", arguments)
    stores = select_stores(find_stores(asked.cache)[0], asked.fingerprint)
    damaged: dict[Path, str] = {}
    unreadable: dict[Path, str] = {}
    listed = []
    for path in stores:
        try:
            store = open_store(path)
        except StoreError as error:
            unreadable[path] = str(error)
            continue
        listed += [(store, folder, entry) for folder in dataset_folders(path) for entry in list_entries(folder)]
    with closing(Progress(total=len(listed), unit="file", what="verifying")) as progress:
        for store, folder, entry in listed:
            try:
                features = store.read(folder.dataset, entry.video_id, folder.view)
                if features is None and entry.path.exists():  # not removed by another process since
                    unreadable[entry.path] = f"{entry.path} can't be opened: see to its permissions"
            except DamagedEntry as error:
                damaged[entry.path] = str(error).removeprefix(f"{entry.path}: ")
                if asked.remove:
                    store.remove(folder.dataset, entry.video_id, folder.view)
            progress.advance(damaged=len(damaged))
    if asked.json:
        told = {str(path): reason for path, reason in (damaged | unreadable).items()}
        print(json.dumps({"num_entries": len(listed), "damaged": told, "removed": asked.remove}))
    else:
        for path, reason in damaged.items():
            print(f"damaged: {path}: {reason}")
        for reason in unreadable.values():
            print(f"damaged: {reason}")
        print(f"{len(listed)} entries in {len(stores)} stores, {len(damaged)} damaged", end="")
        hint = " and removed: the next caching job makes them again" if asked.remove else " (--remove removes them)"
        print(hint if damaged else "")
    return 1 if unreadable or (damaged and not asked.remove) else 0


@dataclass(frozen=True)
class GcArguments:
    """Say what nothing needs any more, and with --delete remove it.

    Stores that no run uses, temporary files that killed jobs left, stale packed copies, exported networks out of use,
    lines of errors.jsonl that later ones made untrue, and with --dataset the entries of videos that it has no more.
    """

    data: Annotated[OneDataset, tyro.conf.arg(name="")] = field(default_factory=OneDataset)
    cache: Path = Path("cache")
    """the feature store"""
    runs: tuple[Path, ...] = (Path("runs"),)
    """folders of runs: the stores whose features these were trained on are kept"""
    keep_days: float = 7.0
    """keep stores written to, and networks used, within so many days"""
    delete: bool = False
    """remove it; without, nothing is changed"""
    json: bool = False
    """print JSON, for machines"""


def gc(arguments: Sequence[str]) -> int:
    """0: done; 1: something could not be removed, and is named."""
    asked = _parse(GcArguments, "gc", arguments)
    found = find_garbage(asked.cache, asked.runs, asked.keep_days, asked.data.load())
    failed = {}
    if asked.delete:
        for garbage in found.garbage:
            try:
                garbage.remove()
            except OSError as error:
                failed[garbage.path] = error
    if asked.json:
        rows = [
            {"kind": g.kind, "path": str(g.path), "num_bytes": g.num_bytes, "removed": asked.delete}
            | ({"removed": False, "error": str(failed[g.path])} if g.path in failed else {})
            for g in found.garbage
        ]
        print(json.dumps({"garbage": rows, "notes": found.notes}))
    else:
        if found.garbage:
            print(_garbage_table(found.garbage))
        for note in found.notes:
            print(f"left alone: {note}")
        for reason in failed.values():
            print(f"not removed: {reason}")
        gone = [garbage for garbage in found.garbage if garbage.path not in failed]
        size = _bytes(sum(garbage.num_bytes for garbage in gone))
        if not found.garbage:
            print(f"there is nothing to remove in {asked.cache}")
        else:
            print(f"{size} removed" if asked.delete else f"nothing was removed; --delete removes this, {size}")
    return 1 if failed else 0


def _garbage_table(found: Sequence[Garbage]) -> str:
    kinds: dict[str, list[Garbage]] = {}
    for garbage in found:
        kinds.setdefault(garbage.kind, []).append(garbage)
    rows: list[list[object]] = []
    for kind, alike in kinds.items():
        rows += [[garbage.kind, garbage.path, _bytes(garbage.num_bytes)] for garbage in alike[:NAMED_OF_A_KIND]]
        if others := alike[NAMED_OF_A_KIND:]:
            more = f"... and {len(others)} more (--json names all)"
            rows.append([kind, more, _bytes(sum(garbage.num_bytes for garbage in others))])
    return _table(rows, ["what", "where", "size"], num_names=2)


def _parse(kind: type[T], command: str, arguments: Sequence[str]) -> T:
    return tyro.cli(kind, args=list(arguments), prog=f"python -m pipeline.cache {command}")


def _table(rows: Sequence[Sequence[object]], head: Sequence[str], num_names: int) -> str:
    """Columns of names to the left, of numbers to the right."""
    alignment = ["left"] * num_names + ["right"] * (len(head) - num_names)
    # A fingerprint such as 0012e45 is a name, whatever it looks like.
    return tabulate(rows, head, colalign=alignment if rows else None, disable_numparse=True)


def _bytes(count: int) -> str:
    return tqdm.format_sizeof(count, "B")


def _size_of(folder: Path) -> int:
    return sum(file.st_size for file in files_below(folder))


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "status": status,
    "verify": verify,
    "gc": gc,
    "export": exchange.export_command,
    "import": exchange.import_command,
}
