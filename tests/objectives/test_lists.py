"""The lists of a run: what it was trained, chosen and tested on does not change with the dataset."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from data.records import DatasetError, Split, VideoDataset
from pipeline.objectives.lists import from_json, require_all, to_json, videos_to_score
from tests.helpers.synthetic import make_record

RECORDS = tuple(make_record(f"v{number}", group=f"g{number}") for number in range(8))
DATASET = VideoDataset(
    "moves",
    "moves",
    ("rise", "fall"),
    RECORDS,
    {
        "1": Split("1", RECORDS[:3], RECORDS[3:5], RECORDS[5:]),
        "2": Split("2", RECORDS[5:], (), RECORDS[1:4]),
        "3": Split("3", RECORDS[:3], RECORDS[3:5], RECORDS[6:]),
    },
)


@pytest.mark.parametrize(
    ("run_split", "override", "videos", "evaluated_on"),
    [
        ("1", None, RECORDS[5:], None),
        ("1", "1", RECORDS[5:], None),
        ("1", "validation", RECORDS[3:5], "validation videos, which chose the best epoch and the temperature"),
        ("1", "3", RECORDS[6:], "test videos of split 3"),
    ],
)
def test_a_run_is_scored_on_its_test_list_or_the_override(
    run_split: str, override: str | None, videos: object, evaluated_on: str | None
) -> None:
    """Videos other than the run's test videos are described in words."""
    assert videos_to_score(DATASET, DATASET.splits[run_split], override) == (videos, evaluated_on)


@pytest.mark.parametrize(
    ("run_split", "override", "message"),
    [
        ("1", "2", "split 1 was trained on or chosen by 3 of the 3 test videos of split 2"),
        ("2", "3", "2 of the 2 test videos of split 3"),
        ("2", "validation", "split 2 of moves has no validation videos"),
        ("1", "4", r"'4'.*1, 2, 3"),
    ],
)
def test_videos_that_the_run_has_seen_are_refused(run_split: str, override: str, message: str) -> None:
    """The error counts the videos that the run was trained on or chosen by; a split without such videos is an error."""
    with pytest.raises(DatasetError, match=message):
        videos_to_score(DATASET, DATASET.splits[run_split], override)


def test_videos_of_a_group_that_the_run_has_seen_are_refused() -> None:
    """Another split's test videos count as seen if they share a group, such as a person, with training videos."""
    of_a_trained_group = make_record("new", group=RECORDS[0].group)
    dataset = dataclasses.replace(DATASET, splits={"4": Split("4", (), (), (*RECORDS[6:], of_a_trained_group))})
    with pytest.raises(DatasetError, match="1 of the 3 test videos of split 4"):
        videos_to_score(dataset, DATASET.splits["1"], "4")


def saved() -> dict[str, Any]:
    """Split 1 after it was written and read again."""
    content: dict[str, Any] = json.loads(json.dumps(to_json(DATASET.splits["1"], DATASET.classes)))
    return content


def test_the_lists_are_restored_in_their_order() -> None:
    """Batches are drawn by position, so a resumed run needs the same order; names that are not UTF-8 survive."""
    assert from_json(saved(), DATASET) == DATASET.splits["1"]
    odd = dataclasses.replace(RECORDS[0], video_id='a\udcff\r\n",.avi')
    dataset = dataclasses.replace(DATASET, videos=(odd,))
    split = Split("1", (odd,), (), ())
    assert from_json(json.loads(json.dumps(to_json(split, DATASET.classes))), dataset) == split


def test_the_lists_do_not_follow_the_dataset() -> None:
    """With videos added, removed and split anew, the lists are the run's; a video that is gone keeps its place."""
    videos = (
        make_record("new", group="g9"),
        *(dataclasses.replace(r, path=Path("moved", r.path)) for r in RECORDS[1:-1]),
    )
    changed = dataclasses.replace(DATASET, videos=videos, splits={"1": Split("1", videos[3:], (), videos[:3])})
    split = from_json(saved(), changed)
    for part in ("train", "validation", "test"):
        ids = [record.video_id for record in getattr(split, part)]
        assert ids == [record.video_id for record in getattr(DATASET.splits["1"], part)]
    assert split.train[1].path == Path("moved", RECORDS[1].path)
    with pytest.raises(DatasetError, match=r"1 of the run's 3 videos are gone \(v7\)\. Restore"):
        require_all("videos", split.test, {record.video_id for record in videos}, "Restore it.")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("fall", "rise"), r"2 classes \(rise, fall\); moves now has 2 classes \(fall, rise\) in another order"),
        (("rise", "sink"), r"gone: fall; new: sink"),
        (("rise", "fall", "jump"), r"now has 3 classes .*new: jump"),
        (("rise",), r"gone: fall"),
    ],
)
def test_other_classes_are_refused(classes: tuple[str, ...], message: str) -> None:
    """A class that was renamed, added or removed would move the labels: the error says which."""
    with pytest.raises(DatasetError, match=message):
        from_json(saved(), dataclasses.replace(DATASET, classes=classes))


def test_a_video_with_another_class_is_refused() -> None:
    """A label that was corrected in the CSV is not the one that the run was trained or tested on."""
    videos = (*RECORDS[:-1], dataclasses.replace(RECORDS[-1], label=1))
    with pytest.raises(DatasetError, match=r"1 of the run's videos have another class now \(v7\)"):
        from_json(saved(), dataclasses.replace(DATASET, videos=videos))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": [["v0", "rise", "g7"]]}, "lists a video twice"),
        ({"test": [["v9", "rise", "g0"]]}, "train and test share 1 groups"),
        ({"test": [["v9", "jump", "g9"]]}, "does not contain the lists"),
        ({"test": [["v9", ["rise"], "g9"]]}, "does not contain the lists"),
        ({"test": ["v9"]}, "does not contain the lists"),
        ({"test": [["\ud800", "rise", "g9"]]}, "does not contain the lists"),
        ({"test": [["v9", "rise", "\ud800"]]}, "does not contain the lists"),
        ({"test": None}, "does not contain the lists"),
        ({"classes": 2}, "does not contain the lists"),
    ],
)
def test_impossible_lists_are_refused(changes: dict[str, Any], message: str) -> None:
    """Lists that overlap, or are none, give an error that says so, wherever they come from."""
    with pytest.raises(DatasetError, match=message):
        from_json(saved() | changes, DATASET)
