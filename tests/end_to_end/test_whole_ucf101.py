"""UCF101's official lists and 101 classes through the real command lines, on tiny videos."""

import csv
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.helpers.commands import call

LISTS = tuple(f"{part}list0{split}.txt" for part in ("train", "test") for split in (1, 2, 3))
BANDS = ((1, 7), (8, 14), (15, 21), (22, 25))  # test groups of splits 1, 2, 3, and validation groups
VIDEOS_PER_BAND = 1


def group_of(name: str) -> int:
    return int(name.rsplit("_g", 1)[1][:2])


def select_videos(names: set[str]) -> set[str]:
    """The first videos of each class in each band of groups, so that each split can train, validate and test."""
    by_band: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for name in sorted(names):
        band = next(index for index, (first, last) in enumerate(BANDS) if first <= group_of(name) <= last)
        by_band[name.split("/")[0], band].append(name)
    return {name for videos in by_band.values() for name in videos[:VIDEOS_PER_BAND]}


def render_class(path: Path, number: int) -> None:
    """Write five frames of a moving pattern that no other class has."""
    pattern = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 64))
    assert writer.isOpened()
    for shift in range(5):
        large = cv2.resize(pattern, (64, 64), interpolation=cv2.INTER_NEAREST)
        writer.write(np.roll(large, 3 * shift, axis=1))
    writer.release()


def make_ucf101(root: Path, official: Path, whole: bool) -> int:
    """Make UCF101's layout under ``root`` with the official lists, whole or reduced; returns the number of videos.

    All videos of a class are links to one file, because the tests check lists and labels, not recognition.
    """
    lines = {name: (official / name).read_bytes().decode().splitlines() for name in LISTS}
    names = {line.split()[0] for name in LISTS for line in lines[name]}
    if not whole:
        names = select_videos(names)
    folder = root / "ucfTrainTestlist"
    folder.mkdir(parents=True)
    shutil.copy(official / "classInd.txt", folder)
    for name in LISTS:
        kept = [line for line in lines[name] if line.split()[0] in names]
        (folder / name).write_bytes("".join(f"{line}\r\n" for line in kept).encode())
    for number, class_name in enumerate(sorted({name.split("/")[0] for name in names})):
        pattern = root / "patterns" / f"{class_name}.avi"
        render_class(pattern, number)
        (root / "UCF-101" / class_name).mkdir(parents=True)
        for name in names:
            if name.startswith(f"{class_name}/"):
                os.link(pattern, root / "UCF-101" / name)
    shutil.rmtree(root / "patterns")
    return len(names)


def train(root: Path, backbone: tuple[str, Path], *more: object) -> list[object]:
    name, weights = backbone
    return [
        *("train.py", "--dataset", "ucf101", "--root", root, "--backbone", name, "--weights", weights),
        *("--runtime", "torch", "--sampling", "uniform:2", "--runs", root / "runs", "--cache", root / "cache"),
        *("--hidden-size", 64, "--epochs", 40, "--learning-rate", 0.005, "--batch-size", 64, "--dropout", 0, *more),
    ]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def check_answers(evaluation: Path, num_videos: int) -> None:
    """All 101 classes are learned and reported, including HandstandPushups, whose files are spelled differently."""
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert (metrics["num_classes"], metrics["num_videos"], metrics["num_missing"]) == (101, num_videos, 0)
    assert metrics["video_top1"] > 0.95
    assert metrics["mean_class_accuracy"] > 0.95
    rows = read_csv(evaluation / "predictions.csv")
    assert len(rows) == num_videos
    handstand = [row for row in rows if row["video_id"].startswith("v_HandStandPushups_")]
    assert handstand and {row["label"] for row in handstand} == {"HandstandPushups"}
    assert len(read_csv(evaluation / "per_class.csv")) == 101
    assert len(read_csv(evaluation / "confusion.csv")) == 101
    picture = cv2.imread(str(evaluation / "confusion.png"))
    assert picture is not None and min(picture.shape[:2]) > 1500  # pixels: room for 101 names on both sides
    assert "HandstandPushups" in (evaluation / "report.html").read_text()


def test_101_classes_and_three_splits(action_data: Path, tiny_backbone: tuple[str, Path], tmp_path: Path) -> None:
    """--splits 1 2 3 on 404 videos of the official lists makes three 101-class reports and their mean; evaluate.py
    reproduces the mean without caching features."""
    num_videos = make_ucf101(tmp_path, action_data / "ucf101" / "ucfTrainTestlist", whole=False)
    assert num_videos == 101 * len(BANDS) * VIDEOS_PER_BAND
    done = call(*train(tmp_path, tiny_backbone, "--splits", 1, 2, 3))
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "runs" / "ucf101"
    for split in (1, 2, 3):
        check_answers(runs / f"np_rnn-split_{split}-seed_0" / "evaluation", 101 * VIDEOS_PER_BAND)
    tested = [
        {row["video_id"] for row in read_csv(runs / f"np_rnn-split_{split}-seed_0" / "evaluation" / "predictions.csv")}
        for split in (1, 2, 3)
    ]
    assert len(set.union(*tested)) == 3 * 101 * VIDEOS_PER_BAND

    def three_split_mean() -> dict[str, str]:
        (mean,) = (row for row in read_csv(runs / "leaderboard.csv") if row["kind"] == "mean")
        return mean

    mean = three_split_mean()
    assert (mean["num_runs"], mean["deviation_over"]) == ("3", "folds")
    assert float(mean["video_top1"]) > 0.95
    assert float(mean["video_top1_deviation"]) >= 0
    (runs / "leaderboard.csv").unlink()
    done = call("evaluate.py", runs)
    assert done.returncode == 0, done.stderr
    assert "caching features" not in done.stderr
    assert three_split_mean() == mean


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_13320_videos(action_data: Path, tiny_backbone: tuple[str, Path], tmp_path: Path) -> None:
    """All videos of the official lists are cached, and split 1 is scored on its 3,783 test videos."""
    assert make_ucf101(tmp_path, action_data / "ucf101" / "ucfTrainTestlist", whole=True) == 13_320
    done = call(*train(tmp_path, tiny_backbone, "--splits", 1, "--epochs", 3))
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 13_320
    check_answers(tmp_path / "runs" / "ucf101" / "np_rnn-split_1-seed_0" / "evaluation", 3783)
