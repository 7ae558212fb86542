"""Folds never divide a group, and contain no video that is kept for a test."""

from collections import Counter
from pathlib import Path

import pytest

from data.catalog import DataConfig
from data.records import DatasetError, Split, VideoDataset, VideoRecord
from pipeline.tune.folds import deal_folds, videos_to_tune_on

FOLDER = DataConfig("folder")


def make_videos(groups: dict[str, list[int]]) -> tuple[VideoRecord, ...]:
    """The videos of each group, given by their labels."""
    return tuple(
        VideoRecord(f"{group}/{number}", Path(), label, group)
        for group, labels in groups.items()
        for number, label in enumerate(labels)
    )


def make_dataset(split: str) -> VideoDataset:
    """Twelve groups of two videos; the first three are the test groups of ``split``, the next two its validation."""
    videos = make_videos({f"g{number:02}": [0, 1] for number in range(12)})
    return VideoDataset(
        "made", "made", ("a", "b"), videos, {split: Split(split, videos[10:], videos[6:10], videos[:6])}
    )


@pytest.mark.parametrize("num_folds", [3, 5, 7])
def test_folds_are_disjoint_by_group_and_complete(num_folds: int) -> None:
    """Every video is in exactly one fold, whole groups at a time, and the folds are about equal in every class."""
    videos = make_videos({f"g{number}": [number % 3] * (1 + number % 4) for number in range(60)})
    folds = deal_folds(videos, num_folds)
    assert sorted(video.video_id for fold in folds for video in fold) == sorted(video.video_id for video in videos)
    groups = [{video.group for video in fold} for fold in folds]
    assert sum(map(len, groups)) == 60
    for label, total in Counter(video.label for video in videos).items():
        counts = [sum(video.label == label for video in fold) for fold in folds]
        assert max(counts) - min(counts) <= 4, (label, total, counts)
    assert deal_folds(videos, num_folds) == folds


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({f"g{number}": [0, 1, 0, 1] for number in range(4)}, "4 groups"),
        ({f"g{number}": [number // 2] for number in range(8)}, "2 videos of each class"),
        ({"large": [0, 1] * 50} | {f"g{number}": [0, 1] for number in range(4)}, None),
    ],
)
def test_too_few_groups_are_an_error(groups: dict[str, list[int]], message: str | None) -> None:
    """Groups that can't be dealt are an error that names the option; one large group among enough others is not."""
    videos = make_videos(groups)
    if message is None:
        assert all(deal_folds(videos, 5))
        return
    with pytest.raises(DatasetError, match=f"{message}.*--folds"):
        deal_folds(videos, 5)


@pytest.mark.parametrize("split", ["1", "listed", "holdout-g00"])
def test_test_videos_are_never_used(split: str) -> None:
    """Official lists, a CSV's list and a held-out group keep their test videos out of tuning."""
    dataset = make_dataset(split)
    config = DataConfig("ucf101") if split == "1" else FOLDER
    videos = videos_to_tune_on(dataset, config, (), None)
    assert set(videos) == {*dataset.splits[split].train, *dataset.splits[split].validation}
    with pytest.raises(DatasetError, match="no split '7'"):
        videos_to_tune_on(dataset, config, ("7",), None)


def test_all_videos_of_a_folder_are_used() -> None:
    """A split that is only drawn at random reserves nothing."""
    dataset = make_dataset("seed0")
    assert videos_to_tune_on(dataset, FOLDER, (), None) == dataset.videos


def test_halves_share_no_group() -> None:
    """--half first and --half second divide the groups, always in the same way, which published results depend on."""
    dataset = make_dataset("seed0")
    halves = [videos_to_tune_on(dataset, FOLDER, (), half) for half in ("first", "second")]
    groups = [{video.group for video in half} for half in halves]
    assert groups[0].isdisjoint(groups[1]) and {*halves[0], *halves[1]} == {*dataset.videos}
    assert sorted(groups[0]) == ["g00", "g05", "g06", "g07", "g08", "g09"]


def test_videos_without_labels_are_refused() -> None:
    """Without labels there is nothing to tune."""
    dataset = VideoDataset("made", "made", ("unlabelled",), make_videos({"": [0] * 9}), {})
    with pytest.raises(DatasetError, match="no labels"):
        videos_to_tune_on(dataset, DataConfig("unlabelled"), (), None)
