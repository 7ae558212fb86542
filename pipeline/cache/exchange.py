"""Features as ``<video>.npy`` ``[T, D]``: ours for use elsewhere, and other tools' to be trained on.

python -m pipeline.cache export --dataset ucf101 --to DIR
python -m pipeline.cache import --dataset ucf101 --from DIR --name dino
python train.py --dataset ucf101 --backbone imported:dino
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from data.atomic import remove_abandoned, write_atomically, write_text_atomically
from data.catalog import DataConfig, load_dataset
from data.errors import UserError
from data.progress import Progress
from data.records import VideoDataset, VideoRecord
from models.preprocessing import CENTER
from pipeline.cache.inventory import dataset_folders, find_stores, list_entries, open_store, select_stores
from pipeline.cache.store import DamagedEntry, FeatureStore
from pipeline.features.recipe import Origin, VideoFeatures, imported_recipe

FEW = 3


class ExchangeError(UserError):
    """Features can't be exported or imported as asked. The message says which, where and what to do."""


@dataclass(frozen=True)
class ExportArguments:
    """Write the features of a dataset's videos as DIR/<video_id>.npy, float16 [frames, features]."""

    to: Path
    """folder to write into"""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    cache: Path = Path("cache")
    """the feature store"""
    fingerprint: str = ""
    """which features, where several kinds are cached: how their fingerprint begins (see status)"""


@dataclass(frozen=True)
class ImportArguments:
    """Store features that another tool made, to train on them with --backbone imported:NAME.

    For each video of the dataset DIR/<video_id>.npy is taken; or DIR/<video_id without its ending>.npy, or
    DIR/<the file's name without its ending>.npy, where no other video could mean the same file. It holds [frames,
    features] of any float type, or [features]; finite, and within float16.
    """

    source: Annotated[Path, tyro.conf.arg(name="from")]
    """folder with the .npy files"""
    name: str
    """what to call these features; they are trained on with --backbone imported:NAME"""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    cache: Path = Path("cache")
    """the feature store"""


@dataclass(frozen=True)
class ExportSummary:
    """What an export did. ``missing`` videos have no features; ``damaged`` ones an entry that is, and why."""

    num_exported: int
    missing: tuple[str, ...]
    damaged: dict[str, str]


@dataclass(frozen=True)
class ImportSummary:
    """What an import did. ``missing`` videos have no file; ``refused`` ones have one that won't do, and why."""

    num_imported: int
    feature_dim: int
    missing: tuple[str, ...]
    refused: dict[str, str]
    store: str


def export_command(arguments: Sequence[str]) -> int:
    """0: all are written; 1: some videos have no features, or damaged ones, and are named."""
    asked = tyro.cli(ExportArguments, args=list(arguments), prog="python -m pipeline.cache export")
    dataset = load_dataset(asked.data)
    store = find_store(asked.cache, dataset, asked.fingerprint)
    summary = export_features(store, dataset, asked.to)
    _name("damaged", summary.damaged)
    if summary.missing:
        print(f"{_few(summary.missing)}: no features in {store.folder}: cache them first", file=sys.stderr)
    counts = {"num_missing": len(summary.missing), "num_damaged": len(summary.damaged), "store": str(store.folder)}
    print(json.dumps({"num_exported": summary.num_exported} | counts))
    return 1 if summary.missing or summary.damaged else 0


def find_store(cache: Path, dataset: VideoDataset, fingerprint: str = "") -> FeatureStore:
    """The one store whose fingerprint begins so and that holds features of the dataset.

    Raises:
        ExchangeError: there is none, or more than one.
        StoreError: ``cache`` is no folder, or no fingerprint begins so.
    """
    candidates = select_stores(find_stores(cache)[0], (fingerprint,) if fingerprint else ())
    holding = [store for store in candidates if _holds(store, dataset.store_name)]
    if not holding:
        where = f"{cache} under {fingerprint}" if fingerprint else str(cache)
        raise ExchangeError(
            f"no features of {dataset.store_name} in {where}. Cache them first, with python -m pipeline.cache; what "
            "there is: python -m pipeline.cache status."
        )
    if len(holding) > 1:
        recipes = ((store.name, open_store(store).recipe) for store in holding)
        listed = ", ".join(f"{name} ({recipe.backbone} {recipe.sampling})" for name, recipe in recipes)
        raise ExchangeError(
            f"several kinds of features of {dataset.store_name}: choose by --fingerprint one of {listed}"
        )
    return open_store(holding[0])


