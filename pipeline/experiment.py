"""Experiments, with or without video: plan runs, train them, evaluate them, rank them."""

import dataclasses
import os
import shlex
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data.atomic import write_atomically
from data.catalog import DataConfig, load_data
from data.demo.dataset import require_rendered
from data.errors import UserError
from data.objects import Place
from data.records import DatasetError
from pipeline.cache.job import FeatureCache
from pipeline.evaluation.predictions import FILE_NAME, Predictions
from pipeline.evaluation.provenance import FORMAT, MODEL_CARD, finished_metrics, run_digest, training_facts, versions
from pipeline.objectives.sequences import SequenceTask
from pipeline.objectives.task import Task
from pipeline.objectives.videos import VideoTask
from pipeline.reports.compare_models import best_models
from pipeline.reports.leaderboard import write_leaderboard
from pipeline.reports.sequence_table import write_sequence_table
from pipeline.settings.config import BASELINE, VALIDATION, Config, EvaluationOverrides, FeatureConfig
from pipeline.settings.device import choose_device
from pipeline.settings.parsing import flags_of
from pipeline.training.loop import fit, load_best, overfitting_warning
from pipeline.training.objective import Objective
from pipeline.training.run import Run, settings_text


class Evaluated(NamedTuple):
    """A finished evaluation: its folder, and the content of its ``metrics.json``."""

    folder: Path
    metrics: dict[str, Any]
    has_classes: bool
    was_finished: bool = False
    """whether it was finished before, so that it was not repeated"""

    @property
    def main_file(self) -> Path:
        return self.folder / ("report.html" if self.has_classes else "metrics.json")


def run_experiment(config: Config, data: Any = None) -> int:
    """Train and evaluate one run per split and seed.

    Args:
        data: the result of ``load_data(config.data)``, if it is already loaded.

    Returns:
        The exit code: 1 if videos without features were left out, else 0.
    """
    if not _is_first_process():
        return 0
    device = choose_device(config.features.device)
    task = Tasks(device).open(config, data)
    runs = plan_runs(config, task)
    for run, run_config in runs:
        # These fail before hours of caching, not after. The lists come first: where classes have changed, imported
        # features may be missing, too.
        run.check(run_config)
        if run.exists:
            with run.lock("training"):
                open_objective(task, run, run_config)
                if not run_config.run.overwrite and task.recipe is not None:
                    run.check_recipe(task.recipe)
        else:
            open_objective(task, run, run_config)
            if run_config.run.resume:
                print(f"nothing to resume in {run.folder}: it is trained from the start", file=sys.stderr)
    if description := task.describe(config.run.splits):
        print(description, file=sys.stderr)
    num_missing = task.prepare()
    evaluated = []
    for run, run_config in runs:
        started = time.perf_counter()
        with run.lock("training"):
            objective = open_objective(task, run, run_config)
            run.begin(run_config, task.recipe, objective.split)
            print(f"training {run.folder}", file=sys.stderr)
            fit(run, run_config, objective, device)
            if warning := overfitting_warning(run.history()):
                print(warning, file=sys.stderr)
            one = evaluate_run(run, objective, device)
        evaluated.append(one)
        print(f"{objective.summarize(one.metrics)}  ({time.perf_counter() - started:.0f} s)  {one.main_file}")
    if len(evaluated) > 1:
        write_tables(runs[0][0].folder.parent, evaluated)
    return 1 if num_missing else 0


def open_objective(task: Task, run: Run, config: Config, overrides: EvaluationOverrides | None = None) -> Objective:
    """The objective of a run: an existing one keeps the lists that it was trained, chosen and tested on.

    Raises ``DatasetError`` if the dataset's classes are not those of an existing run.
    """
    begins = config.run.overwrite or not run.exists
    saved = None if begins else run.split()
    objective = task.objective(config, overrides, saved)
    if saved is None and not begins and config.data.has_video:
        print(
            f"{run.folder} was made by an older version, which kept no split.json: its lists are taken from "
            f"{task.name} as it is now",
            file=sys.stderr,
        )
    return objective


