"""The tasks without video: addition and multiplication (regression), MNIST pixel by pixel (classification)."""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.atomic import write_atomically
from data.catalog import DataConfig
from data.records import DatasetError
from data.sequences import PERMUTATION_SEED, ArithmeticTask, Digits, PixelMNIST, SequenceBatch
from models.classifier import SequenceClassifier
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.provenance import digest, metrics_to_json
from pipeline.evaluation.spectra import spectra
from pipeline.objectives.classification import class_validation, cross_entropy
from pipeline.objectives.task import Variant
from pipeline.reports.sequence_table import SOLVED_MSE
from pipeline.settings.config import Config, ConfigError, EvaluationOverrides
from pipeline.settings.parsing import to_flat
from pipeline.training.batches import Batch
from pipeline.training.objective import Objective, Outcome, Validation
from pipeline.training.run import Run

# Training ends early once the validation error was below LEARNED_MSE for LEARNED_EPOCHS epochs in a row.
LEARNED_MSE, LEARNED_EPOCHS = 5e-4, 3


class SequenceTask:
    """A task without video. It has one fixed split."""

    recipe = None

    def __init__(self, config: DataConfig, data: ArithmeticTask | PixelMNIST, device: torch.device) -> None:
        self.name, self._data, self._device = config.dataset, data, device
        self._objective = OBJECTIVES[config.dataset]
        self._variant = Variant(self._objective.variant_name(config))

    def variants(self, splits: Sequence[str]) -> list[Variant]:
        if splits:
            raise ConfigError(f"{self.name} has one fixed split: leave out --splits {' '.join(splits)}")
        return [self._variant]

    def describe(self, splits: Sequence[str]) -> str:
        return ""

    def prepare(self) -> int:
        return 0

    def objective(
        self, config: Config, overrides: EvaluationOverrides | None = None, saved: Mapping[str, Any] | None = None
    ) -> Objective:
        if overrides is not None and overrides.split is not None:
            raise ConfigError(f"{self.name} has one fixed split: leave out --split {overrides.split}")
        objective: Objective = self._objective(self._data, config, overrides or EvaluationOverrides(), self._device)
        if saved is not None and saved != objective.split:
            raise DatasetError(
                f"the images of {self.name} are not those that the run was trained and tested on. Restore them (--root "
                "says where they are), or train a new run."
            )
        return objective


class _SequenceObjective:
    """What both objectives share. Overrides that concern videos don't apply, and only the data can change."""

    evaluation_name = "evaluation"

    def __init__(self, config: Config, overrides: EvaluationOverrides, device: torch.device) -> None:
        self.config, self.overrides, self._device = overrides.apply(config), overrides, device
        (self._seed,) = config.run.seeds

    def provenance(self, run: Run) -> dict[str, object]:
        return {"data": digest(to_flat(self.config.data))}


class Regression(_SequenceObjective):
    """Addition and multiplication: squared error, on new sequences at every step."""

    has_classes = False
    outputs: tuple[str, ...] = ("answer",)
    num_inputs = ArithmeticTask.num_inputs
    split = None

    def __init__(
        self, data: ArithmeticTask, config: Config, overrides: EvaluationOverrides, device: torch.device
    ) -> None:
        super().__init__(config, overrides, device)
        self._data = data
        self.steps_per_epoch = config.training.steps_per_epoch

    @staticmethod
    def variant_name(config: DataConfig) -> str:
        return f"length_{config.length}"

    def input_statistics(self) -> None:
        return None

    def batches(self, epoch: int) -> Iterator[Batch]:
        stage = self.config.training.stage(epoch)
        data = dataclasses.replace(self._data, length=stage.length) if stage else self._data
        for step in range(epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch):
            yield _as_batch(data.training_batch(self._seed, step, self.config.training.batch_size))

    def outcome(self, model: nn.Module, batch: Batch) -> Outcome:
        return Outcome(F.mse_loss(model(batch.inputs)[:, 0], batch.targets), len(batch.targets))

    def validate(self, model: SequenceClassifier) -> Validation:
        error = mean_squared_error(model, self._data.validation_batches(), self._device)
        return Validation({"validation_loss": error}, (error,))

    def can_stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        latest = [line["validation_loss"] for line in history[-LEARNED_EPOCHS:]]
        return len(latest) == LEARNED_EPOCHS and max(latest) < LEARNED_MSE

    def facts(self, run: Run) -> dict[str, object]:
        return {"dataset": self._data.name, "length": self._data.length}

    def evaluate(
        self, run: Run, model: SequenceClassifier, folder: Path, facts: Mapping[str, object]
    ) -> dict[str, Any]:
        error = mean_squared_error(model, self._data.test_batches(), self._device)
        metrics = {
            **facts,
            "mse": error,
            "chance_mse": self._data.chance_mse,
            "solved": error < SOLVED_MSE,
            "steps_to_solve": steps_to_solve(run.history(), self.steps_per_epoch),
        }
        content = metrics_to_json(metrics)
        write_atomically(folder / "metrics.json", lambda path: path.write_bytes(content))
        return metrics

    def summarize(self, metrics: Mapping[str, Any]) -> str:
        steps = metrics["steps_to_solve"]
        solved = "never" if steps is None else f"after {steps} steps"
        return (
            f"{metrics['run']}: test MSE {metrics['mse']:.3g} (chance {metrics['chance_mse']:.3f}), validation below "
            f"{SOLVED_MSE:g} {solved}"
        )


