"""Evaluate trained runs: python evaluate.py RUN [RUN ...]

A RUN is a folder made by train.py, a folder that contains runs at any depth, or a bundle made by pipeline.export. Each
run's evaluation is written to its evaluation/ folder, or to evaluation-<overrides>/ if settings are overridden, and
finished evaluations are skipped. A bundle, which needs --root, is always evaluated anew, in a folder beside the file.
Several runs also get a leaderboard.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from data.command import parse_arguments, run_command
from data.errors import UserError
from pipeline.settings.config import ConfigError, EvaluationOverrides

OUR_FILES = {
    *("leaderboard.csv", "leaderboard.html", "leaderboard.md", "sequences.csv"),
    *("comparison.csv", "comparison.html", "comparison_figures", "flips.csv", "models.csv"),
}


@dataclass(frozen=True)
class Arguments:
    """Evaluate trained runs on the test list: metrics, predictions, confusion matrix, report and leaderboard."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """runs, folders that contain runs at any depth, or bundles"""
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
    from pipeline.experiment import Evaluated, choose_by_split, evaluate_runs, write_tables
    from pipeline.export.evaluate import evaluate_bundle
    from pipeline.objectives.wording import summary
    from pipeline.reports.compare_page import write_comparison
    from pipeline.settings.device import choose_device
    from pipeline.training.run import find_runs

    # A pattern such as runs/demo/* also names the tables that an earlier evaluation wrote there.
    named = [path for path in options.runs if path.name not in OUR_FILES] or options.runs
    bundles = [path for path in named if path.is_file()]
    folders = [path for path in named if path not in bundles]
    runs = choose_by_split(find_runs(folders), options.overrides.split) if folders or not bundles else []
    places = [*(run.folder for run in runs), *(path.parent for path in bundles)]
    if options.compare and len(places) < 2:
        raise ConfigError(f"--compare needs at least two runs; {options.runs[0]} is the only one. Name another.")
    evaluated = evaluate_runs(runs, choose_device(options.device), options.overrides, options.again)
    for path in bundles:
        try:
            folder, metrics = evaluate_bundle(path, options.overrides)
        except (OSError, UserError) as error:
            print(f"failed: {path}: {error}", file=sys.stderr)
            continue
        evaluated.append(Evaluated(folder, metrics, has_classes=True))
        print(f"{summary(metrics)}  {evaluated[-1].main_file}")
    output = options.output or Path(os.path.commonpath([place.resolve() for place in places]))
    if len(evaluated) > 1:
        write_tables(output, evaluated)
    classifiers = [one.folder for one in evaluated if one.has_classes]
    if options.compare and len(classifiers) > 1:
        print(write_comparison(output, classifiers))
    elif options.compare:
        print("--compare: skipped, because fewer than two classifiers were evaluated", file=sys.stderr)
    return 1 if len(evaluated) < len(places) or any(one.metrics.get("num_missing") for one in evaluated) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
