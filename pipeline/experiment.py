"""From a config to trained and evaluated runs: features, training, evaluation, once per split and seed."""

import dataclasses
import sys
import time
from typing import Any

import torch

from data.records import DatasetError, VideoDataset
from pipeline.cache.job import FeatureCache
from pipeline.reports.leaderboard import write_leaderboard
from pipeline.run_evaluation import evaluate, plan_evaluation, summary_line
from pipeline.settings.config import Config
from pipeline.settings.device import choose_device
from pipeline.training.dataset_features import DatasetFeatures, load_features
from pipeline.training.loop import make_accelerator, train
from pipeline.training.run import Run


def run_experiment(config: Config, dataset: VideoDataset) -> int:
    """Train and evaluate one run per split and seed. Returns the exit code: 1 where videos had to be left out."""
    started = time.perf_counter()
    device = choose_device(config.features.device)
    cache = FeatureCache(config.features)
    runs = planned_runs(config, dataset)
    for run, own in runs:
        run.check(own, cache.store.recipe)  # before hours of caching
    features = load_features(cache, dataset, config.run.allow_missing)
    print(f"{dataset.name}: features ready after {time.perf_counter() - started:.1f} s", file=sys.stderr)
    rows = []
    for run, own in runs:
        run.begin(own, cache.store.recipe)
        rows.append(train_and_evaluate(run, own, features, device))
    if len(rows) > 1:
        reports = [run.evaluation / "report.html" for run, _ in runs]
        print(write_leaderboard(config.run.runs / dataset.name, rows, reports))
    return 1 if features.missing(dataset.videos) else 0


def planned_runs(config: Config, dataset: VideoDataset) -> list[tuple[Run, Config]]:
    """One run for each split and seed, with its own settings: those that make it again when they are used alone."""
    if not dataset.splits:
        raise DatasetError(f"there are no labels for {dataset.name}, so nothing to train on: see --dataset folder")
    splits = [dataset.split(name) for name in config.run.splits or list(dataset.splits)[:1]]
    is_only_one = len(splits) * len(config.run.seeds) == 1
    runs = []
    for split in splits:
        for seed in config.run.seeds:
            name = f"{config.run.name or config.model.model}-split_{split.name}-seed_{seed}".replace("/", "_")
            if config.run.name and is_only_one:
                name = config.run.name
            own = dataclasses.replace(config.run, splits=(split.name,), seeds=(seed,), name=name)
            folder = config.run.runs / dataset.name / name
            runs.append((Run(folder), dataclasses.replace(config, run=own)))
    return runs


def train_and_evaluate(run: Run, config: Config, features: DatasetFeatures, device: torch.device) -> dict[str, Any]:
    """One run from its first epoch, or from where it was left, to its ``evaluation`` folder; returns the metrics."""
    (split_name,), (seed,) = config.run.splits, config.run.seeds
    split = features.dataset.split(split_name)
    training = features.table(split.train)
    if training is None:
        raise DatasetError(f"split {split.name} of {features.dataset.name} has no training video with features.")
    accelerator = make_accelerator(device, config.training.amp)
    started = time.perf_counter()
    print(f"training {run.folder}", file=sys.stderr)
    train(run, config, seed, features.dataset.classes, training, features.table(split.validation), accelerator)
    metrics = evaluate(plan_evaluation(run, config, features.dataset), features, device)
    print(f"{summary_line(metrics)}  ({time.perf_counter() - started:.0f} s)  {run.evaluation / 'report.html'}")
    return metrics
