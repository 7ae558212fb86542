"""Trainings in worker processes. Each result is logged, and a logged result is used again for the same training."""

import dataclasses
import functools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from pebble import ProcessExpired, ProcessPool

from data.progress import Progress
from data.records import Split, VideoDataset, VideoRecord
from pipeline.cache.job import FeatureCache
from pipeline.cache.relink import locate
from pipeline.evaluation.metrics import SMALLEST_PROBABILITY
from pipeline.evaluation.predictions import BoolArray, EvaluationError, FloatArray
from pipeline.evaluation.provenance import digest
from pipeline.evaluation.scoring import predict
from pipeline.objectives.videos import VideoTask
from pipeline.settings.config import Config, ConfigError, FeatureConfig
from pipeline.training.batches import FeatureTable
from pipeline.training.clips import ClipSampling
from pipeline.training.loop import TrainingError, fit, load_best
from pipeline.training.run import Run
from pipeline.tune.workers import open_workers, run_all

LOG = "results.jsonl"
CPU = torch.device("cpu")
Folds = Sequence[tuple[VideoRecord, ...]]


class Training(NamedTuple):
    """One training, on all folds but those left out, which are scored afterwards."""

    key: str
    """unique in a results folder"""
    config: Config
    left_out: tuple[int, ...]
    """numbers of folds"""
    seed: int


@dataclass(frozen=True, eq=False)
class Scores:
    """The answers to the videos of one fold, in the fold's order.

    Attributes:
        correct: bool ``[num_videos]``.
        probability: float64 ``[num_videos]``, of the true class; 0 where the training diverged or a video is missing.
    """

    correct: BoolArray
    probability: FloatArray

    @property
    def losses(self) -> FloatArray:
        """float64 ``[num_videos]``: negative log-likelihood in nats."""
        return -np.log(self.probability.clip(SMALLEST_PROBABILITY))


class Result(NamedTuple):
    """The result of one training."""

    scores: dict[int, Scores]
    """by number of the fold, for the folds that were left out"""
    seconds: float


class Trainer:
    """Runs trainings that are not in the log yet, and returns the results of all. ``open_trainer`` makes one."""

    def __init__(self, folds: Folds, features: dict[str, Any], log: Path, workers: ProcessPool) -> None:
        self.folds = folds
        self._features, self._log, self._workers = features, log, workers
        self._lines = _read(log)

    def _provenance(self, training: Training) -> dict[str, Any]:
        """Everything that determines the result."""
        settings = dataclasses.asdict(training.config.model) | dataclasses.asdict(training.config.training)
        split = split_of(self.folds, training.left_out)
        videos = {
            name: digest([(video.video_id, video.label) for video in part])
            for name, part in (("train", split.train), ("test", split.test))
        }
        return settings | videos | self._features | {"seed": training.seed}

    def run(self, trainings: Sequence[Training], what: str) -> dict[str, Result]:
        """Results by key. A training that diverges counts as wrong on every video, with the highest possible loss.

        Ends the command if worker processes were killed, after the other trainings are done.
        """
        provenance = {training.key: json.loads(json.dumps(self._provenance(training))) for training in trainings}
        done = {line["key"]: line for line in self._lines if line["provenance"] == provenance.get(line["key"])}
        waiting = [training for training in trainings if training.key not in done]
        if waiting:
            progress = Progress(total=len(trainings), done=len(done), unit="training", what=what)
            with self._log.open("a", encoding="utf-8") as file:
                file.write("\n")  # ends a line that a full disk or a power cut may have torn
                for training, future in run_all(self._workers, _train_and_score, waiting):
                    try:
                        outcome = future.result()
                    except ProcessExpired as error:
                        progress.note(f"{training.key}: its process was killed ({error})")
                        continue
                    line = {"key": training.key, **outcome, "provenance": provenance[training.key]}
                    print(json.dumps(line), file=file, flush=True)
                    done[training.key] = line
                    self._lines.append(line)
                    progress.advance()
            progress.close()
        if num_killed := len(trainings) - len(done):
            raise SystemExit(
                f"{num_killed} of {len(trainings)} trainings were killed. Run the same command again to finish them."
            )
        return {key: _result(line) for key, line in done.items()}


