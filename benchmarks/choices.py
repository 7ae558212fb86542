"""Train variants of the classifier that differ in one or two settings, and score them without the test videos.

    python -m benchmarks.choices --config configs/weizmann.yaml --root DIR --results runs/choices-weizmann

If the dataset has a split with validation videos (the demo), each variant is trained on the split's training videos and
scored on its validation videos. Otherwise half of the groups, drawn once, are the development groups: cross-validation
over them alone scores each variant. The other half is for the final test (--test), which holds out each of these groups
in turn and trains on all other groups.

Every result is one line in choices.jsonl, or test.jsonl. A killed benchmark resumes when the same command is run again.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks import trainings
from benchmarks.trainings import Results, Training, groups_of, hold_out, mean_and_deviation
from benchmarks.workers import NUM_CORES
from data.atomic import write_text_atomically
from data.command import parse_arguments, run_command
from data.errors import did_you_mean
from data.records import Split, VideoDataset
from pipeline.settings.config import Config, ConfigError

# Every variant starts from these settings and changes one or two; docs/choices.md has the results.
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
    f"{model}, {readout}": {"model": model, "readout": readout}
    for model in ("irnn", "lstm", "gru")
    for readout in ("last", "last_and_mean")
}
BASELINES["mean"] = {"model": "mean"}


@dataclass(frozen=True)
class Arguments:
    """What to train, and where its videos and results are."""

    config: Path
    """YAML file with the settings for the dataset"""
    results: Path
    """folder for the results and tables"""
    root: Path | None = None
    """folder of videos, or CSV file that lists them; by default that of the YAML file"""
    cache: Path = Path("cache")
    """feature cache"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds; each trains every variant once per fold"""
    folds: int = 5
    """folds of the cross-validation over the development groups"""
    test: bool = False
    """score np_rnn and the baselines on the test list, or on the groups that are not development groups"""
    only: tuple[str, ...] = ()
    """variants to train, by their names in the table, without writing a table; by default all"""
    workers: int = NUM_CORES
    """parallel trainings, one thread each"""


def choosing_splits(dataset: VideoDataset, folds: int) -> list[Split]:
    """The splits that score variants; none contains a video that ``test_splits`` tests on."""
    if has_lists(dataset):
        split = dataset.split(next(iter(dataset.splits)))
        return [Split("validation", split.train, (), split.validation)]
    development = trainings.development_groups(groups_of(dataset))
    others = set(groups_of(dataset)) - set(development)
    parts = trainings.deal(development, min(folds, len(development)), seed=1)
    return [hold_out(dataset, test=part, unused=others) for part in parts]


def test_splits(dataset: VideoDataset) -> list[Split]:
    """The splits of the final test: the test list, or one split for each group outside the development groups."""
    if has_lists(dataset):
        split = dataset.split(next(iter(dataset.splits)))
        return [Split("test", split.train, (), split.test)]
    development = trainings.development_groups(groups_of(dataset))
    return [hold_out(dataset, test=(group,)) for group in groups_of(dataset) if group not in development]


def has_lists(dataset: VideoDataset) -> bool:
    """Whether the dataset has its own training and test lists; otherwise groups are held out in turn."""
    return not next(iter(dataset.splits)).startswith(("seed", "holdout-"))


def table(variants: Mapping[str, Sequence[Training]], results: Results) -> str:
    """Accuracy over all scored videos (mean and standard deviation over the seeds) and mean loss per video."""
    rows = []
    for variant, own_trainings in variants.items():
        per_seed = trainings.accuracy_per_seed(results, {training.key: training.seed for training in own_trainings})
        num_videos = sum(results[training.key]["videos"] for training in own_trainings)
        loss = sum(results[training.key]["loss"] for training in own_trainings) / num_videos
        rows.append([variant, *mean_and_deviation(per_seed), f"{loss:.3f}"])
    return tabulate(rows, ["variant", "accuracy", "± over seeds", "loss"], "github", disable_numparse=True)


def training_of(variant: str, changes: dict[str, Any], base: Config, split: Split, fold: int, seed: int) -> Training:
    config = trainings.with_changes(base, changes, variant)
    return Training(f"{variant}, fold {fold}, seed {seed}", config, split, seed)


def variants_of(test: bool, only: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The settings that each variant changes, by its name. Raises ``ConfigError`` for an unknown name in ``only``."""
    if test:
        available: dict[str, dict[str, Any]] = {"np_rnn": {}} | BASELINES
    else:
        available = {name: START | changes for name, changes in (VARIANTS | BASELINES).items()}
    for name in only:
        if name not in available:
            raise ConfigError(f"unknown variant {name!r} in --only.{did_you_mean(name, available)}")
    return {name: changes for name, changes in available.items() if not only or name in only}


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(Arguments, arguments, prog="python -m benchmarks.choices", description=__doc__)
    variants = variants_of(options.test, options.only)
    base = trainings.base_config(options.config, options.root, options.cache)
    dataset = trainings.cache_features(base)
    splits = test_splits(dataset) if options.test else choosing_splits(dataset, options.folds)
    by_variant = {
        variant: [
            training_of(variant, changes, base, split, fold, seed)
            for seed in options.seeds
            for fold, split in enumerate(splits)
        ]
        for variant, changes in variants.items()
    }
    stage = "test" if options.test else "choices"
    to_train = [training for own_trainings in by_variant.values() for training in own_trainings]
    log = options.results / f"{stage}.jsonl"
    results = trainings.run_trainings(to_train, base, options.workers, log, dataset.name)
    text = table(by_variant, results)
    if not options.only:
        write_text_atomically(options.results / f"{stage}.md", text + "\n")
    print(f"{dataset.name}: {sum(len(split.test) for split in splits)} videos scored, once per seed\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
