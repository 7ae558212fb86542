"""Compare initialisations of recurrent networks, as the np-RNN paper does, on tasks that need a long memory.

    python -m benchmarks.paper                     # everything: three and a half hours of one thread
    python -m benchmarks.paper --budget 30         # half an hour of it; the same command resumes
    python -m benchmarks.paper --budget 0          # train nothing, report the finished cells
    python -m benchmarks.paper --tasks addition:400 pixel_mnist --methods np_rnn irnn --seeds 0
    python -m benchmarks.paper --tasks addition:1000 --methods np_rnn np_rnn_memory --grow --output long.md

First, every method is trained on one short task with every learning rate and gradient clipping of a grid. The share of
settings that solve the task is a result in itself, and the best settings of each method are used in all its other
trainings. Then every method is trained on the tasks, in the given order.

Each training (a cell) is a run like those of train.py, in RESULTS/DATASET/CELL. A finished cell contains outcome.json
and is skipped. A killed benchmark resumes from the last checkpoints when the same command is run again. The report,
docs/paper.md by default, covers all finished cells.
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
from pebble import ProcessExpired

from benchmarks.paper_plan import Arguments, Cell, Outcome, choose, comparison_cells, config_of, grid_cells
from benchmarks.paper_report import write_report
from data.atomic import write_text_atomically
from data.command import parse_arguments, run_command
from data.progress import Progress
from data.sequences import load_pixel_mnist
from pipeline.experiment import Tasks, evaluate_run, open_objective
from pipeline.reports.sequence_table import SOLVED_MSE
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.device import choose_device
from pipeline.settings.parsing import to_flat
from pipeline.training.loop import TrainingError, fit
from pipeline.training.run import NOT_PART_OF_A_RUN, Run, RunError
from pipeline.tune.workers import open_workers, run_all


def main(arguments: Sequence[str]) -> int:
    """Run the comparison and write the report; returns exit code 0, even if the budget ends before all cells."""
    options = parse_arguments(Arguments, arguments, prog="python -m benchmarks.paper", description=__doc__)
    deadline = math.inf if options.budget is None else time.time() + 60 * options.budget
    if any(task.has_classes for task in options.all_tasks):
        load_pixel_mnist(options.mnist_root, permuted=False)  # reports a missing file now, not after hours
    done = run_cells(grid_cells(options), options, deadline, "grid")
    chosen = choose(options, done)
    done |= run_cells(comparison_cells(options, chosen), options, deadline, "tasks")
    print(write_report(options, done, chosen))
    print(f"\n{len(done)} of {options.num_cells} cells are done: {options.output}")
    return 0


def run_cells(cells: Sequence[Cell], options: Arguments, deadline: float, what: str) -> dict[Cell, Outcome]:
    """Run the unfinished cells in order and return the outcomes of all finished ones, in the order of ``cells``.

    No cell starts after ``deadline``, in seconds of ``time.time()``. Raises ``ConfigError`` if a cell was started with
    other settings.
    """
    configs = {cell: config_of(cell, options) for cell in cells}
    outcomes = {cell: outcome for cell in cells if (outcome := read_outcome(configs[cell])) is not None}
    waiting = [cell for cell in cells if cell not in outcomes]
    for cell in waiting:
        try:
            run_of(configs[cell]).check(configs[cell])
        except RunError as error:
            raise ConfigError(f"{cell} can't be resumed: use another --results or its old settings. {error}") from error
    if not waiting or time.time() > deadline:
        return outcomes
    progress = Progress(total=len(cells), done=len(outcomes), unit="cell", what=what)
    cell_of = {configs[cell]: cell for cell in waiting}
    work = functools.partial(run_cell, deadline=deadline)
    with open_workers(options.workers) as workers:
        for config, done in run_all(workers, work, list(cell_of)):
            cell = cell_of[config]
            try:
                outcome = done.result()
            except ProcessExpired as error:
                progress.note(f"{cell}: its process was killed ({error}). Run the same command again to finish it.")
                continue
            if outcome is not None:
                outcomes[cell] = outcome
                progress.note(f"{cell}: {summary(outcome)}")
                progress.advance()
    progress.close()
    return {cell: outcomes[cell] for cell in cells if cell in outcomes}


def run_cell(config: Config, deadline: float) -> Outcome | None:
    """Train or resume a cell, test it and write ``outcome.json``. Returns ``None`` if ``deadline`` has passed."""
    if time.time() > deadline:
        return None
    run, device = run_of(config), choose_device(config.features.device)
    with run.lock("training"):
        objective = open_objective(Tasks(device).open(config), run, config)
        run.begin(config, recipe=None, split=objective.split)
        try:
            fit(run, config, objective, device)
        except TrainingError:
            metrics = None
        else:
            metrics = evaluate_run(run, objective, device, again=True).metrics
    outcome = outcome_of(run, config, metrics)
    content = {"settings": settings_of(config), "outcome": dataclasses.asdict(outcome)}
    write_text_atomically(outcome_path(run), json.dumps(content, indent=2) + "\n")
    return outcome


def outcome_of(run: Run, config: Config, metrics: dict[str, Any] | None) -> Outcome:
    """The outcome of a trained run from its test ``metrics``, which are ``None`` if training diverged."""
    history, tested = run.history(), metrics or {}
    losses = [line["validation_loss"] for line in history]
    hardware = torch.cuda.get_device_name() if config.features.device == "cuda" else platform.machine()
    return Outcome(
        diverged=metrics is None,
        solved=tested.get("solved", False),
        epochs=len(history),
        seconds=sum(line["seconds"] for line in history),
        validation_loss=min(losses, default=None),
        steps_to_solve=tested.get("steps_to_solve"),
        mse=tested.get("mse"),
        accuracy=tested.get("accuracy"),
        made_with=f"torch {torch.__version__}, Python {platform.python_version()}, {hardware}",
    )


def run_of(config: Config) -> Run:
    assert config.run.name is not None
    return Run(config.run.runs / config.data.dataset / config.run.name)


def outcome_path(run: Run) -> Path:
    return run.folder / "outcome.json"


def settings_of(config: Config) -> dict[str, Any]:
    return {key: value for key, value in to_flat(config).items() if key not in NOT_PART_OF_A_RUN}


def read_outcome(config: Config) -> Outcome | None:
    """The outcome of the cell with these settings; ``None`` if it is unfinished or was run with other settings."""
    path = outcome_path(run_of(config))
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    current = settings_of(config)
    # As in Run.check: a setting that a later version added does not make a training another one.
    is_same = all(current.get(name) == value for name, value in content["settings"].items())
    return Outcome(**content["outcome"]) if is_same else None


def summary(outcome: Outcome) -> str:
    """One line for the progress display."""
    if outcome.diverged:
        result = f"diverged after {outcome.epochs} epochs"
    elif outcome.accuracy is not None:
        result = f"accuracy {outcome.accuracy:.4f}"
    else:
        result = f"test MSE {outcome.mse:.3g}"
    if outcome.steps_to_solve:
        result += f", below {SOLVED_MSE} after {outcome.steps_to_solve} steps"
    return f"{result} ({outcome.seconds:.0f} s)"


if __name__ == "__main__":
    sys.exit(run_command(main))
