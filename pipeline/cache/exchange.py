"""Features as ``.npy`` or Parquet files: export ours for other tools, import other tools' for training.

python -m pipeline.cache export --dataset ucf101 --to DIR
python -m pipeline.cache export --dataset ucf101 --to FILE.parquet --format parquet
python -m pipeline.cache import --dataset ucf101 --from DIR --name dino
python train.py --dataset ucf101 --backbone imported:dino
"""

import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tyro

from data.atomic import remove_abandoned, write_atomically, write_text_atomically
from data.catalog import DataConfig, load_dataset
from data.command import parse_arguments
from data.errors import UserError
from data.identity import identify
from data.objects import Place, map_places
from data.progress import Progress
from data.records import VideoDataset, VideoRecord
from models.cnn.preprocessing import CENTER
from pipeline.cache.parquet import Row, write_parquet
from pipeline.cache.relink import locate
from pipeline.features.recipe import Origin, VideoFeatures, imported_recipe
from pipeline.store.listing import list_entries
from pipeline.store.store import (
    RECIPE,
    DamagedEntry,
    FeatureStore,
    NameTooLongError,
    StoreError,
    dataset_folders,
    find_stores,
    open_store,
    select_stores,
)

EXAMPLES = 3


class ExchangeError(UserError):
    """Features can't be exported or imported. The message says which, where and what to do."""


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
class ImportArguments:
    """Import features that another tool made, to train on them with --backbone imported:NAME.

    The video files are not needed. The file of a video is DIR/<video_id>.npy. If no other video matches the same file,
    DIR/<video_id without extension>.npy or DIR/<file name without extension>.npy is accepted too, and so is
    DIR/<class>/<file name without extension>.npy if the video_id has no folder (ucf101). It contains an array
    [frames, features], or [features] for one frame, of any float type, with finite values in the range of float16.
    """

    source: Annotated[Path, tyro.conf.arg(name="from")]
    """folder with the .npy files"""
    name: str
    """name of these features, for --backbone imported:NAME"""
    data: DataConfig = field(default_factory=DataConfig)
    cache: Place = Path("cache")
    """the feature store"""


@dataclass(frozen=True)
class ExportSummary:
    """The result of an export: videos without features, and the reason for each damaged entry."""

    num_exported: int
    missing: tuple[str, ...]
    damaged: dict[str, str]


@dataclass(frozen=True)
class ImportSummary:
    """The result of an import: videos without a file, and the reason for each unusable file."""

    num_imported: int
    feature_dim: int
    missing: tuple[str, ...]
    refused: dict[str, str]
    store: str