def _is_first_process(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process should train.

    A classifier trains on one device, so all but the first of torchrun's processes have nothing to do. ``RANK`` and
    ``WORLD_SIZE`` without torchrun (from a caching job, say) are ignored.
    """
    rank, world_size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if world_size == "1":
        return True
    is_first = rank == "0" or "TORCHELASTIC_RUN_ID" not in environment
    work = "it ignores RANK and WORLD_SIZE" if is_first else f"process {rank} of {world_size} has nothing to do"
    print(f"a classifier trains in one process on one device: {work}", file=sys.stderr)
    return is_first


class Tasks:
    """Opens tasks, and loads the datasets, backbones and features that they share only once."""

    def __init__(self, device: torch.device, writable: Place | None = None) -> None:
        """``writable``: the only feature store that may be written; ``None``: any."""
        self.device, self._writable = device, writable
        self._data: dict[DataConfig, Any] = {}
        self._caches: dict[FeatureConfig, FeatureCache] = {}

    def open(self, config: Config, data: Any = None) -> Task:
        """The task of a run with these settings. ``data`` is its dataset, if it is already loaded."""
        if config.data not in self._data:
            self._data[config.data] = load_data(config.data) if data is None else data
        data = self._data[config.data]
        if not config.data.has_video:
            return SequenceTask(config.data, data, self.device)
        features = dataclasses.replace(config.features, device=self.device.type)
        return VideoTask(data, lambda: self._cache(features), self.device, config.run.allow_missing)

    def _cache(self, config: FeatureConfig) -> FeatureCache:
        if config not in self._caches:
            self._caches[config] = FeatureCache(config, read_only=self._writable not in (None, config.cache))
        return self._caches[config]


def plan_runs(config: Config, task: Task) -> list[tuple[Run, Config]]:
    """One run per split and seed, each with the settings that reproduce that run alone."""
    options = config.run
    variants = task.variants(options.splits)
    is_only_run = len(variants) * len(options.seeds) == 1
    runs = []
    for variant in variants:
        for seed in options.seeds:
            parts = [options.name or config.model.model, variant.name, f"seed_{seed}"]
            name = "-".join(part for part in parts if part).replace("/", "_")
            if options.name and is_only_run:
                name = options.name
            run_options = dataclasses.replace(options, splits=variant.splits, seeds=(seed,), name=name)
            runs.append((Run(options.runs / task.name / name), dataclasses.replace(config, run=run_options)))
    return runs


def evaluate_runs(
    runs: Sequence[Run], device: torch.device, overrides: EvaluationOverrides, again: bool = False
) -> list[Evaluated]:
    """Evaluate runs. Runs that fail are named on stderr, and the others continue.

    Baselines come first, so that the reports of the other runs can compare with them.

    Args:
        again: repeat finished evaluations.

    Returns:
        The evaluations that did not fail.
    """
    tasks = Tasks(device, writable=overrides.cache or FeatureConfig().cache)
    evaluated = []
    for run in sorted(runs, key=lambda run: not _is_baseline(run)):
        try:
            with run.lock("evaluation", shared=True):
                config = run.config()
                if config.data.dataset == "demo" and overrides.root is None:
                    require_rendered(config.data)
                objective = open_objective(tasks.open(overrides.apply(config)), run, config, overrides)
                one = evaluate_run(run, objective, device, again)
        except (OSError, UserError) as error:
            print(f"failed: {run.folder}: {error}", file=sys.stderr)
            continue
        except Exception:  # a defect of this project must not end the other evaluations
            print(f"failed: {run.folder}: this is a defect, please report it.", file=sys.stderr)
            traceback.print_exc()
            continue
        evaluated.append(one)
        note = "  (already finished; --again repeats it)" if one.was_finished else ""
        print(f"{objective.summarize(one.metrics)}{note}", flush=True)
    return evaluated


def evaluate_run(run: Run, objective: Objective, device: torch.device, again: bool = False) -> Evaluated:
    """Test a run's best checkpoint and write its evaluation. A finished evaluation is skipped unless ``again``."""
    config = objective.config
    folder = run.folder / objective.evaluation_name
    provenance = {"format": FORMAT, "run": run_digest(run), **objective.provenance(run)}
    finished = None if again else finished_metrics(folder, provenance)
    if finished is not None:
        return Evaluated(folder, finished, objective.has_classes, was_finished=True)
    model, outputs = load_best(run, config)
    if outputs != objective.outputs:
        raise DatasetError(
            f"{run.folder} was trained on {len(outputs)} classes ({', '.join(outputs[:3])} ...), the dataset now has "
            f"{len(objective.outputs)} ({', '.join(objective.outputs[:3])} ...). Restore them, or train a new run."
        )
    facts = {
        "run": run.name,
        **objective.facts(run),
        "model": config.model.model,
        "seed": config.run.seeds[0],
        "settings": settings_text(config),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        **training_facts(run),
        "command": shlex.join(["python", "evaluate.py", str(run.folder), *flags_of(objective.overrides), "--again"]),
        "versions": versions(config.features.backbone if config.data.has_video else None),
        "provenance": provenance,
    }
    card, readme = folder / MODEL_CARD, run.folder / "README.md"
    # What the Hugging Face Hub shows of a published run. A text that somebody else wrote stays.
    is_ours = not readme.exists() or (card.exists() and readme.read_bytes() == card.read_bytes())
    metrics = objective.evaluate(run, model.to(device), folder, facts)
    if is_ours and card.exists() and folder.name == "evaluation":
        content = card.read_bytes()
        write_atomically(readme, lambda temporary: temporary.write_bytes(content))
    return Evaluated(folder, metrics, objective.has_classes)


def choose_by_split(runs: Sequence[Run], split: str | None) -> list[Run]:
    """The runs that were trained on ``split``; all runs if there are none, or if ``split`` is ``None`` or validation.

    Unreadable runs are kept, so that their evaluation fails and names them.
    """
    if split in (None, VALIDATION):
        return list(runs)
    trained_on = {run: _split_of(run) for run in runs}
    if split not in trained_on.values():
        return list(runs)
    for run, other in trained_on.items():
        if other not in (split, None):
            print(f"left out: {run.folder}, trained on split {other}", file=sys.stderr)
    return [run for run, other in trained_on.items() if other in (split, None)]


def write_tables(folder: Path, evaluated: Sequence[Evaluated]) -> None:
    """Write and print the leaderboard of classifiers, and the table of runs that predict numbers."""
    classifiers = [one for one in evaluated if one.has_classes]
    others = [one.metrics for one in evaluated if not one.has_classes]
    if classifiers:
        reports = [one.main_file for one in classifiers]
        rows = [one.metrics for one in classifiers]
        folders = {id(one.metrics): one.folder for one in classifiers}
        verdicts = best_models(rows, lambda row: Predictions.load(folders[id(row)] / FILE_NAME))
        print(f"\n{write_leaderboard(folder, rows, reports, verdicts)}")
        print(folder / "leaderboard.html")
    if others:
        print(f"\n{write_sequence_table(folder, others)}\n{folder / 'sequences.csv'}")


def _is_baseline(run: Run) -> bool:
    try:
        return run.config().model.model == BASELINE
    except (OSError, UserError):
        return False


def _split_of(run: Run) -> str | None:
    try:
        return next(iter(run.config().run.splits), None)
    except (OSError, UserError):
        return None
