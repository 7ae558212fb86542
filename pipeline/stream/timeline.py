"""Class probabilities over a whole stream, as a page."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.atomic import write_text_atomically
from pipeline.reports.pages import render_page
from pipeline.stream.events import Segment
from pipeline.stream.session import Answer

_MOST_POINTS = 1000  # about as many as a screen has columns
_MOST_PICTURES = 200
_MOST_ROWS = 12  # classes
_HEIGHT = 96  # of a picture, in pixels
_NUM_SHOWN = 8  # pictures below the curves


class Timeline:
    """Collects probabilities and pictures of a stream of any length in constant memory.

    When there are too many points, neighbours are averaged, and from then on each point stands for twice as many
    answers. Of too many pictures, every second one is dropped.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = labels
        self._points: list[tuple[float, NDArray[np.float64]]] = []  # time of the first answer, mean probabilities
        self._pending: list[tuple[float, NDArray[np.float64]]] = []
        self._answers_per_point = 1
        self._pictures: list[tuple[float, bytes]] = []
        self._num_answers, self._answers_per_picture = 0, 1
        self._gaps: list[float] = []
        self._end = 0.0

    def add(self, answer: Answer) -> None:
        """Add an answer and, now and then, a picture of its frame."""
        self._end = answer.frame.time
        self._pending.append((self._end, answer.probabilities.astype(np.float64)))
        if len(self._pending) == self._answers_per_point:
            self._points.append(_merged(self._pending))
            self._pending = []
        if len(self._points) == 2 * _MOST_POINTS:
            self._points = [_merged(self._points[first : first + 2]) for first in range(0, len(self._points), 2)]
            self._answers_per_point *= 2
        if self._num_answers % self._answers_per_picture == 0:
            if len(self._pictures) == _MOST_PICTURES:
                self._pictures = self._pictures[::2]
                self._answers_per_picture *= 2
            if self._num_answers % self._answers_per_picture == 0:
                self._pictures.append((self._end, _jpeg(answer.frame.pixels)))
        self._num_answers += 1

    def add_gap(self, seconds: float) -> None:
        """The source was lost at this time. Of very many gaps, the first ones are kept."""
        if len(self._gaps) < _MOST_POINTS:
            self._gaps.append(seconds)

    def write(self, path: Path, segments: Sequence[Segment], title: str) -> None:
        """Write the page. ``segments``: the actions, in order."""
        points = [*self._points, *([_merged(self._pending)] if self._pending else [])]
        times = np.array([seconds for seconds, _ in points])
        values = np.array([mean for _, mean in points]).reshape(len(points), len(self._labels))
        end = max(self._end, *(segment.end for segment in segments), 1e-3) if segments else max(self._end, 1e-3)
        shown = self._shown(values, segments)
        rows = [
            {
                "name": self._labels[label],
                "area": _area(times / end, values[:, label]),
                "bars": [
                    (1000 * segment.start / end, max(1.0, 1000 * (segment.end - segment.start) / end))
                    for segment in segments
                    if segment.label == label
                ],
            }
            for label in shown
        ]
        data = {
            "end": round(end, 3),
            "times": [round(float(seconds), 3) for seconds in times],
            "names": [self._labels[label] for label in shown],
            "permille": [np.rint(1000 * values[:, label]).astype(int).tolist() for label in shown],
        }
        page = render_page(
            "timeline.html.j2",
            scripts=("timeline.js",),
            title=title,
            rows=rows,
            num_classes=len(self._labels),
            segments=[(self._labels[segment.label], segment) for segment in segments],
            gaps=[(1000 * seconds / end, seconds) for seconds in self._gaps],
            pictures=self._pictures,
            num_shown=min(_NUM_SHOWN, len(self._pictures)),
            end=end,
            num_answers=self._num_answers,
            answers_per_point=self._answers_per_point,
            data=data,
        )
        write_text_atomically(path, page)

    def _shown(self, values: NDArray[np.float64], segments: Sequence[Segment]) -> list[int]:
        """The classes with most of the time, then those with the highest peaks, at most ``_MOST_ROWS``."""
        seconds = np.zeros(len(self._labels))
        for segment in segments:
            seconds[segment.label] += segment.end - segment.start
        peaks = values.max(axis=0) if len(values) else np.zeros(len(self._labels))
        return [int(label) for label in np.lexsort((-peaks, -seconds))[:_MOST_ROWS]]


def _merged(points: Sequence[tuple[float, NDArray[np.float64]]]) -> tuple[float, NDArray[np.float64]]:
    return points[0][0], np.mean([mean for _, mean in points], axis=0)


def _area(shares: NDArray[np.float64], values: NDArray[np.float64]) -> str:
    """An SVG path, 1000 wide and 40 high: steps, because a point stands for the time until the next one."""
    edges = np.append(shares, 1.0)
    corners = [
        f"L{1000 * edges[number]:.1f},{40 * (1 - value):.1f}H{1000 * edges[number + 1]:.1f}"
        for number, value in enumerate(values)
    ]
    return f"M{1000 * edges[0]:.1f},40{''.join(corners)}V40Z"


def _jpeg(frame: NDArray[np.uint8]) -> bytes:
    height, width, _ = frame.shape
    size = (max(1, min(2 * _HEIGHT, round(width * _HEIGHT / height))), _HEIGHT)
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 70])
    return bytes(jpeg)
