"""Runs of addition and multiplication side by side: ``sequences.csv`` and ``sequences.md``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from pipeline.reports.pages import csv_bytes, write_files

SOLVED_MSE = 0.01
"""A run with a lower test error has solved its task."""

COLUMNS = ("run", "dataset", "length", "model", "settings", "seed", "mse", "solved", "steps_to_solve")


def write_sequence_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the ``metrics.json`` of runs as a table to ``folder``; returns the Markdown."""
    rows = sorted(rows, key=lambda row: [row[key] for key in ("dataset", "length", "model", "settings", "seed")])
    in_csv = (*COLUMNS, "chance_mse", "num_parameters")
    # Settings that all runs share are in each run's config.yaml; here they would only widen the table.
    is_shared = len({row["settings"] for row in rows}) == 1
    columns = [name for name in COLUMNS if name != "settings" or not is_shared]
    cells = [[_cell(row[name]) for name in columns] for row in rows]
    markdown = tabulate(cells, columns, "github", disable_numparse=True)
    table = csv_bytes([in_csv, *([row.get(name) for name in in_csv] for row in rows)])
    write_files(folder, {"sequences.csv": table, "sequences.md": f"{markdown}\n".encode(errors="replace")})
    return markdown


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
