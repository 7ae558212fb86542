"""The options of the command: everything that train.py can set, and what to compare."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from data.catalog import DataConfig
from models.config import ModelConfig, ModelName
from pipeline.settings.config import Config, ConfigError, FeatureConfig, RunConfig, TrainingConfig

SECONDS_PER_UNIT = {"s": 1, "m": 60, "h": 3600}
MODELS: tuple[ModelName, ...] = ("np_rnn", "rank_pooling", "mean")


@dataclass(frozen=True)
class TuneConfig:
    """What is compared, and how long that may take."""

    models: tuple[ModelName, ...] = MODELS
    """models to compare"""
    folds: int = 5
    """parts that the groups are dealt into; each is tested on in turn. At least 3"""
    candidates: int = 8
    """settings tried per model: first the given ones, then random ones (pipeline/tune/search_space.py). 1: no search"""
    budget: str = "10m"
    """time for all trainings, such as 90s, 10m or 2h: fewer candidates are tried if they would not fit, then fewer
    seeds. It does not limit a comparison without a search"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """random seeds of the final trainings; the search uses seed 0"""
    variants: Path | None = None
    """YAML file that maps names to settings: compare these instead of models, each as it is, without a search"""
    half: Literal["first", "second"] | None = None
    """use only one half of the groups, drawn at random but always the same, and keep the other for a final test"""
    splits: tuple[str, ...] = ()
    """ucf101, hmdb51, demo: the split whose training and validation videos are used; the first if unset"""
    results: Path | None = None
    """folder for the results (default: runs/<dataset>/tune)"""
    allow_missing: bool = False
    """continue if videos have no features: skip them in training, count them as wrong answers"""

    def __post_init__(self) -> None:
        for name, smallest in (("folds", 3), ("candidates", 1)):
            if getattr(self, name) < smallest:
                raise ConfigError(f"{name} must be at least {smallest}, not {getattr(self, name)}")
        if not self.models or len(set(self.models)) < len(self.models):
            raise ConfigError(f"models must be one or more different models, not {' '.join(self.models) or 'none'}")
        if len(self.splits) > 1:
            raise ConfigError(f"splits must be a single split, not {' '.join(self.splits)}: tune on one at a time")
        if self.variants is not None and self.models != MODELS:
            raise ConfigError("--models and --variants exclude each other: a variant can set its model")
        RunConfig(splits=self.splits, seeds=self.seeds)  # checks them
        _ = self.budget_seconds  # checks it

    @property
    def budget_seconds(self) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", self.budget)
        if match is None:
            raise ConfigError(f"budget must be a time such as 90s, 10m or 2h, not {self.budget!r}")
        return float(match[1]) * SECONDS_PER_UNIT[match[2]]


@dataclass(frozen=True)
class TuneSettings:
    """Compare models by cross-validation over whole groups, each with the best settings that a search finds for it.

    All models try the same number of settings, and no video is scored by settings that it helped to choose. Prints a
    table, and writes it with the best settings of each model (a YAML file for train.py --config) to the results folder.
    A killed command resumes when it is run again. Trainings run on the CPU, --workers at a time with one thread each.
    """

    config: Path | None = None
    """YAML file of settings; flags override it"""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)

    def __post_init__(self) -> None:
        tune = self.tune
        if tune.variants is None and self.model.model not in (ModelConfig().model, *tune.models):
            raise ConfigError(
                f"--model {self.model.model} is not one of --models {' '.join(tune.models)}: add it there"
            )

    @property
    def base(self) -> Config:
        """The settings that every candidate starts from, with a single seed as train.py has by default."""
        run = RunConfig(splits=self.tune.splits, allow_missing=self.tune.allow_missing)
        return Config(data=self.data, features=self.features, model=self.model, training=self.training, run=run)
