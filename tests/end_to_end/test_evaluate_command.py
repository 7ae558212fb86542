"""evaluate.py as a user runs it, on rendered videos in UCF101's layout with three splits."""

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.helpers.clips import render_moving_squares
from tests.helpers.commands import call, finish, start

# Training and test groups of each split; training groups from 22 on are for validation. Split 1 trains on the test
# videos of split 2, but not on those of split 3.
SPLITS = {1: ((3, 4, 22), (1, 2)), 2: ((1, 2, 22), (3, 4)), 3: ((3, 4, 22), (5, 6))}
CLASSES = ("left", "right")


def render_ucf101(root: Path) -> None:
    """Render the videos of ``render_moving_squares`` in UCF101's layout, with the lists of ``SPLITS``."""
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
        train_lines = [f"{video(name, group)} {label}" for label, name in enumerate(CLASSES, 1) for group in train]
        test_lines = [video(name, group) for name in CLASSES for group in test]
        (lists / f"trainlist{split:02d}.txt").write_text("\n".join(train_lines) + "\n")
        (lists / f"testlist{split:02d}.txt").write_text("\n".join(test_lines) + "\n")


def video(name: str, group: int) -> str:
    return f"{name}/v_{name}_g{group:02d}_c01.avi"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: tuple[str, Path]) -> Path:
    """A folder of three runs: np-RNNs on splits 1 and 2, the frame average on split 1."""
    folder = tmp_path_factory.mktemp("evaluated")
    render_ucf101(folder / "ucf101")
    backbone, weights = tiny_backbone
    settings = [
        *("--dataset", "ucf101", "--root", folder / "ucf101", "--backbone", backbone, "--weights", weights),
        *("--runtime", "torch", "--sampling", "uniform:6", "--workers", 1, "--cache", folder / "cache"),
        *("--runs", folder / "runs", "--epochs", 3, "--hidden-size", 8, "--strips", 2),
    ]
    for more in (("--splits", 1, 2), ("--model", "mean")):
        done = call("train.py", *settings, *more)
        assert done.returncode == 0, done.stderr
    return folder / "runs" / "ucf101"


@pytest.fixture
def runs(trained: Path, tmp_path: Path, without_pictures: None) -> Path:
    """A copy that a test may change. What is evaluated again gets reports without pictures."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def metrics_of(evaluation: Path) -> dict[str, Any]:
    return dict(json.loads((evaluation / "metrics.json").read_text()))


def leaderboard_of(runs: Path) -> list[dict[str, str]]:
    with (runs / "leaderboard.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["kind"] == "run"]


def test_a_broken_run_is_named_and_the_others_are_evaluated(runs: Path) -> None:
    """The exit code is 1 and the reason is printed; the leaderboard has the other runs and links to their reports."""
    broken = runs / "np_rnn-split_2-seed_0"
    (broken / "checkpoints" / "best.pt").write_bytes(b"no checkpoint")
    done = call("evaluate.py", runs)
    assert done.returncode == 1
    assert f"failed: {broken}: {broken / 'checkpoints' / 'best.pt'}" in done.stderr
    assert {row["run"] for row in leaderboard_of(runs)} == {"np_rnn-split_1-seed_0", "mean-split_1-seed_0"}
    page = (runs / "leaderboard.html").read_text()
    for name in ("np_rnn-split_1-seed_0", "mean-split_1-seed_0"):
        assert f'href="{name}/evaluation/report.html"' in page
        assert (runs / name / "evaluation" / "report.html").exists()


def test_finished_evaluations_are_skipped(runs: Path) -> None:
    """A second call changes no file and says so; a changed run is evaluated again, and so is any run with --again."""
    assert call("evaluate.py", runs).returncode == 0
    files = [path for path in runs.glob("*/evaluation/**/*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    done = call("evaluate.py", runs)
    assert done.returncode == 0
    assert done.stdout.count("already finished") == 3
    assert {path: path.stat().st_mtime_ns for path in files} == before
    changed = runs / "np_rnn-split_2-seed_0"
    shutil.copy(runs / "np_rnn-split_1-seed_0" / "checkpoints" / "best.pt", changed / "checkpoints" / "best.pt")
    done = call("evaluate.py", runs)
    assert done.stdout.count("already finished") == 2
    rewritten = {path.relative_to(runs).parts[0] for path in files if path.stat().st_mtime_ns != before[path]}
    assert rewritten == {changed.name}
    done = call("evaluate.py", runs / "mean-split_1-seed_0", "--again")
    assert "already finished" not in done.stdout


def test_a_run_can_be_published(runs: Path) -> None:
    """The run's README is its model card, which the Hub shows; a text that a person wrote there stays."""
    ours, theirs = (runs / f"np_rnn-split_{split}-seed_0" for split in (1, 2))
    card = (ours / "evaluation" / "MODEL_CARD.md").read_bytes()
    assert (ours / "README.md").read_bytes() == card and b"| train | 4 | 4 | 2 |" in card
    (theirs / "README.md").write_text("My model")
    (ours / "evaluation" / "MODEL_CARD.md").write_text("of an earlier version")
    (ours / "README.md").write_text("of an earlier version")
    done = call("evaluate.py", runs, "--again")
    assert done.returncode == 0, done.stderr
    assert b"pipeline_tag" in (ours / "README.md").read_bytes()
    assert (theirs / "README.md").read_text() == "My model"


