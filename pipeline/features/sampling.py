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

from data.errors import UserError

Indices = NDArray[np.int32]
SamplingKind = Literal["uniform", "every"]


class SamplingError(UserError):
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


def _no_such_sampling(text: str) -> SamplingError:
    return SamplingError(
        f"no frame sampling {text!r}: write uniform:K for K frames spread over the video (uniform:25), or every:N for "
        "every N-th frame (every:2), with a whole number of at least 1"
    )
