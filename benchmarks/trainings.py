"""Trainings of a benchmark on cached features of real video, each done once and kept in a log of JSON lines."""

import dataclasses
import functools
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
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

if TYPE_CHECKING:
    from pipeline.objectives.videos import VideoTask

Results = dict[str, dict[str, Any]]

SMALLEST_PROBABILITY = 1e-12  # of the true class, for a loss that stays finite


class Training(NamedTuple):
    """What one process is given to do."""

    key: str
    """names it among those of its benchmark"""
    config: Config
    split: Split
    """``test`` is what it is scored on"""
    seed: int

    @property
    def made_from(self) -> dict[str, Any]:
        """All that its result hangs on, but for the features."""
        model, training = dataclasses.asdict(self.config.model), dataclasses.asdict(self.config.training)
        return model | training | {"train": _digest(self.split.train), "test": _digest(self.split.test)}


def _digest(videos: Sequence[VideoRecord]) -> str:
    return hashlib.sha256("\n".join(video.video_id for video in videos).encode()).hexdigest()[:16]


def base_config(path: Path, root: Path | None, cache: Path) -> Config:
    """The settings of a YAML file, for videos at ``root`` (``None``: where the file says) and features in ``cache``."""
    flat = read_yaml(path) | {"cache": str(cache)}
    return from_flat(Config, flat if root is None else flat | {"root": str(root)}, str(path))


def with_changes(base: Config, changes: Mapping[str, Any], where: str) -> Config:
    """``base`` with other settings; ``where`` names them in errors."""
    given = {key: value for key, value in to_flat(base).items() if value is not None}
    return from_flat(Config, {**given, **changes}, where)


def run_trainings(trainings: Sequence[Training], base: Config, workers: int, log: Path, what: str) -> Results:
    """The results of all, by key; trained is what ``log`` does not hold, made of the very same.

    A result has ``right`` (answers), of ``videos``, and the sum of their ``loss``. A training that diverges has no
    right answer and the highest loss there is.
    """
    from pipeline.cache.job import FeatureCache

    log.parent.mkdir(parents=True, exist_ok=True)
    features = {"features": FeatureCache(base.features).store.recipe.fingerprint, "views": base.features.views}
    made_from = {training.key: training.made_from | features for training in trainings}
    held = {_identity(line["job"], line["made_from"]): line for line in _read(log)}
    results = {key: line for key, own in made_from.items() if (line := held.get(_identity(key, own)))}
    to_do = [training for training in trainings if training.key not in results]
    if not to_do:
        return results
    progress = Progress(total=len(trainings), done=len(results), unit="training", what=what)
    prepare = functools.partial(_open_features, base)
    with log.open("a", encoding="utf-8") as file:
        file.write("\n")  # ends a line that a full disk or a power cut may have torn
        for training, done in in_workers(_train_and_test, to_do, workers, prepare):
            try:
                result = done.result()
            except ProcessExpired as error:
                progress.note(f"{training.key}: its process was killed ({error})")
                continue
            results[training.key] = {"job": training.key, **result, "made_from": made_from[training.key]}
            print(json.dumps(results[training.key]), file=file, flush=True)
            progress.advance()
    progress.close()
    if len(results) < len(trainings):
        raise SystemExit(f"{len(trainings) - len(results)} trainings were killed; the same command goes on with them")
    return results


def accuracy_per_seed(results: Results, keys: Mapping[int, Sequence[str]]) -> list[float]:
    """For each seed the share of right answers in all trainings of ``keys[seed]`` together."""
    return [
        sum(results[key]["right"] for key in of_seed) / sum(results[key]["videos"] for key in of_seed)
        for of_seed in keys.values()
    ]


def cache_features(base: Config) -> VideoDataset:
    """The dataset, all its features cached: once and on all cores, before workers open them."""
    dataset = load_dataset(base.data)
    _open_task(base, dataset).prepare()
    return dataset


def _read(log: Path) -> list[dict[str, Any]]:
    lines = []
    for text in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # torn, or empty
        if "made_from" in line:
            lines.append(line)
    return lines


def _identity(key: str, made_from: dict[str, Any]) -> str:
    return json.dumps([key, made_from], sort_keys=True)


def _open_task(base: Config, dataset: VideoDataset) -> "VideoTask":
    import torch

    from pipeline.cache.job import FeatureCache
    from pipeline.objectives.videos import VideoTask

    return VideoTask(dataset, lambda: FeatureCache(base.features), torch.device("cpu"))


_worker: dict[str, Any] = {}


def _open_features(base: Config) -> None:
    """Once for all trainings of a process; all processes share the pages."""
    task = _open_task(base, load_dataset(base.data))
    _worker.update(dataset=task.dataset, cache=task.cache, shared={}, base=base)


def _train_and_test(training: Training) -> dict[str, Any]:
    """Train one classifier on ``split.train`` and count the videos of ``split.test`` that it gets right."""
    import torch

    from pipeline.evaluation.predictions import EvaluationError
    from pipeline.evaluation.scoring import predict
    from pipeline.objectives.videos import VideoTask
    from pipeline.training.batches import FeatureTable
    from pipeline.training.clips import ClipSampling
    from pipeline.training.loop import TrainingError, fit, load_best
    from pipeline.training.run import Run

    device, split = torch.device("cpu"), dataclasses.replace(training.split, validation=())
    dataset = dataclasses.replace(_worker["dataset"], splits={split.name: split})
    task = VideoTask(dataset, lambda: _worker["cache"], device, shared=_worker["shared"])
    options = dataclasses.replace(training.config.run, splits=(split.name,), seeds=(training.seed,))
    config = dataclasses.replace(training.config, run=options)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run")
        run.begin(config, task.recipe)
        try:
            fit(run, config, task.objective(config), device)
            model, classes = load_best(run, config)
            table = FeatureTable(split.test, task.features)
            predictions = predict(model, table, ClipSampling.of(config.training), classes, device)
        except (TrainingError, EvaluationError):  # the loss, or an answer, is not finite
            worst = -len(split.test) * float(np.log(SMALLEST_PROBABILITY))
            return {"right": 0, "videos": len(split.test), "loss": worst, "diverged": True}
    true, right = predictions.true_probability, int(predictions.correct.sum())
    return {"right": right, "videos": len(split.test), "loss": float(-np.log(true.clip(SMALLEST_PROBABILITY)).sum())}
