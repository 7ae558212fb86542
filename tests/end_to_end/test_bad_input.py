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
from tests.helpers.commands import message, run


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three good videos each."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(6):
        make_clip(root / ("run", "walk")[number % 2] / f"clip{number}.avi", num_frames=6, number=number)
    return root


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


@pytest.fixture
def where(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> list[object]:
    """Flags that keep everything in the test's folder, and the CNN small."""
    name, weights = tiny_backbone
    backbone = ["--backbone", name, "--weights", weights, "--runtime", "torch", "--sampling", "uniform:3"]
    return [*backbone, "--cache", tmp_path / "cache", "--workers", 1]


def no_traceback(done: "subprocess.CompletedProcess[str]", exit_code: int) -> str:
    """What the command said, once it is sure that it ended as a command should."""
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return message(done)


def test_missing_root(tmp_path: Path) -> None:
    """A root that is not there: what was looked for, where, and the command that gets it."""
    said = no_traceback(run("train.py", "--dataset", "ucf101", "--root", tmp_path / "nowhere"), 2)
    assert f"looked for classInd.txt with trainlist01.txt and testlist01.txt in {tmp_path / 'nowhere'}" in said
    assert f"Get them: python -m data.ucf101 download --root {tmp_path / 'nowhere'}" in said


def test_empty_folder(tmp_path: Path) -> None:
    """A folder without videos: which layout and which endings were looked for."""
    said = no_traceback(run("train.py", "--dataset", "folder", "--root", tmp_path), 2)
    assert f"no video in {tmp_path}. Looked for {tmp_path}/<class>/<video> with the endings" in said


def test_unknown_class_in_a_list(ucf101_root: Path) -> None:
    """A misspelt class: file, line and the nearest name."""
    path = ucf101_root / "testlist01.txt"
    path.write_text(path.read_text().replace("Diving/", "Divng/"))
    said = no_traceback(run("train.py", "--dataset", "ucf101", "--root", ucf101_root), 2)
    assert f"{path}, line 2: class 'Divng' is not in classInd.txt. Did you mean 'Diving'?" in said


def test_duplicate_stem(ucf101_root: Path) -> None:
    """Two files that one line of a list could mean: both are named."""
    first = ucf101_root / "UCF-101" / "Biking" / "v_Biking_g01_c01.avi"
    second = ucf101_root / "v_Biking_g01_c01.avi"
    shutil.copy(first, second)
    said = no_traceback(run("train.py", "--dataset", "ucf101", "--root", ucf101_root), 2)
    assert "two files for the one video v_Biking_g01_c01" in said
    assert str(first) in said and str(second) in said


def test_typo_in_a_flag() -> None:
    """An unknown flag is no setting silently left out: the nearest one is named."""
    said = no_traceback(run("train.py", "--hidden-sise", 128), 2)
    assert "Unrecognized options: --hidden-sise" in said and "--hidden-size" in said


def test_typo_in_the_yaml(tmp_path: Path) -> None:
    """An unknown key: the file and the nearest key."""
    path = tmp_path / "mine.yaml"
    path.write_text("dataset: folder\nhiden_size: 128\n")
    said = no_traceback(run("train.py", "--config", path), 2)
    assert f"{path}: unknown key 'hiden_size'. Did you mean 'hidden_size'?" in said


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--dropout", 2], "dropout"),
        (["--hidden-size", 0], "hidden_size"),
        (["--model", "np-rnn"], "np_rnn"),
        (["--epochs", 0], "epochs must be at least 1"),
        (["--resume", "--overwrite"], "give one of them"),
    ],
)
def test_impossible_values(flags: list[object], expected: str) -> None:
    """A value that can't be is refused at once, by its name, without a Python stack."""
    assert expected in no_traceback(run("train.py", *flags), 2)


def test_unknown_backbone(class_folders: Path, tmp_path: Path) -> None:
    """A misspelt backbone: the nearest name."""
    where = ["--root", class_folders, "--cache", tmp_path / "cache", "--runs", tmp_path / "runs"]
    said = no_traceback(run("train.py", "--dataset", "folder", *where, "--backbone", "resnet5O"), 2)
    assert "resnet5O" in said and "resnet50" in said
    assert not (tmp_path / "runs").exists()


