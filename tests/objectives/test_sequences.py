"""Tasks without video: what they learn, what they report, and how they continue after an interruption."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.catalog import DataConfig
from data.sequences import ArithmeticTask, PixelMNIST, load_task
from models.classifier import SequenceClassifier
from pipeline.experiment import run_experiment
from pipeline.objectives import sequences as module
from pipeline.objectives.sequences import Regression, mean_squared_error, predict_digits, steps_to_solve
from pipeline.training.loop import TrainingError
from pipeline.training.run import Run
from tests.helpers.idx import NAMES, write_small_mnist
from tests.helpers.runs import (
    CPU,
    SEQUENCE_MODEL,
    assert_same_run,
    curves,
    killed_at_step,
    make_sequence_config,
    train_sequence_run,
    unequal_weights,
    weights,
)


@pytest.mark.parametrize("dataset", ["addition", "multiplication"])
def test_regression_is_learned_and_reported(tmp_path: Path, dataset: str) -> None:
    """A short task is solved; metrics.json says so, with the facts of the run, and agrees with the curves."""
    config = make_sequence_config(tmp_path, dataset, epochs=8, steps_per_epoch=100)
    assert run_experiment(config) == 0
    run = Run(tmp_path / dataset / "np_rnn-length_6-seed_0")
    metrics = json.loads((run.evaluation / "metrics.json").read_text())
    assert metrics["mse"] < 0.01 and metrics["solved"] is True
    history = run.history()
    first = next(line["epoch"] for line in history if line["validation_loss"] < 0.01)
    expected = {"run": run.name, "dataset": dataset, "length": 6, "seed": 0, "model": "np_rnn"}
    expected |= {"steps_to_solve": 100 * (first + 1), "num_epochs": len(history)}
    expected |= {"num_parameters": 24 * 24 + 24 * 2 + 2 * 24 + 24 + 1}
    assert {key: metrics[key] for key in expected} == expected
    assert metrics["chance_mse"] == pytest.approx({"addition": 0.167, "multiplication": 0.049}[dataset], abs=1e-3)
    assert "hidden_size=24" in metrics["settings"]
    assert {"train_loss", "validation_loss", "learning_rate", "seconds", "epoch"} == history[0].keys()


def test_mean_squared_error_counts_every_sequence_once() -> None:
    """A model that always answers 1 has the mean squared distance from 1, over batches of unequal size."""
    task = load_task(DataConfig("addition", length=5))
    batches = [task.training_batch(0, step, size) for step, size in enumerate((3, 50, 7))]  # type: ignore[union-attr]
    model = SequenceClassifier(SEQUENCE_MODEL, 2, 1)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.ones_(model.classifier.bias)
    expected = np.mean((np.concatenate([batch.targets for batch in batches]) - 1) ** 2)
    assert mean_squared_error(model, batches, CPU) == pytest.approx(expected, rel=1e-5)


def test_steps_to_solve_ends_at_the_first_validation_below_a_hundredth() -> None:
    """The first such epoch counts, not the last; without one there is no number."""
    history = [{"epoch": epoch, "validation_loss": loss} for epoch, loss in enumerate((0.2, 0.0099, 0.3, 0.001))]
    assert steps_to_solve(history, 500) == 1000
    assert steps_to_solve(history[:1] + history[2:3], 500) is None


def test_an_unsolved_task_is_summarized_as_such() -> None:
    """The line that train.py prints shows the error, the chance level, and that the task was never solved."""
    metrics = {"run": "c", "mse": 0.16666, "chance_mse": 1 / 6, "steps_to_solve": None}
    summary = Regression.summarize(Regression, metrics)  # type: ignore[arg-type]
    assert summary.startswith("c: test MSE 0.167 (chance 0.167)") and summary.endswith("below 0.01 never")


def test_training_ends_once_the_error_stays_low(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three validations in a row below the limit end training, two do not; resuming adds no epoch."""
    losses = iter([1e-4, 1e-4, 0.2, 4e-4, 3e-4, 2e-4])
    monkeypatch.setattr(module, "mean_squared_error", lambda *_: next(losses))
    config = make_sequence_config(tmp_path, epochs=30, steps_per_epoch=2)
    run = train_sequence_run(config)
    assert [line["validation_loss"] for line in run.history()] == [1e-4, 1e-4, 0.2, 4e-4, 3e-4, 2e-4]
    before = curves(run)
    assert curves(train_sequence_run(config)) == before


