"""What a classifier is trained for and judged by: the interface between the training loop and the tasks."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from models.classifier import SequenceClassifier
from pipeline.settings.config import Config
from pipeline.training.batches import Batch
from pipeline.training.run import Run


class Outcome(NamedTuple):
    """The result of one training batch."""

    loss: Tensor
    """mean over the batch; the quantity to minimize"""
    size: int
    num_correct: int | None = None
    """``None`` where the target is a number, not a class"""


class Validation(NamedTuple):
    """The result of one validation."""

    figures: dict[str, float]
    """for ``metrics.jsonl``, by name"""
    rank: tuple[float, ...]
    """the epoch with the lowest rank is the best"""


class Objective(Protocol):
    """One run's training data, loss, validation and evaluation. ``fit`` and ``pipeline.experiment`` do the rest."""

    outputs: tuple[str, ...]
    """names of the model's outputs: the classes, or the number to predict"""
    has_classes: bool
    """whether the model classifies; otherwise it predicts a number"""

    @property
    def num_inputs(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def statistics(self) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of the training inputs, ``[num_inputs]`` each; ``None``: don't standardize."""

    def batches(self, epoch: int) -> Iterable[Batch]:
        """``steps_per_epoch`` batches. They depend on the epoch alone, so that a resumed run gets the same ones."""

    def outcome(self, model: nn.Module, batch: Batch) -> Outcome:
        """Run one forward pass in training."""

    def validate(self, model: SequenceClassifier) -> Validation | None:
        """Validate the model; ``None`` where there is no validation data: then the last epoch is the best."""

    def is_reached(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the lines of ``metrics.jsonl`` so far show that nothing is left to learn."""

    def evaluation_name(self, config: Config) -> str:
        """Name of the folder inside the run that this evaluation of a run with ``config`` goes to."""

    def provenance(self, run: Run) -> dict[str, object]:
        """Digests of everything outside the run's folder that the evaluation depends on."""

    def facts(self, run: Run) -> dict[str, object]:
        """What ``metrics.json`` says about the data and how it was scored, besides the metrics."""

    def evaluate(
        self, run: Run, model: SequenceClassifier, folder: Path, facts: Mapping[str, object]
    ) -> dict[str, Any]:
        """Test the model and write the evaluation's files to ``folder``; returns the content of ``metrics.json``."""

    def summarize(self, metrics: Mapping[str, Any]) -> str:
        """The evaluation in one line."""
