"""Train, kill, resume, evaluate: the real command lines in processes of their own, on rendered videos."""

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
from tests.helpers.commands import finish, run, start

EPOCHS = 80
TEST_GROUP = "g8"


class Workplace(NamedTuple):
    """A folder with videos, features and runs, and the runs that were made in it."""

    folder: Path
    unbroken: Path
    resumed: Path
    exit_codes: dict[str, int]
    stderr: dict[str, str]

    @property
    def runs(self) -> Path:
        return self.unbroken.parent


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


def stop_after(run_folder: Path, epochs: int, how: signal.Signals, *arguments: object) -> tuple[int, str]:
    """Start training and stop it by a signal as soon as so many epochs are done; its exit code and standard error."""
    process = start(*arguments)
    give_up = time.monotonic() + 120
    while process.poll() is None and num_epochs(run_folder) < epochs and time.monotonic() < give_up:
        time.sleep(0.002)
    assert process.poll() is None, f"ended before epoch {epochs}: {process.communicate()}"
    process.send_signal(how)
    done = finish(process)
    return done.returncode, done.stderr


KILLED_IN_THE_MIDDLE_OF_A_CHECKPOINT = """
import os, signal, sys
from pathlib import Path
import train

write_bytes, number = Path.write_bytes, 0

def torn_write(path, data):
    global number
    number += path.parent.name == "checkpoints"
    if number < 5:
        return write_bytes(path, data)
    write_bytes(path, data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = torn_write
train.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """One run trained in one go, and one of the same settings stopped three times in three ways and resumed."""
    folder = tmp_path_factory.mktemp("workplace")
    render_moving_squares(folder / "videos")
    unbroken, resumed = (folder / "runs" / "videos" / name for name in ("unbroken", "resumed"))
    exit_codes, stderr = {}, {}

    def note(what: str, code: int, text: str) -> None:
        exit_codes[what], stderr[what] = code, text

    done = run(*train_arguments(folder, "unbroken"))
    assert done.returncode == 0, done.stderr
    note("unbroken", done.returncode, done.stderr)
    begin, go_on = train_arguments(folder, "resumed"), ["--config", resumed / "config.yaml", "--resume"]
    epochs = sorted(random.sample(range(2, EPOCHS // 2), 2))
    print(f"stopped after epochs {epochs}")  # shown where a test fails
    note("kill", *stop_after(resumed, epochs[0], signal.SIGKILL, *begin))
    note("Ctrl-C", *stop_after(resumed, epochs[1], signal.SIGINT, *begin, "--resume"))
    done = run("-c", KILLED_IN_THE_MIDDLE_OF_A_CHECKPOINT, *go_on)
    note("kill in a checkpoint", done.returncode, done.stderr)
    torn = [path.name for path in (resumed / "checkpoints").iterdir() if path.suffix == ".tmp"]
    note("torn files", len(torn), str(torn))
    done = run("train.py", *go_on)
    note("to the end", done.returncode, done.stderr)
    return Workplace(folder, unbroken, resumed, exit_codes, stderr)


def metrics_of(run_folder: Path) -> dict[str, object]:
    return dict(json.loads((run_folder / "evaluation" / "metrics.json").read_text()))


def test_a_killed_and_resumed_run_ends_as_the_unbroken_one(workplace: Workplace) -> None:
    """kill -9 at random epochs, in the middle of a checkpoint, and Ctrl-C: the same weights bit for bit, the same
    metrics.jsonl but for the seconds, the same answers."""
    assert workplace.exit_codes == {
        "unbroken": 0,
        "kill": -signal.SIGKILL,
        "Ctrl-C": 130,
        "kill in a checkpoint": -signal.SIGKILL,
        "torn files": 1,
        "to the end": 0,
    }, workplace.stderr
    for name in ("last.pt", "best.pt"):
        ours, theirs = (
            torch.load(folder / "checkpoints" / name, weights_only=True)["model"]
            for folder in (workplace.unbroken, workplace.resumed)
        )
        assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == [], name
    curves = [
        [{**json.loads(line), "seconds": 0} for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (workplace.unbroken, workplace.resumed)
    ]
    assert len(curves[0]) == EPOCHS
    assert curves[0] == curves[1]
    answers = [
        (folder / "evaluation" / "predictions.csv").read_text() for folder in (workplace.unbroken, workplace.resumed)
    ]
    assert answers[0] == answers[1]


def test_ctrl_c_ends_without_a_traceback(workplace: Workplace) -> None:
    """An interrupted training says how to go on, and shows no Python stack."""
    assert "interrupted; finished work is kept" in workplace.stderr["Ctrl-C"]
    assert "--resume" in workplace.stderr["Ctrl-C"]
    assert "Traceback" not in workplace.stderr["Ctrl-C"]


def test_no_torn_file_is_left_behind(workplace: Workplace) -> None:
    """What a killed process left half-written is gone once the run has gone on."""
    assert sorted(path.name for path in (workplace.resumed / "checkpoints").iterdir()) == ["best.pt", "last.pt"]


def test_a_second_run_extracts_nothing(workplace: Workplace) -> None:
    """Features are made once: the first run reports caching, the others do not, and every video has one file."""
    assert "caching features" in workplace.stderr["unbroken"]
    for what in ("kill", "Ctrl-C", "kill in a checkpoint", "to the end"):
        assert "caching features" not in workplace.stderr[what]
    assert len(list((workplace.folder / "cache").rglob("*.safetensors"))) == 16


def test_the_run_folder_is_that_of_the_contract(workplace: Workplace) -> None:
    """Everything that a run promises lies where it is said to lie."""
    files = {path.relative_to(workplace.unbroken).as_posix() for path in workplace.unbroken.rglob("*")}
    assert {"config.yaml", "metrics.jsonl", "checkpoints/last.pt", "checkpoints/best.pt"} <= files
    evaluation = ("metrics.json", "predictions.csv", "per_class.csv", "confusion.csv", "confusion.png", "report.html")
    assert {f"evaluation/{name}" for name in evaluation} <= files
    config = yaml.safe_load((workplace.unbroken / "config.yaml").read_text())
    assert (config["dataset"], config["hidden_size"], config["holdout_group"]) == ("folder", 16, TEST_GROUP)
    metrics = metrics_of(workplace.unbroken)
    assert (metrics["num_videos"], metrics["num_missing"], metrics["holdout_group"]) == (2, 0, TEST_GROUP)
    with (workplace.unbroken / "evaluation" / "predictions.csv").open() as file:
        assert [row["video_id"] for row in csv.DictReader(file)] == ["left/v_g8_left.avi", "right/v_g8_right.avi"]


def test_an_existing_run_is_refused_before_any_work(workplace: Workplace) -> None:
    """The same command again touches nothing, exits with 2 and names the ways on."""
    before = {path: path.stat().st_mtime_ns for path in workplace.unbroken.rglob("*")}
    done = run(*train_arguments(workplace.folder, "unbroken"))
    assert done.returncode == 2
    assert f"error: {workplace.unbroken} exists. Continue it (--resume)" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in workplace.unbroken.rglob("*")} == before


def test_evaluation_again_gives_the_same_numbers(workplace: Workplace) -> None:
    """evaluate.py on one run reproduces what training reported, file for file."""
    names = ("metrics.json", "predictions.csv", "per_class.csv", "confusion.csv")
    before = {name: (workplace.unbroken / "evaluation" / name).read_text() for name in names}
    shutil.rmtree(workplace.unbroken / "evaluation")
    done = run("evaluate.py", workplace.unbroken)
    assert done.returncode == 0, done.stderr
    assert "unbroken: video top-1" in done.stdout
    assert {name: (workplace.unbroken / "evaluation" / name).read_text() for name in names} == before
    assert not (workplace.runs / "leaderboard.csv").exists()


def test_a_folder_of_runs_is_evaluated_past_its_damaged_ones(workplace: Workplace) -> None:
    """Every damaged run is named with its reason and the exit code is 1; the good ones make the leaderboard."""
    damaged = {
        name: workplace.runs / name for name in ("half", "no-checkpoint", "no-recipe", "bad-config", "other-size")
    }
    for folder in damaged.values():
        shutil.copytree(workplace.unbroken, folder)
    checkpoint = damaged["half"] / "checkpoints" / "best.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    (damaged["no-checkpoint"] / "checkpoints" / "best.pt").unlink()
    (damaged["no-recipe"] / "recipe.json").unlink()
    (damaged["bad-config"] / "config.yaml").write_text("hidden_size: many\n")
    config = damaged["other-size"] / "config.yaml"
    config.write_text(config.read_text().replace("hidden_size: 16", "hidden_size: 20"))
    try:
        done = run("evaluate.py", workplace.runs)
    finally:
        for folder in damaged.values():
            shutil.rmtree(folder)
    assert done.returncode == 1
    for folder, reason in zip(
        damaged.values(),
        ("best.pt is damaged", "has no checkpoint yet", "recipe.json can't be read", "hidden_size", "does not contain"),
        strict=True,
    ):
        (line,) = (line for line in done.stderr.splitlines() if line.startswith(f"failed: {folder}:"))
        assert reason in line
    assert "Traceback" not in done.stderr
    with (workplace.runs / "leaderboard.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "run"]
    assert {row["run"] for row in rows} == {"unbroken", "resumed"}
    assert {float(row["video_top1"]) for row in rows} == {metrics_of(workplace.unbroken)["video_top1"]}
    assert "| unbroken |" in (workplace.runs / "leaderboard.md").read_text()


def test_a_run_predicts_new_videos(workplace: Workplace) -> None:
    """Prediction names the classes of a video with probabilities, and a broken one with the reason and exit code 1."""
    broken = workplace.folder / "broken.avi"
    broken.write_text("no video")
    video = workplace.folder / "videos" / "left" / f"v_{TEST_GROUP}_left.avi"
    done = run("-m", "pipeline.predict", video, broken, "--run", workplace.unbroken, "--top", 2)
    (line,) = done.stdout.splitlines()
    named = {name: float(value) for name, value in (part.split() for part in line.partition(": ")[2].split(", "))}
    assert named.keys() == {"left", "right"} and abs(sum(named.values()) - 1) < 0.01
    with (workplace.unbroken / "evaluation" / "predictions.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["video_id"].startswith("left"))
    assert abs(named["left"] - float(row["p:left"])) < 0.01
    assert done.returncode == 1 and f"failed: {broken}" in done.stderr
