"""Runs of the tasks without video: train a network on sequences that are generated or read from MNIST, and test it."""

import csv
import dataclasses
import io
import json
import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F

from data.atomic import write_text_atomically
from data.sequences import (
    PERMUTATION_SEED,
    ArithmeticTask,
    Digits,
    PixelMNIST,
    SequenceBatch,
    SequenceTask,
)
from models.classifier import SequenceClassifier
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.provenance import FORMAT, digest, run_digest, training_facts, versions
from pipeline.evaluation.spectra import spectra
from pipeline.reports.leaderboard import write_leaderboard
from pipeline.reports.report import write_evaluation
from pipeline.settings.config import Config, ConfigError, TrainingConfig
from pipeline.settings.device import choose_device
from pipeline.settings.parsing import to_flat
from pipeline.training.loop import (
    Outcome,
    Validation,
    class_validation,
    fit,
    load_best,
    make_accelerator,
    new_classifier,
)
from pipeline.training.run import Run, settings_text

SOLVED_MSE = 0.01
# Below this validation error for so many epochs in a row there is nothing left to learn, and training ends.
LEARNT_MSE, LEARNT_EPOCHS = 5e-4, 3

TABLE_COLUMNS = ("run", "dataset", "length", "model", "settings", "seed", "mse", "solved", "steps_to_solve")


def run_sequence_experiment(config: Config, task: SequenceTask) -> int:
    """Train and evaluate one run per seed. Returns the exit code."""
    device = choose_device(config.features.device)
    runs = planned_sequence_runs(config)
    for run, own in runs:
        run.check(own, recipe=None)
    rows = []
    for run, own in runs:
        started = time.perf_counter()
        run.begin(own, recipe=None)
        print(f"training {run.folder}", file=sys.stderr)
        train_on_sequences(run, own, task, device)
        rows.append(evaluate_on_sequences(run, own, task, device))
        print(f"{sequence_summary_line(rows[-1])}  ({time.perf_counter() - started:.0f} s)  {run.evaluation}")
    if len(rows) > 1:
        folder = config.run.runs / config.data.dataset
        if isinstance(task, ArithmeticTask):
            print(write_sequence_table(folder, rows))
        else:
            print(write_leaderboard(folder, rows, [run.evaluation / "report.html" for run, _ in runs]))
    return 0


def planned_sequence_runs(config: Config) -> list[tuple[Run, Config]]:
    """One run for each seed, with its own settings: those that make it again when they are used alone."""
    data, asked = config.data, config.run
    if asked.splits:
        raise ConfigError(f"{data.dataset} has one fixed split: leave --splits out, not {' '.join(asked.splits)}")
    variant = ["permuted"] if data.permuted else []
    if data.dataset != "pixel_mnist":
        variant = [f"length_{data.length}"]
    runs = []
    for seed in asked.seeds:
        name = "-".join([asked.name or config.model.model, *variant, f"seed_{seed}"])
        if asked.name and len(asked.seeds) == 1:
            name = asked.name
        own = dataclasses.replace(asked, seeds=(seed,), name=name)
        runs.append((Run(asked.runs / data.dataset / name), dataclasses.replace(config, run=own)))
    return runs


def train_on_sequences(run: Run, config: Config, task: SequenceTask, device: torch.device) -> None:
    """Train a run from its first epoch, or from where it was left; raises ``TrainingError``.

    The best epoch has the lowest validation error (addition, multiplication) or the highest validation accuracy (pixel
    MNIST). Addition and multiplication end early once they are learnt: see ``LEARNT_MSE``.
    """
    (seed,), settings = config.run.seeds, config.training
    accelerator = make_accelerator(device, settings.amp)
    if isinstance(task, ArithmeticTask):
        outputs: tuple[str, ...] = ("answer",)
        objective: _Arithmetic | _DigitClasses = _Arithmetic(task, settings, seed, device)
    else:
        outputs, objective = task.classes, _DigitClasses(task, settings, seed, device)
    model = new_classifier(config.model, seed, task.num_inputs, len(outputs))
    if isinstance(task, PixelMNIST):
        mean, std = task.training.statistics()
        model.set_feature_statistics(torch.tensor([mean]), torch.tensor([std]))
    fit(run, settings, seed, model, outputs, objective, accelerator)


class _Arithmetic:
    """Squared error on fresh sequences at every step."""

    def __init__(self, task: ArithmeticTask, settings: TrainingConfig, seed: int, device: torch.device) -> None:
        self.steps_per_epoch = settings.steps_per_epoch
        self._task, self._batch_size, self._seed, self._device = task, settings.batch_size, seed, device

    def batches(self, epoch: int) -> Iterator[SequenceBatch]:
        for step in range(epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch):
            yield self._task.training_batch(self._seed, step, self._batch_size)

    def outcome(self, model: nn.Module, batch: SequenceBatch) -> Outcome:
        inputs, targets = _to_device(batch, self._device)
        return Outcome(F.mse_loss(model(inputs)[:, 0], targets), len(targets))

    def validate(self, model: SequenceClassifier) -> Validation:
        error = mean_squared_error(model, self._task.validation_batches(), self._device)
        return Validation({"validation_loss": error}, (error,))

    def is_reached(self, history: Sequence[dict[str, float]]) -> bool:
        latest = [line["validation_loss"] for line in history[-LEARNT_EPOCHS:]]
        return len(latest) == LEARNT_EPOCHS and max(latest) < LEARNT_MSE


