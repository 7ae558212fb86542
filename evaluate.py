"""Evaluate trained runs: python evaluate.py RUN [RUN ...]

A RUN is a folder made by train.py, or a folder that contains runs at any depth. Each run's evaluation is written to its
evaluation/ folder, or to evaluation-<overrides>/ if settings are overridden. Finished evaluations are skipped. Several
runs also get a leaderboard.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from data.command import parse_arguments, run_command
from pipeline.settings.config import ConfigError, EvaluationOverrides


@dataclass(frozen=True)
class Arguments:
    """Evaluate trained runs on the test list: metrics, predictions, confusion matrix, report and leaderboard."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """runs, or folders that contain runs at any depth"""
    overrides: EvaluationOverrides
    compare: bool = False
    """also compare the runs pairwise: which differences are larger than chance"""
    again: bool = False
    """repeat finished evaluations"""
    output: Path | None = None
    """folder of the leaderboard and the comparison (default: the deepest folder that contains all runs)"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses a GPU if there is one"""


def main(arguments: Sequence[str]) -> int:
    """Return 0 on success, 1 if runs failed (each is named) or if videos without features counted as wrong answers."""
    options = parse_arguments(Arguments, arguments, description=__doc__)
    import torch

    torch.set_flush_denormal(True)  # see train.py
    from pipeline.experiment import choose_by_split, evaluate_runs, write_tables
    from pipeline.reports.compare_page import write_comparison
    from pipeline.settings.device import choose_device
    from pipeline.training.run import find_runs

    runs = choose_by_split(find_runs(list(options.runs)), options.overrides.split)
    if options.compare and len(runs) < 2:
        raise ConfigError(f"--compare needs at least two runs; {runs[0].folder} is the only one. Name another.")
    evaluated = evaluate_runs(runs, choose_device(options.device), options.overrides, options.again)
    output = options.output or Path(os.path.commonpath([run.folder.resolve() for run in runs]))
    if len(evaluated) > 1:
        write_tables(output, evaluated)
    classifiers = [one.folder for one in evaluated if one.has_classes]
    if options.compare and len(classifiers) > 1:
        print(write_comparison(output, classifiers))
    elif options.compare:
        print("--compare: skipped, because fewer than two classifiers were evaluated", file=sys.stderr)
    return 1 if len(evaluated) < len(runs) or any(one.metrics.get("num_missing") for one in evaluated) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
