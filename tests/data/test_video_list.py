"""data/video_list.py: records made when they are asked for are those that were put in."""

import pickle
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.records import VideoRecord
from data.texts import Texts
from data.video_list import Column, Selection, VideoList
from tests.helpers.synthetic import make_record

# Whatever a file's name may be, and more: surrogates stand for bytes that are not UTF-8.
NAMES = st.text(st.characters(exclude_characters="/\0"), min_size=1)
FOLDERS = st.sampled_from([Path("."), Path("videos"), Path("/data/caf\udce9")])


def make_list(records: list[VideoRecord], folders: list[Path], own_groups: bool) -> VideoList:
    video_ids, places, groups = Texts(), Column[Path](), Texts()
    for record, folder in zip(records, folders, strict=True):
        video_ids.append(record.video_id)
        places.append(folder)
        groups.append(record.group)
    return VideoList(video_ids, places, [record.label for record in records], video_ids if own_groups else groups)


@settings(deadline=None)  # not a measure of time
@given(
    rows=st.lists(st.tuples(NAMES, FOLDERS, st.integers(0, 3), st.text(st.characters()))),
    own_groups=st.booleans(),
    start=st.integers(-5, 5),
    step=st.sampled_from([-2, -1, 1, 3]),
)
@example(rows=[], own_groups=True, start=0, step=1)
@example(rows=[("\udc80", Path("."), 0, "\ud800"), ("a\nb", Path("."), 1, "")], own_groups=False, start=-1, step=-1)
def test_it_is_the_list_of_its_records(
    rows: list[tuple[str, Path, int, str]], own_groups: bool, start: int, step: int
) -> None:
    """Length, order, records, slices and slices of slices are those of a list, also after pickling."""
    records = [VideoRecord(name, folder / name, label, name if own_groups else g) for name, folder, label, g in rows]
    videos = make_list(records, [folder for _, folder, _, _ in rows], own_groups)
    for same in (videos, pickle.loads(pickle.dumps(videos))):
        assert (len(same), list(same), [same[n] for n in range(-len(records), 0)]) == (len(rows), records, records)
        assert list(same[start::step]) == records[start::step]
        assert list(same[start:][::step]) == records[start:][::step]
        assert bool(same) == bool(records) and all(record in same for record in records)
        for index in (len(records), -len(records) - 1):
            with pytest.raises(IndexError):
                same[index]


def test_a_selection_reads_only_what_is_asked_for() -> None:
    """The videos that are chosen come in their order, or shuffled, each once."""
    records = [make_record(str(number)) for number in range(100)]
    odd = Selection.of(records, (number % 2 == 1 for number in range(100)))
    assert list(odd) == records[1::2] and odd[-1] == records[99] and list(odd[:2]) == [records[1], records[3]]
    shuffled = odd.shuffled()
    assert list(shuffled) != list(odd) and sorted(video.video_id for video in shuffled) == sorted(
        video.video_id for video in odd
    )
    assert not Selection.of(records, (False for _ in records)) and list(Selection.of([], iter(()))) == []
