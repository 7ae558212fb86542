"""Leave-one-group-out on real videos: every model with the same tuning budget, never spent on the group held out.

    python -m benchmarks.real_video --config configs/weizmann.yaml --root DIR --results runs/weizmann-table

The groups are dealt into blocks. For each block and model the settings are chosen by cross-validation over the groups
*outside* the block (``CANDIDATES``, the same for every model; one seed); then each group of the block is held out in
turn, and the model trained with the chosen settings on all the other groups, once per seed. So no video had a say in
the candidate that it is tested with. Half of the groups had one in the defaults and in which candidates there are
(``benchmarks.choices``): the table tells the accuracy on the others apart. Every result is one line in
``results.jsonl``: kill it anywhere and start it again.
"""

import dataclasses
import itertools
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from tabulate import tabulate

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
from data.records import Split, VideoDataset
from pipeline.settings.config import Config

MODELS: tuple[Literal["np_rnn", "irnn", "lstm", "gru", "mean"], ...] = ("np_rnn", "irnn", "lstm", "gru", "mean")

# The settings each model may choose from, beside what the config file sets: as many for each. The frame average has no
# read-out to choose, so it chooses how much dropout it gets.
_RECURRENT: list[dict[str, Any]] = [
    {"learning_rate": rate, "readout": readout} for rate in (1e-3, 3e-3) for readout in ("mean", "last_and_mean")
]
_FRAME_AVERAGE: list[dict[str, Any]] = [
    {"learning_rate": rate, "dropout": dropout} for rate in (1e-3, 3e-3) for dropout in (0.2, 0.5)
]
CANDIDATES: dict[str, list[dict[str, Any]]] = {
    model: _FRAME_AVERAGE if model == "mean" else _RECURRENT for model in MODELS
}


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
    workers: int = NUM_CORES
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


def split_of(dataset: VideoDataset, job: Job) -> Split:
    test = tuple(record for record in dataset.videos if record.group in job.left_out)
    apart = {*job.left_out, *job.never_seen}
    return Split("", tuple(record for record in dataset.videos if record.group not in apart), (), test)


def config_of(job: Job, base: Config) -> Config:
    return with_changes(base, {"model": job.model} | CANDIDATES[job.model][job.candidate], "the candidates")


def for_choosing(groups: Sequence[str]) -> tuple[str, ...]:
    """The half of the groups by which the defaults were chosen (``benchmarks.choices``)."""
    return deal(sorted(groups), 2)[0]


def table(asked: Arguments, results: Results, jobs: list[Job], had_a_say: Sequence[str]) -> str:
    """Accuracy over all videos, each tested once per seed, and over those of groups that had no say in the defaults."""
    lines = []
    for model in asked.models:
        of_model = [job for job in jobs if job.model == model]
        without_say = [job for job in of_model if not set(job.left_out) & set(had_a_say)]
        per_seed, unseen = (
            accuracy_per_seed(results, {seed: [job.key for job in some if job.seed == seed] for seed in asked.seeds})
            for some in (of_model, without_say)
        )
        chosen = defaultdict(list)
        for block, candidate in sorted({(job.block, job.candidate) for job in of_model}):
            settings = ", ".join(f"{key} {value}" for key, value in CANDIDATES[model][candidate].items())
            chosen[settings].append(str(block + 1))
        lines.append(
            [
                model,
                *mean_and_deviation(per_seed),
                *mean_and_deviation(unseen),
                " ".join(f"{value:.3f}" for value in per_seed),
                "; ".join(f"{settings} ({' '.join(blocks)})" for settings, blocks in chosen.items()),
            ]
        )
    head = ["model", "all", "±", "no say", "±", "all, per seed", "chosen settings (in blocks)"]
    return tabulate(lines, head, "github", disable_numparse=True)


def mean_and_deviation(values: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.fmean(values):.3f}", f"{statistics.stdev(values) if len(values) > 1 else 0.0:.3f}"


def main(arguments: Sequence[str]) -> int:
    asked = tyro.cli(Arguments, args=list(arguments), description=__doc__)
    base = base_config(asked.config, asked.root, asked.cache)
    dataset = cache_features(base)
    groups = sorted({record.group for record in dataset.videos})
    choosing = choosing_jobs(asked, groups)

    def run_jobs(jobs: list[Job], what: str) -> Results:
        trainings = [Training(job.key, config_of(job, base), split_of(dataset, job), job.seed) for job in jobs]
        return run_trainings(trainings, base, asked.workers, asked.results / "results.jsonl", what)

    chosen = choose(run_jobs(choosing, "choosing settings"), choosing)
    final = final_jobs(asked, groups, chosen)
    results = run_jobs(final, "leaving out")
    had_a_say = for_choosing(groups)
    text = table(asked, results, final, had_a_say)
    write_text_atomically(asked.results / "table.md", text + "\n")
    without_say = ", ".join(sorted(set(groups) - set(had_a_say)))
    print(
        f'{dataset.name}: {len(groups)} groups left out in turn, {len(dataset.videos)} videos. "No say": the groups by '
        f"which no default was chosen ({without_say}).\n\n{text}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
