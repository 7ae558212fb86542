"""The paper's comparison: ways to start a recurrent network, on tasks that want a long memory.

    python -m benchmarks.paper                                         # all of it: three and a half hours of one thread
    python -m benchmarks.paper --budget 30                             # half an hour of it; again: goes on
    python -m benchmarks.paper --budget 0                              # only the report, of what there is
    python -m benchmarks.paper --tasks addition:400 pixel_mnist --methods np_rnn irnn --seeds 0

First every method is trained on one short task with every learning rate and clipping of a grid. How much of the grid
trains is a result by itself; and it gives each method the settings that all its other trainings have. Then come the
tasks, in the order given. Every training is a run like those of train.py (RESULTS/<dataset>/<cell>), and a cell that is
done has outcome.json in it. Kill it anywhere and start it again: what is done stays, and a training that was cut off
goes on from its last checkpoint. docs/paper.md is written of whatever is done.
"""

import dataclasses
import functools
import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from pebble import ProcessExpired

from benchmarks.paper_plan import Arguments, Cell, Outcome, choose, comparison_cells, config_of, grid_cells
from benchmarks.paper_report import write_report
from benchmarks.workers import in_workers
from data.atomic import write_text_atomically
from data.command import run_command
from data.progress import Progress
from data.sequences import load_pixel_mnist
from pipeline.experiment import Tasks, evaluate_run
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.device import choose_device
from pipeline.settings.parsing import to_flat
from pipeline.training.loop import TrainingError, fit
from pipeline.training.run import NOT_PART_OF_A_RUN, Run, RunError


def main(arguments: Sequence[str]) -> int:
    """0: the report is written, of all cells or of those that there was time for."""
    asked = tyro.cli(Arguments, args=list(arguments), prog="python -m benchmarks.paper", description=__doc__)
    deadline = math.inf if asked.budget is None else time.time() + 60 * asked.budget
    if any(task.has_classes for task in asked.all_tasks):
        load_pixel_mnist(asked.mnist_root, permuted=False)  # a missing file is told now, not after hours
    done = run_cells(grid_cells(asked), asked, deadline, "grid")
    chosen = choose(asked, done)
    done |= run_cells(comparison_cells(asked, chosen), asked, deadline, "tasks")
    print(write_report(asked, done, chosen))
    print(f"\n{len(done)} of {asked.num_cells} cells are done: {asked.output}")
    return 0


def run_cells(cells: Sequence[Cell], asked: Arguments, deadline: float, what: str) -> dict[Cell, Outcome]:
    """Do what is not done yet, in order, and return what is done; no cell begins after ``deadline`` (``time.time()``).

    Raises ``ConfigError`` where a cell was begun with other settings.
    """
    configs = {cell: config_of(cell, asked) for cell in cells}
    outcomes = {cell: outcome for cell in cells if (outcome := read_outcome(configs[cell])) is not None}
    waiting = [cell for cell in cells if cell not in outcomes]
    for cell in waiting:
        try:
            run_of(configs[cell]).check(configs[cell], recipe=None)
        except RunError as error:
            raise ConfigError(f"{error} Or give other --results to this benchmark, or its old settings.") from error
    if not waiting or time.time() > deadline:
        return outcomes
    progress = Progress(total=len(cells), done=len(outcomes), unit="cell", what=what)
    cell_of = {configs[cell]: cell for cell in waiting}
    for config, done in in_workers(functools.partial(run_cell, deadline=deadline), list(cell_of), asked.workers):
        cell = cell_of[config]
        try:
            outcome = done.result()
        except ProcessExpired as error:
            progress.note(f"{cell}: its process was killed ({error}). The same command goes on with it")
            continue
        if outcome is not None:
            outcomes[cell] = outcome
            progress.note(f"{cell}: {in_words(outcome)}")
            progress.advance()
    progress.close()
    return {cell: outcomes[cell] for cell in cells if cell in outcomes}


def run_cell(config: Config, deadline: float) -> Outcome | None:
    """Train, or go on, and test; writes ``outcome.json``. ``None`` where it is too late to begin."""
    if time.time() > deadline:
        return None
    run, device = run_of(config), choose_device(config.features.device)
    objective = Tasks(device).open(config).objective(config)
    run.begin(config, recipe=None)
    try:
        fit(run, config, objective, device)
    except TrainingError:
        metrics = None
    else:
        metrics = evaluate_run(run, config, objective, device, again=True).metrics
    outcome = outcome_of(run, config, metrics)
    found = {"settings": settings_of(config), "outcome": dataclasses.asdict(outcome)}
    write_text_atomically(outcome_path(run), json.dumps(found, indent=2) + "\n")
    return outcome


def outcome_of(run: Run, config: Config, metrics: dict[str, Any] | None) -> Outcome:
    """``metrics`` are those of the test, ``None`` where training diverged."""
    history, found = run.history(), metrics or {}
    losses = [line["validation_loss"] for line in history]
    on = torch.cuda.get_device_name() if config.features.device == "cuda" else platform.machine()
    return Outcome(
        diverged=metrics is None,
        solved=found.get("solved", False),
        epochs=len(history),
        seconds=sum(line["seconds"] for line in history),
        validation_loss=min(losses, default=None),
        steps_to_solve=found.get("steps_to_solve"),
        mse=found.get("mse"),
        accuracy=found.get("accuracy"),
        made_with=f"torch {torch.__version__}, Python {platform.python_version()}, {on}",
    )


def run_of(config: Config) -> Run:
    assert config.run.name is not None
    return Run(config.run.runs / config.data.dataset / config.run.name)


def outcome_path(run: Run) -> Path:
    return run.folder / "outcome.json"


def settings_of(config: Config) -> dict[str, Any]:
    return {key: value for key, value in to_flat(config).items() if key not in NOT_PART_OF_A_RUN}


def read_outcome(config: Config) -> Outcome | None:
    """What came of the cell with these settings; ``None`` where it is not done, or was done with others."""
    path = outcome_path(run_of(config))
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return Outcome(**found["outcome"]) if found["settings"] == settings_of(config) else None


def in_words(outcome: Outcome) -> str:
    if outcome.diverged:
        told = f"diverged after {outcome.epochs} epochs"
    elif outcome.accuracy is not None:
        told = f"accuracy {outcome.accuracy:.4f}"
    else:
        told = f"test MSE {outcome.mse:.3g}"
    solved = f", under 0.01 after {outcome.steps_to_solve} steps" if outcome.steps_to_solve else ""
    return f"{told}{solved} ({outcome.seconds:.0f} s)"


if __name__ == "__main__":
    sys.exit(run_command(main))
