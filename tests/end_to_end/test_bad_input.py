"""Bad input through the real command lines: the exit code, and a message that says what, where and what to do."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY
from tests.helpers.clips import make_clip
from tests.helpers.commands import call, message, run


@pytest.fixture
def ucf101_root(tmp_path: Path) -> Path:
    """Two classes in UCF101's layout and lists."""
    root = tmp_path / "ucf101"
    lists: dict[str, list[str]] = {"trainlist01.txt": [], "testlist01.txt": []}
    for number, name in enumerate(("Biking", "Diving")):
        for group, part in ((1, "testlist01.txt"), (9, "trainlist01.txt"), (22, "trainlist01.txt")):
            line = f"{name}/v_{name}_g{group:02d}_c01.avi"
            make_clip(root / "UCF-101" / line, num_frames=6, number=number)
            lists[part].append(line if part.startswith("test") else f"{line} {number + 1}")
    (root / "classInd.txt").write_text("1 Biking\n2 Diving\n")
    for part, lines in lists.items():
        (root / part).write_text("\n".join(lines) + "\n")
    return root


def check_end(done: "subprocess.CompletedProcess[str]", exit_code: int) -> str:
    """Check the exit code and that there is no traceback; returns the output on one line."""
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return message(done)


def test_missing_root(tmp_path: Path) -> None:
    """The error says which files were looked for, where, and which command downloads them."""
    output = check_end(run("train.py", "--dataset", "ucf101", "--root", tmp_path / "nowhere"), 2)
    assert "classInd.txt" in output and "trainlist01.txt" in output and "testlist01.txt" in output
    assert f"python -m data.ucf101 download --root {tmp_path / 'nowhere'}" in output


def test_empty_folder(tmp_path: Path) -> None:
    """The error says which layout and which file endings were looked for."""
    output = check_end(run("train.py", "--dataset", "folder", "--root", tmp_path), 2)
    assert f"no video in {tmp_path}" in output and f"{tmp_path}/<class>/<video>" in output and ".avi" in output


def test_unknown_class_in_a_list(ucf101_root: Path) -> None:
    """A misspelled class: the error has the file, the line and the nearest name."""
    path = ucf101_root / "testlist01.txt"
    path.write_text(path.read_text().replace("Diving/", "Divng/"))
    output = check_end(run("train.py", "--dataset", "ucf101", "--root", ucf101_root), 2)
    assert f"{path}, line 2: class 'Divng'" in output and "Did you mean 'Diving'?" in output


def test_duplicate_stem(ucf101_root: Path) -> None:
    """Two files that match one line of a list are both named."""
    first = ucf101_root / "UCF-101" / "Biking" / "v_Biking_g01_c01.avi"
    second = ucf101_root / "v_Biking_g01_c01.avi"
    shutil.copy(first, second)
    output = check_end(run("train.py", "--dataset", "ucf101", "--root", ucf101_root), 2)
    assert str(first) in output and str(second) in output


def test_typo_in_a_flag() -> None:
    """An unknown flag is refused, and the nearest one is named."""
    output = check_end(run("train.py", "--hidden-sise", 128), 2)
    assert "--hidden-sise" in output and "--hidden-size" in output


def test_typo_in_the_yaml(tmp_path: Path) -> None:
    """An unknown key is refused with its file and the nearest key."""
    path = tmp_path / "mine.yaml"
    path.write_text("dataset: folder\nhiden_size: 128\n")
    output = check_end(run("train.py", "--config", path), 2)
    assert f"{path}: unknown key 'hiden_size'" in output and "Did you mean 'hidden_size'?" in output


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--dropout", 2], "dropout"),
        (["--hidden-size", 0], "hidden_size"),
        (["--model", "np-rnn"], "np_rnn"),
        (["--epochs", 0], "epochs must be at least 1"),
        (["--resume", "--overwrite"], "--overwrite"),
    ],
)
def test_impossible_values(flags: list[object], expected: str) -> None:
    """The setting is named, without a Python stack."""
    assert expected in check_end(run("train.py", *flags), 2)


