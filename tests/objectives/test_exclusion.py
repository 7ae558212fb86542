"""Tests of ``pipeline.objectives.exclusion``."""

from pathlib import Path

import pytest

from data.records import DatasetError, Split, VideoDataset
from pipeline.objectives.exclusion import describe_exclusion, exclude_text, read_excluded, without_excluded
from pipeline.objectives.lists import excluded_in, to_json
from tests.helpers.synthetic import make_record

ODD_NAMES = ["plain.mp4", "# comment?.mp4", '"quoted".mp4', "two\nlines.mp4", " spaces .mp4", "comma, and ; too"]


def _dataset(*names: str) -> VideoDataset:
    return VideoDataset("made", "made", ("a",), tuple(make_record(name) for name in names), {})


def test_every_name_survives(tmp_path: Path) -> None:
    """What the audit writes is what training reads, however odd the names are."""
    (tmp_path / "list").write_text(exclude_text(ODD_NAMES, "made by\na test"), encoding="utf-8")
    assert read_excluded(tmp_path / "list", _dataset(*ODD_NAMES, "other")) == set(ODD_NAMES)


def test_handwritten_list(tmp_path: Path) -> None:
    """A list may have comments, empty lines, Windows line ends and a byte order mark."""
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbf# mine\r\na.mp4\r\n\r\n  b.mp4\r\n")
    assert read_excluded(tmp_path / "list", _dataset("a.mp4", "b.mp4", "c.mp4")) == {"a.mp4", "b.mp4"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.mp4\nbb.mp4\n", r"line 2: made has no video 'bb\.mp4'\. Did you mean 'b\.mp4'"),
        (b'"a.mp4\n', "line 1: .*not JSON text"),
        (b"\xff\xfe", "can't be read"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """An unknown video or a damaged line is an error that says where it is."""
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_excluded(tmp_path / "list", _dataset("a.mp4", "b.mp4"))


def test_missing_list(tmp_path: Path) -> None:
    """A list that does not exist is an error, and a folder is one too."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(DatasetError, match="--exclude"):
            read_excluded(path, _dataset("a"))


def test_only_the_test_keeps_excluded_videos() -> None:
    """Excluded videos are neither trained nor validated on, and stay in the test, where the run remembers them."""
    split = Split(
        "1",
        (make_record("a", group="1"), make_record("b", group="2")),
        (make_record("c", group="3"),),
        (make_record("d", group="4"), make_record("e", group="5")),
    )
    excluded = frozenset("bcd")
    left = without_excluded(split, excluded)
    assert [[video.video_id for video in part] for part in (left.train, left.validation, left.test)] == [
        ["a"],
        [],
        ["d", "e"],
    ]
    assert excluded_in(to_json(left, ("walk",), excluded)) == {"d"}
    assert "excluded" not in to_json(split, ("walk",), frozenset("b"))
    assert "1 training and 1 validation videos are left out" in describe_exclusion(Path("list"), split, excluded)
    with pytest.raises(DatasetError, match="all 2 training videos"):
        without_excluded(split, frozenset("ab"))


@pytest.mark.parametrize("value", ["d", [1], ["a"], {"d": 1}])
def test_excluded_videos_of_a_foreign_run_are_checked(value: object) -> None:
    """A run from elsewhere may list anything: only its own test videos are accepted."""
    saved = {"test": [["d", "walk", "4"]], "excluded": value}
    with pytest.raises(DatasetError, match="excluded in split.json"):
        excluded_in(saved)
