"""Many trained runs -> their evaluations: what they share is loaded once, and what is finished is not made again."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data.catalog import DataConfig, load_dataset
from data.records import VideoDataset
from data.sequences import load_task
from pipeline.cache.job import FeatureCache
from pipeline.evaluation.provenance import finished_metrics
from pipeline.run_evaluation import BASELINE, VALIDATION, EvaluationPlan, evaluate, plan_evaluation, summary_line
from pipeline.sequence_experiment import evaluate_on_sequences, made_from, sequence_summary_line
from pipeline.settings.config import Config, ConfigError, EvaluationOverrides, FeatureConfig
from pipeline.training.dataset_features import DatasetFeatures, load_features
from pipeline.training.run import Run


class Evaluated(NamedTuple):
    """An evaluation's folder, and what ``metrics.json`` in it holds."""

    folder: Path
    metrics: dict[str, Any]


def evaluate_runs(
    runs: Sequence[Run], device: torch.device, asked: EvaluationOverrides, again: bool = False
) -> list[Evaluated]:
    """Evaluate runs, each dataset's features loaded once; a run that fails is named and the others go on.

    Baselines go first, for the others' reports to name them.

    Args:
        again: make also those evaluations that are finished.

    Returns:
        those that did not fail.
    """
    shared = _Shared(device)
    evaluated = []
    for run in sorted(runs, key=lambda run: not _is_baseline(run)):
        try:
            own = run.config()
            one = _evaluate_video if own.data.has_video else _evaluate_sequences
            evaluated.append(one(run, own, shared, asked, again))
        except (OSError, ValueError) as error:
            print(f"failed: {run.folder}: {error}", file=sys.stderr)
    return evaluated


def choose_by_split(runs: Sequence[Run], split: str | None) -> list[Run]:
    """Of the runs those that were trained on ``split``, or all of them if none was or ``split`` is no split's name.

    Those that can't be read are kept: they are named when they fail.
    """
    if split in (None, VALIDATION):
        return list(runs)
    trained_on = {run: _split_of(run) for run in runs}
    if split not in trained_on.values():
        return list(runs)
    for run, own in trained_on.items():
        if own not in (split, None):
            print(f"left out: {run.folder}, trained on split {own}", file=sys.stderr)
    return [run for run, own in trained_on.items() if own in (split, None)]


def _split_of(run: Run) -> str | None:
    try:
        splits = run.config().run.splits
    except (OSError, ValueError):
        return None
    return splits[0] if splits else None


def _is_baseline(run: Run) -> bool:
    try:
        return run.config().model.model == BASELINE
    except (OSError, ValueError):
        return False


class _Shared:
    """What several runs are evaluated with: backbones, datasets and features, each loaded once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._caches: dict[FeatureConfig, FeatureCache] = {}
        self._datasets: dict[DataConfig, VideoDataset] = {}
        self._features: dict[tuple[object, ...], DatasetFeatures] = {}

    def dataset(self, config: DataConfig) -> VideoDataset:
        if config not in self._datasets:
            self._datasets[config] = load_dataset(config)
        return self._datasets[config]

    def features(self, plan: EvaluationPlan, dataset: VideoDataset) -> DatasetFeatures:
        """Those of the run; raises ``ConfigError`` where they would be made otherwise now than they were for it."""
        config = plan.config
        wanted = dataclasses.replace(config.features, device=self.device.type)
        if wanted not in self._caches:
            self._caches[wanted] = FeatureCache(wanted)
        cache = self._caches[wanted]
        if cache.store.recipe != plan.run.recipe():
            differing = "; ".join(cache.store.recipe.differences(plan.run.recipe()))
            raise ConfigError(f"its features were made otherwise than they would be now: {differing}")
        # Splits of one dataset (another person held out) are of the same videos, in the same order.
        allow_missing = config.run.allow_missing
        key = (cache.store.folder, wanted.views, dataset.store_name, dataset.videos, allow_missing)
        if key not in self._features:
            self._features[key] = load_features(cache, dataset, allow_missing)
        return dataclasses.replace(self._features[key], dataset=dataset)


def _evaluate_video(run: Run, own: Config, shared: _Shared, asked: EvaluationOverrides, again: bool) -> Evaluated:
    dataset = shared.dataset(asked.apply(own).data)
    plan = plan_evaluation(run, own, dataset, asked)
    finished = None if again else finished_metrics(plan.folder, plan.made_from)
    metrics = finished or evaluate(plan, shared.features(plan, dataset), shared.device)
    print(f"{summary_line(metrics)}{_finished_before(finished)}", flush=True)
    return Evaluated(plan.folder, metrics)


def _evaluate_sequences(run: Run, own: Config, shared: _Shared, asked: EvaluationOverrides, again: bool) -> Evaluated:
    if asked.split is not None:
        raise ConfigError(f"{own.data.dataset} has one fixed split: leave --split out, not {asked.split}")
    config = asked.apply(own)
    finished = None if again else finished_metrics(run.evaluation, made_from(run, config))
    metrics = finished
    if metrics is None:
        task = load_task(config.data)
        metrics = evaluate_on_sequences(run, config, task, shared.device)
    print(f"{sequence_summary_line(metrics)}{_finished_before(finished)}", flush=True)
    return Evaluated(run.evaluation, metrics)


def _finished_before(finished: dict[str, Any] | None) -> str:
    return "" if finished is None else "  (finished before; --again makes it anew)"
