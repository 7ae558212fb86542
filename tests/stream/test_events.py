"""Actions begin and end once, one at a time, whatever the probabilities are."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings.config import ConfigError
from pipeline.stream.events import Probabilities, Segment, Segmenter, Started, Thresholds

STEP = 0.1  # seconds between two answers
THRESHOLDS = Thresholds(enter=0.6, leave=0.45, min_duration=0.3, merge_gap=0.2)
NUM_CLASSES = 3


def events_of(
    values: list[Probabilities], thresholds: Thresholds = THRESHOLDS, background: int | None = None
) -> list[Started | Segment]:
    """The events of one answer every ``STEP`` seconds, with a cut at the end."""
    segmenter = Segmenter(thresholds, background)
    found: list[Started | Segment] = []
    for number, probabilities in enumerate(values):
        found += segmenter.push(number * STEP, probabilities)
    return [*found, *segmenter.cut(len(values) * STEP)]


def curve(*shares: float, label: int = 0) -> list[Probabilities]:
    """Probabilities in which one class has these shares, and the others divide the rest."""
    rows = np.repeat((1 - np.array(shares))[:, None] / (NUM_CLASSES - 1), NUM_CLASSES, axis=1)
    rows[:, label] = shares
    return list(rows)


def spans(events: list[Started | Segment]) -> list[tuple[int, float, float]]:
    return [
        (event.label, pytest.approx(event.start), pytest.approx(event.end))
        for event in events
        if isinstance(event, Segment)
    ]


@st.composite
def any_probabilities(draw: st.DrawFn) -> list[Probabilities]:
    """Streams that stay near one class for some answers, so that actions occur."""
    rows: list[Probabilities] = []
    for _ in range(draw(st.integers(0, 8))):
        label, share = draw(st.integers(0, NUM_CLASSES - 1)), draw(st.floats(0.0, 1.0))
        rows += curve(*[share] * draw(st.integers(1, 6)), label=label)
    return rows


@given(
    any_probabilities(),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)).map(sorted),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from([None, 0, 2]),
)
def test_segments_are_in_order_and_apart(
    values: list[Probabilities],
    levels: list[float],
    min_duration: float,
    merge_gap: float,
    background: int | None,
) -> None:
    """Each start has one end, before the next start; segments do not overlap, are long enough and no background."""
    thresholds = Thresholds(levels[1], levels[0], min_duration, merge_gap)
    events = events_of(values, thresholds, background)
    assert [type(event) for event in events] == [Started, Segment] * (len(events) // 2)
    segments = [event for event in events if isinstance(event, Segment)]
    for started, segment in zip(events[::2], segments, strict=True):
        assert (started.label, started.start) == (segment.label, segment.start)
        assert segment.end - segment.start >= min_duration - 1e-6
        assert segment.label != background
        assert levels[0] - 1e-6 <= segment.score <= 1 + 1e-6
        assert values[round(segment.start / STEP)][segment.label] >= thresholds.enter
    for first, second in itertools.pairwise(segments):
        assert first.end <= second.start
        assert first.label != second.label or second.start - first.end > merge_gap - 1e-6


def test_an_action_is_reported_once_it_has_lasted() -> None:
    """It begins where it reached ``enter`` and ends where it fell below ``leave``, not in between."""
    events = events_of(curve(0.5, 0.7, 0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4))
    assert spans(events) == [(0, 0.1, 0.5)]


def test_a_flash_is_no_action() -> None:
    """Two frames above the threshold are shorter than the shortest action."""
    assert events_of(curve(0.1, 0.9, 0.9, 0.1, 0.1)) == []


def test_a_short_interruption_does_not_end_an_action() -> None:
    """The action goes on if it begins again within the gap, and ends where it left if it does not."""
    short, long = [0.9] * 4 + [0.1] * 2 + [0.9] * 4, [0.9] * 4 + [0.1] * 4 + [0.9] * 4
    assert spans(events_of(curve(*short))) == [(0, 0.0, 1.0)]
    assert spans(events_of(curve(*long))) == [(0, 0.0, 0.4), (0, 0.8, 1.2)]


def test_an_action_that_takes_over_ends_the_other() -> None:
    """Even within the gap in which the first one could return, it has ended when the second one begins."""
    values = curve(*[0.9] * 5) + curve(*[0.9] * 5, label=1)
    assert spans(events_of(values, Thresholds(merge_gap=9.0, min_duration=0.3))) == [(0, 0.0, 0.5), (1, 0.5, 1.0)]


def test_the_background_is_not_reported() -> None:
    """A class for "nothing happens" is no action."""
    assert events_of(curve(*[0.9] * 9), background=0) == []


@pytest.mark.parametrize("values", [{"enter": 0.4}, {"leave": 0.0}, {"enter": 1.1}, {"merge_gap": -1.0}])
def test_unusable_thresholds_are_refused(values: dict[str, float]) -> None:
    """An action that would begin and end at once, or never, is a mistake."""
    with pytest.raises(ConfigError, match="enter|merge_gap"):
        Thresholds(**values)
