"""Odd names of files, classes and folders through the real command lines."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.clips import make_clip
from tests.helpers.commands import call, message, run

NOT_UTF8 = os.fsdecode(b"caf\xe9")
ODD = ["a\nb", "a\tb", "a\rb", "a\x1b[31mb", "a\"b'", "-a", "--help", "*", "%03d", "a:b", "concat:x|y", "a\\b", " a "]


@pytest.fixture
def class_folders(two_classes: Path, tmp_path: Path) -> Path:
    """Two classes of three videos each, which a test may rename."""
    return Path(shutil.copytree(two_classes, tmp_path / "videos"))


def test_a_file_whose_name_is_not_utf8(class_folders: Path, features: list[object]) -> None:
    """Training names it and says what to do; caching without labels fails this video only, and not the decoder."""
    root = class_folders
    shutil.copy(root / "run" / "clip0.avi", root / "run" / f"{NOT_UTF8}.avi")
    refused = run("train.py", "--dataset", "folder", "--root", root, *features)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert r"run/caf\xe9.avi. Rename" in message(refused)
    cached = call("-m", "pipeline.cache", "--dataset", "unlabelled", "--root", root, *features)
    assert cached.returncode == 1 and "crashed" not in cached.stderr
    assert r"run/caf\xe9.avi is not UTF-8" in message(cached)
    assert json.loads(cached.stdout)["num_extracted"] == 6


@pytest.mark.parametrize("where", ["class", "root", "link"])
def test_a_folder_whose_name_is_not_utf8(class_folders: Path, tmp_path: Path, where: str) -> None:
    """A class folder or a root, direct or behind a link, is named in one message."""
    root = class_folders
    if where == "class":
        (root / "run").rename(root / NOT_UTF8)
    else:
        root = root.rename(tmp_path / NOT_UTF8)
    if where == "link":
        root = tmp_path / "link"
        root.symlink_to(tmp_path / NOT_UTF8)
    for command in ("train.py", "-m pipeline.cache"):
        done = call(*command.split(), "--dataset", "folder", "--root", root)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert r"caf\xe9" in message(done) and "not UTF-8" in message(done)


def test_frames_into_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    """Pictures are written there: OpenCV, which would crash, does not see the name."""
    make_clip(tmp_path / "videos" / "clip.avi", num_frames=6)
    target = tmp_path / NOT_UTF8
    command = ["-m", "pipeline.cache", "--dataset", "unlabelled", "--root", tmp_path / "videos", "--workers", 1]
    done = run(*command, "--sampling", "uniform:3", "--frames", target)
    assert done.returncode == 0, done.stderr
    assert len(list((target / "clip.avi").iterdir())) == 3


def test_odd_names_are_cached_and_trained_on(tmp_path: Path, features: list[object], without_pictures: None) -> None:
    """Line breaks, control characters, quotes, dashes, patterns and long names in files and classes do no harm."""
    root = tmp_path / "videos"
    for number, class_name in enumerate(("-walk\n", 'r\tu"n')):
        for name in (*ODD, "é" * 115):
            make_clip(root / class_name / f"{name}.avi", num_frames=6, number=number)
    flags = ["--dataset", "folder", "--root", root, *features, "--epochs", 1]
    done = call("train.py", *flags, "--runs", tmp_path / "runs", "--name", "odd")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "runs" / "videos" / "odd" / "evaluation" / "metrics.json").read_text())
    assert metrics["num_missing"] == 0 and metrics["num_classes"] == 2