class DigitClassification(_SequenceObjective):
    """Pixel MNIST: cross-entropy, on every training image once per epoch."""

    has_classes = True
    outputs: tuple[str, ...] = PixelMNIST.classes
    num_inputs = PixelMNIST.num_inputs

    def __init__(self, data: PixelMNIST, config: Config, overrides: EvaluationOverrides, device: torch.device) -> None:
        super().__init__(config, overrides, device)
        self._data = data
        self.steps_per_epoch = math.ceil(len(data.training) / config.training.batch_size)

    @property
    def split(self) -> dict[str, str]:
        """The SHA-256 of the images and labels of each part."""
        parts = {"train": self._data.training, "validation": self._data.validation, "test": self._data.test}
        return {
            name: hashlib.sha256(part.pixels.tobytes() + part.labels.tobytes()).hexdigest()
            for name, part in parts.items()
        }

    @staticmethod
    def variant_name(config: DataConfig) -> str:
        return "permuted" if config.permuted else ""

    def input_statistics(self) -> tuple[Tensor, Tensor]:
        mean, std = self._data.training.statistics()
        return torch.tensor([mean]), torch.tensor([std])

    def batches(self, epoch: int) -> Iterator[Batch]:
        return map(_as_batch, self._data.training.training_batches(self._seed, epoch, self.config.training.batch_size))

    def outcome(self, model: nn.Module, batch: Batch) -> Outcome:
        return cross_entropy(model, batch, self.config.training.label_smoothing)

    def validate(self, model: SequenceClassifier) -> Validation:
        predictions = predict_digits(model, self._data.validation, self._device)
        return class_validation(predictions, self.config.training.best_by)

    def can_stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        return False

    def facts(self, run: Run) -> dict[str, object]:
        permuted = self._data.permuted
        return {
            "dataset": self._data.name,
            "length": self._data.length,
            "permuted": permuted,
            "permutation_seed": PERMUTATION_SEED if permuted else None,
        }

    def evaluate(
        self, run: Run, model: SequenceClassifier, folder: Path, facts: Mapping[str, object]
    ) -> dict[str, Any]:
        predictions = predict_digits(model, self._data.test, self._device)
        accuracy = float((predictions.clip_probabilities.argmax(1) == predictions.labels).mean())
        from pipeline.reports.report import write_evaluation  # here, because matplotlib takes a second

        return write_evaluation(
            folder,
            predictions,
            {**facts, "accuracy": accuracy},
            run.history(),
            spectra=spectra(self.config.model, self._seed, model),
            temperature=model.temperature.item(),
            unit="digit",
        )

    def summarize(self, metrics: Mapping[str, Any]) -> str:
        low, high = metrics["intervals"]["video_top1"]
        return (
            f"{metrics['run']}: accuracy {metrics['accuracy']:.4f} [{low:.4f}, {high:.4f}], "
            f"{metrics['num_videos']} images"
        )


OBJECTIVES: dict[str, Any] = {"addition": Regression, "multiplication": Regression, "pixel_mnist": DigitClassification}


def steps_to_solve(history: Sequence[Mapping[str, float]], steps_per_epoch: int) -> int | None:
    """Training steps until the first validation error below ``SOLVED_MSE``; ``None`` if there is none."""
    first = next((line["epoch"] for line in history if line.get("validation_loss", math.inf) < SOLVED_MSE), None)
    return None if first is None else (int(first) + 1) * steps_per_epoch


@torch.inference_mode()
def mean_squared_error(model: SequenceClassifier, batches: Iterable[SequenceBatch], device: torch.device) -> float:
    """Mean squared error over all sequences of a model with one output."""
    model.eval()
    total, count = 0.0, 0
    for batch in map(_as_batch, batches):
        batch = batch.to(device)
        total += (model(batch.inputs)[:, 0].double() - batch.targets).square().sum().item()
        count += len(batch.targets)
    return total / count


@torch.inference_mode()
def predict_digits(model: SequenceClassifier, digits: Digits, device: torch.device) -> Predictions:
    """Predict every image. For the metrics, an image is a video ``<file>-<number>`` with one clip."""
    model.eval()
    scores = [model(_as_batch(batch).to(device).inputs).double().softmax(1).cpu().numpy() for batch in digits.batches()]
    return Predictions(
        classes=PixelMNIST.classes,
        video_ids=tuple(f"{digits.name}-{number:05d}" for number in digits.numbers),
        labels=digits.labels,
        clip_probabilities=np.concatenate(scores),
        clip_videos=np.arange(len(digits)),
    )


def _as_batch(batch: SequenceBatch) -> Batch:
    return Batch(torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets))
