"""Find the features of a dataset that was moved, copied or changed.

python -m pipeline.cache relink --dataset folder --root DIR     gather what lies under other names
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from data.catalog import DataConfig, load_dataset
from data.command import parse_arguments
from data.identity import identify, sample
from data.objects import ObjectPath, Place
from data.progress import Progress
from data.records import VideoDataset, VideoRecord
from models.cnn.preprocessing import CENTER
from pipeline.features.recipe import Match
from pipeline.store.listing import DatasetFolder, list_entries
from pipeline.store.store import DamagedEntry, FeatureStore, StoreError, dataset_folders, find_stores, open_store


def locate(store: FeatureStore, dataset: VideoDataset) -> str:
    """The name of the folder in a store that contains a dataset's features, or will.

    That is ``dataset.store_name``, except if there is no such folder yet, because videos were added or removed since,
    or an earlier version named the folder. Then it is the folder with the features of most videos of a sample. If no
    video file is there to compare, the ids decide.

    Raises ``StoreError`` if the ids fit several folders.
    """
    name, former = dataset.store_name, dataset.former_store_name
    if not former or (store.folder / name).is_dir():
        return name
    videos = sample(dataset.videos)
    by_content: list[tuple[int, str]] = []
    by_id, by_size = [], []
    for folder in (folder.dataset for folder in dataset_folders(store.folder) if folder.view == CENTER):
        origins = ((video, store.origin(folder, video.video_id)) for video in videos)
        count = Counter(origin.match(video.path) for video, origin in origins if origin is not None)
        num_same = count[Match.SAME]
        if folder == former:  # the path says what the features do not
            num_same += count[Match.SAME_SIZE] + count[Match.UNKNOWN]
        if num_same > count[Match.OTHER]:
            by_content.append((num_same, folder))
        elif count[Match.UNKNOWN] > len(videos) / 2:
            by_id.append(folder)
        elif count[Match.SAME_SIZE] > count[Match.OTHER]:
            by_size.append(folder)
    if by_content:
        return max(by_content)[1]
    if len(by_id) > 1:
        raise StoreError(
            f"there are no video files to tell which of the features in {store.folder} are those of {dataset.name}: "
            f"{' and '.join(by_id)} have features under the same names. Set --dataset-name to one of them."
        )
    if by_id:
        print(
            f"no video of {dataset.name} is there to compare: its features in {store.folder} are taken to be those in "
            f"{by_id[0]}, which have the same names (--dataset-name names others)",
            file=sys.stderr,
        )
        return by_id[0]
    if by_size:
        print(
            f"{store.folder} may contain features of {dataset.name} in {' and '.join(by_size)}: an earlier version "
            "recorded the size of each video only. If these are the same videos, python -m pipeline.cache relink",
            file=sys.stderr,
        )
    return name


@dataclass(frozen=True)
class RelinkArguments:
    """Gather the features of a dataset's videos that lie under other names in the store, because the dataset was moved
    or copied under an earlier version, which named features after the dataset's path.

    Features are copied if the video has the same relative path and the same content (an earlier version recorded its
    size only). What is left of the other folders is kept, unless --delete is set and they contain nothing else.
    """

    data: DataConfig = field(default_factory=DataConfig)
    cache: Place = Path("cache")
    """the feature store"""
    source: str | None = None
    """only from this folder of the store (see status), and also features of videos whose files are missing"""
    delete: bool = False
    """remove folders of which everything was copied, or was there twice; imported features are kept"""


@dataclass(frozen=True)
class Relinked:
    """What was found in one folder of a store.

    Attributes:
        num_copied: files of features, one per video and view.
        num_present: files of features that the dataset had already.
        num_different: files of features that are not those of the dataset, although the video has the same size.
        is_superseded: whether the folder contains nothing else.
    """

    folder: str
    num_copied: int
    num_present: int
    num_different: int
    is_superseded: bool
    removed: bool = False


def relink_command(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 if nothing was found or features differ."""
    options = parse_arguments(RelinkArguments, arguments, prog="python -m pipeline.cache relink")
    if isinstance(options.cache, ObjectPath):
        raise StoreError(
            f"relink works in a folder only, not in {options.cache}: no earlier version, which named features after "
            "the dataset's path, wrote to an object store. Relink before you copy a store there."
        )
    dataset = load_dataset(options.data)
    found = []
    for path in find_stores(options.cache)[0]:
        found += relink(open_store(path), dataset, options.source, options.delete)
    print(json.dumps({"dataset": dataset.store_name, "folders": [asdict(one) for one in found]}))
    if kept := [one.folder for one in found if one.is_superseded and not one.removed]:
        print(f"contain nothing else: {', '.join(kept)} (--delete removes them)", file=sys.stderr)
    if different := [one.folder for one in found if one.num_different]:
        print(
            f"contain other features of videos of the same size: {', '.join(different)}. If these are the right ones, "
            "start over with another --dataset-name and --source",
            file=sys.stderr,
        )
    return 0 if found and not different else 1


