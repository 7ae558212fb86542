"""Features that another tool made, as ``.npy`` files, for training.

python -m pipeline.cache import --dataset ucf101 --from DIR --name dino
python train.py --dataset ucf101 --backbone imported:dino
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
import numpy.typing as npt
import tyro

from data.catalog import DataConfig, load_dataset
from data.command import parse_arguments
from data.identity import identify
from data.objects import Place, map_places
from data.progress import Progress
from data.records import VideoDataset, VideoRecord
from pipeline.cache.exchange import ExchangeError, examples, open_npy, print_problems, read_npy
from pipeline.cache.relink import locate
from pipeline.features.recipe import Origin, VideoFeatures, imported_recipe
from pipeline.store.store import DamagedEntry, FeatureStore, NameTooLongError


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
class ImportSummary:
    """The result of an import: videos without a file, and the reason for each unusable file."""

    num_imported: int
    feature_dim: int
    missing: tuple[str, ...]
    refused: dict[str, str]
    store: str


def import_command(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 if some videos have no file or an unusable one. These are named on standard error."""
    options = parse_arguments(ImportArguments, arguments, prog="python -m pipeline.cache import")
    dataset = load_dataset(options.data)
    summary = import_features(options.source, dataset, options.name, options.cache)
    print_problems("refused", summary.refused)
    if summary.missing:
        looked_for = _looked_for(dataset, summary.missing[0])
        print(
            f"{examples(summary.missing)}: no file in {options.source}. Looked for {looked_for}, ...", file=sys.stderr
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
            paths_by_dim.setdefault(open_npy(path).shape[-1], []).append(path)
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
