"""Features as ``.npy`` or Parquet files, for other tools.

python -m pipeline.cache export --dataset ucf101 --to DIR
python -m pipeline.cache export --dataset ucf101 --to FILE.parquet --format parquet
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data.atomic import remove_abandoned, write_text_atomically
from data.catalog import DataConfig, load_dataset
from data.command import parse_arguments
from data.objects import Place, map_places
from data.progress import Progress
from data.records import VideoDataset, VideoRecord
from models.cnn.preprocessing import CENTER
from pipeline.cache.exchange import ExchangeError, examples, print_problems, write_npy
from pipeline.cache.parquet import Row, write_parquet
from pipeline.cache.relink import locate
from pipeline.features.recipe import VideoFeatures
from pipeline.store.listing import list_entries
from pipeline.store.store import (
    RECIPE,
    DamagedEntry,
    FeatureStore,
    StoreError,
    dataset_folders,
    find_stores,
    open_store,
    select_stores,
)


@dataclass(frozen=True)
class ExportArguments:
    """Export the features of a dataset's videos.

    As npy, to DIR/<video_id>.npy, float16 [frames, features]. As parquet, to one file with a row per video: video_id,
    label, group, frame_indices, features (float32 [frames, features]).
    """

    to: Path
    """folder to write to; with --format parquet, the file"""
    format: Literal["npy", "parquet"] = "npy"
    """parquet needs pip install -e '.[parquet]'"""
    data: DataConfig = field(default_factory=DataConfig)
    cache: Place = Path("cache")
    """the feature store"""
    fingerprint: str = ""
    """if several kinds of features are cached: the start of the fingerprint to export (see status)"""


@dataclass(frozen=True)
class ExportSummary:
    """The result of an export: videos without features, and the reason for each damaged entry."""

    num_exported: int
    missing: tuple[str, ...]
    damaged: dict[str, str]


def export_command(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 if some videos have no features or damaged ones. These are named on standard error."""
    options = parse_arguments(ExportArguments, arguments, prog="python -m pipeline.cache export")
    dataset = load_dataset(options.data)
    store = find_store(options.cache, dataset, options.fingerprint)
    summary = (export_parquet if options.format == "parquet" else export_features)(store, dataset, options.to)
    print_problems("damaged", summary.damaged)
    if summary.missing:
        print(f"{examples(summary.missing)}: no features in {store.folder}. Cache them first", file=sys.stderr)
    counts = {"num_missing": len(summary.missing), "num_damaged": len(summary.damaged), "store": str(store.folder)}
    print(json.dumps({"num_exported": summary.num_exported} | counts))
    return 1 if summary.missing or summary.damaged else 0


def find_store(cache: Place, dataset: VideoDataset, fingerprint: str = "") -> FeatureStore:
    """The only store that contains features of the dataset and whose fingerprint starts with ``fingerprint``.

    Raises:
        ExchangeError: there is no such store, or more than one.
        StoreError: ``cache`` is not a folder, or no fingerprint starts like this.
    """
    candidates = select_stores(find_stores(cache)[0], (fingerprint,) if fingerprint else ())
    found = []
    for folder in candidates:
        with suppress(StoreError):  # another store may be damaged
            store = open_store(folder)
            if _contains(folder, locate(store, dataset)):
                found.append(store)
    if not found:
        where = f"{cache} under {fingerprint}" if fingerprint else str(cache)
        raise ExchangeError(
            f"no features of {dataset.store_name} in {where}. Cache them first with python -m pipeline.cache, or see "
            "what is cached with python -m pipeline.cache status."
        )
    if len(found) > 1:
        listed = ", ".join(f"{store.folder.name} ({store.recipe.backbone} {store.recipe.sampling})" for store in found)
        raise ExchangeError(f"several kinds of features of {dataset.store_name}: set --fingerprint to one of {listed}")
    return found[0]


def _contains(store: Place, dataset: str) -> bool:
    folders = [f for f in dataset_folders(store) if (f.dataset, f.view) == (dataset, CENTER)]
    return any(True for folder in folders for _ in list_entries(folder))


def export_features(store: FeatureStore, dataset: VideoDataset, folder: Path) -> ExportSummary:
    """Write ``folder/<video_id>.npy``, float16 ``[num_frames, feature_dim]`` of the centre view, and ``recipe.json``.

    Raises:
        ExchangeError: the folder contains features of another recipe.
        OSError: the folder can't be written.
    """
    recipe_path = folder / RECIPE
    recipe = store.recipe.to_json()
    if recipe_path.exists() and recipe_path.read_bytes() != recipe.encode():
        raise ExchangeError(f"{folder} contains features of another recipe ({recipe_path}). Choose another --to.")
    remove_abandoned(folder)
    write_text_atomically(recipe_path, recipe)
    exported = _Exported(store, dataset)
    for video, features in exported.videos():
        write_npy(folder / f"{video.video_id}.npy", features.features)
    return exported.summary()


def export_parquet(store: FeatureStore, dataset: VideoDataset, path: Path) -> ExportSummary:
    """Write the features of the centre view as one Parquet file.

    Raises:
        ConfigError: pyarrow is not installed.
        OSError: the file can't be written.
    """
    exported = _Exported(store, dataset)
    rows = (
        Row(video.video_id, dataset.classes[video.label], video.group, features)
        for video, features in exported.videos()
    )
    write_parquet(path, store.recipe, rows)
    return exported.summary()


class _Exported:
    """The features of a dataset's videos, read one after another."""

    def __init__(self, store: FeatureStore, dataset: VideoDataset) -> None:
        self._store, self._dataset = store, dataset
        self._missing: list[str] = []
        self._damaged: dict[str, str] = {}

    def videos(self) -> Iterator[tuple[VideoRecord, VideoFeatures]]:
        name = locate(self._store, self._dataset)
        self._store.check_import(name)

        def read(video: VideoRecord) -> VideoFeatures | DamagedEntry | None:
            try:
                return self._store.read(name, video.video_id)
            except DamagedEntry as error:
                return error

        videos = self._dataset.videos
        with closing(Progress(total=len(videos), unit="video", what="exporting")) as progress:
            for video, found in zip(videos, map_places(self._store.folder, read, videos), strict=True):
                if isinstance(found, DamagedEntry):
                    self._damaged[video.video_id] = str(found)
                elif found is None:
                    self._missing.append(video.video_id)
                else:
                    yield video, found
                progress.advance(failed=len(self._missing) + len(self._damaged))

    def summary(self) -> ExportSummary:
        num_exported = len(self._dataset.videos) - len(self._missing) - len(self._damaged)
        return ExportSummary(num_exported, tuple(self._missing), self._damaged)
