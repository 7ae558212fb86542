"""Compare the classifiers on real videos, leaving out one group at a time, with the same tuning budget for every model.

    python -m benchmarks.real_video --config configs/weizmann.yaml --root DIR --results runs/weizmann-table

The groups are dealt into blocks. For each block and model, cross-validation over the groups outside the block chooses
the settings, with one seed and the same number of candidates for every model. Then each group of the block is held out
in turn, and the chosen settings are trained on all other groups, once per seed. So no video helps to choose the
settings that it is tested with.

The defaults and the candidates themselves were chosen on half of the groups, with benchmarks.choices. The column "no
say" of the table is the accuracy on the other half alone.

Every result is one line in results.jsonl. A killed benchmark resumes when the same command is run again.
"""

import dataclasses
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tabulate import tabulate

from benchmarks import trainings
from benchmarks.trainings import Results, Training, accuracy_per_seed, deal, mean_and_deviation
from benchmarks.workers import NUM_CORES
from data.atomic import write_text_atomically
from data.command import parse_arguments, run_command
from data.records import Split, VideoDataset
from pipeline.settings.config import Config

Model = Literal["np_rnn", "irnn", "lstm", "gru", "mean"]
MODELS: tuple[Model, ...] = get_args(Model)

# The candidate settings of each model, on top of the config file. Every model has the same number of them. The frame
# average has no read-out, so its dropout varies instead.
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
    """What to compare, and where its videos and results are."""

    config: Path
    """YAML file with the settings for the dataset"""
    root: Path
    """folder of videos, or CSV file that lists them"""
    results: Path
    """folder for results.jsonl and table.md"""
    cache: Path = Path("cache")
    """feature cache"""
    models: tuple[Model, ...] = MODELS
    """models to compare"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds; each trains every model once per group"""
    blocks: int = 3
    """number of blocks; settings are chosen once per block and model"""
    inner_folds: int = 3
    """folds of the cross-validation that chooses the settings"""
    workers: int = NUM_CORES
    """parallel trainings, one thread each"""


@dataclass(frozen=True)
class Job:
    """One training, tested on the groups ``left_out`` and trained on all others except ``never_seen``."""

    stage: str  # "choose" or "test"
    block: int
    model: str
    candidate: int
    left_out: tuple[str, ...]
    never_seen: tuple[str, ...]
    seed: int

    @property
    def key(self) -> str:
        """The key in results.jsonl: another field name would repeat all trainings of existing logs."""
        return json.dumps(dataclasses.asdict(self))


def choosing_jobs(options: Arguments, groups: Sequence[str]) -> list[Job]:
    """The cross-validation of every candidate, for each block over the groups outside it."""
    jobs = []
    for block, held_out in enumerate(deal(groups, options.blocks)):
        inside = [group for group in groups if group not in held_out]
        for fold in deal(inside, options.inner_folds, seed=block + 1):
            for model in options.models:
                for candidate in range(len(CANDIDATES[model])):
                    jobs.append(Job("choose", block, model, candidate, fold, held_out, seed=0))
    return jobs


def choose(results: Results, jobs: Iterable[Job]) -> dict[tuple[int, str], int]:
    """For each block and model, the candidate with the most right answers; the lower loss decides a tie."""
    scores: dict[tuple[int, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    for job in jobs:
        score = scores[job.block, job.model][job.candidate]
        score[0] += results[job.key]["right"]
        score[1] -= results[job.key]["loss"]
    return {key: max(candidates, key=candidates.__getitem__) for key, candidates in scores.items()}


def final_jobs(options: Arguments, groups: Sequence[str], chosen: dict[tuple[int, str], int]) -> list[Job]:
    """The trainings that the table reports: each group held out once per model and seed."""
    return [
        Job("test", block, model, chosen[block, model], (group,), (), seed)
        for block, held_out in enumerate(deal(groups, options.blocks))
        for group, model, seed in itertools.product(held_out, options.models, options.seeds)
    ]


def split_of(dataset: VideoDataset, job: Job) -> Split:
    return trainings.hold_out(dataset, test=job.left_out, unused=job.never_seen)


def config_of(job: Job, base: Config) -> Config:
    return trainings.with_changes(base, {"model": job.model} | CANDIDATES[job.model][job.candidate], "the candidates")


def table(options: Arguments, results: Results, jobs: Sequence[Job], development: Collection[str]) -> str:
    """Accuracy over all videos, and over the videos of groups that are not in ``development``."""
    rows = []
    for model in options.models:
        model_jobs = [job for job in jobs if job.model == model]
        per_seed = accuracy_per_seed(results, {job.key: job.seed for job in model_jobs})
        other_jobs = [job for job in model_jobs if not set(job.left_out) & set(development)]
        others_per_seed = accuracy_per_seed(results, {job.key: job.seed for job in other_jobs})
        chosen = defaultdict(list)
        for block, candidate in sorted({(job.block, job.candidate) for job in model_jobs}):
            settings = ", ".join(f"{key} {value}" for key, value in CANDIDATES[model][candidate].items())
            chosen[settings].append(str(block + 1))
        rows.append(
            [
                model,
                *mean_and_deviation(per_seed),
                *mean_and_deviation(others_per_seed),
                " ".join(f"{value:.3f}" for value in per_seed),
                "; ".join(f"{settings} ({' '.join(blocks)})" for settings, blocks in chosen.items()),
            ]
        )
    columns = ["model", "all", "±", "unused", "±", "all, per seed", "chosen settings (in blocks)"]
    return tabulate(rows, columns, "github", disable_numparse=True)


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(Arguments, arguments, prog="python -m benchmarks.real_video", description=__doc__)
    base = trainings.base_config(options.config, options.root, options.cache)
    dataset = trainings.cache_features(base)
    groups = trainings.groups_of(dataset)

    def run_jobs(jobs: list[Job], what: str) -> Results:
        to_train = [Training(job.key, config_of(job, base), split_of(dataset, job), job.seed) for job in jobs]
        return trainings.run_trainings(to_train, base, options.workers, options.results / "results.jsonl", what)

    choosing = choosing_jobs(options, groups)
    chosen = choose(run_jobs(choosing, "choosing settings"), choosing)
    final = final_jobs(options, groups, chosen)
    results = run_jobs(final, "leaving groups out")
    development = trainings.development_groups(groups)
    text = table(options, results, final, development)
    write_text_atomically(options.results / "table.md", text + "\n")
    others = ", ".join(sorted(set(groups) - set(development)))
    print(
        f"{dataset.name}: {len(dataset.videos)} videos, {len(groups)} groups held out in turn. "
        f'"Unused" counts only the groups that were not used to choose the defaults: {others}.\n\n{text}'
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
