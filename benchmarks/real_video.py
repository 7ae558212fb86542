"""Leave-one-group-out on real videos: every model with the same tuning budget, never spent on the group held out.

    python -m benchmarks.real_video --config configs/weizmann.yaml --root DIR --results runs/weizmann-table

The groups are dealt into blocks. For each block and model the settings are chosen by cross-validation over the groups
*outside* the block (``CANDIDATES``, the same for every model; one seed); then each group of the block is held out in
turn, and the model trained with the chosen settings on all the other groups, once per seed. So no video had a say in
the settings that it is tested with. Every result is one line in ``results.jsonl``: kill it anywhere and start it again.
"""

import dataclasses
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

from data.catalog import load_dataset
from data.records import Split, VideoDataset
from pipeline.command import run_command
from pipeline.config import Config, DataConfig, FeatureConfig
from pipeline.config_io import from_flat, read_yaml, to_flat
from pipeline.progress import Progress

MODELS: tuple[Literal["np_rnn", "irnn", "lstm", "gru", "mean"], ...] = ("np_rnn", "irnn", "lstm", "gru", "mean")

# The settings each model may choose from, beside what the config file sets: as many for each. The frame average has no
# read-out to choose, so it chooses how much dropout it gets.
_RECURRENT: list[dict[str, Any]] = [
    {"learning_rate": rate, "readout": readout} for rate in (1e-3, 3e-3) for readout in ("mean", "last_and_mean")
]
_FRAME_AVERAGE: list[dict[str, Any]] = [
    {"learning_rate": rate, "dropout": dropout} for rate in (1e-3, 3e-3) for dropout in (0.2, 0.5)
]
CANDIDATES = {model: _FRAME_AVERAGE if model == "mean" else _RECURRENT for model in MODELS}


