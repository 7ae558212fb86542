"""Tasks without video through the real command lines, and next to video in one evaluation."""

import csv
import json
import signal
import time
from pathlib import Path

from data.catalog import DataConfig, load_dataset
from pipeline.features.recipe import imported_recipe
from pipeline.store.store import FeatureStore
from pipeline.training.run import Run
from tests.helpers.commands import call, finish, start
from tests.helpers.idx import write_small_mnist
from tests.helpers.runs import assert_same_run
from tests.helpers.synthetic import make_features


def write_video_features(root: Path, cache: Path) -> None:
    """Write a dataset of two classes whose features are in the store and whose video files are never opened."""
    for number in range(12):
        path = root / ("run", "walk")[number % 2] / f"{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")  # one byte, the file size that ``make_features`` records
    dataset, store = load_dataset(DataConfig("folder", root)), FeatureStore(cache, imported_recipe("made_up"))
    for number, video in enumerate(dataset.videos):
        store.write(dataset.store_name, video.video_id, make_features([[video.label, 1.0], [0.5, number / 12]]))


def test_train_resume_and_evaluate(tmp_path: Path, without_pictures: None) -> None:
    """Several seeds make a table; a killed and resumed run equals an uninterrupted one; one call of evaluate.py
    reproduces the metrics of addition, digits and video."""
    runs, root, cache = tmp_path / "runs", tmp_path / "videos", tmp_path / "cache"
    small = ["--hidden-size", 12, "--epochs", 15, "--steps-per-epoch", 60, "--batch-size", 20, "--runs"]
    addition = ["train.py", "--dataset", "addition", "--length", 5, *small]
    done = call(*addition, runs, "--seeds", 0, 1)
    assert done.returncode == 0, done.stderr
    assert (runs / "addition" / "sequences.csv").exists() and "| steps_to_solve" in done.stdout

    process = start(*addition, tmp_path / "killed")
    killed = Run(tmp_path / "killed" / "addition" / "np_rnn-length_5-seed_0")
    deadline = time.monotonic() + 120
    while process.poll() is None and not (killed.checkpoints / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert finish(process).returncode == -signal.SIGKILL
    done = call("train.py", "--config", killed.folder / "config.yaml", "--resume")
    assert done.returncode == 0, done.stderr
    assert_same_run(killed, Run(runs / "addition" / killed.name))

    mnist = write_small_mnist(tmp_path / "mnist")
    digits = ["--dataset", "pixel_mnist", "--root", mnist, "--hidden-size", 12, "--epochs", 2, "--runs", runs]
    done = call("train.py", *digits)
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr
    write_video_features(root, cache)
    video = ["--dataset", "folder", "--root", root, "--cache", cache, "--backbone", "imported:made_up"]
    done = call("train.py", *video, "--epochs", 2, "--hidden-size", 8, "--runs", runs)
    assert done.returncode == 0, done.stderr

    before = {path: json.loads(path.read_text()) for path in runs.rglob("metrics.json")}
    assert len(before) == 4
    done = call("evaluate.py", runs)
    assert done.returncode == 0, done.stderr
    assert {path: json.loads(path.read_text()) for path in runs.rglob("metrics.json")} == before
    with (runs / "leaderboard.csv").open() as file:
        assert {row["dataset"] for row in csv.DictReader(file)} == {"pixel_mnist", "videos"}
    with (runs / "sequences.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1"]
    done = call("-m", "pipeline.predict", "clip.avi", "--run", killed.folder)
    assert done.returncode == 2 and "was trained on addition, not on video" in done.stderr