class _DigitClasses:
    """Cross-entropy on every training image once per epoch."""

    def __init__(self, task: PixelMNIST, settings: TrainingConfig, seed: int, device: torch.device) -> None:
        self.steps_per_epoch = math.ceil(len(task.training) / settings.batch_size)
        self._task, self._settings, self._seed, self._device = task, settings, seed, device

    def batches(self, epoch: int) -> Iterator[SequenceBatch]:
        return self._task.training.training_batches(self._seed, epoch, self._settings.batch_size)

    def outcome(self, model: nn.Module, batch: SequenceBatch) -> Outcome:
        inputs, labels = _to_device(batch, self._device)
        scores = model(inputs)
        loss = F.cross_entropy(scores, labels, label_smoothing=self._settings.label_smoothing)
        return Outcome(loss, len(labels), int((scores.argmax(1) == labels).sum()))

    def validate(self, model: SequenceClassifier) -> Validation:
        return class_validation(predict_digits(model, self._task.validation, self._device))

    def is_reached(self, history: Sequence[dict[str, float]]) -> bool:
        return False


def evaluate_on_sequences(run: Run, config: Config, task: SequenceTask, device: torch.device) -> dict[str, Any]:
    """Test a run's best checkpoint and write its ``evaluation`` folder; returns what ``metrics.json`` holds."""
    trained = load_best(run, config)[0]
    before_and_after = spectra(config.model, config.run.seeds[0], trained)
    model, history = trained.to(device), run.history()
    facts = {
        "run": run.name,
        "dataset": config.data.dataset,
        "length": task.length,
        "model": config.model.model,
        "seed": config.run.seeds[0],
        "settings": settings_text(config),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        **training_facts(run),
        "command": shlex.join(["python", "evaluate.py", str(run.folder), "--again"]),
        "versions": versions(backbone=None),
        "made_from": made_from(run, config),
    }
    if isinstance(task, PixelMNIST):
        predictions = predict_digits(model, task.test, device)
        facts |= {"permuted": task.permuted, "permutation_seed": PERMUTATION_SEED if task.permuted else None}
        facts["accuracy"] = float((predictions.clip_probabilities.argmax(1) == predictions.labels).mean())
        return write_evaluation(run.evaluation, predictions, facts, history, spectra=before_and_after, unit="digit")
    error = mean_squared_error(model, task.test_batches(), device)
    metrics = {
        **facts,
        "mse": error,
        "chance_mse": task.chance_mse,
        "solved": error < SOLVED_MSE,
        "steps_to_solve": steps_to_solve(history, config.training.steps_per_epoch),
    }
    write_text_atomically(run.evaluation / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def made_from(run: Run, config: Config) -> dict[str, object]:
    """Digests of all that an evaluation depends on."""
    return {"format": FORMAT, "run": run_digest(run), "data": digest(to_flat(config.data))}


def steps_to_solve(history: Sequence[Mapping[str, float]], steps_per_epoch: int) -> int | None:
    """Training steps before the first validation with an error below 0.01; ``None`` where there is none."""
    solved = (line["epoch"] for line in history if line["validation_loss"] < SOLVED_MSE)
    first = next(solved, None)
    return None if first is None else (int(first) + 1) * steps_per_epoch


@torch.inference_mode()
def mean_squared_error(model: SequenceClassifier, batches: Iterable[SequenceBatch], device: torch.device) -> float:
    """Of the model's one output, over all sequences."""
    model.eval()
    total, number = 0.0, 0
    for batch in batches:
        inputs, targets = _to_device(batch, device)
        total += (model(inputs)[:, 0].double() - targets).square().sum().item()
        number += len(targets)
    return total / number


@torch.inference_mode()
def predict_digits(model: SequenceClassifier, digits: Digits, device: torch.device) -> Predictions:
    """Score every image. In the words of video metrics each is a video of one clip, called ``<file>-<number>``."""
    model.eval()
    scores = [model(_to_device(batch, device)[0]).double().softmax(1).cpu().numpy() for batch in digits.batches()]
    return Predictions(
        classes=PixelMNIST.classes,
        video_ids=tuple(f"{digits.name}-{number:05d}" for number in digits.numbers),
        labels=digits.labels,
        clip_probabilities=np.concatenate(scores),
        clip_videos=np.arange(len(digits)),
    )


def _to_device(batch: SequenceBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(batch.inputs).to(device), torch.from_numpy(batch.targets).to(device)


def sequence_summary_line(metrics: Mapping[str, Any]) -> str:
    if "mse" not in metrics:
        low, high = metrics["intervals"]["video_top1"]
        return (
            f"{metrics['run']}: accuracy {metrics['accuracy']:.4f} [{low:.4f}, {high:.4f}], "
            f"{metrics['num_videos']} images"
        )
    if metrics["steps_to_solve"] is not None:
        solved = f"under {SOLVED_MSE:g} after {metrics['steps_to_solve']} steps"
    else:
        solved = f"never under {SOLVED_MSE:g}"
    return f"{metrics['run']}: test MSE {metrics['mse']:.3g} (chance {metrics['chance_mse']:.3f}), validation {solved}"


def write_sequence_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Writes runs of addition and multiplication to ``sequences.csv`` and ``sequences.md``; returns the Markdown."""
    rows = sorted(rows, key=lambda row: [row[key] for key in ("dataset", "length", "model", "settings", "seed")])
    text = io.StringIO()
    table = csv.DictWriter(text, [*TABLE_COLUMNS, "chance_mse", "num_parameters"], extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    # Settings that all runs share are in each run's config.yaml; here they would only widen the table.
    shared = len({row["settings"] for row in rows}) == 1
    shown = [name for name in TABLE_COLUMNS if name != "settings" or not shared]
    markdown = tabulate([[_cell(row[name]) for name in shown] for row in rows], shown, "github", disable_numparse=True)
    write_text_atomically(folder / "sequences.csv", text.getvalue())
    write_text_atomically(folder / "sequences.md", markdown + "\n")
    return markdown


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
