"""Tests of ``pipeline.audit.findings``."""

import csv
import io

import numpy as np

from data.records import Split
from pipeline.audit.findings import (
    ACROSS_GROUPS,
    ACROSS_PARTS,
    WITHIN_A_GROUP,
    alike_groups,
    describe,
    pair_rows,
    summary,
    tables,
    to_exclude,
)
from pipeline.audit.pairs import SIMILAR, Found, Pair
from pipeline.reports.pages import csv_bytes
from tests.helpers.synthetic import make_record

VIDEOS = [
    *(make_record("train a", group="one"), make_record("train b", group="one"), make_record("train c", group="two")),
    *(make_record("val", group="three"), make_record("=test", group="four"), make_record("unused", group="five")),
]
SPLIT = Split("1", tuple(VIDEOS[:3]), (VIDEOS[3],), (VIDEOS[4],))


def _found(*pairs: tuple[int, int, float], scene: np.ndarray | None = None) -> Found:
    made = tuple(Pair(first, second, similarity, SIMILAR) for first, second, similarity in pairs)
    return Found(made, 0.5, 0.9, 10, np.zeros((len(VIDEOS), 2), np.float32) if scene is None else scene)


def test_kinds_and_order() -> None:
    """Pairs across parts come first, and a video that the split does not use is in no part."""
    findings = describe(_found((0, 1, 1.0), (0, 2, 0.9), (2, 5, 0.8), (0, 4, 0.7)), VIDEOS, SPLIT)
    assert [finding.kind for finding in findings] == [ACROSS_PARTS, ACROSS_GROUPS, ACROSS_GROUPS, WITHIN_A_GROUP]
    assert findings[0].parts == ("train", "test") and findings[2].parts == ("train", "")


def test_the_later_video_is_excluded() -> None:
    """The training list stays as it is: the test video of a pair is excluded, or the validation video."""
    assert to_exclude(describe(_found((0, 4, 1.0), (3, 4, 1.0)), VIDEOS, SPLIT)) == ["=test"]
    assert to_exclude(describe(_found((2, 3, 1.0), (0, 1, 1.0), (4, 5, 1.0)), VIDEOS, SPLIT)) == ["val"]


def test_without_a_split_nothing_is_excluded() -> None:
    """Without a split there is no test, so a pair is across groups."""
    findings = describe(_found((0, 4, 1.0)), VIDEOS, None)
    assert [finding.kind for finding in findings] == [ACROSS_GROUPS] and to_exclude(findings) == []


def test_group_under_two_names_looks_alike() -> None:
    """Two groups with the scene of one another are listed, and one with another scene is not."""
    rng = np.random.default_rng(0)
    scenes = np.eye(8, dtype=np.float32)[[0, 0, 0, 0, 1, 1]] + rng.normal(0, 0.01, (6, 8)).astype(np.float32)
    scenes /= np.linalg.norm(scenes, axis=1, keepdims=True)
    videos = [make_record(f"v{n}", group=group) for n, group in enumerate(("a", "a", "b", "b", "c", "c"))]
    split = Split("1", tuple(videos[:2]), (), tuple(videos[2:]))
    (alike,) = alike_groups(_found(scene=scenes), videos, split)
    assert (alike.groups, alike.parts, alike.sizes) == (("a", "b"), ("train", "test"), (2, 2))
    assert "1 of them across parts" in summary([], [alike])
    assert "a (train)" in tables([], [alike])


def test_videos_without_groups_have_none_that_look_alike() -> None:
    """Where each video is its own group, nothing says how alike the videos of a group are."""
    assert alike_groups(_found(), [make_record(f"v{n}", group=f"v{n}") for n in range(6)], None) == []


def test_csv_names_both_videos_and_runs_no_formula() -> None:
    """The table can be opened in a spreadsheet, whatever the videos are called."""
    content = csv_bytes(pair_rows(describe(_found((0, 4, 0.7)), VIDEOS, SPLIT), ["walk"])).decode()
    (row,) = csv.DictReader(io.StringIO(content))
    assert (row["video_a"], row["video_b"], row["kind"]) == ("train a", "'=test", "across parts")
    assert (row["part_a"], row["part_b"], row["group_b"], row["class_b"]) == ("train", "test", "four", "walk")
