"""Segments can be read by what reads such files: players, spreadsheets, and ActivityNet's evaluation."""

import csv
import json
from pathlib import Path

import pytest

from pipeline.settings.config import ConfigError
from pipeline.stream.events import Segment
from pipeline.stream.segments import require_format, write_segments

LABELS = ("sit down", "a <b> & c\n\nd --> é", "=1+1")
SEGMENTS = [Segment(0, 0.48, 2.0, 0.9), Segment(1, 59.9996, 61.5, 0.75), Segment(2, 3725.04, 3726.0, 0.5)]
MILLISECONDS = [(480, 2000), (60_000, 61_500), (3_725_040, 3_726_000)]


def written(folder: Path, extension: str) -> Path:
    path = folder / f"out{extension}"
    require_format(path)
    write_segments(path, SEGMENTS, LABELS, "clip")
    return path


@pytest.mark.parametrize("extension", [".vtt", ".srt"])
def test_a_subtitle_library_reads_times_and_labels(tmp_path: Path, extension: str) -> None:
    """Times are exact to the millisecond and roll over at a minute; a label with markup or an arrow is one line."""
    pysubs2 = pytest.importorskip("pysubs2", reason="no pysubs2: pip install -e .[dev]")
    read = pysubs2.load(str(written(tmp_path, extension)), encoding="utf-8", keep_html_tags=True)
    assert [(line.start, line.end) for line in read] == MILLISECONDS
    assert read[0].plaintext == "sit down"
    expected = "a &lt;b&gt; &amp; c d --&gt; é" if extension == ".vtt" else "a <b> & c d --> é"
    assert read[1].text == expected


def test_activitynet_json(tmp_path: Path) -> None:
    """Results are listed under the video's name, with label, score and seconds."""
    content = json.loads(written(tmp_path, ".json").read_text())
    assert content["results"]["clip"][0] == {"label": "sit down", "score": 0.9, "segment": [0.48, 2.0]}
    assert content.keys() == {"version", "results", "external_data"}


def test_a_table_does_not_run_formulas(tmp_path: Path) -> None:
    """A class named like a formula stays text in a spreadsheet."""
    rows = list(csv.DictReader(written(tmp_path, ".csv").open(encoding="utf-8")))
    assert rows[0] == {"label": "sit down", "start": "0.480", "end": "2.000", "score": "0.9000"}
    assert rows[2]["label"] == "'=1+1"


def test_an_unknown_format_is_refused() -> None:
    """The message names the formats that there are."""
    with pytest.raises(ConfigError, match=r"\.json, \.csv, \.vtt, \.srt"):
        require_format(Path("out.txt"))
