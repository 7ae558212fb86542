"""What lies in a cache: its stores, their entries, their failures.

Lists folders and opens no entry, so that 100,000 of them take about a second.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from models.preprocessing import CENTER, VIEWS
from pipeline.cache.store import FeatureStore, StoreError
from pipeline.features.recipe import FeatureRecipe

NETWORKS = "onnx"  # exported networks, beside the stores
PACKED = "packed"  # copies for training, in a store beside the datasets
ENTRY_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class DatasetFolder:
    """The entries of one dataset, seen in one view, in one store."""

    dataset: str
    view: str
    path: Path


@dataclass(frozen=True)
class Entry:
    """One file of features, whole or not; ``written`` in seconds since the epoch."""

    video_id: str
    path: Path
    num_bytes: int
    written: float


@dataclass(frozen=True)
class Failure:
    """One line of an ``errors.jsonl``; ``time`` in seconds since the epoch."""

    video_id: str
    time: float
    line: str


def find_stores(cache: Path) -> tuple[list[Path], list[Path]]:
    """The folders of a cache that are stores, and those that are something else, in order of their names.

    Raises ``StoreError`` where ``cache`` is no folder.
    """
    if not cache.is_dir():
        raise StoreError(f"{cache} is not a folder. Name the folder that features were cached in with --cache.")
    stores: list[Path] = []
    others: list[Path] = []
    for folder in sorted(path for path in cache.iterdir() if path.is_dir() and path.name != NETWORKS):
        # The name too: a run's folder holds a recipe.json as well, and must not be cleared away as a store.
        is_store = re.fullmatch("[0-9a-f]{16}", folder.name) and (folder / "recipe.json").exists()
        (stores if is_store else others).append(folder)
    return stores, others


def read_recipe(store: Path) -> FeatureRecipe:
    """The recipe of the store in this folder. Raises ``StoreError`` where it can't be read or is another folder's."""
    path = store / "recipe.json"
    try:
        recipe = FeatureRecipe.from_json(path.read_text(encoding="utf-8"))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} can't be read ({error}): move {store} away and cache its videos again.") from error
    if recipe.fingerprint[:16] != store.name:
        raise StoreError(
            f"{path} is not the recipe that its folder is named by (that would be {recipe.fingerprint[:16]}): move "
            f"{store} away and cache its videos again."
        )
    return recipe


def open_store(store: Path) -> FeatureStore:
    """The store in this folder; raises as ``read_recipe`` does."""
    return FeatureStore(store.parent, read_recipe(store))


def select_stores(stores: list[Path], prefixes: tuple[str, ...]) -> list[Path]:
    """The stores whose fingerprints begin with one of ``prefixes``; all, where there is no prefix.

    Raises ``StoreError`` for a prefix that fits none.
    """
    for prefix in prefixes:
        if not any(store.name.startswith(prefix[:16]) for store in stores):
            there = ", ".join(store.name for store in stores) or "none"
            raise StoreError(f"no store's fingerprint begins with {prefix!r}. There are: {there}.")
    wanted = tuple(prefix[:16] for prefix in prefixes) or ("",)
    return [store for store in stores if store.name.startswith(wanted)]


def dataset_folders(store: Path) -> list[DatasetFolder]:
    """What the store holds, by dataset and view, in order."""
    found = []
    for path in sorted(child for child in store.iterdir() if child.is_dir() and child.name != PACKED):
        dataset, _, view = path.name.rpartition("@")
        is_view = bool(dataset) and view in VIEWS and view != CENTER
        found.append(DatasetFolder(dataset, view, path) if is_view else DatasetFolder(path.name, CENTER, path))
    return found


def list_entries(folder: DatasetFolder) -> Iterator[Entry]:
    """The entries of a dataset, in no order; what another process removes meanwhile is left out."""
    return _walk(str(folder.path), "")


def _walk(folder: str, prefix: str) -> Iterator[Entry]:
    with suppress(FileNotFoundError), os.scandir(folder) as children:
        for child in children:
            if child.is_dir():
                yield from _walk(child.path, f"{prefix}{child.name}/")
            elif child.name.endswith(ENTRY_SUFFIX):
                with suppress(FileNotFoundError):
                    status = child.stat()
                    video_id = prefix + child.name.removesuffix(ENTRY_SUFFIX)
                    yield Entry(video_id, Path(child.path), status.st_size, status.st_mtime)


def files_below(folder: Path) -> list[os.stat_result]:
    """Sizes and times of all files in a folder and the folders in it; none where there is no folder."""
    files = []
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a job at work publishes and removes files
                files.append(os.stat(os.path.join(path, name)))
    return files


def read_failures(log: Path) -> list[Failure]:
    """The lines of an ``errors.jsonl``, oldest first, but for torn ones; none where there is no file."""
    failures = []
    with suppress(FileNotFoundError):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(KeyError, TypeError, ValueError):
                values = json.loads(line)
                written = datetime.strptime(values["time"], "%Y-%m-%dT%H:%M:%S%z")
                failures.append(Failure(str(values["video_id"]), written.timestamp(), line))
    return failures


def failure_log(store: Path, dataset: str) -> Path:
    return store / dataset / "errors.jsonl"
