"""Which frames to look at: pure functions from a number of frames to indices.

Two questions, asked at different times. *Extraction* asks once per video which frames the backbone is to see
(``FrameSampling``). *Training and evaluation* ask again and again which of those stored frames make up a clip, the
frames of one forward pass of the classifier (``even_clips``, ``random_clip``, ``dense_clips``).

A clip of ``clip_frames`` frames with a ``stride`` spans ``(clip_frames - 1) * stride + 1`` frames of the video:

    >>> [clip.tolist() for clip in even_clips(10, clip_frames=3, num_clips=2, stride=2)]
    [[0, 2, 4], [5, 7, 9]]

The stride is a tempo and a recurrent network learns it, so it is never changed: where the video is shorter than the
span there is one clip with every ``stride``-th frame, and it has fewer frames.

    >>> [clip.tolist() for clip in even_clips(4, clip_frames=3, num_clips=2, stride=2)]
    [[0, 2]]

No function repeats a frame within a clip or hands out a clip twice, and a video without frames has no clips.
"""

from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int32]
SamplingKind = Literal["uniform", "every"]


class SamplingError(ValueError):
    """A sampling that was asked for does not exist. The message says what was asked for and what there is."""


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video are extracted.

    ``uniform:K``: K frames spread over the whole video, the middles of K equal pieces; every frame once where there
    are no more than K. ``every:N``: the frames 0, N, 2N, ...

        >>> FrameSampling.parse("uniform:4").indices(100).tolist()
        [12, 37, 62, 87]
        >>> FrameSampling.parse("uniform:4").indices(3).tolist()
        [0, 1, 2]
        >>> FrameSampling.parse("every:40").indices(100).tolist()
        [0, 40, 80]

    Raises ``SamplingError`` for another kind or a value below 1.
    """

    kind: SamplingKind
    value: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(SamplingKind) or self.value < 1:
            raise _no_such_sampling(str(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The sampling written as ``uniform:25`` or ``every:2``; ``str()`` writes it back."""
        kind, _, value = text.partition(":")
        if not value.isdecimal():
            raise _no_such_sampling(text)
        return cls(cast(SamplingKind, kind), int(value))

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    def indices(self, num_frames: int) -> Indices:
        """Ascending, distinct frame indices, int32; empty where ``num_frames`` is 0."""
        assert num_frames >= 0, num_frames
        if self.kind == "every":
            return np.arange(0, num_frames, self.value, dtype=np.int32)
        if num_frames <= self.value:
            return np.arange(num_frames, dtype=np.int32)
        # floor((i + 0.5) * num_frames / value), in whole numbers so that no rounding moves a frame
        odd_numbers = 2 * np.arange(self.value, dtype=np.int64) + 1
        return (odd_numbers * num_frames // (2 * self.value)).astype(np.int32)


def even_clips(num_frames: int, clip_frames: int | None, num_clips: int, stride: int = 1) -> list[Indices]:
    """Clips spread evenly over the video: the first begins with it, the last ends with it, a single one is central.

    Args:
        num_frames: frames there are.
        clip_frames: frames of a clip; ``None``: the whole video is the one clip.
        num_clips: clips wanted; fewer come back where the video has no more distinct ones.
        stride: distance between neighbouring frames of a clip.

    Returns:
        Index arrays, int32, in order of their start.
    """
    assert num_clips >= 1, num_clips
    num_starts = _num_starts(num_frames, clip_frames, stride)
    if num_clips >= num_starts:
        starts = list(range(num_starts))
    elif num_clips == 1:
        starts = [(num_starts - 1) // 2]
    else:
        starts = [i * (num_starts - 1) // (num_clips - 1) for i in range(num_clips)]
    return [_clip(start, num_frames, clip_frames, stride) for start in starts]


def random_clip(num_frames: int, clip_frames: int | None, rng: np.random.Generator, stride: int = 1) -> Indices:
    """One clip whose start is drawn uniformly from all that fit; arguments as for ``even_clips``.

    Empty where the video has no frames.
    """
    num_starts = _num_starts(num_frames, clip_frames, stride)
    start = int(rng.integers(num_starts)) if num_starts > 1 else 0
    return _clip(start, num_frames, clip_frames, stride)


def dense_clips(num_frames: int, clip_frames: int, stride: int, step: int) -> list[Indices]:
    """Clips that begin every ``step`` frames, and one more that ends with the video, so that its end is seen too.

    >>> [clip.tolist() for clip in dense_clips(8, clip_frames=3, stride=1, step=2)]
    [[0, 1, 2], [2, 3, 4], [4, 5, 6], [5, 6, 7]]
    """
    assert step >= 1, step
    num_starts = _num_starts(num_frames, clip_frames, stride)
    starts = [*range(0, num_starts - 1, step), num_starts - 1] if num_starts else []
    return [_clip(start, num_frames, clip_frames, stride) for start in starts]


def _num_starts(num_frames: int, clip_frames: int | None, stride: int) -> int:
    """From how many frames a clip can start: 1 where the video is no longer than the clip, 0 where it is empty."""
    assert num_frames >= 0 and stride >= 1 and (clip_frames is None or clip_frames >= 1)
    if num_frames == 0 or clip_frames is None:
        return min(num_frames, 1)
    return max(1, num_frames - (clip_frames - 1) * stride)


def _clip(start: int, num_frames: int, clip_frames: int | None, stride: int) -> Indices:
    return np.arange(start, num_frames, stride, dtype=np.int32)[:clip_frames]


def _no_such_sampling(text: str) -> SamplingError:
    return SamplingError(
        f"no frame sampling {text!r}: write uniform:K for K frames spread over the video (uniform:25), or every:N for "
        "every N-th frame (every:2), with a whole number of at least 1"
    )
