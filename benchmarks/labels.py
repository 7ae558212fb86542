"""How many planted wrong labels does pipeline.labels find?

    python -m benchmarks.labels --dataset folder --root UCF14.csv --backbone imported:vgg
    python -m benchmarks.labels --config configs/ut_interaction.yaml --root UT --models thirds mean np_rnn

In each draw, ``--rate`` of the videos get another label, drawn at random. Every video is then judged by a model that
saw no video of its group. By the planted labels:

found       share of them among the videos that are listed first, down to the last place where at least half of those
            listed are planted (the recall at precision 0.5)
listed      share of them among the suspects that pipeline.labels lists
precision   share of planted labels among these suspects
top-1       share of videos whose most probable class is their true one, before labels were planted

Labels that were wrong before count as false alarms. Models: ``thirds`` is the one that pipeline.labels uses, ``mean``
the same on the mean of all frames, and ``np_rnn`` the network that train.py trains, with its settings.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from tabulate import tabulate

from data.catalog import DataConfig, load_dataset
from data.command import run_command
from data.records import Split, VideoDataset
from models.config import ModelConfig
from pipeline.cache.job import FeatureCache
from pipeline.cache.relink import locate
from pipeline.evaluation.predictions import BoolArray, FloatArray, IntArray
from pipeline.labels.options import LARGEST_NUMBER_OF_FOLDS
from pipeline.labels.probabilities import NUM_PARTS, fold_numbers, probabilities_out_of_fold, video_vectors
from pipeline.labels.suspects import by_plausibility, find_suspects
from pipeline.settings.config import Config, FeatureConfig, RunConfig, TrainingConfig
from pipeline.settings.parsing import parse_command_line

PRECISION = 0.5
Judge = Callable[[IntArray, IntArray], FloatArray]
"""Labels and folds, int64 ``[num_videos]`` each -> probabilities out of fold, float64 ``[num_videos, num_classes]``."""


@dataclass(frozen=True)
class DrawConfig:
    """What is planted, and who looks for it."""

    draws: int = 5
    """how often labels are planted"""
    first_draw: int = 0
    """random seed of the first draw; the others follow"""
    rate: float = 0.05
    """share of the videos that get a wrong label"""
    folds: int = LARGEST_NUMBER_OF_FOLDS
    """as for pipeline.labels"""
    models: tuple[Literal["thirds", "mean", "np_rnn"], ...] = ("thirds", "mean")
    """who judges"""


@dataclass(frozen=True)
class Settings:
    """Plant wrong labels in a dataset, and count how many are found."""

    config: Path | None = None
    """YAML file of settings; flags override it"""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    draw: DrawConfig = field(default_factory=DrawConfig)


@dataclass(frozen=True)
class Found:
    """Shares in [0, 1]; the module's docstring says of what."""

    found: float
    listed: float
    precision: float
    top1: float


def main(arguments: Sequence[str]) -> int:
    settings = parse_command_line(Settings, arguments, prog="python -m benchmarks.labels")
    draw = settings.draw
    dataset, cache = load_dataset(settings.data), FeatureCache(settings.features)
    packed = cache.load_once(locate(cache.store, dataset), dataset.videos, dataset.remedy)
    videos = [video for video in dataset.videos if video.video_id in packed.videos]
    labels, num_classes = np.array([video.label for video in videos]), len(dataset.classes)

    def make_judge(name: str) -> Judge:
        if name == "np_rnn":
            run = RunConfig(splits=("fold",), seeds=(0,))
            config = Config(None, settings.data, settings.features, settings.model, settings.training, run)
            known = dataclasses.replace(dataset, videos=tuple(videos))
            return lambda given, folds: probabilities_of_network(config, known, cache, given, folds)
        vectors = video_vectors(packed, videos, NUM_PARTS if name == "thirds" else 1)
        return lambda given, folds: probabilities_out_of_fold(vectors, given, folds, num_classes)

    rows = []
    for name in draw.models:
        judge = make_judge(name)
        started = time.perf_counter()
        results = []
        for seed in range(draw.first_draw, draw.first_draw + draw.draws):
            given, planted = plant(labels, num_classes, draw.rate, seed)
            folds = fold_numbers(
                [dataclasses.replace(video, label=int(label)) for video, label in zip(videos, given, strict=True)],
                draw.folds,
            )
            results.append(score(judge(given, folds), given, labels, planted))
            print(f"{name}, draw {seed}: {results[-1]}", file=sys.stderr)
        means = [
            f"{np.mean([getattr(result, key.name) for result in results]):.2f}" for key in dataclasses.fields(Found)
        ]
        rows.append([name, *means, f"{(time.perf_counter() - started) / draw.draws:.1f}"])
    num_planted = int(plant(labels, num_classes, draw.rate, 0)[1].sum())
    print(f"{dataset.name}: {len(videos)} videos, {num_planted} planted labels, {draw.draws} draws")
    print(tabulate(rows, ["model", "found", "listed", "precision", "top-1", "seconds"]))
    return 0


