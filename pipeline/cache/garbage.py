"""What nothing in a cache needs any more. Finds it; what removes each piece comes with it."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data.atomic import find_abandoned, write_text_atomically
from data.records import VideoDataset
from models.preprocessing import CENTER
from pipeline.cache.inventory import (
    NETWORKS,
    DatasetFolder,
    dataset_folders,
    failure_log,
    files_below,
    find_stores,
    list_entries,
    open_store,
    read_failures,
)
from pipeline.cache.packed import stale_files
from pipeline.cache.store import StoreError

SECONDS_PER_DAY = 24 * 3600


@dataclass(frozen=True)
class Garbage:
    """Something that can go, ``num_bytes`` large; ``remove`` raises ``OSError``."""

    kind: str
    path: Path
    num_bytes: int
    remove: Callable[[], None]


@dataclass(frozen=True)
class Findings:
    """What can go; and ``notes`` on what looks as if it could but is left alone, and why."""

    garbage: list[Garbage]
    notes: list[str]


def find_garbage(cache: Path, runs: Sequence[Path], keep_days: float, dataset: VideoDataset | None) -> Findings:
    """All that nothing needs any more; changes nothing.

    Args:
        runs: folders of runs, whose stores are needed.
        keep_days: stores written to, and networks used, within so many days are needed.
        dataset: of this one, entries of videos that it does not have are not needed.

    Raises:
        StoreError: ``cache`` is no folder, or ``keep_days`` is negative.
    """
    if not keep_days >= 0:
        raise StoreError(f"--keep-days is at least 0, not {keep_days:g}")
    begin_of_use = time.time() - keep_days * SECONDS_PER_DAY
    stores, others = find_stores(cache)
    notes = [f"{path}: not a store" for path in others]
    try:
        used: set[str] | None = stores_used_by(runs)
    except StoreError as error:
        used = None
        notes.append(f"all stores: {error}")
    garbage: list[Garbage] = []
    for folder in stores:
        try:
            store = open_store(folder)
        except StoreError as error:
            notes.append(str(error))
            continue
        files = files_below(folder)
        if used is not None and folder.name not in used and max(file.st_mtime for file in files) < begin_of_use:
            kind = f"store out of use: {store.recipe.backbone} {store.recipe.sampling}"
            garbage.append(Garbage(kind, folder, sum(file.st_size for file in files), partial(remove_store, folder)))
            continue
        garbage += _abandoned(folder)
        in_datasets = dataset_folders(folder)
        if dataset is not None:
            garbage += _orphans([part for part in in_datasets if part.dataset == dataset.store_name], dataset)
        garbage += [_file("stale packed copy", path, path.stat().st_size) for path in stale_files(store)]
        garbage += [log for part in in_datasets if part.view == CENTER for log in _untrue_lines(folder, part)]
    garbage += _abandoned(cache / NETWORKS)
    for network in sorted((cache / NETWORKS).glob("*.onnx")):
        status = network.stat()
        if max(status.st_atime, status.st_mtime) < begin_of_use:
            garbage.append(_file("network out of use", network, status.st_size))
    return Findings(garbage, notes)


def stores_used_by(runs: Sequence[Path]) -> set[str]:
    """The names of the stores whose features the runs below ``runs`` were trained on.

    Raises ``StoreError`` where that can't be known: a folder is not there, or what made a run's features can't be read.
    """
    from pipeline.training.run import RunError, find_runs

    used = set()
    for folder in runs:
        if not folder.is_dir():
            raise StoreError(f"which of them runs use is not known, for {folder} is no folder; name it with --runs")
        try:
            found = find_runs([folder])
        except RunError:  # there is no run in it
            continue
        try:
            used |= {run.recipe().fingerprint[:16] for run in found if run.has_features}
        except RunError as error:
            raise StoreError(f"which of them runs use is not known: {error}") from error
    return used


def remove_store(store: Path) -> None:
    """Remove a store; killed half-way it is still one, and the rest goes next time. Raises ``OSError``."""
    for path in store.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "recipe.json":
            path.unlink()
    (store / "recipe.json").unlink()
    store.rmdir()


def _file(kind: str, path: Path, num_bytes: int) -> Garbage:
    return Garbage(kind, path, num_bytes, partial(path.unlink, missing_ok=True))


def _abandoned(folder: Path) -> Iterator[Garbage]:
    for path in find_abandoned(folder):
        with suppress(FileNotFoundError):  # a job that starts clears them too
            yield _file("left by a killed job", path, path.stat().st_size)


def _orphans(folders: Sequence[DatasetFolder], dataset: VideoDataset) -> Iterator[Garbage]:
    wanted = {video.video_id for video in dataset.videos}
    for folder in folders:
        for entry in list_entries(folder):
            if entry.video_id not in wanted:
                yield _file("video no longer in the dataset", entry.path, entry.num_bytes)


def _untrue_lines(store: Path, folder: DatasetFolder) -> Iterator[Garbage]:
    """The log of a dataset, where it has lines of videos that have features since, or that failed once more since."""
    log = failure_log(store, folder.dataset)
    failures = {failure.video_id: failure for failure in read_failures(log)}  # the last one of each video
    if not log.exists():
        return
    size = log.stat().st_size
    written = {entry.video_id: entry.written for entry in list_entries(folder)}
    true = [failure for failure in failures.values() if written.get(failure.video_id, 0.0) <= failure.time]
    text = "".join(failure.line + "\n" for failure in sorted(true, key=lambda failure: failure.time))
    if len(text.encode()) < size:
        num_bytes = size - len(text.encode())
        yield Garbage("failures since mended or repeated", log, num_bytes, partial(_rewrite, log, text, size))


def _rewrite(log: Path, text: str, size: int) -> None:
    # A job that has added to it meanwhile keeps its lines: the next gc sees to them.
    if log.stat().st_size == size:
        write_text_atomically(log, text)
