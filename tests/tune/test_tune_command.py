"""The command as a user runs it, on imported features of videos that do not exist."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from tests.helpers.commands import call, finish, message, start

NUM_GROUPS, VIDEOS_PER_GROUP = 8, 4
SMALL = ["--epochs", 2, "--hidden-size", 8, "--folds", 3, "--seeds", 0, 1, "--workers", 1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The flags for 32 videos of two classes in 8 groups, with features that are easy to tell apart."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["path,label,group"]
    (folder / "made").mkdir()
    for number in range(NUM_GROUPS * VIDEOS_PER_GROUP):
        rows.append(f"v{number}.avi,{('run', 'walk')[number % 2]},g{number // VIDEOS_PER_GROUP}")
        noise = np.random.default_rng(number).normal(size=(4, 6))
        np.save(folder / "made" / f"v{number}.npy", (noise + 2 * (number % 2)).astype(np.float16))
    (folder / "videos.csv").write_text("\n".join(rows) + "\n")
    flags = ["--dataset", "folder", "--root", folder, "--cache", folder / "cache"]
    done = call("-m", "pipeline.cache", "import", *flags, "--from", folder / "made", "--name", "mine")
    assert done.returncode == 0, done.stderr
    return [*flags, "--backbone", "imported:mine"]


def lines_of(results: Path) -> list[dict[str, Any]]:
    """The complete lines of the log."""
    path = results / "results.jsonl"
    texts = path.read_text().splitlines() if path.exists() else []
    return [json.loads(text) for text in texts if text.endswith("}")]


def read(results: Path) -> dict[str, Any]:
    """``tune.json`` without the command and the durations."""
    content: dict[str, Any] = json.loads((results / "tune.json").read_text())
    del content["command"]
    return content | {"rows": [{key: row[key] for key in row if key != "seconds"} for row in content["rows"]]}


def check(done: "subprocess.CompletedProcess[str]", exit_code: int = 0) -> str:
    assert done.returncode == exit_code and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_an_interrupted_command_resumes_to_the_same_result(
    data: list[object], tmp_path: Path, stop: signal.Signals
) -> None:
    """A command that is interrupted with Ctrl-C, or killed, resumes without repeating a training, and gives the table
    of one that was not, whatever the number of workers. It has one row per model and one sentence, and best.yaml trains
    with train.py."""
    command = ["-m", "pipeline.tune", *data, *SMALL, "--models", "np_rnn", "mean", "--candidates", 2]
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    process = start(*command, "--results", broken, "--workers", 2)
    while len(lines_of(broken)) < 3:
        assert process.poll() is None, finish(process)
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(stop)
    ended = finish(process)
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    if stop == signal.SIGINT:
        check(ended, exit_code=130)
        assert "Run the same command again" in ended.stderr
    before = lines_of(broken)
    output = check(call(*command, "--results", broken))
    num_trainings = 2 * 2 * 3 + 2 * 2 * 3
    lines = lines_of(broken)
    assert lines[: len(before)] == before
    # Folds that choose other than the given settings train once more.
    assert num_trainings <= len(lines) <= num_trainings + 2 * 3
    assert len({json.dumps([line["key"], line["provenance"]]) for line in lines}) == len(lines)
    check(call(*command, "--results", whole))
    assert read(broken) == read(whole)

    assert re.search(r"32 videos, 8 groups, 2 classes in 3 folds of \d+ to \d+ videos", output)
    for model in ("np_rnn", "mean"):
        assert re.search(rf"^\| {model} +\| [01]\.\d{{3}} +\| \[[01]\.\d{{3}}, [01]\.\d{{3}}\]", output, re.MULTILINE)
    heads = r"(np_rnn [01]\.\d{3}, frame average|frame average [01]\.\d{3}, np_rnn) [01]\.\d{3}"
    assert re.search(rf"^{heads}, difference \d+\.\d points \[−?\d+\.\d, −?\d+\.\d\]$", output, re.MULTILINE)
    assert output.splitlines()[-1] == str(broken / "best.yaml")
    check_best_settings(whole, tmp_path)


def check_best_settings(results: Path, folder: Path) -> None:
    """Each YAML file has the settings of tune.json, and train.py accepts the best one."""
    rows = read(results)["rows"]
    winner = max(rows, key=lambda row: (row["top1"], -row["loss"]))
    for name, row in [(row["name"], row) for row in rows] + [("best", winner)]:
        text = (results / f"{name}.yaml").read_text()
        settings = yaml.safe_load(text)
        assert settings["model"] == row["name"] and settings["hidden_size"] == 8
        assert settings.items() >= row["settings"].items()
        assert not settings.keys() & {"seeds", "workers", "batch_size"}
        assert "python -m pipeline.tune --dataset folder" in text and f"top-1 {row['top1']:.3f}" in text
    check(call("train.py", "--config", results / "best.yaml", "--runs", folder / "runs"))
    (saved,) = (folder / "runs").rglob("config.yaml")
    trained = yaml.safe_load(saved.read_text())
    assert trained.items() >= yaml.safe_load((results / "best.yaml").read_text()).items()


def test_variants_are_compared_as_they_are(data: list[object], tmp_path: Path) -> None:
    """--variants replaces the models: no search, and one that diverges is wrong on every video.

    The first is the reference if none is a frame average. With --half, only half of the groups are used.
    """
    (tmp_path / "two.yaml").write_text("as given: {}\nwild: {learning_rate: 1e30, clip_gradient: 1e30}\n")
    command = ["-m", "pipeline.tune", *data, *SMALL, "--variants", tmp_path / "two.yaml", "--half", "second"]
    output = check(call(*command, "--results", tmp_path / "results"))
    assert "16 videos, 4 groups" in output
    lines = lines_of(tmp_path / "results")
    assert len(lines) == 2 * 3 * 2 and not any("candidate" in line["key"] for line in lines)
    wild = [line for line in lines if line["key"].startswith("wild")]
    assert all(line["diverged"] for line in wild) and not any(line["diverged"] for line in lines if line not in wild)
    first, second = read(tmp_path / "results")["rows"]
    assert first["difference"] is None and second["top1"] == 0
    assert second["difference"]["value"] == pytest.approx(-first["top1"])
    assert "learning_rate" not in yaml.safe_load((tmp_path / "results" / "best.yaml").read_text())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--folds", 9], "8 groups are too few for 9 folds"),
        (["--folds", 2], "folds must be at least 3, not 2"),
        (["--models", "np_rnn", "gruu"], "gruu"),
        (["--budget", "soon"], "budget must be a time such as 90s, 10m or 2h, not 'soon'"),
        (["--candidate", 3], "--candidates"),
        (["--half", "third"], "third"),
        (["--variants", "missing.yaml"], "missing.yaml can't be read"),
        (["--splits", "2"], "no split '2'"),
        (["--dataset", "addition", "--root", "."], "has no video"),
    ],
)
def test_wrong_usage_ends_with_code_2(data: list[object], flags: list[object], expected: str, tmp_path: Path) -> None:
    """A wrong option is reported before anything is trained or written."""
    done = call("-m", "pipeline.tune", *data, *flags, "--results", tmp_path / "results")
    check(done, exit_code=2)
    assert expected in message(done) and not (tmp_path / "results").exists()


def test_videos_without_features_end_the_command(data: list[object], tmp_path: Path) -> None:
    """Missing features are reported before anything is trained."""
    done = call("-m", "pipeline.tune", *data, *SMALL, "--backbone", "imported:other", "--results", tmp_path / "results")
    check(done, exit_code=2)
    assert "32 of 32 videos have no features" in message(done)