def _holds(store: Path, dataset: str) -> bool:
    folders = [f for f in dataset_folders(store) if (f.dataset, f.view) == (dataset, CENTER)]
    return any(True for folder in folders for _ in list_entries(folder))


def export_features(store: FeatureStore, dataset: VideoDataset, folder: Path) -> ExportSummary:
    """Write ``folder/<video_id>.npy``, float16 ``[num_frames, feature_dim]`` of the centre view, and ``recipe.json``.

    Raises:
        ExchangeError: the folder holds the features of another recipe.
        OSError: it can't be written.
    """
    description = folder / "recipe.json"
    recipe = store.recipe.to_json()
    if description.exists() and description.read_bytes() != recipe.encode():
        raise ExchangeError(f"{folder} holds features made otherwise ({description}). Name another folder with --to.")
    remove_abandoned(folder)
    write_text_atomically(description, recipe)
    missing: list[str] = []
    damaged: dict[str, str] = {}
    with closing(Progress(total=len(dataset.videos), unit="video", what="exporting")) as progress:
        for video in dataset.videos:
            try:
                found = store.read(dataset.store_name, video.video_id)
            except DamagedEntry as error:
                damaged[video.video_id] = str(error)
            else:
                if found is None:
                    missing.append(video.video_id)
                else:
                    _write_npy(folder / f"{video.video_id}.npy", found.features)
            progress.advance(failed=len(missing) + len(damaged))
    return ExportSummary(len(dataset.videos) - len(missing) - len(damaged), tuple(missing), damaged)


def _write_npy(path: Path, features: npt.NDArray[np.float16]) -> None:
    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # np.save gives a path without it the ending .npy
            np.save(file, features, allow_pickle=False)

    write_atomically(path, save)


def import_command(arguments: Sequence[str]) -> int:
    """0: every video has features now; 1: some have none, or unusable ones, and are named."""
    asked = tyro.cli(ImportArguments, args=list(arguments), prog="python -m pipeline.cache import")
    dataset = load_dataset(asked.data)
    summary = import_features(asked.source, dataset, asked.name, asked.cache)
    _name("refused", summary.refused)
    if summary.missing:
        looked_for = _looked_for(summary.missing[0])
        print(f"{_few(summary.missing)}: no file in {asked.source}. Looked for {looked_for} ...", file=sys.stderr)
    counts = {"num_missing": len(summary.missing), "num_refused": len(summary.refused)}
    facts = {"feature_dim": summary.feature_dim, "store": summary.store}
    print(json.dumps({"num_imported": summary.num_imported} | counts | facts))
    return 1 if summary.missing or summary.refused else 0


def import_features(source: Path, dataset: VideoDataset, name: str, cache: Path) -> ImportSummary:
    """Store the features in ``source``'s ``.npy`` files as those of the dataset's videos, called ``name``.

    A video's earlier features of that name are replaced; where its new file is refused, they are removed. Of the
    videos without a file they stay.

    Raises:
        ExchangeError: no file, an array of another shape or type, or not the same feature_dim in all. Nothing is
            stored then.
        StoreError: the store can't be written.
    """
    files = match_files(source, dataset.videos)
    if not files:
        looked_for = _looked_for(dataset.videos[0].video_id)
        raise ExchangeError(f"no file of any video of {dataset.name} in {source}. Looked for {looked_for} ...")
    recipe = imported_recipe(name)
    feature_dim = _common_feature_dim(files)
    store = FeatureStore(cache, recipe)
    missing = [video for video in dataset.videos if video.video_id not in files]
    _check_earlier(store, dataset.store_name, missing, feature_dim)
    refused = {}
    with closing(Progress(total=len(files), unit="video", what="importing")) as progress:
        for video in dataset.videos:
            if video.video_id not in files:
                continue
            path = files[video.video_id]
            try:
                features = read_npy(path)
            except ExchangeError as error:
                refused[video.video_id] = str(error)
                store.remove(dataset.store_name, video.video_id)
                store.note_failure(dataset.store_name, video.video_id, path, str(error))
            else:
                store.write(dataset.store_name, video.video_id, _imported(features, video.path))
            progress.advance(refused=len(refused))
    return ImportSummary(
        num_imported=len(files) - len(refused),
        feature_dim=feature_dim,
        missing=tuple(video.video_id for video in missing),
        refused=refused,
        store=str(store.folder),
    )