@pytest.fixture
def damaged_folders(class_folders: Path, tmp_path: Path) -> Path:
    """The good videos, and four that can't be read as they should."""
    root = tmp_path / "damaged"
    shutil.copytree(class_folders, root)
    whole = (root / "run" / "clip0.avi").read_bytes()
    (root / "run" / "zero.avi").write_bytes(b"")
    (root / "run" / "text.avi").write_text("This is not a video.\n" * 50)
    (root / "walk" / "header.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    long = make_clip(root / "walk" / "cut.avi", num_frames=30)
    long.write_bytes(long.read_bytes()[: long.stat().st_size * 3 // 4])
    return root


def test_damaged_videos(damaged_folders: Path, where: list[object], tmp_path: Path) -> None:
    """A cut-off video, one of zero bytes and a text named .avi: the caching job names each with the reason, does the
    others and exits with 1; training refuses to go on; --allow-missing counts them as wrong answers and exits with 1.
    """
    dataset = ["--dataset", "folder", "--root", damaged_folders, "--on-short", "fail"]
    done = run("-m", "pipeline.cache", *dataset, *where)
    said = no_traceback(done, 1)
    reasons = {
        "run/zero.avi": "is empty (0 bytes)",
        "run/text.avi": "is not a video that can be read",
        "walk/header.avi": "contains no frame that can be decoded",
        "walk/cut.avi": "is short",
    }
    for video_id, reason in reasons.items():
        assert f"failed: {video_id}: {damaged_folders / video_id} {reason}" in said
    summary = json.loads(done.stdout)
    assert (summary["num_videos"], summary["num_extracted"], summary["num_failed"]) == (10, 6, 4)
    (log,) = (tmp_path / "cache").rglob("errors.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["video_id"] for line in lines} == reasons.keys()
    assert all(reasons[line["video_id"]] in line["reason"] for line in lines)

    train = ["train.py", *dataset, *where, "--runs", tmp_path / "runs", "--epochs", 1]
    said = no_traceback(run(*train), 2)
    assert "4 of 10 videos have no features (run/text.avi, run/zero.avi, walk/cut.avi ...)" in said and str(log) in said
    assert "--allow-missing" in said
    assert not list((tmp_path / "runs").rglob("checkpoints"))

    # Every video is a group of its own here, so the test list holds damaged ones for some seed of the split.
    listed = next(seed for seed in range(20) if damaged_in_test_list(damaged_folders, seed))
    name = ["--split-seed", listed, "--name", "lacking"]
    no_traceback(run(*train, *name, "--allow-missing"), 1)
    folder = tmp_path / "runs" / "damaged" / "lacking"
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert metrics["num_missing"] == damaged_in_test_list(damaged_folders, listed)
    assert metrics["num_clips"] == metrics["num_videos"] - metrics["num_missing"]
    rows = (folder / "evaluation" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + metrics["num_videos"]
    no_traceback(run("evaluate.py", folder), 1)


def damaged_in_test_list(root: Path, seed: int) -> int:
    """How many damaged videos the test list of this split has."""
    from data.catalog import DataConfig, load_dataset

    (split,) = load_dataset(DataConfig("folder", root=root, split_seed=seed)).splits.values()
    good = sum("clip" in video.video_id for video in split.test)
    return len(split.test) - good if good else 0


def test_full_disk(class_folders: Path, where: list[object], tmp_path: Path) -> None:
    """Where the store can't be written the job stops, says what, where and what to do, and leaves no torn file."""
    command = [sys.executable, "-m", "pipeline.cache", "--dataset", "folder", "--root", class_folders, *where]

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
    said = no_traceback(done, 2)
    assert "the feature store can't be written" in said and str(tmp_path / "cache") in said
    assert "make room" in said and "run the same command again" in said
    left = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert left == {"recipe.json"}
