"""pipeline/reports/pages.py: the cells of a CSV file."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reports.pages import csv_bytes, csv_rows


@given(st.lists(st.lists(st.text("'=+-@\t\r\n\", aé\udcff\0"), min_size=2), min_size=1))
def test_text_is_read_back_as_it_was_written(rows: list[list[str]]) -> None:
    """Carriage returns, quotes, signs, apostrophes and names that are not UTF-8 survive, in every combination."""
    assert csv_rows(csv_bytes(rows)) == rows


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "'=1", "＝1"])
def test_text_is_never_a_formula(text: str) -> None:
    """A spreadsheet sees an apostrophe first, so it shows the text instead of running it."""
    (cells,) = csv.reader(io.StringIO(csv_bytes([[text, "a"]]).decode(), newline=""))
    assert cells == [f"'{text}", "a"]


def test_numbers_stay_numbers() -> None:
    """A negative difference has no apostrophe, and ``None`` is an empty cell."""
    assert csv_bytes([[-0.5, -1, None]]) == b"-0.5,-1,\r\n"