def match_files(source: Path, videos: Sequence[VideoRecord]) -> dict[str, Path]:
    """The file of each video that has one, by ``video_id``. A short name is taken where only one video could mean it.

    Raises ``ExchangeError`` where ``source`` is no folder.
    """
    if not source.is_dir():
        raise ExchangeError(f"{source} is not a folder. Name the one with the .npy files with --from.")
    names = {video.video_id: _names_for(video.video_id) for video in videos}
    meant_by = Counter(name for of_one in names.values() for name in of_one)
    files = {}
    for video_id, of_one in names.items():
        usable = [name for name in of_one if name == video_id or meant_by[name] == 1]
        paths = [path for path in (source / f"{name}.npy" for name in usable) if path.is_file()]
        if paths:
            files[video_id] = paths[0]
    return files


def _names_for(video_id: str) -> list[str]:
    """What a video's file may be called, without .npy, the surest first."""
    without_ending = PurePosixPath(video_id).with_suffix("")
    return list(dict.fromkeys([video_id, str(without_ending), without_ending.name]))


def _looked_for(video_id: str) -> str:
    return ", ".join(f"{name}.npy" for name in _names_for(video_id))


def _common_feature_dim(files: Mapping[str, Path]) -> int:
    """The size of all files' features, by their headers. Raises ``ExchangeError`` unless there is one."""
    of_dim: dict[int, list[Path]] = {}
    for path in files.values():
        of_dim.setdefault(_open_npy(path).shape[-1], []).append(path)
    if len(of_dim) > 1:
        listed = ", ".join(f"{dim} (in {len(paths)}, e.g. {paths[0]})" for dim, paths in of_dim.items())
        raise ExchangeError(f"the features of all videos must have one size; here they have {listed}")
    return next(iter(of_dim))


def _open_npy(path: Path) -> npt.NDArray[np.floating]:
    """The array, memory-mapped and of the right kind; raises ``ExchangeError``."""
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise ExchangeError(f"{path} can't be read as .npy: {error}") from error
    if not np.issubdtype(array.dtype, np.floating):
        raise ExchangeError(
            f"{path} holds {array.dtype}; features are floating point: save them as float16 or float32."
        )
    if array.ndim not in (1, 2) or array.size == 0:
        raise ExchangeError(
            f"{path} holds {list(array.shape)}; features are [frames, features], at least one of each, or [features]. "
            "Average or flatten other axes first."
        )
    return array


def read_npy(path: Path) -> npt.NDArray[np.float16]:
    """The features in one file, float16 ``[num_frames, feature_dim]``; ``[feature_dim]`` is one frame.

    Raises ``ExchangeError`` where it is no such array, or holds a number that is not finite in float16.
    """
    array = np.atleast_2d(_open_npy(path))
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(array, dtype=np.float16)
    if not np.isfinite(features).all():
        largest = np.abs(array).max()
        what = f"{largest:g}, beyond float16 (65504): scale them" if np.isfinite(largest) else "NaN or infinity"
        raise ExchangeError(f"{path} holds {what}")
    return features


def _imported(features: npt.NDArray[np.float16], video: Path) -> VideoFeatures:
    num_frames = len(features)
    source_bytes = video.stat().st_size if video.exists() else 0
    origin = Origin(0.0, num_frames, num_frames, source_bytes, decoder="imported", runtime="imported")
    return VideoFeatures(features, np.arange(num_frames, dtype=np.int32), origin)


def _check_earlier(store: FeatureStore, dataset: str, videos: Sequence[VideoRecord], feature_dim: int) -> None:
    """Raises ``ExchangeError`` where features of another size would stay beside the new ones."""
    for video in videos:
        try:
            earlier = store.read(dataset, video.video_id)
        except DamagedEntry:
            continue
        if earlier is not None and earlier.features.shape[1] != feature_dim:
            raise ExchangeError(
                f"{video.video_id} has features of size {earlier.features.shape[1]} from an earlier import under this "
                f"name and no file among these, which have {feature_dim}. Give another --name."
            )


def _name(what: str, problems: Mapping[str, str]) -> None:
    for video_id, reason in problems.items():
        print(f"{what}: {video_id}: {reason}", file=sys.stderr)


def _few(video_ids: Sequence[str]) -> str:
    return f"{len(video_ids)} videos ({', '.join(video_ids[:FEW])}{' ...' if len(video_ids) > FEW else ''})"
