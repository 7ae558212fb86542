"""What the benchmarks on real video share: group splits, trainings whose results are logged, accuracy over seeds."""

import dataclasses
import functools
import hashlib
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pebble import ProcessExpired

from benchmarks.workers import in_workers
from data.catalog import load_dataset
from data.progress import Progress
from data.records import Split, VideoDataset, VideoRecord
from pipeline.settings.config import Config
from pipeline.settings.parsing import from_flat, read_yaml, to_flat

# Modules that load PyTorch are imported inside functions: a wrong option is reported at once, and ``run_command`` can
# set OMP_WAIT_POLICY first, without which caching the features is slower.
if TYPE_CHECKING:
    from pipeline.objectives.videos import VideoTask

Results = dict[str, dict[str, Any]]
"""By the key of a training: ``right`` answers among ``videos``, and the sum of their ``loss``."""

SMALLEST_PROBABILITY = 1e-12  # lower bound for the true class's probability: keeps the loss finite


class Training(NamedTuple):
    """One training, for a worker process."""

    key: str
    """unique in the benchmark"""
    config: Config
    split: Split
    """``train`` and ``test``; validation videos are not used"""
    seed: int

    @property
    def provenance(self) -> dict[str, Any]:
        """All that determines the result, except the features and the seed, which is part of the key."""
        model, training = dataclasses.asdict(self.config.model), dataclasses.asdict(self.config.training)
        return model | training | {"train": _digest(self.split.train), "test": _digest(self.split.test)}


def _digest(videos: Sequence[VideoRecord]) -> str:
    return hashlib.sha256("\n".join(video.video_id for video in videos).encode()).hexdigest()[:16]


def groups_of(dataset: VideoDataset) -> list[str]:
    return sorted({record.group for record in dataset.videos})