@dataclass(frozen=True)
class Arguments:
    """Leave-one-group-out comparison of the recurrent classifiers on a folder of videos."""

    config: Path
    """YAML with the dataset's settings"""
    root: Path
    """the folder, or CSV, of videos"""
    results: Path
    """folder of results.jsonl and table.md"""
    cache: Path = Path("cache")
    """the feature store"""
    models: tuple[Literal["np_rnn", "irnn", "lstm", "gru", "mean"], ...] = MODELS
    """which to compare"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """trainings of each model on each fold"""
    blocks: int = 3
    """into how many blocks the groups are dealt; settings are chosen once for each"""
    inner_folds: int = 3
    """folds of the cross-validation that chooses the settings"""
    workers: int = os.cpu_count() or 1
    """trainings at a time, one thread each"""


@dataclass(frozen=True)
class Job:
    """One training: on all groups but ``left_out`` (and ``held_out``), tested on ``left_out``."""

    stage: str  # "choose" or "test"
    block: int
    model: str
    candidate: int
    left_out: tuple[str, ...]
    never_seen: tuple[str, ...]
    seed: int

    @property
    def key(self) -> str:
        return json.dumps(dataclasses.asdict(self))


def deal(groups: Sequence[str], parts: int, seed: int = 0) -> list[tuple[str, ...]]:
    """The groups in ``parts`` random parts of nearly equal size."""
    order = np.random.default_rng(seed).permutation(len(groups))
    return [tuple(groups[position] for position in order[part::parts]) for part in range(parts)]


def choosing_jobs(asked: Arguments, groups: Sequence[str]) -> list[Job]:
    jobs = []
    for block, held_out in enumerate(deal(groups, asked.blocks)):
        inside = [group for group in groups if group not in held_out]
        for fold in deal(inside, asked.inner_folds, seed=block + 1):
            for model in asked.models:
                for candidate in range(len(CANDIDATES[model])):
                    jobs.append(Job("choose", block, model, candidate, fold, held_out, seed=0))
    return jobs


def choose(results: dict[str, dict[str, Any]], jobs: Iterable[Job]) -> dict[tuple[int, str], int]:
    """For each block and model the candidate with most right answers in cross-validation, then the lowest loss."""
    right: dict[tuple[int, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for job in jobs:
        score = right[job.block, job.model][job.candidate]
        score[0] += results[job.key]["right"]
        score[1] -= results[job.key]["loss"]
    return {key: max(scores, key=lambda candidate: scores[candidate]) for key, scores in right.items()}


def final_jobs(asked: Arguments, groups: Sequence[str], chosen: dict[tuple[int, str], int]) -> list[Job]:
    return [
        Job("test", block, model, chosen[block, model], (group,), (), seed)
        for block, held_out in enumerate(deal(groups, asked.blocks))
        for group, model, seed in itertools.product(held_out, asked.models, asked.seeds)
    ]


_worker: dict[str, Any] = {}


def start_worker(data: DataConfig, features: FeatureConfig) -> None:
    """Open the features, which all processes share, once for all trainings of a process."""
    import torch

    from pipeline.cache import FeatureCache
    from pipeline.dataset_features import load_features

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as train.py does
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115  a bar for each of a thousand trainings would bury the one that counts
    cache = FeatureCache(features)
    _worker["features"] = load_features(cache, load_dataset(data.dataset, data.options), allow_missing=False)
    _worker["recipe"] = cache.store.recipe


def train_and_test(config: Config, split: Split, seed: int) -> dict[str, Any]:
    """Train one classifier on ``split.train`` and count the videos of ``split.test`` it gets right, in a worker."""
    import torch

    from pipeline.evaluation import video_predictions, video_probabilities
    from pipeline.runs import Run
    from pipeline.scoring import predict
    from pipeline.training import clip_sampling, make_accelerator, train

    features, device = _worker["features"], torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run")
        run.begin(config, _worker["recipe"])
        classes, table = features.dataset.classes, features.table(split.test)
        accelerator = make_accelerator(device, amp=False)
        model = train(run, config, seed, classes, features.table(split.train), None, accelerator)
        predictions = predict(model, table, clip_sampling(config.training), classes, device)
    true = video_probabilities(predictions)[np.arange(len(split.test)), predictions.labels]
    right = int((video_predictions(predictions) == predictions.labels).sum())
    return {"right": right, "videos": len(split.test), "loss": float(-np.log(true.clip(1e-12)).sum())}


def split_of(dataset: VideoDataset, job: Job) -> Split:
    test = tuple(record for record in dataset.videos if record.group in job.left_out)
    apart = {*job.left_out, *job.never_seen}
    return Split("", tuple(record for record in dataset.videos if record.group not in apart), (), test)


class Training(NamedTuple):
    """What one process is given to do."""

    key: str
    """names it among those of its benchmark"""
    config: Config
    split: Split
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        return dataclasses.asdict(self.config.model) | dataclasses.asdict(self.config.training)


Results = dict[str, dict[str, Any]]


def run_trainings(trainings: Sequence[Training], base: Config, workers: int, log: Path, what: str) -> Results:
    """The results of all, by key; trained is what ``log`` does not hold with the very same settings."""
    lines = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
    held = {_identity(line["job"], line["settings"]): line for line in lines}
    found = {training.key: held.get(_identity(training.key, training.settings)) for training in trainings}
    results = {key: line for key, line in found.items() if line is not None}
    to_do = [training for training in trainings if training.key not in results]
    progress = Progress(total=len(trainings), done=len(results), unit="training", what=what)
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, start_worker, (base.data, base.features)) as pool, log.open("a") as file:
        for training, result in pool.imap_unordered(_do, to_do):
            line = {"job": training.key, **result, "settings": training.settings}
            print(json.dumps(line), file=file, flush=True)
            results[training.key] = line
            progress.advance()
    progress.close()
    return results


def _identity(key: str, settings: dict[str, Any]) -> str:
    return json.dumps([key, settings], sort_keys=True)


def _do(training: Training) -> tuple[Training, dict[str, Any]]:
    return training, train_and_test(training.config, training.split, training.seed)


def accuracy_per_seed(results: Results, keys: Mapping[int, Sequence[str]]) -> list[float]:
    """For each seed the share of right answers in all trainings of ``keys[seed]`` together."""
    return [
        sum(results[key]["right"] for key in of_seed) / sum(results[key]["videos"] for key in of_seed)
        for of_seed in keys.values()
    ]


def config_of(job: Job, base: Config) -> Config:
    flat = to_flat(base) | {"model": job.model, "seeds": [job.seed]} | CANDIDATES[job.model][job.candidate]
    return from_flat(Config, {key: value for key, value in flat.items() if value is not None}, "benchmark")


def table(asked: Arguments, results: dict[str, dict[str, Any]], jobs: list[Job]) -> str:
    """Accuracy over all videos, each tested once per seed: mean and standard deviation over the seeds."""
    head = ["model", "accuracy", "± over seeds", "per seed", "chosen settings (in blocks)"]
    lines = [f"| {' | '.join(head)} |", "| --- | ---: | ---: | --- | --- |"]
    for model in asked.models:
        of_model = [job for job in jobs if job.model == model]
        keys = {seed: [job.key for job in of_model if job.seed == seed] for seed in asked.seeds}
        per_seed = accuracy_per_seed(results, keys)
        deviation = statistics.stdev(per_seed) if len(per_seed) > 1 else 0.0
        chosen = defaultdict(list)
        for block, candidate in sorted({(job.block, job.candidate) for job in of_model}):
            chosen[", ".join(f"{key} {value}" for key, value in CANDIDATES[model][candidate].items())].append(
                str(block + 1)
            )
        settings = "; ".join(f"{text} ({' '.join(blocks)})" for text, blocks in chosen.items())
        seeds = " ".join(f"{value:.3f}" for value in per_seed)
        lines.append(f"| {model} | **{statistics.fmean(per_seed):.3f}** | {deviation:.3f} | {seeds} | {settings} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    asked = tyro.cli(Arguments, args=list(arguments), description=__doc__)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    flat = read_yaml(asked.config) | {"root": str(asked.root), "cache": str(asked.cache), "validation_groups": 0}
    base = from_flat(Config, flat, str(asked.config))
    dataset = load_dataset(base.data.dataset, base.data.options)
    groups = sorted({record.group for record in dataset.videos})
    from pipeline.cache import FeatureCache
    from pipeline.dataset_features import load_features

    load_features(FeatureCache(base.features), dataset, allow_missing=False)  # extracted once, before the workers start
    asked.results.mkdir(parents=True, exist_ok=True)
    log = asked.results / "results.jsonl"
    choosing = choosing_jobs(asked, groups)

    def run_jobs(jobs: list[Job], what: str) -> Results:
        trainings = [Training(job.key, config_of(job, base), split_of(dataset, job), job.seed) for job in jobs]
        return run_trainings(trainings, base, asked.workers, log, what)

    chosen = choose(run_jobs(choosing, "choosing settings"), choosing)
    final = final_jobs(asked, groups, chosen)
    results = run_jobs(final, "leaving out")
    text = table(asked, results, final)
    (asked.results / "table.md").write_text(text)
    print(f"{dataset.name}: {len(groups)} groups left out in turn, {len(dataset.videos)} videos\n\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
