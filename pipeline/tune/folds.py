"""The videos to tune on, in folds of whole groups."""

import warnings
from collections.abc import Sequence

import numpy as np

from data.catalog import DataConfig
from data.records import DatasetError, VideoDataset, VideoRecord


def videos_to_tune_on(
    dataset: VideoDataset, config: DataConfig, splits: Sequence[str], half: str | None
) -> tuple[VideoRecord, ...]:
    """The videos that training may see: never a test video of an official or given list, nor a held-out group.

    These are the split's training and validation videos. Where the split is only drawn at random (``--dataset folder``
    without a list), they are all videos.

    Args:
        splits: the split's name, or nothing for the first one.
        half: ``"first"`` or ``"second"``: only the videos of one half of the groups. The halves share no group.
    """
    if not dataset.splits:
        raise DatasetError(f"{dataset.name} has no labels. Use --dataset folder for labelled videos.")
    split = dataset.split(splits[0] if splits else next(iter(dataset.splits)))
    is_drawn = config.dataset == "folder" and split.name == f"seed{config.split_seed}"
    videos = dataset.videos if is_drawn else (*split.train, *split.validation)
    if half is None:
        return tuple(videos)
    groups = sorted({video.group for video in videos})
    order = np.random.default_rng(0).permutation(len(groups))
    chosen = {groups[position] for position in order[0 if half == "first" else 1 :: 2]}
    return tuple(video for video in videos if video.group in chosen)


def deal_folds(videos: Sequence[VideoRecord], count: int) -> list[tuple[VideoRecord, ...]]:
    """Deal whole groups into folds of similar size, with every class spread over the folds as far as groups allow.

    Raises ``DatasetError`` if there are too few groups or videos.
    """
    from sklearn.model_selection import StratifiedGroupKFold  # here, because it takes a second

    groups = [video.group for video in videos]
    labels = np.array([video.label for video in videos], dtype=np.int64)
    num_groups, largest_class = len(set(groups)), np.bincount(labels, minlength=1).max()
    if num_groups < count or largest_class < count:
        what = f"{num_groups} groups" if num_groups < count else f"at most {largest_class} videos of each class"
        raise DatasetError(f"{what} are too few for {count} folds. Set --folds lower (at least 3), or add videos.")
    dealer = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # some folds lack the class
        parts = [rows for _, rows in dealer.split(np.zeros(len(videos)), labels, groups)]
    folds = [tuple(videos[row] for row in rows) for rows in parts]
    if not all(folds):
        raise DatasetError(
            f"{num_groups} groups can't be dealt into {count} folds, because one has most of the videos. Set --folds "
            "lower (at least 3), or divide that group."
        )
    return folds


def describe(name: str, folds: Sequence[Sequence[VideoRecord]]) -> str:
    """Number of videos, groups and classes, and the sizes of the folds, in one line."""
    videos = [video for fold in folds for video in fold]
    sizes = sorted(len(fold) for fold in folds)
    return (
        f"{name}: {len(videos)} videos, {len({video.group for video in videos})} groups, "
        f"{len({video.label for video in videos})} classes in {len(folds)} folds of {sizes[0]} to {sizes[-1]} videos"
    )
