"""Evaluate trained runs: python evaluate.py RUN [RUN ...]

A run is a folder that train.py made, or a folder with runs somewhere in it. Writes each run's evaluation/ (one that is
finished is left as it is; with other settings than the run's own it goes to evaluation-<those settings>/) and, for
several, one leaderboard (and a table of its own for addition and multiplication).
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.command import run_command
from pipeline.settings.config import ConfigError, EvaluationOverrides


@dataclass(frozen=True)
class Arguments:
    """Evaluate trained runs on the test list: metrics, predictions, confusion matrix and report, and a leaderboard."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """folders of runs, or folders with runs somewhere in them"""
    overrides: Annotated[EvaluationOverrides, tyro.conf.arg(name="")]
    compare: bool = False
    """also compare the runs with one another, two by two: which is better, and by more than chance"""
    again: bool = False
    """evaluate anew what was evaluated before"""
    output: Path | None = None
    """where the leaderboard and the comparison go (default: the folder that the runs have in common)"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one"""


def main(arguments: Sequence[str]) -> int:
    """0: all done; 1: some runs failed, and are named, or videos were counted as wrong for want of features."""
    asked = tyro.cli(Arguments, args=list(arguments), description=__doc__)
    import torch

    from pipeline.batch_evaluation import choose_by_split, evaluate_runs
    from pipeline.reports.compare_page import write_comparison
    from pipeline.reports.leaderboard import write_leaderboard
    from pipeline.sequence_experiment import write_sequence_table
    from pipeline.settings.device import choose_device
    from pipeline.training.run import find_runs

    torch.set_flush_denormal(True)  # as train.py does, and for its reasons
    runs = choose_by_split(find_runs(list(asked.runs)), asked.overrides.split)
    if asked.compare and len(runs) < 2:
        raise ConfigError(f"--compare takes two runs or more; there is {runs[0].folder} alone. Name another beside it.")
    evaluated = evaluate_runs(runs, choose_device(asked.device), asked.overrides, asked.again)
    output = asked.output or Path(os.path.commonpath([run.folder.resolve() for run in runs]))
    classified = [each for each in evaluated if "mse" not in each.metrics]
    computed = [each.metrics for each in evaluated if "mse" in each.metrics]
    if len(evaluated) > 1 and classified:
        reports = [each.folder / "report.html" for each in classified]
        print(f"\n{write_leaderboard(output, [each.metrics for each in classified], reports)}")
        print(output / "leaderboard.html")
    if len(evaluated) > 1 and computed:
        print(f"\n{write_sequence_table(output, computed)}\n{output / 'sequences.csv'}")
    if asked.compare and len(classified) > 1:
        print(write_comparison(output, [each.folder for each in classified]))
    elif asked.compare:
        print("--compare: fewer than two evaluations of classes, so there is nothing to compare", file=sys.stderr)
    return 1 if len(evaluated) < len(runs) or any(each.metrics.get("num_missing") for each in evaluated) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
