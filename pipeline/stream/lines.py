"""The events of a stream as JSON Lines, and what is counted meanwhile."""

import json
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.stream.events import Segment, Segmenter
from pipeline.stream.session import Answer
from pipeline.stream.sources import Lost

_LAGS = 10_000  # the last ones, for the percentiles


class EventLines:
    """Turns answers into events, and writes each event as one line.

    Attributes:
        num_answers, num_gaps, dropped: counted since the stream began.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        labels: Sequence[str],
        segmenter: Segmenter,
        update_every: float = 1.0,
        stats_every: float = 10.0,
        frame_seconds: float = 0.0,
    ) -> None:
        """Make the events of a stream.

        Args:
            update_every, stats_every: seconds between two such events, in media time and by the clock.
            frame_seconds: how long a frame lasts.
        """
        self._write, self._labels, self._segmenter = write, labels, segmenter
        self._update_every, self._stats_every = update_every, stats_every
        self.num_answers = self.num_gaps = self.dropped = 0
        self._frame_seconds = frame_seconds
        self._lags: deque[float] = deque(maxlen=_LAGS)
        self._began = self._last_stats = time.monotonic()
        self._answers_before, self._next_update = 0, 0.0
        self._now = self._lag = 0.0

    def answer(self, answer: Answer) -> list[Segment]:
        """Write what an answer makes certain. Returns the segments that have ended."""
        self.num_answers += 1
        self._now, self._lag, self.dropped = answer.frame.time, answer.lag, answer.dropped
        self._lags.append(answer.lag)
        ended = []
        for event in self._segmenter.push(self._now, answer.probabilities):
            if isinstance(event, Segment):
                ended.append(event)
                self._ended(event)
            else:
                label = self._labels[event.label]
                self._line("start", label=label, score=_short(event.score), start=_short(event.start))
                self._next_update = self._now + self._update_every
        current = self._segmenter.current
        if current is not None and self._now >= self._next_update:
            self._line("update", label=self._labels[current], score=_short(float(answer.probabilities[current])))
            self._next_update = self._now + self._update_every
        self._stats()
        return ended

    def lost(self, item: Lost) -> list[Segment]:
        """Write a gap. Returns the segment that it ends."""
        self.num_gaps += 1
        ended = self._cut(item.time)
        self._line("gap", reason=item.reason)
        return ended

    def finish(self, reason: str, media_time: float | None = None) -> list[Segment]:
        """Write the end of the stream. Returns the segment that it ends.

        Args:
            media_time: when the stream ended; ``None``: with the last frame that was answered.
        """
        ended = self._cut(self._now + self._frame_seconds if media_time is None else media_time)
        self._line("eof", reason=reason, answers=self.num_answers)
        return ended

    def summary(self) -> str:
        """What happened, in one line."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        lag, longest = self._percentiles(50), self._percentiles(100)
        gaps = f", {self.num_gaps} gap{'' if self.num_gaps == 1 else 's'}" if self.num_gaps else ""
        return (
            f"{self.num_answers} answers in {seconds:.1f} s ({self.num_answers / seconds:.1f} per second), "
            f"{self.dropped} frames dropped{gaps}; lag {1000 * lag:.0f} ms (median), {1000 * longest:.0f} ms at most"
        )

    def _cut(self, now: float) -> list[Segment]:
        self._now = max(now, self._now)
        ended = list(self._segmenter.cut(self._now))
        for segment in ended:
            self._ended(segment)
        return ended

    def _ended(self, segment: Segment) -> None:
        label, score = self._labels[segment.label], _short(segment.score)
        self._line("end", label=label, score=score, start=_short(segment.start), end=_short(segment.end))

    def _stats(self) -> None:
        now = time.monotonic()
        if now - self._last_stats < self._stats_every:
            return
        rate = (self.num_answers - self._answers_before) / (now - self._last_stats)
        lags = {"lag_median": _short(self._percentiles(50)), "lag_p99": _short(self._percentiles(99))}
        self._line("stats", answers=self.num_answers, answers_per_second=round(rate, 2), **lags)
        self._last_stats, self._answers_before = now, self.num_answers

    def _percentiles(self, share: float) -> float:
        return float(np.percentile(self._lags, share)) if self._lags else 0.0

    def _line(self, kind: str, **values: object) -> None:
        common = {
            "media_time": _short(self._now),
            "wall_time": round(time.time(), 3),
            "lag": _short(self._lag),
            "dropped": self.dropped,
        }
        self._write(json.dumps({"type": kind, **values, **common}) + "\n")


def _short(value: float) -> float:
    return round(value, 4)
