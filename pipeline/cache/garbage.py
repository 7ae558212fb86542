"""Find files in a cache that nothing needs any more, each with the function that removes it."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from data.atomic import find_abandoned, write_text_atomically
from data.catalog import SEQUENCE_TASKS
from data.objects import ObjectPath, Place, local_folder, map_places
from data.records import VideoDataset
from models.cnn.preprocessing import CENTER
from pipeline.cache.relink import locate
from pipeline.features.recipe import IMPORTED, FeatureRecipe
from pipeline.settings.config import ConfigError
from pipeline.store.archives import stray_indices
from pipeline.store.listing import DatasetFolder, list_entries, video_id_of
from pipeline.store.packed import stale_files
from pipeline.store.store import (
    NETWORKS,
    RECIPE,
    FeatureStore,
    StoreError,
    dataset_folders,
    errors_path,
    file_statuses,
    find_stores,
    open_store,
    read_failures,
)

SECONDS_PER_DAY = 24 * 3600
_OUTDATED = "failures since fixed or repeated"


@dataclass(frozen=True)
class Garbage:
    """A file or folder that can be deleted; ``remove`` raises ``OSError``."""

    kind: str
    path: Place
    num_bytes: int
    remove: Callable[[], None]


@dataclass(frozen=True)
class Findings:
    """The garbage; and ``notes`` on files that may be garbage but are kept, with the reason."""

    garbage: list[Garbage]
    notes: list[str]


def find_garbage(
    cache: Place, runs: Sequence[Path], keep_days: float, dataset: VideoDataset | None, imported: Sequence[str] = ()
) -> Findings:
    """Find everything that nothing needs any more. Changes nothing.

    Args:
        runs: folders of runs. The stores that these runs use are kept.
        keep_days: stores written to and networks used within this many days are kept.
        dataset: if given, its entries for videos that it no longer contains are garbage.
        imported: names of imported features, which are garbage under the same conditions as others. All others that
            were imported are kept, because no job can make them again.

    Raises:
        StoreError: ``cache`` is not a folder, or ``keep_days`` is negative.
    """
    if not keep_days >= 0:
        raise StoreError(f"--keep-days must be at least 0, not {keep_days:g}")
    oldest_in_use = time.time() - keep_days * SECONDS_PER_DAY
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
        name = store.recipe.backbone.removeprefix(IMPORTED)
        is_kept = store.recipe.is_imported and name not in imported
        files = file_statuses(folder)
        if used is not None and folder.name not in used and max(file.st_mtime for file in files) < oldest_in_use:
            if is_kept:
                notes.append(f"{folder}: no job can make imported features again. --imported {name} removes them")
                continue
            kind = f"unused store: {store.recipe.backbone} {store.recipe.sampling}"
            garbage.append(Garbage(kind, folder, sum(file.st_size for file in files), partial(remove_store, folder)))
            continue
        garbage += _abandoned(local_folder(folder))
        parts = dataset_folders(folder)
        if dataset is not None and not is_kept:
            name = locate(store, dataset)
            garbage += _orphans(store, [part for part in parts if part.dataset == name], dataset)
        garbage += [index for part in parts for index in _stray_indices(part)]
        garbage += [_file("stale packed copy", path, path.stat().st_size) for path in stale_files(store)]
        garbage += [log for part in parts if part.view == CENTER for log in _outdated_lines(folder, part)]
    networks = local_folder(cache) / NETWORKS
    garbage += _abandoned(networks)
    for network in sorted(networks.glob("*.onnx")):
        status = network.stat()
        if max(status.st_atime, status.st_mtime) < oldest_in_use:
            garbage.append(_file("unused network", network, status.st_size))
    return Findings(garbage, notes)


def stores_used_by(runs: Sequence[Path]) -> set[str]:
    """Names of the stores whose features the runs under the folders ``runs`` were trained on.

    A run is a folder with a ``config.yaml``. One without a ``recipe.json`` beside it uses no store if its config names
    a task without video.

    Raises ``StoreError`` if the stores can't be determined: a folder does not exist, or a recipe can't be read.
    """
    used = set()
    for folder in runs:
        if not folder.is_dir():
            raise StoreError(f"can't tell which of them runs use, because {folder} is not a folder. Set --runs")
        for config in folder.rglob("config.yaml"):
            recipe = config.with_name(RECIPE)
            if not recipe.exists() and _is_sequence_task(config):
                continue
            try:
                used.add(FeatureRecipe.read(recipe).folder_name)
            except ConfigError as error:
                raise StoreError(f"can't tell which of them runs use: {error}. Train that run again") from error
    return used


def _is_sequence_task(config: Path) -> bool:
    try:
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(settings, dict) and settings.get("dataset") in SEQUENCE_TASKS


def remove_store(store: Place) -> None:
    """Remove a store, its recipe last: if interrupted, it is still a store, and the next gc removes the rest.

    Raises ``OSError``.
    """
    if isinstance(store, ObjectPath):
        shutil.rmtree(local_folder(store), ignore_errors=True)
        objects = (found.path for found in store.walk() if found.path != store / RECIPE)
        for _ in map_places(store, ObjectPath.unlink, objects):
            pass
        (store / RECIPE).unlink()
        return
    for path in store.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != RECIPE:
            path.unlink()
    (store / RECIPE).unlink()
    store.rmdir()


def _file(kind: str, path: Place, num_bytes: int) -> Garbage:
    return Garbage(kind, path, num_bytes, partial(path.unlink, missing_ok=True))


def _abandoned(folder: Path) -> Iterator[Garbage]:
    for path in find_abandoned(folder):
        with suppress(FileNotFoundError):  # a job that starts removes them too
            yield _file("left by a killed job", path, path.stat().st_size)


def _stray_indices(folder: DatasetFolder) -> Iterator[Garbage]:
    for path in stray_indices(folder.path):
        with suppress(FileNotFoundError):
            status = path.stat()
            if status.st_mtime < time.time() - SECONDS_PER_DAY:  # a younger one may get its archive any moment
                yield _file("left by a killed job", path, status.st_size)


def _orphans(store: FeatureStore, folders: Sequence[DatasetFolder], dataset: VideoDataset) -> Iterator[Garbage]:
    kind = "video no longer in the dataset"
    video_ids = {video.video_id for video in dataset.videos}
    for folder in folders:
        archives = store.archives(folder.dataset, folder.view)
        archived = []
        for entry in list_entries(folder):
            if entry.video_id not in video_ids:
                if entry.archive is not None:
                    archived.append(entry)
                else:
                    yield _file(kind, entry.path, entry.num_bytes)
        if archived:  # an index is written once for all of them; their space is free after the next compact
            remove = partial(archives.remove, *(entry.video_id for entry in archived))
            num_bytes = sum(entry.num_bytes for entry in archived)
            yield Garbage(f"{len(archived)} videos no longer in the dataset", archives.folder, num_bytes, remove)


def _outdated_lines(store: Place, folder: DatasetFolder) -> Iterator[Garbage]:
    """The dataset's ``errors.jsonl``, if it has lines of videos that were stored or failed again since."""
    log = errors_path(store, folder.dataset)
    if isinstance(log, ObjectPath):
        yield from _outdated_objects(log, folder)
        return
    last_failures = {failure.video_id: failure for failure in read_failures(log)}
    if not log.exists():
        return
    size = log.stat().st_size
    written = {entry.video_id: entry.written for entry in list_entries(folder)}
    kept = [failure for failure in last_failures.values() if written.get(failure.video_id, 0.0) <= failure.time]
    text = "".join(failure.line + "\n" for failure in sorted(kept, key=lambda failure: failure.time))
    num_bytes = size - len(text.encode())
    if num_bytes > 0:
        yield Garbage(_OUTDATED, log, num_bytes, partial(_rewrite, log, text, size))


def _outdated_objects(log: ObjectPath, folder: DatasetFolder) -> Iterator[Garbage]:
    failures = list(log.walk())
    written = {entry.video_id: entry.written for entry in list_entries(folder)} if failures else {}
    for failure in failures:
        if written.get(video_id_of(failure, log), 0.0) > failure.st_mtime:
            yield _file(_OUTDATED, failure.path, failure.st_size)


def _rewrite(log: Path, text: str, size: int) -> None:
    # If a job has appended lines meanwhile, leave the log to the next gc.
    if log.stat().st_size == size:
        write_text_atomically(log, text)