def deal(groups: Sequence[str], parts: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Deal the groups into ``parts`` random parts of nearly equal size."""
    order = np.random.default_rng(seed).permutation(len(groups))
    return [tuple(groups[position] for position in order[part::parts]) for part in range(parts)]


def development_groups(groups: Sequence[str]) -> tuple[str, ...]:
    """The half of the groups that ``benchmarks.choices`` chooses the defaults on."""
    return deal(sorted(groups), 2)[0]


def hold_out(dataset: VideoDataset, test: Collection[str], unused: Collection[str] = ()) -> Split:
    """A split that tests on the groups ``test`` and trains on all other groups except ``unused``."""
    return Split(
        name="",
        train=tuple(record for record in dataset.videos if record.group not in {*test, *unused}),
        validation=(),
        test=tuple(record for record in dataset.videos if record.group in test),
    )


def base_config(path: Path, root: Path | None, cache: Path) -> Config:
    """Read the settings of a YAML file, with another ``cache`` and, unless it is ``None``, another ``root``."""
    settings = read_yaml(path) | {"cache": str(cache)}
    if root is not None:
        settings["root"] = str(root)
    return from_flat(Config, settings, str(path))


def with_changes(base: Config, changes: Mapping[str, Any], where: str) -> Config:
    """``base`` with some settings replaced; errors name ``where`` as the source of the changes."""
    settings = {key: value for key, value in to_flat(base).items() if value is not None}
    return from_flat(Config, {**settings, **changes}, where)


def run_trainings(trainings: Sequence[Training], base: Config, workers: int, log: Path, what: str) -> Results:
    """Train what is not in ``log`` yet, append each result to it, and return the results of all trainings.

    A logged result is used again only if its training had the same settings, videos and features. A training that
    diverges counts as wrong on every video, with the highest possible loss.
    """
    from pipeline.cache.job import FeatureCache

    log.parent.mkdir(parents=True, exist_ok=True)
    features = {"features": FeatureCache(base.features).store.recipe.fingerprint, "views": base.features.views}
    provenance = {training.key: training.provenance | features for training in trainings}
    results = {line["job"]: line for line in _read(log) if line["made_from"] == provenance.get(line["job"])}
    to_do = [training for training in trainings if training.key not in results]
    if not to_do:
        return results
    progress = Progress(total=len(trainings), done=len(results), unit="training", what=what)
    prepare = functools.partial(_open_features, base)
    with log.open("a", encoding="utf-8") as file:
        file.write("\n")  # ends a line that a full disk or a power cut may have torn
        for training, done in in_workers(_train_and_test, to_do, workers, prepare):
            key = training.key
            try:
                result = done.result()
            except ProcessExpired as error:
                progress.note(f"{key}: its process was killed ({error})")
                continue
            # The provenance is logged as "made_from": another name would repeat all trainings of existing logs.
            results[key] = {"job": key, **result, "made_from": provenance[key]}
            print(json.dumps(results[key]), file=file, flush=True)
            progress.advance()
    progress.close()
    if len(results) < len(trainings):
        raise SystemExit(
            f"{len(trainings) - len(results)} trainings were killed. Run the same command again to finish them."
        )
    return results


def accuracy_per_seed(results: Results, seeds: Mapping[str, int]) -> list[float]:
    """For each seed, the share of right answers over all its trainings; ``seeds`` maps a training's key to its seed."""
    right: Counter[int] = Counter()
    videos: Counter[int] = Counter()
    for key, seed in seeds.items():
        right[seed] += results[key]["right"]
        videos[seed] += results[key]["videos"]
    return [right[seed] / videos[seed] for seed in videos]


def mean_and_deviation(values: Sequence[float]) -> tuple[str, str]:
    """Mean and sample standard deviation (0 for a single value) with three digits."""
    return f"{statistics.fmean(values):.3f}", f"{statistics.stdev(values) if len(values) > 1 else 0.0:.3f}"


def cache_features(base: Config) -> VideoDataset:
    """Load the dataset and cache all its features, on all cores, before workers open them."""
    dataset = load_dataset(base.data)
    _open_task(base, dataset).prepare()
    return dataset


def _read(log: Path) -> list[dict[str, Any]]:
    """The complete lines of the log."""
    lines = []
    for text in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # torn, or empty
        if "made_from" in line:
            lines.append(line)
    return lines


def _open_task(base: Config, dataset: VideoDataset) -> "VideoTask":
    import torch

    from pipeline.cache.job import FeatureCache
    from pipeline.objectives.videos import VideoTask

    return VideoTask(dataset, lambda: FeatureCache(base.features), torch.device("cpu"))


_worker: dict[str, Any] = {}


def _open_features(base: Config) -> None:
    """Open the features once per worker process; the processes share the memory of the packed file."""
    _worker.update(task=_open_task(base, load_dataset(base.data)))


def _train_and_test(training: Training) -> dict[str, Any]:
    """Train a classifier on ``split.train``; its right answers and its summed loss on the videos of ``split.test``."""
    import torch

    from pipeline.evaluation.predictions import EvaluationError
    from pipeline.evaluation.scoring import predict
    from pipeline.objectives.videos import VideoTask
    from pipeline.training.batches import FeatureTable
    from pipeline.training.clips import ClipSampling
    from pipeline.training.loop import TrainingError, fit, load_best
    from pipeline.training.run import Run

    device, split = torch.device("cpu"), dataclasses.replace(training.split, validation=())
    opened: VideoTask = _worker["task"]
    dataset = dataclasses.replace(opened.dataset, splits={split.name: split})
    task = VideoTask(dataset, lambda: opened.cache, device)
    options = dataclasses.replace(training.config.run, splits=(split.name,), seeds=(training.seed,))
    config = dataclasses.replace(training.config, run=options)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run")
        run.begin(config, task.recipe)
        try:
            fit(run, config, task.objective(config), device)
            model, classes = load_best(run, config)
            table = FeatureTable(split.test, task.features)
            predictions = predict(model, table, ClipSampling.from_config(config.training), classes, device)
        except (TrainingError, EvaluationError):  # the loss or a probability is not finite
            worst = -len(split.test) * float(np.log(SMALLEST_PROBABILITY))
            return {"right": 0, "videos": len(split.test), "loss": worst, "diverged": True}
    true, right = predictions.true_probability, int(predictions.correct.sum())
    return {"right": right, "videos": len(split.test), "loss": float(-np.log(true.clip(SMALLEST_PROBABILITY)).sum())}