def test_unknown_backbone(two_classes: Path, tmp_path: Path) -> None:
    """A misspelled backbone is refused with the nearest name, before a run folder is made."""
    folders = ["--root", two_classes, "--cache", tmp_path / "cache", "--runs", tmp_path / "runs"]
    output = check_end(call("train.py", "--dataset", "folder", *folders, "--backbone", "resnet5O"), 2)
    assert "resnet5O" in output and "resnet50" in output
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def damaged_folders(two_classes: Path, tmp_path: Path) -> Path:
    """The good videos, and four that can't be read completely."""
    root = tmp_path / "damaged"
    shutil.copytree(two_classes, root)
    whole = (root / "run" / "clip0.avi").read_bytes()
    (root / "run" / "zero.avi").write_bytes(b"")
    (root / "run" / "text.avi").write_text("This is not a video.\n" * 50)
    (root / "walk" / "header.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    long = make_clip(root / "walk" / "cut.avi", num_frames=30)
    long.write_bytes(long.read_bytes()[: long.stat().st_size * 3 // 4])
    return root


def test_damaged_videos(damaged_folders: Path, features: list[object], tmp_path: Path, without_pictures: None) -> None:
    """The caching job names each damaged video with the reason, caches the others and exits with 1; training stops, or
    with --allow-missing counts damaged test videos as wrong answers and exits with 1."""
    dataset = ["--dataset", "folder", "--root", damaged_folders, "--on-short", "fail"]
    done = call("-m", "pipeline.cache", *dataset, *features)
    output = check_end(done, 1)
    reasons = {
        "run/zero.avi": "empty",
        "run/text.avi": "not a video",
        "walk/header.avi": "no frame",
        "walk/cut.avi": "short",
    }
    for video_id, reason in reasons.items():
        (line,) = (line for line in done.stderr.splitlines() if f"failed: {video_id}: " in line)
        assert str(damaged_folders / video_id) in line and reason in line
    summary = json.loads(done.stdout)
    assert (summary["num_videos"], summary["num_extracted"], summary["num_failed"]) == (10, 6, 4)
    (log,) = (tmp_path / "cache").rglob("errors.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["video_id"] for line in lines} == reasons.keys()
    assert all(reasons[line["video_id"]] in line["reason"] for line in lines)

    train = ["train.py", *dataset, *features, "--runs", tmp_path / "runs", "--epochs", 1]
    output = check_end(call(*train), 2)
    assert "4 of 10 videos have no features" in output and "run/text.avi, run/zero.avi, walk/cut.avi" in output
    assert str(log) in output and "--allow-missing" in output
    assert not list((tmp_path / "runs").rglob("checkpoints"))

    # Each video is its own group here, so some split seed puts damaged videos into the test list.
    split_seed = next(seed for seed in range(20) if num_damaged_test_videos(damaged_folders, seed))
    name = ["--split-seed", split_seed, "--name", "incomplete"]
    check_end(call(*train, *name, "--allow-missing"), 1)
    folder = tmp_path / "runs" / "damaged" / "incomplete"
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert metrics["num_missing"] == num_damaged_test_videos(damaged_folders, split_seed)
    assert metrics["num_clips"] == metrics["num_videos"] - metrics["num_missing"]
    rows = (folder / "evaluation" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + metrics["num_videos"]
    check_end(call("evaluate.py", folder), 1)


def num_damaged_test_videos(root: Path, split_seed: int) -> int:
    """Number of damaged videos in the test list of the split; 0 if no good video is in it."""
    from data.catalog import DataConfig, load_dataset

    (split,) = load_dataset(DataConfig("folder", root=root, split_seed=split_seed)).splits.values()
    good = sum("clip" in video.video_id for video in split.test)
    return len(split.test) - good if good else 0


def test_full_disk(two_classes: Path, features: list[object], tmp_path: Path) -> None:
    """If the store can't be written, the job stops, says where and what to do, and leaves no partial file."""
    command = [sys.executable, "-m", "pipeline.cache", "--dataset", "folder", "--root", two_classes, *features]

    def no_file_above_one_kib() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    done = subprocess.run(
        [*map(str, command)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=no_file_above_one_kib,
    )
    output = check_end(done, 2)
    assert "can't be written" in output and str(tmp_path / "cache") in output and "same command again" in output
    files = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert files == {"recipe.json"}


def test_caching_goes_on_where_its_messages_cannot_be_written(
    two_classes: Path, features: list[object], tmp_path: Path
) -> None:
    """With the log on a full device, every good video is cached, the broken one is noted, and the exit code says so."""
    root = Path(shutil.copytree(two_classes, tmp_path / "videos"))
    (root / "run" / "broken.avi").write_bytes(b"no video")
    command = [sys.executable, "-m", "pipeline.cache", "--dataset", "folder", "--root", root, *features]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*map(str, command)], cwd=REPOSITORY, stderr=full, stdout=subprocess.DEVNULL, timeout=200)
    assert done.returncode == 1
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 6
    assert "run/broken.avi" in next((tmp_path / "cache").rglob("errors.jsonl")).read_text()
