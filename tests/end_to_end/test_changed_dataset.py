"""A dataset that changes after training, through the real command lines: the run keeps its own lists."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.helpers.commands import run

CLASSES = ("run", "walk")
NUM_GROUPS, PER_GROUP = 10, 4


class Trained(NamedTuple):
    """A run, and the CSV of its videos."""

    run: Path
    csv: Path

    def rows(self) -> list[dict[str, str]]:
        with self.csv.open(newline="") as file:
            return list(csv.DictReader(file))

    def write(self, rows: list[dict[str, str]]) -> None:
        with self.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, ("path", "label", "group"))
            writer.writeheader()
            writer.writerows(rows)

    def lists(self) -> dict[str, Any]:
        return dict(json.loads((self.run / "split.json").read_text()))

    def groups(self, part: str) -> list[str]:
        return sorted({group for _, _, group in self.lists()[part]})

    def scored(self) -> list[str]:
        with (self.run / "evaluation" / "predictions.csv").open(newline="") as file:
            return [row["video_id"] for row in csv.DictReader(file)]

    def metrics(self) -> dict[str, Any]:
        return dict(json.loads((self.run / "evaluation" / "metrics.json").read_text()))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run on features of pure noise: it knows its training videos by heart, and nothing of others."""
    folder = tmp_path_factory.mktemp("noise")
    trained = Trained(folder / "runs" / "data" / "noise", folder / "data" / "videos.csv")
    rows = []
    for number in range(NUM_GROUPS * PER_GROUP):
        label = CLASSES[number % 2]
        path = folder / "features" / label / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(number).normal(size=(4, 64)).astype(np.float16))
        rows.append({"path": f"{label}/{number}.avi", "label": label, "group": f"person{number // PER_GROUP}"})
    trained.csv.parent.mkdir()
    trained.write(rows)
    data = ["--dataset", "folder", "--root", trained.csv, "--cache", folder / "cache"]
    done = run("-m", "pipeline.cache", "import", folder / "features", "--name", "noise", *data)
    assert done.returncode == 0, done.stderr
    done = run(
        *("train.py", *data, "--backbone", "imported:noise", "--runs", folder / "runs", "--name", "noise"),
        *("--epochs", 30, "--hidden-size", 32, "--weight-decay", 0, "--strips", 0),
    )
    assert done.returncode == 0, done.stderr
    # Runs and datasets are where the CSV's folder or file names them.
    (found,) = (folder / "runs").glob("*/noise")
    return trained._replace(run=found)


@pytest.fixture
def trained(original: Trained, tmp_path: Path) -> Trained:
    """The run, copied, and the CSV, which is restored at the end: the store knows it by its path."""
    copy = Path(shutil.copytree(original.run, tmp_path / "noise"))
    before = original.csv.read_bytes()
    yield original._replace(run=copy)  # type: ignore[misc]
    original.csv.write_bytes(before)


def test_a_run_keeps_readable_lists(original: Trained) -> None:
    """split.json has every video once with its class and group, one per line, and no group in two lists."""
    lists = original.lists()
    rows = [row for part in ("train", "validation", "test") for row in lists[part]]
    assert sorted(rows) == sorted([row["path"], row["label"], row["group"]] for row in original.rows())
    assert not set(original.groups("train")) & set(original.groups("test"))
    assert lists["classes"] == list(CLASSES)
    assert f"\n  {json.dumps(rows[0])},\n" in (original.run / "split.json").read_text()


@pytest.mark.parametrize("part", ["train", "validation"])
def test_removed_training_videos_do_not_move_the_test_list(trained: Trained, part: str) -> None:
    """Without one person's training videos another split would be drawn; the same videos are scored, to the same
    result."""
    before, scored = trained.metrics(), trained.scored()
    assert before["video_top1"] < 0.9  # noise, so far from the 1.0 of training videos
    for group in trained.groups(part):
        rows = trained.rows()
        trained.write([row for row in rows if row["group"] != group])
        done = run("evaluate.py", trained.run, "--again")
        assert done.returncode == 0, done.stderr
        assert trained.scored() == scored
        assert trained.metrics()["video_top1"] == before["video_top1"]
        trained.write(rows)


def test_added_videos_are_not_scored(trained: Trained) -> None:
    """Videos that were added since belong to no list of the run."""
    rows, scored = trained.rows(), trained.scored()
    added = [row | {"path": f"new/{row['path']}", "group": f"new-{row['group']}"} for row in rows]
    trained.write(rows + added)
    done = run("evaluate.py", trained.run, "--again", "--allow-missing")
    assert done.returncode == 0, done.stderr
    assert trained.scored() == scored


def test_a_test_video_that_is_gone_is_missing(trained: Trained) -> None:
    """It is named, and not replaced by another; with --allow-missing it counts as a wrong answer."""
    rows, scored = trained.rows(), trained.scored()
    trained.write([row for row in rows if row["path"] != scored[0]])
    done = run("evaluate.py", trained.run, "--again")
    assert done.returncode == 1
    assert f"1 of the run's {len(scored)} videos to score are gone ({scored[0]})" in done.stderr
    done = run("evaluate.py", trained.run, "--again", "--allow-missing")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert sorted(trained.scored()) == sorted(scored)
    assert trained.metrics()["num_missing"] == 1


@pytest.mark.parametrize("change", ["renamed", "added", "removed"])
def test_other_classes_are_refused(trained: Trained, change: str) -> None:
    """A renamed class that sorts first would swap the labels: neither evaluation nor --resume goes on."""
    rows = trained.rows()
    if change == "renamed":
        rows = [row | {"label": row["label"].replace("run", "zap")} for row in rows]
    elif change == "added":
        rows.append({"path": "a.avi", "label": "crawl", "group": "person0"})
        rows.append({"path": "b.avi", "label": "crawl", "group": "person1"})
    else:
        rows = [row | {"label": "jump" if row["label"] == "run" else row["label"]} for row in rows]
    trained.write(rows)
    done = run("evaluate.py", trained.run, "--again")
    assert done.returncode == 1 and "the run was trained on 2 classes (run, walk)" in done.stderr
    before = {path: path.read_bytes() for path in trained.run.rglob("*.pt")}
    done = run("train.py", "--config", trained.run / "config.yaml", "--resume", "--epochs", 30)
    assert done.returncode == 2 and "the run was trained on 2 classes (run, walk)" in done.stderr
    assert {path: path.read_bytes() for path in trained.run.rglob("*.pt")} == before


def test_a_training_whose_videos_are_gone_is_not_resumed(trained: Trained) -> None:
    """It would go on with other batches, and end with other weights than it would have had."""
    gone = trained.lists()["train"][0][0]
    trained.write([row for row in trained.rows() if row["path"] != gone])
    done = run("train.py", "--config", trained.run / "config.yaml", "--resume")
    assert done.returncode == 2
    assert "training videos are gone" in done.stderr and gone in done.stderr


def test_a_run_of_an_older_version_is_evaluated_with_a_word(trained: Trained) -> None:
    """Without split.json one line says where the lists come from, and the run is evaluated as before."""
    (trained.run / "split.json").unlink()
    done = run("evaluate.py", trained.run, "--again")
    assert done.returncode == 0, done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "split.json" in line)
    assert "older version" in line and str(trained.run) in line
