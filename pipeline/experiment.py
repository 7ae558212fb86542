"""From a config to evaluated runs: features, training, evaluation, once per split and seed."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.catalog import load_dataset
from data.records import DatasetError, Split, VideoDataset, VideoRecord
from pipeline.batches import ClipSampling, FeatureTable
from pipeline.cache import FeatureCache
from pipeline.config import Config, ConfigError, EvaluationOverrides
from pipeline.extract import choose_device
from pipeline.leaderboard import write_leaderboard
from pipeline.report import write_evaluation
from pipeline.runs import Run
from pipeline.scoring import predict
from pipeline.store import VideoFeatures
from pipeline.training import load_best, make_accelerator, train


@dataclass(frozen=True)
class DatasetFeatures:
    """A dataset with the features of its videos; those that failed have none."""

    dataset: VideoDataset
    by_video: dict[str, VideoFeatures]

    def table(self, records: Sequence[VideoRecord]) -> FeatureTable | None:
        """The features of those videos that have some; ``None`` for no videos."""
        there = [record for record in records if record.video_id in self.by_video]
        return FeatureTable(there, [self.by_video[record.video_id] for record in there]) if there else None

    def missing(self, records: Sequence[VideoRecord]) -> list[VideoRecord]:
        return [record for record in records if record.video_id not in self.by_video]


def load_features(cache: FeatureCache, dataset: VideoDataset, allow_missing: bool) -> DatasetFeatures:
    """All features of a dataset, cached first where they are not.

    Raises ``DatasetError`` where videos failed and ``allow_missing`` is not set.
    """
    features, _ = cache.load(dataset.store_name, dataset.videos)
    pairs = zip(dataset.videos, features, strict=True)
    by_video = {record.video_id: found for record, found in pairs if found is not None}
    failed = [record.video_id for record in dataset.videos if record.video_id not in by_video]
    if failed and (not allow_missing or not by_video):
        raise DatasetError(
            f"{len(failed)} of {len(dataset.videos)} videos gave no features ({', '.join(failed[:3])}"
            f"{' ...' if len(failed) > 3 else ''}). Reasons: {cache.store.errors_path(dataset.store_name)}. Mend or "
            "remove them, or go on with --allow-missing: then they are not trained on and count as wrong answers."
        )
    return DatasetFeatures(dataset, by_video)


def run_experiment(config: Config) -> int:
    """Train and evaluate one run per split and seed. Returns the exit code: 1 where videos had to be left out."""
    device = choose_device(config.features.device)
    dataset = load_dataset(config.data.dataset, config.data.options)
    splits = [dataset.split(name) for name in config.run.splits or list(dataset.splits)[:1]]
    cache = FeatureCache(config.features)
    features = load_features(cache, dataset, config.run.allow_missing)
    rows = []
    for split in splits:
        for seed in config.run.seeds:
            run = Run(run_folder(config, dataset, split, seed))
            own = dataclasses.replace(config, run=dataclasses.replace(config.run, splits=(split.name,), seeds=(seed,)))
            run.begin(own, cache.store.recipe)
            rows.append(train_and_evaluate(run, own, features, split, device))
    if len(rows) > 1:
        print(write_leaderboard(config.run.runs / dataset.name, rows))
    return 1 if features.missing(dataset.videos) else 0


def run_folder(config: Config, dataset: VideoDataset, split: Split, seed: int) -> Path:
    """Where a run lies: by its name, or by model, split and seed."""
    base = config.run.runs / dataset.name
    prefix = config.run.name or config.model.model
    if config.run.name and len(config.run.splits) <= 1 and len(config.run.seeds) == 1:
        return base / prefix
    return base / f"{prefix}-split_{split.name}-seed_{seed}"


def train_and_evaluate(
    run: Run, config: Config, features: DatasetFeatures, split: Split, device: torch.device
) -> dict[str, Any]:
    training = features.table(split.train)
    if training is None:
        raise DatasetError(f"split {split.name} of {features.dataset.name} has no training video with features.")
    accelerator = make_accelerator(device, config.training.amp)
    started = time.perf_counter()
    (seed,) = config.run.seeds
    print(f"training {run.folder}", file=sys.stderr)
    train(run, config, seed, features.dataset.classes, training, features.table(split.validation), accelerator)
    metrics = evaluate(run, config, features, device)
    print(f"{summary_line(metrics)}  ({time.perf_counter() - started:.0f} s)  {run.evaluation / 'report.html'}")
    return metrics


def evaluate(run: Run, config: Config, features: DatasetFeatures, device: torch.device) -> dict[str, Any]:
    """Score a run's test list with its best checkpoint and write its ``evaluation`` folder; returns the metrics."""
    split = features.dataset.split(config.run.splits[0])
    table = features.table(split.test)
    if table is None:
        raise DatasetError(f"split {split.name} of {features.dataset.name} has no test video with features.")
    model = load_best(run, config, table.feature_dim, features.dataset.classes).to(device)
    clips = ClipSampling(config.training.clip_frames, config.training.clips_per_video)
    predictions = predict(model, table, clips, features.dataset.classes, device, features.missing(split.test))
    facts = {
        "run": run.name,
        "dataset": features.dataset.name,
        "split": split.name,
        "holdout_group": config.data.holdout_group,
        "model": config.model.model,
        "seed": config.run.seeds[0],
        "backbone": config.features.backbone,
        "sampling": config.features.sampling,
        "hidden_size": config.model.hidden_size,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "fingerprint": run.recipe().fingerprint,
        "torch": torch.__version__,
    }
    return write_evaluation(run.evaluation, predictions, facts, run.history())


def evaluate_runs(runs: Sequence[Run], device: torch.device, overrides: EvaluationOverrides) -> list[dict[str, Any]]:
    """Evaluate runs again, each dataset's features loaded once; a run that fails is named and the others go on.

    Returns:
        the metrics of those that did not fail.
    """
    loaded: dict[tuple[Any, ...], DatasetFeatures] = {}
    rows = []
    for run in runs:
        try:
            config = overrides.apply(run.config())
            key = (config.data, dataclasses.replace(config.features, device=""))
            if key not in loaded:
                cache = FeatureCache(config.features)
                if cache.store.recipe != run.recipe():
                    differing = "; ".join(cache.store.recipe.differences(run.recipe()))
                    raise ConfigError(f"its features were made otherwise than they would be now: {differing}")
                dataset = load_dataset(config.data.dataset, config.data.options)
                loaded[key] = load_features(cache, dataset, config.run.allow_missing)
            rows.append(evaluate(run, config, loaded[key], device))
            print(summary_line(rows[-1]))
        except ValueError as error:
            print(f"failed: {run.folder}: {error}", file=sys.stderr)
    return rows


def summary_line(metrics: dict[str, Any]) -> str:
    low, high = metrics["intervals"]["video_top1"]
    return (
        f"{metrics['run']}: video top-1 {metrics['video_top1']:.3f} [{low:.3f}, {high:.3f}], clip top-1 "
        f"{metrics['clip_top1']:.3f}, mean-class {metrics['mean_class_accuracy']:.3f}, {metrics['num_videos']} videos"
    )
