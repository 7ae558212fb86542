"""evaluate.py as a user runs it, on rendered videos in UCF101's layout with three splits."""

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.clips import render_moving_squares
from tests.helpers.commands import finish, run, start

# Groups that a split trains on and tests on; from 22 on they are for validation. The test videos of split 2 are among
# those that split 1 trains on, those of split 3 are not.
SPLITS = {1: ((3, 4, 22), (1, 2)), 2: ((1, 2, 22), (3, 4)), 3: ((3, 4, 22), (5, 6))}
CLASSES = ("left", "right")


def render_ucf101(root: Path) -> None:
    """In ``left`` a square moves to the left, in ``right`` to the right: a frame average can't tell them apart."""
    render_moving_squares(root / "squares")
    groups = sorted({group for train, test in SPLITS.values() for group in train + test})
    for name in CLASSES:
        (root / "UCF-101" / name).mkdir(parents=True)
        for number, group in enumerate(groups, start=1):
            shutil.copy(root / "squares" / name / f"v_g{number}_{name}.avi", root / "UCF-101" / video(name, group))
    shutil.rmtree(root / "squares")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 left\n2 right\n")
    for split, (train, test) in SPLITS.items():
        for what, chosen in (("train", train), ("test", test)):
            lines = [
                f"{video(name, group)} {label}" if what == "train" else video(name, group)
                for label, name in enumerate(CLASSES, start=1)
                for group in chosen
            ]
            (lists / f"{what}list{split:02d}.txt").write_text("\n".join(lines) + "\n")


def video(name: str, group: int) -> str:
    return f"{name}/v_{name}_g{group:02d}_c01.avi"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: tuple[str, Path]) -> Path:
    """The folder of three runs: np-RNNs on splits 1 and 2, the frame average on split 1."""
    folder = tmp_path_factory.mktemp("evaluated")
    render_ucf101(folder / "ucf101")
    backbone, weights = tiny_backbone
    settings = [
        *("--dataset", "ucf101", "--root", folder / "ucf101", "--backbone", backbone, "--weights", weights),
        *("--runtime", "torch", "--sampling", "uniform:6", "--workers", 1, "--cache", folder / "cache"),
        *("--runs", folder / "runs", "--epochs", 3, "--hidden-size", 8, "--strips", 2),
    ]
    for more in (("--splits", 1, 2), ("--model", "mean")):
        done = run("train.py", *settings, *more)
        assert done.returncode == 0, done.stderr
    return folder / "runs" / "ucf101"


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def metrics_of(evaluation: Path) -> dict[str, Any]:
    return dict(json.loads((evaluation / "metrics.json").read_text()))


