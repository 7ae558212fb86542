"""Class probabilities over time -> when each action begins and ends."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.settings.config import ConfigError

Probabilities = npt.NDArray[np.floating]

# Times are sums of frames' durations, which are not exact.
_ROUNDING = 1e-6  # seconds


@dataclass(frozen=True)
class Thresholds:
    """When an action begins and ends."""

    enter: float = 0.6
    """probability at which an action begins"""
    leave: float = 0.45
    """probability below which it ends; lower than --enter, so that it does not flicker"""
    min_duration: float = 0.5
    """seconds that an action must last; it is reported after that time"""
    merge_gap: float = 0.3
    """an action that begins again within so many seconds has not ended; its end is reported after that time"""

    def __post_init__(self) -> None:
        if not 0 < self.leave <= self.enter <= 1:
            raise ConfigError(
                f"--enter and --leave must be in (0, 1], and --leave not above --enter: {self.enter:g}, {self.leave:g}"
            )
        for name in ("min_duration", "merge_gap"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be at least 0 and finite, not {getattr(self, name)}")


@dataclass(frozen=True)
class Segment:
    """An action that has ended: from its first frame to the first that no longer shows it.

    Attributes:
        label: index of the class.
        start, end: media time in seconds.
        score: its mean probability.
    """

    label: int
    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Started:
    """An action has begun at ``start``. ``score`` is its probability now."""

    label: int
    start: float
    score: float


@dataclass
class _Action:
    label: int
    start: float
    left: float | None = None
    """time of the first frame that no longer showed it"""
    scores: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """sum and number"""

    def add(self, score: float) -> None:
        self.scores[0] += score
        self.scores[1] += 1

    def ended(self, now: float) -> Segment:
        total, number = self.scores
        return Segment(self.label, self.start, now if self.left is None else self.left, total / number)


class Segmenter:
    """Finds actions, one at a time.

    An action begins when its class reaches ``enter``. It ends when the probability falls below ``leave``, or when
    another class reaches ``enter`` and is more probable. It counts if it lasts ``min_duration``, and it goes on if it
    begins again within ``merge_gap`` before another action has been reported.

    Attributes:
        current: the class of the action that has been reported and has not ended; ``None`` if there is none.
    """

    def __init__(self, thresholds: Thresholds, background: int | None = None) -> None:
        """``background``: a class that is no action."""
        self._thresholds, self._background = thresholds, background
        self._action: _Action | None = None  # reported
        self._candidate: _Action | None = None  # not yet reported

    @property
    def current(self) -> int | None:
        return None if self._action is None or self._action.left is not None else self._action.label

    def push(self, time: float, probabilities: Probabilities) -> Iterator[Started | Segment]:
        """The probabilities ``[num_classes]`` at a time, later than the last one -> what has become certain."""
        best = self._best(probabilities)
        action = self._action
        if action is not None and action.left is None:
            if self._goes_on(action, best, probabilities):
                action.add(float(probabilities[action.label]))
            else:
                action.left = time
        elif action is not None and action.left is not None:
            in_time = time - action.left <= self._thresholds.merge_gap + _ROUNDING
            if in_time and best == action.label:
                action.left, self._candidate = None, None
                action.add(float(probabilities[best]))
            elif not in_time:
                self._action = None
                yield action.ended(time)
        if self.current is None:
            yield from self._consider(time, best, probabilities)

    def cut(self, time: float) -> Iterator[Segment]:
        """End the action, because the stream ends or nothing is known of what comes next."""
        action, self._action, self._candidate = self._action, None, None
        if action is not None:
            yield action.ended(time)

    def _best(self, probabilities: Probabilities) -> int | None:
        """The most probable class if it reaches ``enter`` and is an action."""
        best = int(np.argmax(probabilities))
        return best if best != self._background and probabilities[best] >= self._thresholds.enter else None

    def _goes_on(self, action: _Action, best: int | None, probabilities: Probabilities) -> bool:
        return best in (None, action.label) and bool(probabilities[action.label] >= self._thresholds.leave)

    def _consider(self, time: float, best: int | None, probabilities: Probabilities) -> Iterator[Started | Segment]:
        candidate = self._candidate
        if candidate is not None and not self._goes_on(candidate, best, probabilities):
            candidate = None
        if candidate is None and best is not None:
            candidate = _Action(best, time)
        self._candidate = candidate
        if candidate is None:
            return
        score = float(probabilities[candidate.label])
        candidate.add(score)
        if time - candidate.start >= self._thresholds.min_duration - _ROUNDING:
            if self._action is not None:
                yield self._action.ended(time)
            self._action, self._candidate = candidate, None
            yield Started(candidate.label, candidate.start, score)
