"""Answers while a stream runs. Decoding, the CNN and the head each have a thread, with one frame between them."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pipeline.recognizer.head import Array
from pipeline.recognizer.recognizer import Recognizer
from pipeline.recognizer.rolling import RollingProbabilities
from pipeline.recognizer.tempo import Filled
from pipeline.stream.sources import Finished, Item, Lost, OpenSource, StreamFrame

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network says after a frame.

    Attributes:
        frame: the frame.
        probabilities: of the classes, ``[num_classes]``.
        lag: seconds from the frame's arrival to this answer.
        dropped: frames that were due and had no answer, since the stream began.
    """

    frame: StreamFrame
    probabilities: Array
    lag: float
    dropped: int


def answers(
    opened: OpenSource, recognizer: Recognizer, steps: int, max_lag: float = 1.0, stop: threading.Event | None = None
) -> Generator[Answer | Lost | Finished, None, None]:
    """Read a stream frame by frame.

    Args:
        opened: the source. Of a live one, the oldest frames are dropped if they come faster than they are read.
        steps: most steps that an answer depends on; see ``Tempo.horizon``.
        max_lag: seconds that a frame of a live source may wait; a frame that has waited longer is dropped.
        stop: ends the stream when it is set, by a signal or by another thread. It is set when this generator ends.

    Yields:
        an ``Answer`` for each frame that is due and not dropped; ``Lost`` for each gap; and at last ``Finished``,
        unless the stream was stopped.
    """
    stop = stop or threading.Event()
    longest = max_lag if opened.is_live else float("inf")
    frames = _ahead(opened.read(stop), stop, (lambda item: isinstance(item, StreamFrame)) if opened.is_live else None)
    rolling, filled = RollingProbabilities(recognizer.head, steps), Filled(steps)
    last_step, dropped = -1, 0
    try:
        for item, features, seconds in _ahead(_encode(frames, recognizer, longest), stop):
            if not isinstance(item, StreamFrame):
                rolling.reset()
                filled.reset()
                yield item
                continue
            # The CNN's own seconds don't count: a machine that is slower than that must still answer.
            if time.monotonic() - item.arrived - seconds > longest:
                continue
            num_missing = item.step - last_step - 1
            dropped, last_step = dropped + num_missing, item.step
            for row in filled.rows(features, num_missing):
                probabilities = rolling.push(row)
            yield Answer(item, probabilities, time.monotonic() - item.arrived, dropped)
    finally:
        stop.set()


def _encode(items: Iterable[Item], recognizer: Recognizer, longest: float) -> Iterator[tuple[Item, Array, float]]:
    """Each item with its features (nothing for what is not a frame) and the seconds that they took."""
    for item in items:
        features, started = np.empty(0, np.float32), time.monotonic()
        if isinstance(item, StreamFrame):
            if started - item.arrived > longest:
                continue
            features = recognizer.encode([item.pixels])[0]
        yield item, features, time.monotonic() - started


def _ahead(items: Iterable[T], stop: threading.Event, may_drop: Callable[[T], bool] | None = None) -> Iterator[T]:
    """Yield the same items, fetched by a thread, one ahead, until ``stop`` is set.

    ``may_drop``: which items give way to the next one if nobody has taken them; ``None``: the thread waits.
    """
    ready: queue.Queue[T | BaseException | None] = queue.Queue(1)

    def put(item: T | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def put_newest(item: T, may_drop: Callable[[T], bool]) -> None:
        oldest = None
        with suppress(queue.Empty):
            oldest = ready.get_nowait()
        # Nobody else puts, so there is room.
        can_go = oldest is None or isinstance(oldest, BaseException) or may_drop(oldest)
        ready.put_nowait(item if can_go else oldest)

    def fetch() -> None:
        try:
            for item in items:
                if stop.is_set():
                    return
                if may_drop is not None and may_drop(item):
                    put_newest(item, may_drop)
                else:
                    put(item)
            put(None)
        except BaseException as error:  # re-raised in the thread that reads
            put(error)

    # A daemon: a read that hangs must not keep the command from ending.
    threading.Thread(target=fetch, name="ahead", daemon=True).start()
    while not stop.is_set():
        try:
            item = ready.get(timeout=0.1)
        except queue.Empty:
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item
