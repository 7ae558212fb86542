"""From a config to evaluated runs: features, training, evaluation, once per split and seed."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from data.catalog import load_dataset
from data.records import DatasetError, VideoDataset, VideoRecord
from data.sequences import load_task
from pipeline.batches import FeatureTable
from pipeline.cache import FeatureCache
from pipeline.config import Config, ConfigError, DataConfig, EvaluationOverrides, FeatureConfig
from pipeline.encoders import choose_device
from pipeline.leaderboard import write_leaderboard
from pipeline.packed import PackedFeatures
from pipeline.report import write_evaluation
from pipeline.runs import Run, settings_text
from pipeline.scoring import predict
from pipeline.sequence_experiment import evaluate_on_sequences, sequence_summary_line
from pipeline.training import clip_sampling, load_best, make_accelerator, train


@dataclass(frozen=True)
class DatasetFeatures:
    """A dataset with the features of its videos; those that failed have none."""

    dataset: VideoDataset
    packed: PackedFeatures

    def table(self, records: Sequence[VideoRecord]) -> FeatureTable | None:
        """The features of those videos that have some; ``None`` for no videos."""
        there = [record for record in records if record.video_id in self.packed.videos]
        return FeatureTable(there, self.packed) if there else None

    def missing(self, records: Sequence[VideoRecord]) -> list[VideoRecord]:
        return [record for record in records if record.video_id not in self.packed.videos]


def load_features(cache: FeatureCache, dataset: VideoDataset, allow_missing: bool) -> DatasetFeatures:
    """All features of a dataset, cached first where they are not.

    Raises ``DatasetError`` where videos failed and ``allow_missing`` is not set.
    """
    packed, _ = cache.load(dataset.store_name, dataset.videos)
    features = DatasetFeatures(dataset, packed)
    failed = [record.video_id for record in features.missing(dataset.videos)]
    if failed and (not allow_missing or not packed.videos):
        raise DatasetError(
            f"{len(failed)} of {len(dataset.videos)} videos gave no features ({', '.join(failed[:3])}"
            f"{' ...' if len(failed) > 3 else ''}). Reasons: {cache.store.errors_path(dataset.store_name)}. Mend or "
            "remove them, or go on with --allow-missing: then they are not trained on and count as wrong answers."
        )
    return features


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
        print(write_leaderboard(config.run.runs / dataset.name, rows))
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
    metrics = evaluate(run, config, features, device)
    print(f"{summary_line(metrics)}  ({time.perf_counter() - started:.0f} s)  {run.evaluation / 'report.html'}")
    return metrics


def evaluate(run: Run, config: Config, features: DatasetFeatures, device: torch.device) -> dict[str, Any]:
    """Score a run's test list with its best checkpoint and write its ``evaluation`` folder; returns the metrics."""
    split = features.dataset.split(config.run.splits[0])
    table = features.table(split.test)
    if table is None:
        raise DatasetError(f"split {split.name} of {features.dataset.name} has no test video with features.")
    model, classes = load_best(run, config)
    if classes != features.dataset.classes:
        raise DatasetError(
            f"{run.folder} was trained on {len(classes)} classes ({', '.join(classes[:3])} ...), the dataset now has "
            f"{len(features.dataset.classes)} ({', '.join(features.dataset.classes[:3])} ...)."
        )
    clips = clip_sampling(config.training)
    predictions = predict(model.to(device), table, clips, classes, device, features.missing(split.test))
    facts = {
        "run": run.name,
        "dataset": features.dataset.name,
        "split": split.name,
        "holdout_group": config.data.holdout_group,
        "model": config.model.model,
        "seed": config.run.seeds[0],
        "backbone": config.features.backbone,
        "settings": settings_text(config),
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
    caches: dict[FeatureConfig, FeatureCache] = {}
    loaded: dict[tuple[FeatureConfig, DataConfig, bool], DatasetFeatures] = {}
    rows = []
    for run in runs:
        try:
            config = overrides.apply(run.config())
            if not config.data.has_video:
                task = load_task(config.data.dataset, config.data.options)
                rows.append(evaluate_on_sequences(run, config, task, device))
                print(sequence_summary_line(rows[-1]))
                continue
            wanted = dataclasses.replace(config.features, device=device.type)
            cache = caches[wanted] = caches.get(wanted) or FeatureCache(wanted)
            if cache.store.recipe != run.recipe():
                differing = "; ".join(cache.store.recipe.differences(run.recipe()))
                raise ConfigError(f"its features were made otherwise than they would be now: {differing}")
            key = (wanted, config.data, config.run.allow_missing)
            if key not in loaded:
                dataset = load_dataset(config.data.dataset, config.data.options)
                loaded[key] = load_features(cache, dataset, config.run.allow_missing)
            rows.append(evaluate(run, config, loaded[key], device))
            print(summary_line(rows[-1]))
        except (OSError, ValueError) as error:
            print(f"failed: {run.folder}: {error}", file=sys.stderr)
    return rows


def summary_line(metrics: dict[str, Any]) -> str:
    low, high = metrics["intervals"]["video_top1"]
    return (
        f"{metrics['run']}: video top-1 {metrics['video_top1']:.3f} [{low:.3f}, {high:.3f}], clip top-1 "
        f"{metrics['clip_top1']:.3f}, mean-class {metrics['mean_class_accuracy']:.3f}, {metrics['num_videos']} videos"
    )
