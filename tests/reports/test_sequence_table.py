"""The table of runs that predict numbers."""

import csv
import re
from pathlib import Path
from typing import Any

from pipeline.reports.sequence_table import write_sequence_table


def test_each_run_is_a_row(tmp_path: Path) -> None:
    """Rows are sorted by task, length, model and seed, and say when a run solved its task; the CSV has all digits."""
    row = {"dataset": "addition", "model": "np_rnn", "settings": "", "chance_mse": 1 / 6, "num_parameters": 9}
    rows: list[dict[str, Any]] = [
        {**row, "run": "c", "length": 400, "seed": 0, "mse": 0.16666, "solved": False, "steps_to_solve": None},
        {**row, "run": "b", "length": 100, "seed": 1, "mse": 1 / 300, "solved": True, "steps_to_solve": 1500},
        {**row, "run": "a", "length": 100, "seed": 0, "mse": 0.001, "solved": True, "steps_to_solve": 1000},
    ]
    markdown = write_sequence_table(tmp_path, rows)
    lines = [re.sub(" +", " ", line) for line in markdown.splitlines()]
    assert lines[0] == "| run | dataset | length | model | seed | mse | solved | steps_to_solve |"
    assert lines[3:] == [
        "| b | addition | 100 | np_rnn | 1 | 0.00333 | yes | 1500 |",
        "| c | addition | 400 | np_rnn | 0 | 0.167 | no | |",
    ]
    with (tmp_path / "sequences.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["run"] for line in table] == ["a", "b", "c"] and float(table[1]["mse"]) == 1 / 300


def test_settings_are_listed_where_they_differ(tmp_path: Path) -> None:
    """Two runs that differ in a setting can be distinguished in the table."""
    row = {"run": "a", "dataset": "addition", "length": 100, "model": "np_rnn", "seed": 0, "mse": 0.1, "chance_mse": 1}
    row |= {"solved": False, "steps_to_solve": None, "num_parameters": 9}
    rows = [{**row, "settings": ""}, {**row, "settings": "learning_rate=0.1"}]
    assert "learning_rate=0.1" in write_sequence_table(tmp_path, rows)
