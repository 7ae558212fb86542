"""Figures of the stream benchmark: what is found, when it is named, and what is read."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.made_streams import Action, MadeStream
from benchmarks.stream import Read, Videos, detect, find, write_stream
from data.video import read_frames
from pipeline.stream.events import Thresholds
from tests.helpers.clips import make_clip
from tests.helpers.synthetic import make_record


def test_an_action_is_named_when_it_is_reported() -> None:
    """Its begin is the first frame that shows it; it is named ``min_duration`` later; the last one ends the stream."""
    times = np.arange(20) / 5
    probabilities = np.full((20, 3), 0.2, np.float32)
    probabilities[2:8, 1] = 0.9
    probabilities[15:, 2] = 0.9
    found = find(times, probabilities, Thresholds(min_duration=0.4), 4.0)
    assert found == [(Action(0.4, 1.6, 1), pytest.approx(0.8)), (Action(3.0, 4.0, 2), pytest.approx(3.4))]


def test_streams_are_long_enough_and_show_every_video_once_per_order() -> None:
    """Every stream lasts at least as long as asked, where there are enough videos, and no video is left out."""
    features = tuple(np.zeros((length, 2), np.float32) for length in [50, 60, 70, 80] * 5)
    videos = Videos(tuple(make_record(f"v{number}", number) for number in range(20)), features, 25.0)
    streams = videos.stream(15.0, orders=2)
    assert len(streams) > 4 and min(stream.seconds for stream in streams) >= 15
    assert sorted(action.label for stream in streams for action in stream.actions) == sorted([*range(20)] * 2)


def test_the_timed_file_has_the_announced_frames(tmp_path: Path) -> None:
    """The videos are repeated until the file is long enough."""
    records = [make_record("a")]
    clip = make_clip(tmp_path / "a.avi", 20)
    records = [type(records[0])("a", clip, 0, "g")]
    frames = read_frames(write_stream(tmp_path / "stream.mpg", records, 50))
    assert sum(1 for _ in frames) == 50


def test_found_false_and_missed_actions_are_counted_by_hand() -> None:
    """One of two actions is found, and one segment is false: F1 is a half; the rates are per minute and per action."""
    probabilities = np.full((20, 3), 0.2, np.float32)
    probabilities[2:8, 1] = 0.9  # from 0.4 to 1.6 s: right
    probabilities[15:, 2] = 0.9  # from 3 s: the class is 1
    shown = (Action(0.4, 1.4, 1), Action(3.0, 4.0, 1))
    stream = MadeStream(np.zeros((20, 2), np.int64), np.zeros(20, np.int64), 5.0, shown)
    found = detect([Read(stream, np.arange(20) / 5, probabilities)], Thresholds(min_duration=0.4))
    assert (found.num_actions, found.num_found, found.num_false) == (2, 1, 1)
    assert found.f1 == 0.5
    assert found.row() == [50.0, pytest.approx(15.0), pytest.approx(0.4)]
