"""The section "Where it fails" of the report page, and slices.csv."""

from pathlib import Path

import numpy as np

from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.slices import Property
from pipeline.reports.pages import csv_rows
from pipeline.reports.report import write_evaluation

HOSTILE = "=<script>alert(1)</script>"
FACTS: dict[str, object] = {"dataset": "made", "model": "mean"}


def make_predictions(wrong: np.ndarray) -> Predictions:
    """80 videos in 10 groups, the last of which has a hostile name."""
    probabilities = np.where(wrong[:, None], [[0.2, 0.8]], [[0.8, 0.2]])
    names = [f"g{number}" for number in range(9)] + [HOSTILE]
    groups = tuple(names[number // 8] for number in range(80))
    ids = tuple(f"v{number}" for number in range(80))
    return Predictions(("run", "walk"), ids, np.zeros(80, int), probabilities, np.arange(80), groups)


def test_a_failing_group_is_named_as_text(tmp_path: Path) -> None:
    """The group whose videos are all wrong is on the page with what it costs, its name as text; slices.csv has every
    slice that was asked; and a property that nothing is known of is named with the reason."""
    predictions = make_predictions(np.arange(80) >= 72)
    properties = [Property("length", "s", {f"v{n}": float(n % 10) for n in range(80)}), Property("size", "pixels", {})]
    write_evaluation(tmp_path, predictions, FACTS, properties=properties)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = page[page.index('id="slices"') : page.index('id="counted"')]
    assert "=&lt;script&gt;alert(1)" in section and HOSTILE not in page
    assert section.count("<tr>") == 2  # the head and one slice
    assert "8.0" in section and "100.0" in section and "&lt; 0.001" in section
    assert "Not asked: size (unknown)." in " ".join(section.split())
    header, *rows = csv_rows((tmp_path / "slices.csv").read_bytes())
    assert len(rows) == 4 + 10 and rows[0][:3] == ["group", HOSTILE, "8"]
    assert [dict(zip(header, row, strict=True))["fails"] for row in rows] == ["1"] + ["0"] * 13


def test_without_a_failing_slice_the_page_says_so(tmp_path: Path) -> None:
    """Mistakes that are spread evenly give one sentence; where no properties are given there is no section."""
    predictions = make_predictions(np.arange(80) % 8 == 0)
    write_evaluation(tmp_path / "a", predictions, FACTS, properties=[])
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "No slice fails more than chance." in page and "10 slices were asked" in page
    write_evaluation(tmp_path / "b", predictions, FACTS)
    assert 'id="slices"' not in (tmp_path / "b" / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "b" / "slices.csv").exists()
