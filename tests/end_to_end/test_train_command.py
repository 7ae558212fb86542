"""train.py as a user runs it, on rendered videos: train, kill, resume, evaluate, predict."""

import csv
import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from tests.helpers.clips import render_moving_squares
from tests.helpers.commands import call, finish, run, start

EPOCHS = 40
TEST_GROUP = "g8"


class Trained(NamedTuple):
    """Two runs with the same settings and the folder of their videos, features and runs."""

    folder: Path
    uninterrupted: Path
    resumed: Path
    exit_codes: dict[str, int]
    """by what ended the process"""
    stderr: dict[str, str]

    @property
    def runs(self) -> Path:
        return self.uninterrupted.parent


def train_arguments(folder: Path, name: str) -> list[object]:
    return [
        *("train.py", "--dataset", "folder", "--root", folder / "videos", "--group-pattern", r"_(g\d+)_"),
        *("--holdout-group", TEST_GROUP, "--sampling", "uniform:6", "--workers", 1, "--cache", folder / "cache"),
        *("--runs", folder / "runs", "--name", name, "--epochs", EPOCHS, "--patience", EPOCHS, "--batch-size", 4),
        *("--hidden-size", 16, "--learning-rate", 0.003),
    ]


def num_epochs(run_folder: Path) -> int:
    curves = run_folder / "metrics.jsonl"
    return len(curves.read_text().splitlines()) if curves.exists() else 0


def stop_after(run_folder: Path, epochs: int, signal_number: signal.Signals, *arguments: object) -> tuple[int, str]:
    """Start a training and stop it by the signal once ``epochs`` are done. Returns its exit code and stderr."""
    process = start(*arguments)
    deadline = time.monotonic() + 120
    while process.poll() is None and num_epochs(run_folder) < epochs and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, f"ended before epoch {epochs}: {process.communicate()}"
    process.send_signal(signal_number)
    done = finish(process)
    return done.returncode, done.stderr