@contextmanager
def open_trainer(
    folds: Folds, dataset: VideoDataset, cache: FeatureCache, results: Path, num_workers: int
) -> Iterator[Trainer]:
    """A trainer with its worker processes, which share the memory of the packed features.

    Args:
        dataset: the videos that have features.
        results: folder of the log. Only one process at a time may use it.
    """
    results.mkdir(parents=True, exist_ok=True)
    recipe = cache.store.recipe
    if recipe.is_imported:  # under the same name, other files may have been imported since
        packed = cache.load_once(locate(cache.store, dataset), dataset.videos)
        recipe = dataclasses.replace(recipe, contents=packed.digests())
    features = {"features": recipe.fingerprint, "views": cache.config.views}
    prepare = functools.partial(_open_features, folds, dataset, cache.config)
    try:
        with FileLock(results / ".lock", timeout=0), open_workers(num_workers, prepare) as workers:
            yield Trainer(folds, features, results / LOG, workers)
    except Timeout as error:
        raise ConfigError(f"another process writes to {results}. Wait for it, or choose another --results.") from error


def split_of(folds: Folds, left_out: Sequence[int]) -> Split:
    """A split that tests on the folds left out, in the order of ``left_out``, and trains on all others."""
    train = tuple(video for number, fold in enumerate(folds) if number not in left_out for video in fold)
    return Split("tune", train, (), tuple(video for number in left_out for video in folds[number]))


def _read(log: Path) -> list[dict[str, Any]]:
    """The complete lines of the log."""
    lines = []
    for text in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue  # torn, or empty
        if isinstance(line, dict) and "provenance" in line:
            lines.append(line)
    return lines


def _result(line: dict[str, Any]) -> Result:
    scores = {
        int(fold): Scores(np.array(one["correct"], dtype=bool), np.array(one["probability"], dtype=np.float64))
        for fold, one in line["scores"].items()
    }
    return Result(scores, line["seconds"])


class _MemoryRun(Run):
    """A run that keeps its last checkpoint in memory, because writing one after every epoch takes longer than training.

    Without validation videos, the last epoch's checkpoint is the best.
    """

    _state: dict[str, Any] | None = None

    def save_checkpoint(self, name: str, state: dict[str, Any]) -> None:
        if name == "best":
            self._state = state

    def load_checkpoint(self, name: str) -> dict[str, Any] | None:
        return self._state if name == "best" else None

    def write_history(self, history: list[dict[str, Any]]) -> None:
        pass


_worker: dict[str, Any] = {}


def _open_features(folds: Folds, dataset: VideoDataset, config: FeatureConfig) -> None:
    """Open the features once per worker process."""
    cache = FeatureCache(config)
    cache.load_once(locate(cache.store, dataset), dataset.videos)
    _worker.update(folds=folds, dataset=dataset, cache=cache)


def _train_and_score(training: Training) -> dict[str, Any]:
    """Train, without a validation set and so to the last epoch, and score the folds left out, ready for JSON."""
    started = time.perf_counter()
    folds: Folds = _worker["folds"]
    split = split_of(folds, training.left_out)
    dataset = dataclasses.replace(_worker["dataset"], splits={split.name: split})
    task = VideoTask(dataset, lambda: _worker["cache"], CPU)
    run_options = dataclasses.replace(training.config.run, splits=(split.name,), seeds=(training.seed,))
    config = dataclasses.replace(training.config, run=run_options)
    correct, probability = dict.fromkeys(split.test, False), dict.fromkeys(split.test, 0.0)
    diverged = False
    with tempfile.TemporaryDirectory() as folder:
        run = _MemoryRun(Path(folder) / "run")
        try:
            fit(run, config, task.objective(config), CPU)
            model, classes = load_best(run, config)
            table = FeatureTable.from_available(split.test, task.features)
            if table is not None:
                predictions = predict(model, table, ClipSampling.from_config(config.training), classes, CPU)["forward"]
                correct |= zip(table.records, predictions.correct.tolist(), strict=True)
                probability |= zip(table.records, predictions.true_probability.tolist(), strict=True)
        except (TrainingError, EvaluationError):  # the loss or a probability is not finite
            diverged = True
    scores = {
        number: {
            "correct": [int(correct[video]) for video in folds[number]],
            "probability": [float(f"{probability[video]:.6g}") for video in folds[number]],
        }
        for number in training.left_out
    }
    return {"scores": scores, "seconds": round(time.perf_counter() - started, 3), "diverged": diverged}
