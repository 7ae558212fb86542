"""Made streams show what they say they show, and what was found in them is counted once."""

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.made_streams import Action, make_stream, match, overlap

LENGTHS, LABELS = (50, 70, 60), (4, 0, 4)


def test_a_stream_shows_each_video_once_and_holds_still_in_between() -> None:
    """Videos are complete and in order; a pause of 1 to 2 seconds repeats the frame before it or the one after it."""
    stream = make_stream([2, 0, 1], LENGTHS, LABELS, 25.0, np.random.default_rng(0))
    begin = 0
    for number, (video, action) in enumerate(zip([2, 0, 1], stream.actions, strict=True)):
        shown = stream.frames[begin : begin + LENGTHS[video]]
        assert shown.tolist() == [[video, frame] for frame in range(LENGTHS[video])]
        assert (stream.labels[begin : begin + LENGTHS[video]] == LABELS[video]).all()
        assert action == Action(begin / 25, (begin + LENGTHS[video]) / 25, LABELS[video])
        begin += LENGTHS[video]
        end = round(stream.actions[number + 1].begin * 25) if number < 2 else len(stream.labels)
        assert 25 <= end - begin <= 50 and (stream.labels[begin:end] == -1).all()
        held = np.unique(stream.frames[begin:end], axis=0)
        around = stream.frames[[begin - 1, min(end, len(stream.frames) - 1)]]
        assert len(held) == 1 and held[0].tolist() in around.tolist()
        begin = end
    assert len(stream.frames) == begin and stream.seconds == begin / 25


def test_both_ends_are_held() -> None:
    """Some pauses hold the last frame of the video before them, others the first frame of the next."""
    order = np.random.default_rng(0).permutation(40)
    stream = make_stream(order.tolist(), [50] * 40, [0] * 40, 25.0, np.random.default_rng(0))
    pauses = [frame for (_, frame), label in zip(stream.frames.tolist(), stream.labels, strict=True) if label < 0]
    assert set(pauses) == {0, 49} and 0.3 < np.mean(np.array(pauses) == 0) < 0.7
    assert all(second.begin - first.end >= 1 for first, second in pairwise(stream.actions))


@pytest.mark.parametrize(
    ("other", "expected"), [((0, 2), 1.0), ((1, 2), 0.5), ((1, 3), 1 / 3), ((2, 3), 0.0), ((5, 6), 0.0), ((-1, 3), 0.5)]
)
def test_overlap_by_hand(other: tuple[float, float], expected: float) -> None:
    """Intersection over union; zero for times that only touch or lie apart."""
    assert overlap(Action(0, 2, 0), Action(*other, 0)) == pytest.approx(expected)


def test_a_match_needs_the_right_class_and_half_the_time_and_counts_once() -> None:
    """Another class, too short a segment and a second segment for the same action find nothing."""
    shown = [Action(0, 2, 1), Action(3, 5, 2), Action(6, 8, 1)]
    found = [Action(0, 1.2, 1), Action(0.5, 2, 1), Action(3, 5, 1), Action(6, 6.9, 1)]
    assert match(shown, found) == {0: 1}
    assert match(shown, [Action(6, 7, 1), Action(3.1, 5, 2)]) == {2: 0, 1: 1}
    assert match(shown, []) == match([], found) == {}