def test_the_best_epoch_has_the_lowest_validation_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``best.pt`` is kept where validation gets worse, and patience counts from it."""
    losses = iter([0.3, 0.1, 0.2, 0.15, 0.3, 0.3])
    monkeypatch.setattr(module, "mean_squared_error", lambda *_: next(losses))
    run = train_sequence_run(make_sequence_config(tmp_path, epochs=6, steps_per_epoch=2, patience=3))
    checkpoint = run.load_checkpoint("best")
    assert checkpoint is not None and checkpoint["epoch"] == 1
    assert len(run.history()) == 1 + 1 + 3


@pytest.mark.parametrize("dataset", ["addition", "pixel_mnist"])
@pytest.mark.parametrize("step", [7, 50])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, dataset: str, step: int) -> None:
    """A run killed within its first or a later epoch and resumed has bit-equal weights and the same curves."""
    root = write_small_mnist(tmp_path / "mnist", num_train=700) if dataset == "pixel_mnist" else None
    model = dataclasses.replace(SEQUENCE_MODEL, dropout=0.2)
    uninterrupted = train_sequence_run(make_sequence_config(tmp_path / "uninterrupted", dataset, root, model=model))
    config = make_sequence_config(tmp_path / "killed", dataset, root, model=model)
    with killed_at_step(step):
        train_sequence_run(config)
    torch.manual_seed(123)  # a new process does not have the old one's random state
    resumed = train_sequence_run(config)
    assert len(resumed.history()) == 4
    assert_same_run(resumed, uninterrupted)


GROWTH = {"grow_length": (4, 8, 16), "grow_epochs": (2, 1, 1), "steps_per_epoch": 5, "schedule": "constant"}


def test_sequences_grow_and_rates_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage trains on its length, at a rate in proportion to 1 / length; validation is always on the longest."""
    seen: list[tuple[int, ...]] = []
    draw = ArithmeticTask.training_batch
    monkeypatch.setattr(
        ArithmeticTask,
        "training_batch",
        lambda self, *arguments: (seen.append(self.length), draw(self, *arguments))[1],  # type: ignore[func-returns-value]
    )
    config = make_sequence_config(tmp_path, length=16, **GROWTH)
    run = train_sequence_run(config)
    assert seen == [4] * 10 + [8] * 5 + [16] * 5
    rates = [line["learning_rate"] / config.training.learning_rate for line in run.history()]
    assert rates == pytest.approx([1, 1, 1 / 2, 1 / 4])


def test_each_length_has_a_schedule_of_its_own(tmp_path: Path) -> None:
    """A cosine ends at zero on every length, so that what short sequences taught is settled before longer ones come."""
    growth = GROWTH | {"schedule": "cosine", "steps_per_epoch": 40, "grow_epochs": (2, 2, 1)}
    config = make_sequence_config(tmp_path, length=16, **growth)
    rates = [line["learning_rate"] for line in train_sequence_run(config).history()]
    peak = config.training.learning_rate
    assert peak / 4 < rates[0] < peak and peak / 8 < rates[2] < peak / 2
    assert all(0 < rate < peak / 100 for rate in (rates[1], rates[3], rates[4]))


def test_a_growing_run_resumes_on_the_right_length(tmp_path: Path) -> None:
    """Killed while sequences grow, it ends with the same weights as an uninterrupted run."""
    whole = train_sequence_run(make_sequence_config(tmp_path / "whole", length=16, **GROWTH))
    config = make_sequence_config(tmp_path / "killed", length=16, **GROWTH)
    with killed_at_step(12):
        train_sequence_run(config)
    assert_same_run(train_sequence_run(config), whole)


