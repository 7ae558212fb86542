"""A dataset that changes after training, through the commands' arguments: the run keeps its own lists."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import evaluate
import train
from data.records import DatasetError
from pipeline.cache.__main__ import main as cache

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
    data = ["--dataset", "folder", "--root", str(trained.csv), "--cache", str(folder / "cache")]
    assert cache(["import", "--from", str(folder / "features"), "--name", "noise", *data]) == 0
    run = [*data, "--backbone", "imported:noise", "--runs", str(folder / "runs"), "--name", "noise"]
    assert train.main([*run, "--epochs", "30", "--hidden-size", "32", "--weight-decay", "0", "--strips", "0"]) == 0
    (found,) = (folder / "runs").glob("*/noise")
    return trained._replace(run=found)


@pytest.fixture
def trained(original: Trained, tmp_path: Path) -> Iterator[Trained]:
    """The run, copied, and the CSV, which is restored at the end: the store knows it by its path."""
    copy = Path(shutil.copytree(original.run, tmp_path / "noise"))
    before = original.csv.read_bytes()
    yield original._replace(run=copy)
    original.csv.write_bytes(before)


def evaluate_again(trained: Trained, *more: str) -> int:
    return evaluate.main([str(trained.run), "--again", *more])


def resume(trained: Trained) -> int:
    """Resume the run where it was made, which its settings name."""
    return train.main(["--config", str(trained.run / "config.yaml"), "--resume"])


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
    """Without a person of these lists another split may be drawn; the same videos get the same scores."""
    before, scored, rows = trained.metrics(), trained.scored(), trained.rows()
    assert before["video_top1"] < 0.9  # noise, far from the 1.0 of training videos
    (person, *_) = trained.groups(part)
    trained.write([row for row in rows if row["group"] != person])
    assert evaluate_again(trained) == 0
    assert trained.scored() == scored
    assert trained.metrics()["video_top1"] == before["video_top1"]


def test_added_videos_are_not_scored(trained: Trained) -> None:
    """Videos that were added since belong to no list of the run."""
    rows, scored = trained.rows(), trained.scored()
    added = [row | {"path": f"new/{row['path']}", "group": f"new-{row['group']}"} for row in rows]
    trained.write(rows + added)
    assert evaluate_again(trained, "--allow-missing") == 0
    assert trained.scored() == scored


def test_test_videos_that_are_gone_are_missing(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """A person of the test list is not replaced by another, who may be of the training list: the videos are named, and
    with --allow-missing they are wrong answers."""
    rows, scored, before = trained.rows(), trained.scored(), trained.metrics()
    (person, *_) = trained.groups("test")
    trained.write([row for row in rows if row["group"] != person])
    assert evaluate_again(trained) == 1
    assert f"{PER_GROUP} of the run's {len(scored)} videos to score are gone" in capsys.readouterr().err
    assert evaluate_again(trained, "--allow-missing") == 1
    assert sorted(trained.scored()) == sorted(scored)
    assert trained.metrics()["num_missing"] == PER_GROUP
    assert trained.metrics()["video_top1"] <= before["video_top1"]


@pytest.mark.parametrize(
    ("labels", "changes"),
    [
        ({"run": "zap"}, "gone: run; new: zap"),
        ({"walk": "crawl"}, "gone: walk; new: crawl"),
        ({"added": "crawl"}, "new: crawl"),
    ],
)
def test_other_classes_are_refused(
    trained: Trained, labels: dict[str, str], changes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class that was renamed or added may swap the labels: neither evaluation nor --resume goes on."""
    added = (
        [{"path": f"{n}.avi", "label": "added", "group": f"person{n}"} for n in range(2)] if "added" in labels else []
    )
    trained.write([row | {"label": labels.get(row["label"], row["label"])} for row in trained.rows() + added])
    assert evaluate_again(trained) == 1
    error = capsys.readouterr().err
    assert "the run was trained on 2 classes (run, walk)" in error and changes in error
    with pytest.raises(DatasetError, match=f"trained on 2 classes .*{changes}"):
        resume(trained)


def test_a_training_whose_videos_are_gone_is_not_resumed(trained: Trained) -> None:
    """It would go on with other batches, and end with other weights than it would have had."""
    gone = trained.lists()["train"][0][0]
    trained.write([row for row in trained.rows() if row["path"] != gone])
    with pytest.raises(DatasetError, match=rf"1 of the run's \d+ training videos are gone \({gone}\)"):
        resume(trained)


def test_a_run_of_an_older_version_is_evaluated_with_a_word(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without split.json one line says where the lists come from, and the run is evaluated as before."""
    (trained.run / "split.json").unlink()
    assert evaluate_again(trained) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "split.json" in line)
    assert "older version" in line and str(trained.run) in line
