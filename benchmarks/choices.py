"""One change at a time to the classifier, judged by videos that are not for testing.

    python -m benchmarks.choices --config configs/weizmann.yaml --root DIR --results runs/choices-weizmann

Where a dataset has a split with validation videos (the demo), each variant is trained on the split's training videos
and scored on those. Where one group after the other is to be held out, half of the groups, drawn once, are for
choosing: cross-validation over them alone scores a variant, and the other half is left for the test that comes after
(``--test``: each of its groups in turn is held out, the training is on all other groups). Every training is one line
in ``choices.jsonl`` (or ``test.jsonl``): kill it anywhere and start it again.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tabulate import tabulate

from benchmarks.real_video import deal, for_choosing, mean_and_deviation
from benchmarks.trainings import (
    Results,
    Training,
    accuracy_per_seed,
    base_config,
    cache_features,
    run_trainings,
    with_changes,
)
from benchmarks.workers import NUM_CORES
from data.atomic import write_text_atomically
from data.command import run_command
from data.errors import did_you_mean
from data.records import Split, VideoDataset
from pipeline.settings.config import Config, ConfigError

# Every variant changes these in one or two things; what came of it is in docs/choices.md.
START: dict[str, Any] = {"readout": "last_and_mean", "input_scale": "hidden", "identity_weight": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "np_rnn": {},
    "read-out: last state": {"readout": "last"},
    "read-out: mean state": {"readout": "mean"},
    "input scale 1/sqrt(N)": {"input_scale": "sqrt_hidden"},
    "input scale 1/inputs": {"input_scale": "fan_in"},
    "input scale 1/sqrt(inputs)": {"input_scale": "sqrt_fan_in"},
    "identity weight 3": {"identity_weight": 3.0},
    "identity weight 10": {"identity_weight": 10.0},
    "learning rate of W_hh 1e-4": {"recurrent_learning_rate": 1e-4},
    "two layers": {"num_layers": 2},
    "dropout 0.2": {"dropout": 0.2},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "learning rate 3e-3": {"learning_rate": 3e-3},
    "mean state, input scale 1/inputs": {"readout": "mean", "input_scale": "fan_in"},
    "mean state, identity weight 10": {"readout": "mean", "identity_weight": 10.0},
    "input scale 1/inputs, identity weight 3": {"input_scale": "fan_in", "identity_weight": 3.0},
    "input scale 1/inputs, identity weight 10": {"input_scale": "fan_in", "identity_weight": 10.0},
}
BASELINES: dict[str, dict[str, Any]] = {
    name if readout is None else f"{name}, {readout}": {"model": name} | ({"readout": readout} if readout else {})
    for name in ("irnn", "lstm", "gru", "mean")
    for readout in ((None,) if name == "mean" else ("last", "last_and_mean"))
}


@dataclass(frozen=True)
class Arguments:
    """Variants of the classifier side by side."""

    config: Path
    """YAML with the dataset's settings"""
    results: Path
    """folder of the results and tables"""
    root: Path | None = None
    """the folder, or CSV, of videos"""
    cache: Path = Path("cache")
    """the feature store"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """trainings of each variant on each fold"""
    folds: int = 5
    """of the cross-validation over the groups for choosing"""
    test: bool = False
    """score np_rnn and the baselines on the groups, or the test list, that had no say"""
    only: tuple[str, ...] = ()
    """variants to train, by their names in the table (default: all)"""
    workers: int = NUM_CORES
    """trainings at a time, one thread each"""


def choosing_splits(dataset: VideoDataset, folds: int) -> list[Split]:
    """What variants are trained on and scored on; no video that ``test_splits`` tests on is among them."""
    if has_lists(dataset):
        split = dataset.split(next(iter(dataset.splits)))
        return [Split("validation", split.train, (), split.validation)]
    chosen = for_choosing(groups_of(dataset))
    return [_held_out(dataset, fold, chosen) for fold in deal(chosen, min(folds, len(chosen)), seed=1)]


def test_splits(dataset: VideoDataset) -> list[Split]:
    if has_lists(dataset):
        split = dataset.split(next(iter(dataset.splits)))
        return [Split("test", split.train, (), split.test)]
    groups = groups_of(dataset)
    return [_held_out(dataset, (group,), groups) for group in groups if group not in for_choosing(groups)]


def has_lists(dataset: VideoDataset) -> bool:
    """Whether training and test are given; else (a folder of class folders) groups are held out in turn."""
    return not next(iter(dataset.splits)).startswith(("seed", "holdout-"))


def groups_of(dataset: VideoDataset) -> list[str]:
    return sorted({record.group for record in dataset.videos})


def _held_out(dataset: VideoDataset, fold: Sequence[str], groups: Sequence[str]) -> Split:
    train = tuple(record for record in dataset.videos if record.group in groups and record.group not in fold)
    return Split("", train, (), tuple(record for record in dataset.videos if record.group in fold))


def table(trainings: Mapping[str, Sequence[Training]], results: Results) -> str:
    """Accuracy over all scored videos: mean and standard deviation over the seeds; and the mean loss of a video."""
    lines = []
    for variant, of_variant in trainings.items():
        keys: dict[int, list[str]] = {}
        for training in of_variant:
            keys.setdefault(training.seed, []).append(training.key)
        per_seed = accuracy_per_seed(results, keys)
        num_videos = sum(results[training.key]["videos"] for training in of_variant)
        loss = sum(results[training.key]["loss"] for training in of_variant) / num_videos
        lines.append([variant, *mean_and_deviation(per_seed), f"{loss:.3f}"])
    return tabulate(lines, ["variant", "accuracy", "± over seeds", "loss"], "github", disable_numparse=True)


def training_of(variant: str, changes: dict[str, Any], base: Config, split: Split, fold: int, seed: int) -> Training:
    return Training(f"{variant}, fold {fold}, seed {seed}", with_changes(base, changes, variant), split, seed)


def variants_of(test: bool, only: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By name: what each changes. ``ConfigError`` for a name that is none."""
    there: dict[str, dict[str, Any]] = {"np_rnn": {}} | BASELINES
    if not test:
        there = {name: START | changes for name, changes in (VARIANTS | BASELINES).items()}
    for name in only:
        if name not in there:
            raise ConfigError(f"unknown variant {name!r}.{did_you_mean(name, list(there))}")
    return {name: changes for name, changes in there.items() if not only or name in only}


def main(arguments: Sequence[str]) -> int:
    asked = tyro.cli(Arguments, args=list(arguments), description=__doc__)
    variants = variants_of(asked.test, asked.only)
    base = base_config(asked.config, asked.root, asked.cache)
    dataset = cache_features(base)
    splits = test_splits(dataset) if asked.test else choosing_splits(dataset, asked.folds)
    trainings = {
        variant: [
            training_of(variant, changes, base, split, fold, seed)
            for seed in asked.seeds
            for fold, split in enumerate(splits)
        ]
        for variant, changes in variants.items()
    }
    stage = "test" if asked.test else "choices"
    everything = [training for of_variant in trainings.values() for training in of_variant]
    results = run_trainings(everything, base, asked.workers, asked.results / f"{stage}.jsonl", dataset.name)
    text = table(trainings, results)
    if not asked.only:
        write_text_atomically(asked.results / f"{stage}.md", text + "\n")
    print(
        f"{dataset.name}: {sum(len(split.test) for split in splits)} videos scored, each once for each seed\n\n{text}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
