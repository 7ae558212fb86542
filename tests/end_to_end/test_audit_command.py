"""``python -m pipeline.audit``, and ``train.py --exclude`` with what it found."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import pytest

from data.demo.dataset import render
from tests.helpers.commands import call


def _copy_smaller(source: Path, target: Path) -> None:
    """Encode a video again, cropped by a tenth."""
    video = cv2.VideoCapture(str(source), cv2.CAP_FFMPEG)
    writer = None
    while (read := video.read())[0]:
        height, width = read[1].shape[:2]
        frame = read[1][height // 20 : -height // 20, width // 20 : -width // 20]
        if writer is None:
            size = (frame.shape[1], frame.shape[0])
            writer = cv2.VideoWriter(str(target), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 25, size)
        writer.write(frame)
    assert writer is not None
    writer.release()


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of demo videos: the test has a re-encoded, cropped copy and the very file of two training videos."""
    folder = tmp_path_factory.mktemp("leaky")
    render(folder / "demo", classes=4, groups=4, clips=1, workers=1)
    videos = sorted((folder / "demo").rglob("*.avi"))
    part_of = {"g01": "test", "g04": "validation"}
    rows = [
        (
            path.relative_to(folder),
            path.parent.name,
            path.stem.split("_")[2],
            part_of.get(path.stem.split("_")[2], "train"),
        )
        for path in videos
    ]
    trained = [path for path, row in zip(videos, rows, strict=True) if row[3] == "train"]
    _copy_smaller(trained[0], folder / "smaller.mp4")
    shutil.copy(trained[6], folder / "<script>.avi")
    rows.append((Path("smaller.mp4"), trained[0].parent.name, "x", "test"))
    rows.append((Path("<script>.avi"), trained[6].parent.name, "y", "test"))
    with (folder / "videos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "group", "split"), *rows])
    return folder


def test_planted_copies_are_found_and_left_out(leaky: Path, tiny_backbone: tuple[str, Path]) -> None:
    """Copies in the test are found, the list is accepted by train.py, and every later command keeps to it."""
    name, weights = tiny_backbone
    dataset = ("--dataset", "folder", "--root", leaky / "videos.csv")
    features = ("--backbone", name, "--weights", weights, "--cache", leaky / "cache", "--workers", 1)
    output = leaky / "audit"
    done = call("-m", "pipeline.audit", *dataset, *features, "--output", output)
    assert done.returncode == 1, done.stderr  # there are leaks
    with (output / "audit.csv").open(newline="") as file:
        pairs = [row for row in csv.DictReader(file) if row["kind"] == "across parts"]
    assert {row["video_b"].rpartition("/")[2]: row["reason"] for row in pairs} == {
        "<script>.avi": "same file",
        "smaller.mp4": "similar",
    }, done.stdout
    page = (output / "audit.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64") >= 4 and "&lt;script&gt;.avi" in page
    excluded = [line for line in (output / "exclude.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(excluded) == ["<script>.avi", "smaller.mp4"]

    with (output / "exclude.txt").open("a") as file:
        print(pairs[0]["video_a"], file=file)  # a training video too
    training = ("--runs", leaky / "runs", "--name", "run", "--epochs", 2, "--hidden-size", 8, "--strips", 0)
    trained = call("train.py", *dataset, *features, *training, "--exclude", output / "exclude.txt")
    assert trained.returncode == 0, trained.stderr
    assert "1 training and 0 validation videos are left out" in trained.stderr
    run = leaky / "runs" / "videos" / "run"
    split = json.loads((run / "split.json").read_text())
    assert sorted(split["excluded"]) == sorted(excluded)
    assert pairs[0]["video_a"] not in [video[0] for video in split["train"]]
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert (metrics["num_videos"], metrics["num_excluded"], metrics["without_excluded"]["num_videos"]) == (6, 2, 4)
    assert "With and without excluded videos" in (run / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "without 2 excluded ones" in trained.stdout

    (output / "exclude.txt").unlink()  # the run keeps its lists
    resumed = call("train.py", *dataset, *features, *training, "--exclude", output / "exclude.txt", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    again = call("evaluate.py", run, "--cache", leaky / "cache", "--again")
    assert again.returncode == 0, again.stderr
    assert (
        json.loads((run / "evaluation" / "metrics.json").read_text())["without_excluded"] == metrics["without_excluded"]
    )


def test_unknown_video_and_unknown_split_are_errors(leaky: Path, tmp_path: Path) -> None:
    """A typo is reported at once, before anything is cached or trained."""
    (tmp_path / "list").write_text("smaller.mp3\n")
    dataset = ("--dataset", "folder", "--root", leaky / "videos.csv", "--cache", tmp_path / "cache")
    done = call("train.py", *dataset, "--runs", tmp_path / "runs", "--exclude", tmp_path / "list")
    assert done.returncode == 2 and "line 1" in done.stderr and "smaller.mp4" in done.stderr
    assert not (tmp_path / "cache").exists() and not (tmp_path / "runs").exists()
    done = call("-m", "pipeline.audit", *dataset, "--split", "7")
    assert done.returncode == 2 and "no split '7'" in done.stderr
    done = call("train.py", "--dataset", "addition", "--exclude", tmp_path / "list")
    assert done.returncode == 2 and "addition" in done.stderr