def leaderboard_of(runs: Path) -> list[dict[str, str]]:
    with (runs / "leaderboard.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["kind"] == "run"]


def test_a_broken_run_is_named_and_the_others_are_done(runs: Path) -> None:
    """Exit code 1 and the reason for the broken run; the two others are on the leaderboard, with their reports."""
    broken = runs / "np_rnn-split_2-seed_0"
    (broken / "checkpoints" / "best.pt").write_bytes(b"no checkpoint")
    done = run("evaluate.py", runs)
    assert done.returncode == 1
    assert f"failed: {broken}: {broken / 'checkpoints' / 'best.pt'} is damaged" in done.stderr
    assert {row["run"] for row in leaderboard_of(runs)} == {"np_rnn-split_1-seed_0", "mean-split_1-seed_0"}
    page = (runs / "leaderboard.html").read_text()
    for name in ("np_rnn-split_1-seed_0", "mean-split_1-seed_0"):
        assert f'href="{name}/evaluation/report.html"' in page
        assert (runs / name / "evaluation" / "report.html").exists()


def test_finished_evaluations_are_skipped(runs: Path) -> None:
    """A second call leaves every file alone and says so; a changed run is evaluated again, and with --again any run."""
    assert run("evaluate.py", runs).returncode == 0
    files = [path for path in runs.glob("*/evaluation/**/*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    done = run("evaluate.py", runs)
    assert done.returncode == 0
    assert done.stdout.count("already finished; --again repeats it") == 3
    assert {path: path.stat().st_mtime_ns for path in files} == before
    changed = runs / "np_rnn-split_2-seed_0"
    shutil.copy(runs / "np_rnn-split_1-seed_0" / "checkpoints" / "best.pt", changed / "checkpoints" / "best.pt")
    done = run("evaluate.py", runs)
    assert done.stdout.count("already finished") == 2
    touched = {path.relative_to(runs).parts[0] for path in files if path.stat().st_mtime_ns != before[path]}
    assert touched == {changed.name}
    done = run("evaluate.py", runs / "mean-split_1-seed_0", "--again")
    assert "already finished" not in done.stdout


def test_an_interrupted_evaluation_continues(runs: Path) -> None:
    """Ctrl-C after the first run ends with 130 and leaves its evaluation complete; the same command does the rest."""
    for evaluation in runs.glob("*/evaluation"):
        shutil.rmtree(evaluation)
    process = start("evaluate.py", runs)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert finish(process).returncode == 130
    done = run("evaluate.py", runs)
    assert done.returncode == 0, done.stderr
    assert first.rstrip() + "  (already finished; --again repeats it)" in done.stdout.splitlines()
    assert done.stdout.count("already finished") < 3
    assert len(list(runs.glob("*/evaluation/metrics.json"))) == 3


def test_the_baseline_is_scored_first_and_named(runs: Path) -> None:
    """The np-RNN's report compares it with the frame average of the same split, if there is one."""
    assert run("evaluate.py", runs).returncode == 0
    with_baseline = (runs / "np_rnn-split_1-seed_0" / "evaluation" / "report.html").read_text()
    assert "mean-split_1-seed_0" in with_baseline
    assert "mean-split_1-seed_0" not in (runs / "np_rnn-split_2-seed_0" / "evaluation" / "report.html").read_text()


def test_other_settings_go_to_a_folder_of_their_own(runs: Path) -> None:
    """--clips and --clip-frames change the clips and leave the run's main evaluation alone."""
    chosen = runs / "np_rnn-split_1-seed_0"
    own = metrics_of(chosen / "evaluation")
    done = run("evaluate.py", chosen, "--clips", 2, "--clip-frames", 4, "--strips", 0)
    assert done.returncode == 0, done.stderr
    other = metrics_of(chosen / "evaluation-clips_2-clip_frames_4")
    assert (other["num_videos"], other["num_clips"]) == (4, 8)
    assert metrics_of(chosen / "evaluation") == own
    assert "--clips=2 --clip-frames=4 --strips=0 --again" in other["command"]
    again = run(*other["command"].split()[1:])
    assert again.returncode == 0, again.stderr
    assert metrics_of(chosen / "evaluation-clips_2-clip_frames_4") == other


def test_validation_videos_are_scored_and_called_so(runs: Path) -> None:
    """--split validation scores each run's validation list, and the line, leaderboard and report say so."""
    done = run("evaluate.py", runs, "--split", "validation")
    assert done.returncode == 0, done.stderr
    assert "np_rnn-split_1-seed_0 (validation videos, which the best epoch was chosen by)" in done.stdout
    evaluation = runs / "np_rnn-split_1-seed_0" / "evaluation-split_validation"
    with (evaluation / "predictions.csv").open() as file:
        assert [row["video_id"] for row in csv.DictReader(file)] == ["v_left_g22_c01", "v_right_g22_c01"]
    assert {row["evaluated_on"] for row in leaderboard_of(runs)} == {metrics_of(evaluation)["evaluated_on"]}
    assert "validation videos" in (evaluation / "report.html").read_text()


def test_videos_that_a_run_was_trained_on_are_refused(runs: Path) -> None:
    """A run on split 1 was trained on all test videos of split 2: an error with their number, and no evaluation."""
    chosen = runs / "np_rnn-split_1-seed_0"
    done = run("evaluate.py", chosen, "--split", 2)
    assert done.returncode == 1
    assert "trained on or chosen by 4 of the 4 test videos of split 2" in done.stderr
    assert not (chosen / "evaluation-split_2").exists()
    done = run("evaluate.py", chosen, "--split", 3)
    assert done.returncode == 0, done.stderr
    assert metrics_of(chosen / "evaluation-split_3")["evaluated_on"] == "test videos of split 3"


def test_a_split_chooses_the_runs_that_were_trained_on_it(runs: Path) -> None:
    """--split 1 evaluates a folder's runs on split 1, and names those it leaves out."""
    done = run("evaluate.py", runs, "--split", 1)
    assert done.returncode == 0, done.stderr
    assert f"left out: {runs / 'np_rnn-split_2-seed_0'}, trained on split 2" in done.stderr
    assert {row["split"] for row in leaderboard_of(runs)} == {"1"}
    assert not list(runs.glob("*/evaluation-split*"))


def test_runs_are_compared(runs: Path) -> None:
    """--compare writes the page of differences and prints its path; one run is not enough."""
    pair = (runs / "np_rnn-split_1-seed_0", runs / "mean-split_1-seed_0")
    done = run("evaluate.py", *pair, "--compare")
    assert done.returncode == 0, done.stderr
    page = runs / "comparison.html"
    assert str(page) in done.stdout.splitlines()
    assert all(each.name in page.read_text() for each in pair)
    alone = run("evaluate.py", pair[0], "--compare")
    assert alone.returncode == 2
    assert f"--compare needs at least two runs; {pair[0]} is the only one" in alone.stderr


def test_answers_over_time_strips_and_spectrum_reach_the_report(trained: Path) -> None:
    """The folder has strips of frames, probabilities over time, and the spectrum of W_hh before and after training."""
    evaluation = trained / "np_rnn-split_1-seed_0" / "evaluation"
    assert len(list((evaluation / "strips").glob("*.jpg"))) == 2
    assert {path.stem for path in (evaluation / "figures").glob("*.csv")} >= {"spectrum", "frames_seen"}
    facts = metrics_of(evaluation)
    assert (facts["num_epochs"], facts["clips"], facts["split"]) == (3, "up to 10 clips of 16 frames", "1")
    assert 0 <= facts["best_epoch"] < 3
    assert facts["training_seconds"] > 0
    assert "timm" in facts["versions"] and np.isfinite(facts["video_top1"])
