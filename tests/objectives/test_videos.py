"""Evaluation of a run on videos: what it is compared with, and when it is repeated."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.records import VideoDataset
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.provenance import FORMAT, finished_metrics, metrics_from_json, metrics_to_json, run_digest
from pipeline.experiment import Evaluated, evaluate_run
from pipeline.objectives import wording
from pipeline.objectives.videos import mistakes_first
from pipeline.settings.config import EvaluationOverrides
from pipeline.training.clips import ClipSampling
from pipeline.training.run import Run
from tests.helpers.runs import CPU, make_moves, train_moves
from tests.helpers.synthetic import make_table, make_task


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained and evaluated run of split 1, next to a baseline that was evaluated on the same videos."""
    folder = tmp_path_factory.mktemp("trained")
    run, _ = train_moves(folder, make_moves())
    baseline = Run(Path(shutil.copytree(run.folder, run.folder.parent / "baseline")))
    metrics = metrics_from_json((baseline.evaluation / "metrics.json").read_bytes())
    (baseline.evaluation / "metrics.json").write_bytes(metrics_to_json(metrics | {"model": "mean", "run": "baseline"}))
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of the run and its baseline that a test may change."""
    shutil.copytree(trained.folder.parent, tmp_path / "runs")
    return Run(tmp_path / "runs" / trained.name)


def evaluate(run: Run, again: bool = False) -> Evaluated:
    return evaluate_run(run, make_moves().objective(run.config()), CPU, again)


def test_a_classifier_of_order_alone_fails_on_reversed_frames(trained: Run) -> None:
    """Where each class is the other one reversed, reversed frames cost nearly all accuracy, and shuffled ones some."""
    metrics = json.loads((trained.evaluation / "metrics.json").read_text())
    in_reverse, shuffled = metrics["order"]["reversed"], metrics["order"]["shuffled"]
    assert metrics["video_top1"] > 0.75 and in_reverse["video_top1"] < 0.25
    assert in_reverse["interval"][0] > 0
    assert in_reverse["drop"] > shuffled["drop"] > 0
    assert "this classifier uses their order" in (trained.evaluation / "report.html").read_text(encoding="utf-8")


def is_finished(run: Run, dataset: VideoDataset | None = None, overrides: EvaluationOverrides | None = None) -> bool:
    task = make_moves()
    objective = make_task(dataset or task.dataset, task.features).objective(run.config(), overrides)
    provenance = {"format": FORMAT, "run": run_digest(run), **objective.provenance(run)}
    return finished_metrics(run.folder / objective.evaluation_name, provenance) is not None


def test_an_evaluation_is_finished_until_something_it_depends_on_changes(run: Run) -> None:
    """It is repeated when the checkpoint, test list, classes, settings, baseline or its files change."""
    dataset = make_moves().dataset
    assert not is_finished(run)  # made before the baseline existed
    assert not evaluate(run).was_finished
    assert is_finished(run) and evaluate(run).was_finished and not evaluate(run, again=True).was_finished
    split = dataset.splits["1"]
    for changed in (
        dataclasses.replace(dataset, classes=("fall", "rise")),
        dataclasses.replace(dataset, splits={"1": dataclasses.replace(split, test=split.test[1:])}),
    ):
        assert not is_finished(run, changed)
    assert not is_finished(run, overrides=EvaluationOverrides(strips=7))
    assert not is_finished(run, overrides=EvaluationOverrides(clips=3))
    checkpoint = run.checkpoints / "best.pt"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content + b"0")
    assert not is_finished(run)
    checkpoint.write_bytes(content)
    assert is_finished(run)
    (run.evaluation / "metrics.json").write_text("{")
    assert not is_finished(run)


def baseline_of(run: Run, overrides: EvaluationOverrides | None = None) -> Path | None:
    """Evaluation folder of the baseline that the run is compared with."""
    return make_moves().objective(run.config(), overrides).baseline(run)


def test_the_baseline_was_scored_on_the_same_videos_and_clips(run: Run) -> None:
    """A run is compared with a frame average next to it only if both were scored in the same way."""
    baseline = run.folder.parent / "baseline" / "evaluation"
    assert baseline_of(run) == baseline
    assert baseline_of(run, EvaluationOverrides(clip_frames=3)) is None
    metrics = metrics_from_json((baseline / "metrics.json").read_bytes())
    (baseline / "metrics.json").write_bytes(metrics_to_json(metrics | {"model": "np_rnn"}))
    assert baseline_of(run) is None


def test_a_baseline_with_the_same_seed_is_preferred(run: Run) -> None:
    """Runs and baselines are paired by seed where possible."""
    first = run.folder.parent / "baseline"
    metrics = metrics_from_json((first / "evaluation" / "metrics.json").read_bytes())
    other = Path(shutil.copytree(first, run.folder.parent / "another"))
    (other / "evaluation" / "metrics.json").write_bytes(metrics_to_json(metrics | {"seed": 5}))
    assert baseline_of(run) == first / "evaluation"


def test_a_clip_longer_than_a_batch_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning names the longest video and the option that shortens clips, and comes only if a clip is cut."""
    monkeypatch.setattr(wording, "MAX_BATCH_FRAMES", 4)
    table = make_table([np.ones((3, 2)), np.ones((5, 2)), np.ones((9, 2))])
    warning = wording.long_clip_warning(table, ClipSampling())
    assert warning is not None
    assert table.records[2].video_id in warning and "--clip-frames" in warning
    assert wording.long_clip_warning(table, ClipSampling(frames=4)) is None


def test_confident_mistakes_come_first() -> None:
    """Strips are limited: mistakes come before correct answers, the most confident first, missing videos last."""
    answers = [(0, 0.9), (1, 0.6), (0, 0.7), (1, 0.8)]  # predicted class and its probability; all are of class 0
    probabilities = np.array([[p, 1 - p] if predicted == 0 else [1 - p, p] for predicted, p in answers])
    predictions = Predictions(
        ("a", "b"), tuple("vwxyz"), np.zeros(5, dtype=np.int64), probabilities, np.array([0, 1, 3, 4])
    )
    assert list(mistakes_first(predictions)) == [4, 1, 0, 3, 2]
