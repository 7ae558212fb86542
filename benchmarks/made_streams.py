"""Streams made of a dataset's videos, and how well what was found in them agrees with what they show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

PAUSE_SECONDS = (1.0, 2.0)


class Action(NamedTuple):
    """What a stream shows, or what was found in it, from ``begin`` to ``end`` (seconds)."""

    begin: float
    end: float
    label: int


@dataclass(frozen=True, eq=False)
class MadeStream:
    """Videos one after another, with pauses in which a video's last frame or the next one's first is held still.

    Attributes:
        frames: int64 ``[num_frames, 2]``: the video that is shown, and the frame of it.
        labels: int64 ``[num_frames]``: the action that is shown, -1 in a pause.
        fps: frames per second.
        actions: the videos, in order.
    """

    frames: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    fps: float
    actions: tuple[Action, ...]

    @property
    def seconds(self) -> float:
        return len(self.labels) / self.fps


def make_stream(
    videos: Sequence[int], num_frames: Sequence[int], labels: Sequence[int], fps: float, rng: np.random.Generator
) -> MadeStream:
    """A stream of ``videos`` in this order, with a pause after each.

    Args:
        videos: indices into ``num_frames`` and ``labels``, which are of all videos.
    """
    frames, shown, actions, length = [], [], [], 0
    for video, following in zip(videos, [*videos[1:], None], strict=True):
        count, pause = num_frames[video], round(fps * rng.uniform(*PAUSE_SECONDS))
        held = (following, 0) if following is not None and rng.random() < 0.5 else (video, count - 1)
        frames += [(video, frame) for frame in range(count)] + [held] * pause
        shown += [labels[video]] * count + [-1] * pause
        actions.append(Action(length / fps, (length + count) / fps, labels[video]))
        length += count + pause
    return MadeStream(np.array(frames), np.array(shown), fps, tuple(actions))


def overlap(first: Action, second: Action) -> float:
    """Intersection over union of two actions' times."""
    shared = min(first.end, second.end) - max(first.begin, second.begin)
    return max(0.0, shared) / (max(first.end, second.end) - min(first.begin, second.begin))


def match(shown: Sequence[Action], found: Sequence[Action], least: float = 0.5) -> dict[int, int]:
    """Which action was found by which: indices of ``shown`` -> indices of ``found``.

    The labels are equal and the overlap is at least ``least``. Each is matched once, the largest overlap first.
    """
    pairs = [
        (overlap(action, other), number, candidate)
        for number, action in enumerate(shown)
        for candidate, other in enumerate(found)
        if action.label == other.label
    ]
    matched: dict[int, int] = {}
    for share, number, candidate in sorted(pairs, reverse=True):
        if share >= least and number not in matched and candidate not in matched.values():
            matched[number] = candidate
    return matched