def test_an_interrupted_evaluation_continues(runs: Path) -> None:
    """Ctrl-C after the first run: exit code 130, its evaluation is complete, and the same command does the others."""
    for evaluation in runs.glob("*/evaluation"):
        shutil.rmtree(evaluation)
    process = start("evaluate.py", runs)
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert finish(process).returncode == 130
    done = call("evaluate.py", runs)
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(first.rstrip()))
    assert "already finished" in line
    assert done.stdout.count("already finished") < 3
    assert len(list(runs.glob("*/evaluation/metrics.json"))) == 3


def test_the_baseline_is_evaluated_first(runs: Path) -> None:
    """The np-RNN's report compares it with the frame average of the same split, but not of another split."""
    assert call("evaluate.py", runs).returncode == 0
    with_baseline = (runs / "np_rnn-split_1-seed_0" / "evaluation" / "report.html").read_text()
    assert "mean-split_1-seed_0" in with_baseline
    assert "mean-split_1-seed_0" not in (runs / "np_rnn-split_2-seed_0" / "evaluation" / "report.html").read_text()


def test_overrides_go_to_a_separate_folder(runs: Path) -> None:
    """--clips and --clip-frames leave the run's main evaluation alone; the recorded command repeats the evaluation."""
    chosen = runs / "np_rnn-split_1-seed_0"
    main_metrics = metrics_of(chosen / "evaluation")
    done = call("evaluate.py", chosen, "--clips", 2, "--clip-frames", 4, "--strips", 0)
    assert done.returncode == 0, done.stderr
    other = metrics_of(chosen / "evaluation-clips_2-clip_frames_4")
    assert (other["num_videos"], other["num_clips"]) == (4, 8)
    assert metrics_of(chosen / "evaluation") == main_metrics
    assert "--clips=2 --clip-frames=4 --strips=0 --again" in other["command"]
    again = call(*other["command"].split()[1:])
    assert again.returncode == 0, again.stderr
    assert metrics_of(chosen / "evaluation-clips_2-clip_frames_4") == other


def test_validation_videos_are_scored_and_labelled(runs: Path) -> None:
    """--split validation scores each run's validation list; the printed line, leaderboard and report say so."""
    done = call("evaluate.py", runs, "--split", "validation")
    assert done.returncode == 0, done.stderr
    assert "np_rnn-split_1-seed_0 (validation videos" in done.stdout
    evaluation = runs / "np_rnn-split_1-seed_0" / "evaluation-split_validation"
    with (evaluation / "predictions.csv").open() as file:
        assert [row["video_id"] for row in csv.DictReader(file)] == ["v_left_g22_c01", "v_right_g22_c01"]
    assert {row["evaluated_on"] for row in leaderboard_of(runs)} == {metrics_of(evaluation)["evaluated_on"]}
    assert "validation videos" in (evaluation / "report.html").read_text()


def test_videos_that_a_run_was_trained_on_are_refused(runs: Path) -> None:
    """A run on split 1 was trained on the test videos of split 2: the error counts them, and nothing is written."""
    chosen = runs / "np_rnn-split_1-seed_0"
    done = call("evaluate.py", chosen, "--split", 2)
    assert done.returncode == 1
    assert "4 of the 4 test videos of split 2" in done.stderr
    assert not (chosen / "evaluation-split_2").exists()
    done = call("evaluate.py", chosen, "--split", 3)
    assert done.returncode == 0, done.stderr
    assert metrics_of(chosen / "evaluation-split_3")["evaluated_on"] == "test videos of split 3"


