"""The interface between the training loop and the tasks: what a model is trained for, and how it is evaluated."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from models.classifier import SequenceClassifier
from pipeline.settings.config import Config, EvaluationOverrides
from pipeline.training.batches import Batch
from pipeline.training.run import Run


class Outcome(NamedTuple):
    """The result of one training batch."""

    loss: Tensor
    """mean over the batch; the quantity to minimize"""
    size: int
    """number of sequences in the batch"""
    num_correct: int | None = None
    """``None`` if the target is a number, not a class"""


class Validation(NamedTuple):
    """The result of a validation."""

    metrics: dict[str, float]
    """for ``metrics.jsonl``, by name"""
    rank: tuple[float, ...]
    """the epoch with the lowest rank is the best"""
    fit_temperature: Callable[[], float] = lambda: 1.0
    """fits the temperature that calibrates the probabilities; called for a new best epoch only, because it is slow"""


class Objective(Protocol):
    """The training data, loss, validation and evaluation of one run."""

    outputs: tuple[str, ...]
    """names of the model's outputs: the classes, or the number to predict"""
    has_classes: bool
    """whether the model classifies; otherwise it predicts a number"""
    config: Config
    """the run's settings, with the overrides applied"""
    overrides: EvaluationOverrides
    """what the evaluation sets differently from the run"""
    evaluation_name: str
    """name of the evaluation's folder in the run"""

    @property
    def split(self) -> Mapping[str, Any] | None:
        """What the run is trained, chosen and tested on, for its ``split.json``; ``None``: new sequences."""

    @property
    def num_inputs(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def input_statistics(self) -> tuple[Tensor, ...] | None:
        """The arguments of ``SequenceClassifier.set_feature_statistics``; ``None``: don't standardize."""

    def batches(self, epoch: int) -> Iterable[Batch]:
        """``steps_per_epoch`` batches. They depend on seed and epoch only, so a resumed run gets the same ones."""

    def outcome(self, model: SequenceClassifier, batch: Batch) -> Outcome:
        """The forward pass and loss of one training batch."""

    def validate(self, model: SequenceClassifier) -> Validation | None:
        """Validate the model. ``None`` without validation data: then the last epoch is the best."""

    def can_stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether training can end early, given the lines of ``metrics.jsonl`` so far."""

    def provenance(self, run: Run) -> dict[str, object]:
        """Digests of everything outside the run's folder that the evaluation depends on."""

    def facts(self, run: Run) -> dict[str, object]:
        """Entries of ``metrics.json`` about the data and how it was scored."""

    def evaluate(
        self, run: Run, model: SequenceClassifier, folder: Path, facts: Mapping[str, object]
    ) -> dict[str, Any]:
        """Test the model and write the evaluation's files to ``folder``; returns the content of ``metrics.json``."""

    def summarize(self, metrics: Mapping[str, Any]) -> str:
        """The evaluation in one line."""