def test_patience_begins_with_the_last_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short sequences may make long ones worse for a while, which is no reason to stop, or to skip the last length."""
    losses = iter([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    monkeypatch.setattr(module, "mean_squared_error", lambda *_: next(losses))
    growth = GROWTH | {"grow_epochs": (2, 2, 9), "patience": 1}
    run = train_sequence_run(make_sequence_config(tmp_path, length=16, **growth))
    assert len(run.history()) == 6


def test_the_seed_determines_the_run(tmp_path: Path) -> None:
    """The same seed gives the same run; another one gives other initial weights and other sequences."""
    first = train_sequence_run(make_sequence_config(tmp_path / "a"))
    assert_same_run(train_sequence_run(make_sequence_config(tmp_path / "b")), first)
    other = train_sequence_run(make_sequence_config(tmp_path / "c", run={"seeds": (1,)}))
    assert unequal_weights(weights(other), weights(first))


def test_a_diverging_run_keeps_its_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite ends training with advice; the previous epoch's checkpoint is unchanged."""
    config = make_sequence_config(tmp_path, epochs=3)
    original, calls = torch.nn.functional.mse_loss, 0

    def poisoned(answers: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        loss = original(answers, targets)
        return loss * math.nan if calls > 30 else loss

    monkeypatch.setattr(torch.nn.functional, "mse_loss", poisoned)
    with pytest.raises(TrainingError, match=r"in epoch 1 the loss is nan.*--overwrite.*--learning-rate"):
        train_sequence_run(config)
    run = Run(tmp_path / "addition" / "np_rnn-length_6-seed_0")
    checkpoint = run.load_checkpoint("last")
    assert checkpoint is not None and checkpoint["epoch"] == 0
    assert all(tensor.isfinite().all() for tensor in weights(run).values())


def test_a_validation_error_that_is_not_finite_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation sequences may overflow where training sequences did not; such an epoch is never the best."""
    monkeypatch.setattr(module, "mean_squared_error", lambda *_: math.inf)
    with pytest.raises(TrainingError, match="in epoch 0 the validation gives {'validation_loss': inf}"):
        train_sequence_run(make_sequence_config(tmp_path))
    assert Run(tmp_path / "addition" / "np_rnn-length_6-seed_0").load_checkpoint("last") is None


def test_pixel_mnist_is_learned_and_reported(tmp_path: Path) -> None:
    """Digits that differ in their bright row are learned pixel by pixel, and get the report of a classifier."""
    root = write_small_mnist(tmp_path / "mnist", num_train=700)
    run_experiment(make_sequence_config(tmp_path / "runs", "pixel_mnist", root, epochs=12))
    run = Run(tmp_path / "runs" / "pixel_mnist" / "np_rnn-seed_0")
    metrics = json.loads((run.evaluation / "metrics.json").read_text())
    assert metrics["accuracy"] > 0.9
    assert metrics["accuracy"] == metrics["video_top1"] and metrics["num_videos"] == 40
    assert (metrics["length"], metrics["num_classes"], metrics["permuted"]) == (16, 10, False)
    with (run.evaluation / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["video_id"] for row in rows] == [f"t10k-{number:05d}" for number in range(40)]
    num_correct = sum(row["label"] == row["predicted"] for row in rows)
    assert num_correct / 40 == metrics["accuracy"]
    assert (run.evaluation / "confusion.csv").exists() and (run.evaluation / "report.html").exists()
    assert {"validation_accuracy", "validation_loss", "train_accuracy"} <= run.history()[0].keys()


def test_permuted_mnist_is_a_separate_run(tmp_path: Path) -> None:
    """--permuted writes to its own folder, and metrics.json names the seed of the permutation."""
    root = write_small_mnist(tmp_path / "mnist")
    run_experiment(make_sequence_config(tmp_path / "runs", "pixel_mnist", root, epochs=1, permuted=True))
    evaluation = tmp_path / "runs" / "pixel_mnist" / "np_rnn-permuted-seed_0" / "evaluation"
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert (metrics["permuted"], metrics["permutation_seed"]) == (True, 0)


def test_test_images_never_influence_training(tmp_path: Path) -> None:
    """With other test images all weights and curves are bit-equal; one other training image changes the weights."""
    roots = {name: write_small_mnist(tmp_path / name) for name in ("a", "test", "training")}
    test = roots["test"] / NAMES[2]
    test.write_bytes(test.read_bytes()[:16] + bytes(40 * 16))
    training = roots["training"] / NAMES[0]
    training.write_bytes(training.read_bytes()[:16] + bytes(16) + training.read_bytes()[32:])
    runs = {
        name: train_sequence_run(make_sequence_config(tmp_path / "runs" / name, "pixel_mnist", root))
        for name, root in roots.items()
    }
    assert_same_run(runs["test"], runs["a"])
    assert unequal_weights(weights(runs["training"]), weights(runs["a"]))


def test_digits_are_scored_in_order_whatever_the_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch size changes no probability, and each image has one clip, its own."""
    data = load_task(DataConfig("pixel_mnist", write_small_mnist(tmp_path / "mnist")))
    assert isinstance(data, PixelMNIST)
    torch.manual_seed(0)
    model = SequenceClassifier(SEQUENCE_MODEL, 1, 10)
    large = predict_digits(model, data.validation, CPU)
    monkeypatch.setattr("data.sequences.EVALUATION_BATCH", 7)
    small = predict_digits(model, data.validation, CPU)
    np.testing.assert_allclose(small.clip_probabilities, large.clip_probabilities, rtol=1e-5)
    assert large.video_ids[0] == "train-00220" and large.clip_videos.tolist() == list(range(20))
