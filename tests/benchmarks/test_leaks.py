"""Tests of ``benchmarks.leaks``."""

from pathlib import Path

from benchmarks.leaks import KINDS, measure, plant, table
from data.records import VideoRecord
from pipeline.audit.pairs import SIMILAR, Found, Pair
from tests.helpers.clips import make_clip
from tests.helpers.synthetic import make_record


def test_copies_of_every_kind_are_written(tmp_path: Path) -> None:
    """Each kind of copy is a video in a group of its own, and copies that are there are kept."""
    videos = [VideoRecord(f"a/{n}.avi", make_clip(tmp_path / f"{n}.avi", 10, n), 0, "g") for n in range(5)]
    copies, kind_of = plant(videos, tmp_path / "copies")
    assert [kind_of[copy.video_id] for copy in copies] == [*KINDS, KINDS[0]]
    assert len({copy.group for copy in copies}) == 5
    written = [copy.path.stat().st_mtime_ns for copy in copies]
    plant(videos, tmp_path / "copies")
    assert [copy.path.stat().st_mtime_ns for copy in copies] == written


def test_wrong_pairs_lower_the_precision_of_their_kind() -> None:
    """A pair counts as right only if it is a copy and its own original."""
    videos = [make_record("a"), make_record("b"), make_record("copy", group="copy of a")]
    pairs = (Pair(0, 2, 0.9, SIMILAR), Pair(1, 2, 0.8, SIMILAR), Pair(0, 1, 0.7, SIMILAR))
    lines = table(Found(pairs, 0.5, 0.5, 3, None), videos, {"copy": "cropped"}).splitlines()  # type: ignore[arg-type]
    assert lines[-2].split() == ["cropped", "1", "1", "1.000", "1", "0.500"]
    assert lines[-1].split() == ["all", "1", "1", "1.000", "2", "0.333"]


def test_made_features_are_measured(tmp_path: Path) -> None:
    """Time and memory are printed for any number of videos."""
    assert measure(60, tmp_path).startswith("60 videos x 25 frames x 1280: ")
