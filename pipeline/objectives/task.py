"""Tasks: datasets with or without video, ready to train and test on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from pipeline.features.recipe import FeatureRecipe
from pipeline.settings.config import Config, EvaluationOverrides
from pipeline.training.objective import Objective


class Variant(NamedTuple):
    """A version of a task that runs are trained on: a split, a sequence length, permuted pixels."""

    name: str
    """part of the run's name; may be empty"""
    splits: tuple[str, ...] = ()
    """the split as ``--splits`` names it; empty where the task has only one"""


class Task(Protocol):
    """A dataset, ready to train and test on."""

    name: str
    """name of the folder that contains its runs"""

    @property
    def recipe(self) -> FeatureRecipe | None:
        """How the features are made; ``None`` without video."""

    def variants(self, splits: Sequence[str]) -> list[Variant]:
        """A variant per split; the default is the first split. Raises ``UserError`` for a split that does not exist."""

    def describe(self, splits: Sequence[str]) -> str:
        """The data of these splits in a few lines, to print before training; empty if there is nothing to say."""

    def prepare(self) -> int:
        """Do the slow work that all runs share (cache features). Returns the number of videos without features."""

    def objective(
        self, config: Config, overrides: EvaluationOverrides | None = None, saved: Mapping[str, Any] | None = None
    ) -> Objective:
        """The objective of one run.

        Args:
            config: the run's settings, without the overrides.
            overrides: settings that the evaluation changes.
            saved: what the run was trained on, from its ``split.json``; ``None``: a new run, or an older version's.

        Raises:
            DatasetError: the data is not what the run was trained on.
        """