KILLED_WHILE_WRITING_A_CHECKPOINT = """
import os, signal, sys
from pathlib import Path
import train

write_bytes, number = Path.write_bytes, 0

def torn_write(path, data):
    global number
    if path.parent.name == "checkpoints":
        number += 1
    if number < 5:
        return write_bytes(path, data)
    write_bytes(path, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = torn_write
train.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """An uninterrupted run, and one with the same settings that was stopped three times in three ways and resumed."""
    folder = tmp_path_factory.mktemp("trained")
    render_moving_squares(folder / "videos")
    uninterrupted, resumed = (folder / "runs" / "videos" / name for name in ("uninterrupted", "resumed"))
    exit_codes, stderr = {}, {}

    def record(ending: str, code: int, text: str) -> None:
        exit_codes[ending], stderr[ending] = code, text

    done = call(*train_arguments(folder, "uninterrupted"))
    assert done.returncode == 0, done.stderr
    record("uninterrupted", done.returncode, done.stderr)
    begin, resume = train_arguments(folder, "resumed"), ["--config", resumed / "config.yaml", "--resume"]
    epochs = sorted(random.sample(range(2, EPOCHS // 4), 2))
    print(f"stopped after epochs {epochs}")  # pytest shows it if a test fails
    record("kill", *stop_after(resumed, epochs[0], signal.SIGKILL, *begin))
    record("Ctrl-C", *stop_after(resumed, epochs[1], signal.SIGINT, *begin, "--resume"))
    done = run("-c", KILLED_WHILE_WRITING_A_CHECKPOINT, *resume)
    record("kill in a checkpoint", done.returncode, done.stderr)
    torn = [path.name for path in (resumed / "checkpoints").iterdir() if path.suffix == ".tmp"]
    assert len(torn) == 1, torn
    done = call("train.py", *resume)
    record("finished", done.returncode, done.stderr)
    return Trained(folder, uninterrupted, resumed, exit_codes, stderr)


def metrics_of(run_folder: Path) -> dict[str, object]:
    return dict(json.loads((run_folder / "evaluation" / "metrics.json").read_text()))


def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(trained: Trained) -> None:
    """kill -9 at a random epoch, Ctrl-C, and kill -9 while a checkpoint is written: weights are bit-equal, and so are
    predictions and metrics.jsonl without durations and the checksums that include them."""
    assert trained.exit_codes == {
        "uninterrupted": 0,
        "kill": -signal.SIGKILL,
        "Ctrl-C": 130,
        "kill in a checkpoint": -signal.SIGKILL,
        "finished": 0,
    }, trained.stderr
    for name in ("last.pt", "best.pt"):
        ours, theirs = (
            torch.load(folder / "checkpoints" / name, weights_only=True)["model"]
            for folder in (trained.uninterrupted, trained.resumed)
        )
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == [], name
    curves = [
        [
            {**json.loads(line), "seconds": 0, "crc32": ""}
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (trained.uninterrupted, trained.resumed)
    ]
    assert len(curves[0]) == EPOCHS
    assert curves[0] == curves[1]
    predictions = [
        (folder / "evaluation" / "predictions.csv").read_text() for folder in (trained.uninterrupted, trained.resumed)
    ]
    assert predictions[0] == predictions[1]


def test_ctrl_c_ends_without_a_traceback(trained: Trained) -> None:
    """An interrupted training says how to resume it, and shows no Python stack."""
    assert "interrupted" in trained.stderr["Ctrl-C"]
    assert "--resume" in trained.stderr["Ctrl-C"]
    assert "Traceback" not in trained.stderr["Ctrl-C"]


def test_no_partial_file_is_left(trained: Trained) -> None:
    """Files that a killed process left half-written are removed when the run is resumed."""
    assert sorted(path.name for path in (trained.resumed / "checkpoints").iterdir()) == ["best.pt", "last.pt"]


def test_features_are_cached_once(trained: Trained) -> None:
    """Only the first run reports caching, and each video has one file in the store."""
    assert "caching features" in trained.stderr["uninterrupted"]
    for ending in ("kill", "Ctrl-C", "kill in a checkpoint", "finished"):
        assert "caching features" not in trained.stderr[ending]
    assert len(list((trained.folder / "cache").rglob("*.safetensors"))) == 16


def test_the_run_folder_has_all_documented_files(trained: Trained) -> None:
    """Settings, curves, checkpoints and evaluation are where the documentation says, with the values of this run."""
    files = {path.relative_to(trained.uninterrupted).as_posix() for path in trained.uninterrupted.rglob("*")}
    assert {"config.yaml", "split.json", "metrics.jsonl", "checkpoints/last.pt", "checkpoints/best.pt"} <= files
    evaluation = ("metrics.json", "predictions.csv", "per_class.csv", "slices.csv", "confusion.csv", "confusion.png")
    evaluation = (*evaluation, "report.html")
    assert {f"evaluation/{name}" for name in evaluation} <= files
    config = yaml.safe_load((trained.uninterrupted / "config.yaml").read_text())
    assert (config["dataset"], config["hidden_size"], config["holdout_group"]) == ("folder", 16, TEST_GROUP)
    metrics = metrics_of(trained.uninterrupted)
    assert (metrics["num_videos"], metrics["num_missing"], metrics["holdout_group"]) == (2, 0, TEST_GROUP)
    with (trained.uninterrupted / "evaluation" / "predictions.csv").open() as file:
        assert [row["video_id"] for row in csv.DictReader(file)] == ["left/v_g8_left.avi", "right/v_g8_right.avi"]


def test_an_existing_run_is_left_alone(trained: Trained) -> None:
    """The same command again changes no file, exits with 2 and suggests --resume."""
    before = {path: path.stat().st_mtime_ns for path in trained.uninterrupted.rglob("*")}
    done = call(*train_arguments(trained.folder, "uninterrupted"))
    assert done.returncode == 2
    assert f"error: {trained.uninterrupted} exists" in done.stderr and "--resume" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in trained.uninterrupted.rglob("*")} == before


def test_evaluate_reproduces_the_metrics_of_training(trained: Trained) -> None:
    """evaluate.py on one run writes the same files as train.py, and no leaderboard."""
    names = ("metrics.json", "predictions.csv", "per_class.csv", "confusion.csv")
    before = {name: (trained.uninterrupted / "evaluation" / name).read_text() for name in names}
    shutil.rmtree(trained.uninterrupted / "evaluation")
    done = call("evaluate.py", trained.uninterrupted)
    assert done.returncode == 0, done.stderr
    assert "uninterrupted: video top-1" in done.stdout
    assert {name: (trained.uninterrupted / "evaluation" / name).read_text() for name in names} == before
    assert not (trained.runs / "leaderboard.csv").exists()


def test_evaluate_continues_after_damaged_runs(trained: Trained, without_pictures: None) -> None:
    """Each damaged run is named with its reason and the exit code is 1; the others are on the leaderboard."""
    damaged = {name: trained.runs / name for name in ("half", "no-checkpoint", "no-recipe", "bad-config", "other-size")}
    for folder in damaged.values():
        shutil.copytree(trained.uninterrupted, folder)
    checkpoint = damaged["half"] / "checkpoints" / "best.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    (damaged["no-checkpoint"] / "checkpoints" / "best.pt").unlink()
    (damaged["no-recipe"] / "recipe.json").unlink()
    (damaged["bad-config"] / "config.yaml").write_text("hidden_size: many\n")
    config = damaged["other-size"] / "config.yaml"
    *settings, _checksum = config.read_text().replace("hidden_size: 16", "hidden_size: 20").splitlines()
    config.write_text("\n".join(settings) + "\n")
    try:
        done = call("evaluate.py", trained.runs)
    finally:
        for folder in damaged.values():
            shutil.rmtree(folder)
    assert done.returncode == 1
    for folder, reason in zip(
        damaged.values(),
        ("best.pt", "no checkpoint", "recipe.json", "hidden_size", "config.yaml"),
        strict=True,
    ):
        (line,) = (line for line in done.stderr.splitlines() if line.startswith(f"failed: {folder}:"))
        assert reason in line
    assert "Traceback" not in done.stderr
    with (trained.runs / "leaderboard.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "run"]
    assert {row["run"] for row in rows} == {"uninterrupted", "resumed"}
    assert {float(row["video_top1"]) for row in rows} == {metrics_of(trained.uninterrupted)["video_top1"]}
    assert "| uninterrupted |" in (trained.runs / "leaderboard.md").read_text()


def test_a_run_predicts_new_videos(trained: Trained) -> None:
    """Prediction prints class probabilities that match the evaluation; a broken video is named, with exit code 1."""
    broken = trained.folder / "broken.avi"
    broken.write_text("no video")
    video = trained.folder / "videos" / "left" / f"v_{TEST_GROUP}_left.avi"
    done = call("-m", "pipeline.predict", video, broken, "--run", trained.uninterrupted, "--top", 2)
    (line,) = done.stdout.splitlines()
    printed = {name: float(value) for name, value in map(str.split, line.partition(": ")[2].split(", "))}
    assert printed.keys() == {"left", "right"} and abs(sum(printed.values()) - 1) < 0.01
    with (trained.uninterrupted / "evaluation" / "predictions.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["video_id"].startswith("left"))
    assert abs(printed["left"] - float(row["p:left"])) < 0.01
    assert done.returncode == 1 and f"failed: {broken}" in done.stderr


@pytest.mark.parametrize(
    ("environment", "trains"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, True),
        ({"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}, False),
    ],
)
def test_a_launcher_starts_one_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    trains: bool,
    without_pictures: None,
) -> None:
    """RANK and WORLD_SIZE are ignored with one line of explanation; of torchrun's processes only the first trains."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    small = ("--length", 4, "--epochs", 1, "--steps-per-epoch", 2, "--batch-size", 4, "--hidden-size", 4)
    done = call("train.py", "--dataset", "addition", *small, "--runs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("one process on one device") == 1
    assert (tmp_path / "addition" / "np_rnn-length_4-seed_0" / "evaluation" / "metrics.json").exists() == trains