def relink(store: FeatureStore, dataset: VideoDataset, source: str | None, delete: bool) -> list[Relinked]:
    """Copy the features of the dataset's videos to ``dataset.store_name``; the result is by folder.

    Args:
        source: only from this folder, and then also if there is no video file to compare.
        delete: remove folders with nothing else, except imported features.

    Raises ``StoreError`` if the store can't be written.
    """
    accepted = {Match.SAME, Match.SAME_SIZE} | ({Match.UNKNOWN} if source else set())
    videos = {video.video_id: video for video in dataset.videos}
    names = {folder.dataset for folder in dataset_folders(store.folder)} - {dataset.store_name}
    found = []
    for name in sorted(names if source is None else names & {source}):
        store.check_import(name)
        folders = [folder for folder in dataset_folders(store.folder) if folder.dataset == name]
        entries = [(folder, entry.video_id) for folder in folders for entry in list_entries(folder)]
        count: Counter[str] = Counter()
        with closing(Progress(total=len(entries), unit="file", what=f"relinking {name}")) as progress:
            for folder, video_id in entries:
                if video_id in videos:
                    count[_copy(store, folder, videos[video_id], dataset.store_name, accepted)] += 1
                progress.advance(copied=count[COPIED])
        if count[COPIED] + count[PRESENT] + count[DIFFERENT]:
            is_superseded = count[COPIED] + count[PRESENT] == len(entries)
            removed = is_superseded and delete and not store.recipe.is_imported
            if removed:
                for folder in folders:
                    assert isinstance(folder.path, Path)
                    shutil.rmtree(folder.path)
            label = f"{store.folder.name}/{name}"
            counts = count[COPIED], count[PRESENT], count[DIFFERENT]
            found.append(Relinked(label, *counts, is_superseded, removed))
    return found


COPIED, PRESENT, DIFFERENT, UNRELATED = "copied", "present", "different", "unrelated"


def _copy(store: FeatureStore, folder: DatasetFolder, video: VideoRecord, target: str, accepted: set[Match]) -> str:
    """Copy one entry to the target if it is of the same video; returns what was done with it."""
    origin = store.origin(folder.dataset, video.video_id, folder.view)
    if origin is None or origin.match(video.path) not in accepted:
        return UNRELATED
    try:
        features = store.read(folder.dataset, video.video_id, folder.view)
        present = store.read(target, video.video_id, folder.view)
    except DamagedEntry as error:
        print(f"damaged: {error}", file=sys.stderr)
        return UNRELATED
    if features is None:
        return UNRELATED
    if present is not None and present.origin.match(video.path) is not Match.OTHER:
        is_same = origin.match(video.path) is Match.SAME and not store.recipe.is_imported
        return PRESENT if is_same or np.array_equal(features.features, present.features) else DIFFERENT
    with suppress(OSError):  # the file may be missing
        features = replace(features, origin=features.origin.of_file(identify(video.path)))
    store.write(target, video.video_id, features, folder.view)
    return COPIED