def export_command(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 if some videos have no features or damaged ones. These are named on standard error."""
    options = parse_arguments(ExportArguments, arguments, prog="python -m pipeline.cache export")
    dataset = load_dataset(options.data)
    store = find_store(options.cache, dataset, options.fingerprint)
    summary = (export_parquet if options.format == "parquet" else export_features)(store, dataset, options.to)
    _print_problems("damaged", summary.damaged)
    if summary.missing:
        print(f"{_examples(summary.missing)}: no features in {store.folder}. Cache them first", file=sys.stderr)
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
        _write_npy(folder / f"{video.video_id}.npy", features.features)
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


def _write_npy(path: Path, features: npt.NDArray[np.float16]) -> None:
    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, np.save would append .npy to its name
            np.save(file, features, allow_pickle=False)

    write_atomically(path, save)


def import_command(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 if some videos have no file or an unusable one. These are named on standard error."""
    options = parse_arguments(ImportArguments, arguments, prog="python -m pipeline.cache import")
    dataset = load_dataset(options.data)
    summary = import_features(options.source, dataset, options.name, options.cache)
    _print_problems("refused", summary.refused)
    if summary.missing:
        looked_for = _looked_for(dataset, summary.missing[0])
        print(
            f"{_examples(summary.missing)}: no file in {options.source}. Looked for {looked_for}, ...", file=sys.stderr
        )
    counts = {"num_missing": len(summary.missing), "num_refused": len(summary.refused)}
    facts = {"feature_dim": summary.feature_dim, "store": summary.store}
    print(json.dumps({"num_imported": summary.num_imported} | counts | facts))
    return 1 if summary.missing or summary.refused else 0


def import_features(source: Path, dataset: VideoDataset, name: str, cache: Place) -> ImportSummary:
    """Store the features in the ``.npy`` files of ``source`` under ``name``.

    They replace a video's earlier features of that name, which are also removed if the new file is refused. Earlier
    features of videos without a file are kept. If the import is interrupted, nothing is read from the dataset's
    features until it has been repeated.

    Raises:
        ExchangeError: there is no file, an array has the wrong shape or type, or the files differ in feature_dim. Then
            nothing is stored.
        StoreError: the store can't be written.
    """
    files = match_files(source, dataset)
    if not files:
        looked_for = _looked_for(dataset, dataset.videos[0].video_id)
        raise ExchangeError(f"no file of any video of {dataset.name} in {source}. Looked for {looked_for}, ...")
    recipe = imported_recipe(name)
    feature_dim = _common_feature_dim(files)
    store = FeatureStore(cache, recipe)
    folder = locate(store, dataset)
    missing = [video for video in dataset.videos if video.video_id not in files]
    _check_earlier(store, folder, missing, feature_dim)
    refused = {}

    def store_one(video: VideoRecord) -> str | None:
        path = files[video.video_id]
        try:
            store.write(folder, video.video_id, _imported(read_npy(path), video.path))
        except (ExchangeError, NameTooLongError) as error:
            if isinstance(error, ExchangeError):
                store.remove(folder, video.video_id)
            store.note_failure(folder, video.video_id, path, str(error))
            return str(error)
        return None

    videos = [video for video in dataset.videos if video.video_id in files]
    with (
        store.importing(folder),
        closing(Progress(total=len(files), unit="video", what="importing")) as progress,
    ):
        for video, refusal in zip(videos, map_places(store.folder, store_one, videos), strict=True):
            if refusal is not None:
                refused[video.video_id] = refusal
            progress.advance(refused=len(refused))
    return ImportSummary(
        num_imported=len(files) - len(refused),
        feature_dim=feature_dim,
        missing=tuple(video.video_id for video in missing),
        refused=refused,
        store=str(store.folder),
    )


def match_files(source: Path, dataset: VideoDataset) -> dict[str, Path]:
    """The files by ``video_id``, for the videos that have one. A short name must match one video only.

    Raises ``ExchangeError`` if ``source`` is not a folder.
    """
    if not source.is_dir():
        raise ExchangeError(f"{source} is not a folder. Pass the folder with the .npy files as --from.")
    names = {video.video_id: _names_for(video.video_id, dataset.classes[video.label]) for video in dataset.videos}
    num_matches = Counter(name for candidates in names.values() for name in candidates)
    files = {}
    for video_id, candidates in names.items():
        usable = [name for name in candidates if name == video_id or num_matches[name] == 1]
        paths = [path for path in (source / f"{name}.npy" for name in usable) if os.path.isfile(path)]
        if paths:
            files[video_id] = paths[0]
    return files


def _names_for(video_id: str, class_name: str) -> list[str]:
    """Accepted names of a video's file, without .npy, best first."""
    stem = PurePosixPath(video_id).with_suffix("")
    names = [video_id, str(stem), stem.name]
    if stem.name == str(stem):  # no folder
        names.append(f"{class_name}/{stem}")
    return list(dict.fromkeys(names))


def _looked_for(dataset: VideoDataset, video_id: str) -> str:
    label = next(video.label for video in dataset.videos if video.video_id == video_id)
    return ", ".join(f"{name}.npy" for name in _names_for(video_id, dataset.classes[label]))


def _common_feature_dim(files: Mapping[str, Path]) -> int:
    """The feature_dim of all files, from their headers.

    Raises ``ExchangeError`` if they differ, or if files are unusable: the message names each.
    """
    paths_by_dim: dict[int, list[Path]] = {}
    unusable = []
    for path in files.values():
        try:
            paths_by_dim.setdefault(_open_npy(path).shape[-1], []).append(path)
        except ExchangeError as error:
            unusable.append(str(error))
    if unusable:
        reasons = "\n".join(unusable)
        raise ExchangeError(
            f"{reasons}\nNothing was imported. Correct or remove {len(unusable)} of {len(files)} files."
        )
    if len(paths_by_dim) > 1:
        listed = ", ".join(f"{dim} (in {len(paths)}, e.g. {paths[0]})" for dim, paths in paths_by_dim.items())
        raise ExchangeError(f"the features of all videos must have the same size, but these have {listed}")
    return next(iter(paths_by_dim))


def _open_npy(path: Path) -> npt.NDArray[np.floating]:
    """Memory-map an array. Raises ``ExchangeError`` if it can't be read, or its type, shape or length is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote, and escapes in damaged ones
            array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r")
        num_left = path.stat().st_size - array.offset - array.nbytes
    except Exception as error:  # NumPy raises many types for damaged headers, such as TokenError and MemoryError
        reason = " ".join(str(error).split())[:200]  # NumPy quotes the header, which may be long
        raise ExchangeError(f"{path} can't be read as .npy: {reason or type(error).__name__}") from error
    if not np.issubdtype(array.dtype, np.floating):
        raise ExchangeError(
            f"{path} contains {array.dtype}, but features are floating point: save them as float16 or float32."
        )
    if array.ndim not in (1, 2) or array.size == 0:
        raise ExchangeError(
            f"{path} has shape {list(array.shape)}, but features are [frames, features], at least one of each, or "
            "[features]. Average or flatten other axes first."
        )
    if num_left:
        raise ExchangeError(
            f"{path} has {num_left} bytes more than its header's {array.dtype} {list(array.shape)} needs: the header "
            "is damaged, or two arrays are in one file."
        )
    return array


def read_npy(path: Path) -> npt.NDArray[np.float16]:
    """Read the features in one file, float16 ``[num_frames, feature_dim]``; ``[feature_dim]`` is one frame.

    Raises ``ExchangeError`` if the type or shape is wrong, or a value is not finite in float16.
    """
    array = np.atleast_2d(_open_npy(path))
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(array, dtype=np.float16)
    if not np.isfinite(features).all():
        largest = np.abs(array).max()
        if np.isfinite(largest):
            raise ExchangeError(f"{path} contains {largest:g}, beyond float16 (65504): scale the features")
        raise ExchangeError(f"{path} contains NaN or infinity")
    return features


def _imported(features: npt.NDArray[np.float16], video: Path) -> VideoFeatures:
    num_frames = len(features)
    origin = Origin(0.0, num_frames, num_frames, source_bytes=0, decoder="imported", runtime="imported")
    with suppress(OSError):  # the video need not be there
        origin = origin.of_file(identify(video))
    return VideoFeatures(features, np.arange(num_frames, dtype=np.int32), origin)


def _check_earlier(store: FeatureStore, dataset: str, videos: Sequence[VideoRecord], feature_dim: int) -> None:
    """Raise ``ExchangeError`` if these videos have features of another size, which would be mixed with the new ones."""
    listed = store.listed(dataset, {video.video_id for video in videos})
    for video in videos:
        if video.video_id not in listed:
            continue
        try:
            earlier = store.read(dataset, video.video_id)
        except DamagedEntry:
            continue
        if earlier is not None and earlier.features.shape[1] != feature_dim:
            raise ExchangeError(
                f"{video.video_id} has features of size {earlier.features.shape[1]} from an earlier import under this "
                f"name, but no file now; the new files have size {feature_dim}. Choose another --name."
            )


def _print_problems(what: str, problems: Mapping[str, str]) -> None:
    for video_id, reason in problems.items():
        print(f"{what}: {video_id}: {reason}", file=sys.stderr)


def _examples(video_ids: Sequence[str]) -> str:
    more = ", ..." if len(video_ids) > EXAMPLES else ""
    return f"{len(video_ids)} videos ({', '.join(video_ids[:EXAMPLES])}{more})"