def plant(labels: IntArray, num_classes: int, rate: float, seed: int) -> tuple[IntArray, BoolArray]:
    """Give a share of the videos another label: the labels, int64 ``[num_videos]``, and which are planted."""
    rng = np.random.default_rng([seed, 1])
    chosen = rng.choice(len(labels), max(1, round(rate * len(labels))), replace=False)
    given, planted = labels.copy(), np.zeros(len(labels), bool)
    given[chosen] = (labels[chosen] + rng.integers(1, num_classes, len(chosen))) % num_classes
    planted[chosen] = True
    return given, planted


def score(probabilities: FloatArray, given: IntArray, labels: IntArray, planted: BoolArray) -> Found:
    """How many of the planted labels are found."""
    hits = planted[by_plausibility(probabilities, given)]
    precise = np.flatnonzero(np.cumsum(hits) >= PRECISION * np.arange(1, len(hits) + 1))
    suspects = [suspect.video for suspect in find_suspects(probabilities, given)]
    num_planted, num_listed = planted.sum(), planted[suspects].sum()
    return Found(
        found=float(hits[: precise[-1] + 1].sum() / num_planted) if len(precise) else 0.0,
        listed=float(num_listed / num_planted),
        precision=float(num_listed / max(1, len(suspects))),
        top1=float((np.nan_to_num(probabilities).argmax(axis=1) == labels).mean()),
    )


def probabilities_of_network(
    config: Config, dataset: VideoDataset, cache: FeatureCache, given: IntArray, folds: IntArray
) -> FloatArray:
    """What ``probabilities_out_of_fold`` returns, from the network of ``config``, trained to its last epoch."""
    import torch

    from pipeline.evaluation.scoring import predict
    from pipeline.objectives.videos import VideoTask
    from pipeline.training.batches import FeatureTable
    from pipeline.training.clips import ClipSampling
    from pipeline.training.loop import fit, load_best
    from pipeline.training.run import Run

    cpu = torch.device("cpu")
    videos = tuple(
        dataclasses.replace(video, label=int(label)) for video, label in zip(dataset.videos, given, strict=True)
    )
    probabilities = np.zeros((len(videos), len(dataset.classes)))
    for fold in np.unique(folds):
        train = tuple(video for video, number in zip(videos, folds, strict=True) if number != fold)
        test = tuple(video for video, number in zip(videos, folds, strict=True) if number == fold)
        split = Split("fold", train, (), test)
        task = VideoTask(dataclasses.replace(dataset, videos=videos, splits={"fold": split}), lambda: cache, cpu)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder) / "run")
            fit(run, config, task.objective(config), cpu)
            model, classes = load_best(run, config)
            table = FeatureTable(test, task.features)
            scored = predict(model, table, ClipSampling.from_config(config.training), classes, cpu)["forward"]
        probabilities[folds == fold] = scored.video_probabilities
    return probabilities


if __name__ == "__main__":
    sys.exit(run_command(main))
