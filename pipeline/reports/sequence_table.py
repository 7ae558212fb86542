"""Runs of addition and multiplication side by side: ``sequences.csv`` and ``sequences.md``."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from data.atomic import write_text_atomically

SOLVED_MSE = 0.01
"""A run with a lower test error has solved its task."""

COLUMNS = ("run", "dataset", "length", "model", "settings", "seed", "mse", "solved", "steps_to_solve")


def write_sequence_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write the ``metrics.json`` of runs as a table to ``folder``; returns the Markdown."""
    rows = sorted(rows, key=lambda row: [row[key] for key in ("dataset", "length", "model", "settings", "seed")])
    text = io.StringIO()
    table = csv.DictWriter(text, [*COLUMNS, "chance_mse", "num_parameters"], extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    # Settings that all runs share are in each run's config.yaml; here they would only widen the table.
    is_shared = len({row["settings"] for row in rows}) == 1
    columns = [name for name in COLUMNS if name != "settings" or not is_shared]
    cells = [[_cell(row[name]) for name in columns] for row in rows]
    markdown = tabulate(cells, columns, "github", disable_numparse=True)
    write_text_atomically(folder / "sequences.csv", text.getvalue())
    write_text_atomically(folder / "sequences.md", markdown + "\n")
    return markdown


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
