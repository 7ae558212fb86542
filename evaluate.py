"""Evaluate trained runs: python evaluate.py RUN [RUN ...]

A run is a folder that train.py made, or a folder with runs somewhere in it. Writes each run's evaluation/ anew and,
for several, one leaderboard (and a table of its own for addition and multiplication).
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from pipeline.command import run_command
from pipeline.config import EvaluationOverrides


@dataclass(frozen=True)
class Arguments:
    """Evaluate trained runs on the test list: metrics, predictions, confusion matrix and report, and a leaderboard."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """folders of runs, or folders with runs somewhere in them"""
    overrides: Annotated[EvaluationOverrides, tyro.conf.arg(name="")]
    output: Path | None = None
    """where the leaderboard goes (default: the folder that the runs have in common)"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one"""


def main(arguments: Sequence[str]) -> int:
    """0: all done; 1: some runs failed, and are named, or videos were counted as wrong for want of features."""
    asked = tyro.cli(Arguments, args=list(arguments), description=__doc__)
    import torch

    from pipeline.encoders import choose_device
    from pipeline.experiment import evaluate_runs
    from pipeline.leaderboard import write_leaderboard
    from pipeline.runs import find_runs
    from pipeline.sequence_experiment import write_sequence_table

    torch.set_flush_denormal(True)  # as train.py does, and for its reasons
    runs = find_runs(list(asked.runs))
    rows = evaluate_runs(runs, choose_device(asked.device), asked.overrides)
    if len(rows) > 1:
        output = asked.output or Path(os.path.commonpath([run.folder.resolve() for run in runs]))
        if classified := [row for row in rows if "mse" not in row]:
            print(f"\n{write_leaderboard(output, classified)}\n{output / 'leaderboard.csv'}")
        if computed := [row for row in rows if "mse" in row]:
            print(f"\n{write_sequence_table(output, computed)}\n{output / 'sequences.csv'}")
    return 1 if len(rows) < len(runs) or any(row.get("num_missing") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
