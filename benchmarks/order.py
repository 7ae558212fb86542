"""From how many videos on does a head that reads the order of the frames pay? All heads, by number of training groups.

    python -m data.demo --root datasets/whole_demo --classes 32 --groups 24 --clips 1
    python -m benchmarks.order --dataset demo --root datasets/whole_demo

A group is one actor who performs every class. The first groups are for training, the smaller sets part of the larger
ones; the groups after the largest set are the test videos of all. Every head is trained with the same settings, for the
same number of steps and to the last one, as by pipeline.tune. Prints the video top-1, mean of the seeds, in %, with its
95 % interval over the actors, for reversed pairs and for pairs of two tempos apart. The frame average knows the pair at
best, so it gets at most half.

Finished trainings are logged in --results, and skipped when the command is run again.
"""

import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tabulate import tabulate

from data.catalog import DataConfig, load_dataset
from data.command import run_command
from data.demo.actions import ACTIONS
from data.records import VideoRecord
from models.config import ModelConfig, ModelName
from pipeline.settings.config import Config, ConfigError, FeatureConfig, TrainingConfig
from pipeline.settings.parsing import parse_command_line

HEADS: tuple[ModelName, ...] = (
    *("mean", "rank_pooling", "attentive", "np_rnn", "irnn", "gru", "lstm"),
    *("min_gru", "min_lstm", "indrnn", "lru", "lem", "orthogonal_kept"),
)
CYCLES = {name for action in ACTIONS if action.is_cycle for name in action.classes}


@dataclass(frozen=True)
class OrderConfig:
    """What is compared."""

    heads: tuple[ModelName, ...] = HEADS
    """models to compare"""
    training_groups: tuple[int, ...] = (1, 3, 8, 16)
    """numbers of groups to train on, ascending"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """random seeds, one training each"""
    steps: int = 300
    """training steps of every training, about: whole epochs"""
    results: Path = Path("runs/order")
    """folder of the log"""


@dataclass(frozen=True)
class Settings:
    """Train all heads on more and more groups of the demo dataset, and print what each gets right."""

    config: Path | None = None
    """YAML file of settings; flags override it"""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    order: OrderConfig = field(default_factory=OrderConfig)


def main(arguments: Sequence[str]) -> int:
    settings = parse_command_line(Settings, arguments, prog="python -m benchmarks.order")
    order = settings.order
    if settings.data.dataset != "demo":
        raise ConfigError(f"dataset must be demo, whose groups are actors, not {settings.data.dataset}")
    dataset = load_dataset(settings.data)
    parts = deal(dataset.videos, order.training_groups)
    test = parts[-1]

    import torch

    from pipeline.cache.job import FeatureCache
    from pipeline.evaluation.metrics import bootstrap_group_means
    from pipeline.objectives.videos import VideoTask
    from pipeline.tune.trainings import Training, open_trainer

    cache = FeatureCache(settings.features)
    VideoTask(dataset, lambda: cache, torch.device("cpu")).prepare()
    base = Config(data=settings.data, features=settings.features, model=settings.model, training=settings.training)

    def training(head: ModelName, size: int, seed: int) -> Training:
        num_parts = order.training_groups.index(size) + 1
        steps_per_epoch = math.ceil(sum(map(len, parts[:num_parts])) / base.training.batch_size)
        config = dataclasses.replace(
            base,
            model=dataclasses.replace(base.model, model=head),
            training=dataclasses.replace(base.training, epochs=math.ceil(order.steps / steps_per_epoch)),
        )
        unused = range(num_parts, len(parts))
        return Training(f"{head}-groups_{size}-seed_{seed}", config, tuple(unused), seed)

    sizes = order.training_groups
    # Seed by seed: a command that is stopped early has whole tables.
    trainings = [
        training(*one) for one in sorted(itertools.product(order.heads, sizes, order.seeds), key=lambda x: x[2])
    ]
    with open_trainer(parts, dataset, cache, order.results, settings.features.workers) as trainer:
        results = trainer.run(trainings, "training")

    is_cycle = np.array([dataset.classes[video.label] in CYCLES for video in test])
    for title, chosen in (("Reversed pairs", ~is_cycle), ("Two tempos", is_cycle)):
        actors = [actor_of(video) for video, is_one in zip(test, chosen, strict=True) if is_one]
        if not actors:
            continue
        rows = []
        for head in order.heads:
            found = [[results[training(head, size, seed).key] for seed in order.seeds] for size in sizes]
            correct = [[one.scores[len(parts) - 1].correct[chosen] for one in of_size] for of_size in found]
            values = np.mean(correct, axis=1)  # [sizes, videos]
            ends = np.percentile(bootstrap_group_means(values, actors), [2.5, 97.5], axis=1).T
            cells = [
                f"{100 * v.mean():.1f} [{100 * a:.0f}, {100 * b:.0f}]" for v, (a, b) in zip(values, ends, strict=True)
            ]
            seconds = np.mean([one.seconds for one in found[-1]])
            rows.append([head, *cells, f"{seconds:.0f}"])
        numbers = [f"{size} ({sum(map(len, parts[: place + 1]))} videos)" for place, size in enumerate(sizes)]
        headers = [f"{title}, {len(actors)} test videos", *numbers, f"s of {sizes[-1]}"]
        print(f"\n{tabulate(rows, headers, 'github', disable_numparse=True)}")
    return 0


def actor_of(video: VideoRecord) -> str:
    """The number of the actor: ``01`` of the group ``SitDown_g01``."""
    return video.group.rpartition("_g")[2]


def deal(videos: Sequence[VideoRecord], sizes: Sequence[int]) -> list[tuple[VideoRecord, ...]]:
    """Divide the videos by actor: what each size adds to the size before, and after the last one the test videos."""
    actors = sorted({actor_of(video) for video in videos})
    if not sizes or list(sizes) != sorted(set(sizes)) or not 0 < sizes[0] <= sizes[-1] < len(actors):
        raise ConfigError(
            f"training_groups must ascend from 1 to below {len(actors)}, the number of groups, not {sizes}"
        )
    bounds = itertools.pairwise((0, *sizes, len(actors)))
    return [tuple(video for video in videos if actor_of(video) in actors[start:end]) for start, end in bounds]


if __name__ == "__main__":
    sys.exit(run_command(main))