def test_split_selects_the_runs_that_were_trained_on_it(runs: Path) -> None:
    """--split 1 evaluates a folder's runs on split 1, and names the runs that it leaves out."""
    done = call("evaluate.py", runs, "--split", 1)
    assert done.returncode == 0, done.stderr
    assert f"left out: {runs / 'np_rnn-split_2-seed_0'}, trained on split 2" in done.stderr
    assert {row["split"] for row in leaderboard_of(runs)} == {"1"}
    assert not list(runs.glob("*/evaluation-split*"))


def test_runs_are_compared(runs: Path) -> None:
    """--compare writes the comparison page and prints its path; one run is not enough."""
    pair = (runs / "np_rnn-split_1-seed_0", runs / "mean-split_1-seed_0")
    done = call("evaluate.py", *pair, "--compare")
    assert done.returncode == 0, done.stderr
    page = runs / "comparison.html"
    assert str(page) in done.stdout.splitlines()
    assert all(each.name in page.read_text() for each in pair)
    alone = call("evaluate.py", pair[0], "--compare")
    assert alone.returncode == 2
    assert "--compare" in alone.stderr and str(pair[0]) in alone.stderr


def test_the_report_has_strips_curves_and_spectrum(trained: Path) -> None:
    """An evaluation has strips of frames, accuracy by frames seen, the spectrum of W_hh and the facts of the run."""
    evaluation = trained / "np_rnn-split_1-seed_0" / "evaluation"
    assert len(list((evaluation / "strips").glob("*.jpg"))) == 2
    assert {path.stem for path in (evaluation / "figures").glob("*.csv")} >= {"spectrum", "frames_seen"}
    facts = metrics_of(evaluation)
    assert (facts["num_epochs"], facts["clips"], facts["split"]) == (3, "up to 10 clips of 16 frames", "1")
    assert 0 <= facts["best_epoch"] < 3
    assert facts["training_seconds"] > 0
    assert "timm" in facts["versions"] and np.isfinite(facts["video_top1"])


@pytest.mark.parametrize("link", ["evaluation/figures", "checkpoints"])
def test_links_in_a_run_are_not_followed(runs: Path, tmp_path: Path, link: str) -> None:
    """A run that leads out of its folder is named and the others are evaluated; nothing outside is touched."""
    received = runs / "np_rnn-split_1-seed_0"
    outside = tmp_path / "outside"
    (received / link).rename(outside)
    (received / link).symlink_to(outside)
    before = contents(outside)
    done = call("evaluate.py", runs, "--again")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"failed: {received}: {received / link} is a link to {outside}" in done.stderr
    assert len(leaderboard_of(runs)) == 2
    assert contents(outside) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (folder, *folder.rglob("*")) if path.is_file()}


def test_a_run_does_not_decide_where_an_evaluation_writes(runs: Path, tmp_path: Path) -> None:
    """Features are read from the run's store, but nothing is written to it, or to a folder that is no store."""
    received = runs / "np_rnn-split_1-seed_0"
    settings = yaml.safe_load((received / "config.yaml").read_text())
    store = Path(shutil.copytree(settings["cache"], tmp_path / "store"))
    shutil.rmtree(next(store.glob("*/packed")))
    before = contents(store)
    (received / "config.yaml").write_text(yaml.safe_dump(settings | {"cache": str(store)}))
    done = call("evaluate.py", received, "--again")
    assert done.returncode == 0, done.stderr
    assert contents(store) == before
    for entry in list(store.glob("*/ucf101/*"))[:2]:
        entry.unlink()
    done = call("evaluate.py", received, "--again")
    assert done.returncode == 1 and f"--cache {store}" in done.stderr
    assert call("evaluate.py", received, "--again", "--cache", store).returncode == 0
    (received / "config.yaml").write_text(yaml.safe_dump(settings | {"cache": str(tmp_path / "theirs")}))
    done = call("evaluate.py", received, "--again")
    assert done.returncode == 1 and f"--cache {tmp_path / 'theirs'}" in done.stderr
    assert not (tmp_path / "theirs").exists()
