"""Which frames of a video the backbone sees. (``pipeline.training.clips`` chooses clips among these stored frames.)"""

import re
from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError

Indices = NDArray[np.int32]
SamplingKind = Literal["uniform", "every", "fps"]

_ROUNDING = 1e-6  # of a beat: 3 / 30 s times 10 per second must not fall below beat 1


class SamplingError(UserError):
    """A frame sampling is invalid. The message names it and shows the valid forms."""


@dataclass(frozen=True)
class FrameSampling:
    """The frames of a video to extract features of.

    ``uniform:K``: the middle frames of K equal segments of the video; every frame once if there are no more than K.
    ``every:N``: the frames 0, N, 2N, ...
    ``fps:F``: F frames per second, whatever the video's frame rate: the first frame at or after 0, 1/F, 2/F, ...
    seconds, each frame once. Of a video with fewer frames per second, every frame: it then keeps its own tempo, and a
    network that was trained at F sees it move faster than it is. Choose an F that the slowest videos have.

        >>> FrameSampling.parse("uniform:4").indices(100).tolist()
        [12, 37, 62, 87]
        >>> FrameSampling.parse("uniform:4").indices(3).tolist()
        [0, 1, 2]
        >>> FrameSampling.parse("every:40").indices(100).tolist()
        [0, 40, 80]
        >>> FrameSampling.parse("fps:10").indices(12, fps=25).tolist()
        [0, 3, 5, 8, 10]

    ``every`` and ``fps`` have a tempo, so they can also sample a stream, whose end is unknown. The first frame of each
    *beat* is read; a stream of a file reads the frames of ``indices``.

    Raises ``SamplingError`` for any other kind, and for values that are below 1 or not whole (``fps``: not positive).
    """

    kind: SamplingKind
    value: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(SamplingKind):
            raise _invalid(str(self))
        if not (self.value > 0 if self.kind == "fps" else self.value >= 1 and self.value == int(self.value)):
            raise _invalid(str(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The sampling written as ``uniform:25``, ``every:2`` or ``fps:2.5``, which is also its ``str()``."""
        kind, _, value = text.partition(":")
        if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,3})?", value):
            raise _invalid(text)
        return cls(cast(SamplingKind, kind), float(value))

    def __str__(self) -> str:
        return f"{self.kind}:{self.value:.15g}"

    @property
    def has_tempo(self) -> bool:
        """Whether the frames have a fixed distance, in frames or in time, so that a stream can be sampled."""
        return self.kind != "uniform"

    def beat(self, index: int, seconds: float) -> int:
        """The beat that a frame of a stream belongs to. The first frame of every beat is read, the others are not.

        If the first frame of a beat is lost, the next one takes its place; a beat without any frame is left out.

        Args:
            index: position of the frame in the stream, from 0; lost frames count.
            seconds: media time of the frame; index / frame rate for a file.
        """
        assert self.has_tempo, self
        return int(self._beats(np.array([index]), np.array([seconds]))[0])

    def _beats(self, indices: NDArray[np.int64], seconds: NDArray[np.float64]) -> NDArray[np.int64]:
        if self.kind == "every":
            return indices // int(self.value)
        return np.floor(seconds * self.value + _ROUNDING).astype(np.int64)

    def indices(self, num_frames: int, fps: float = 0.0) -> Indices:
        """Ascending, distinct frame indices, int32; empty if ``num_frames`` is 0.

        Args:
            num_frames: frames of the video.
            fps: its frame rate; 0.0 if it is unknown.

        Raises ``SamplingError`` if the frame rate is unknown and the sampling needs it.
        """
        assert num_frames >= 0, num_frames
        if self.has_tempo:
            if self.kind == "fps" and fps <= 0:
                raise SamplingError(
                    f"the file does not say its frame rate, which the sampling {self} needs. Choose every:N, or "
                    "convert the file to MP4"
                )
            indices = np.arange(num_frames)
            beats = self._beats(indices, indices / (fps or 1.0))
            return indices[np.diff(beats, prepend=-1) > 0].astype(np.int32)
        num_parts = int(self.value)
        if num_frames <= num_parts:
            return np.arange(num_frames, dtype=np.int32)
        # floor((i + 0.5) * num_frames / num_parts), in integers to avoid rounding errors
        odd_numbers = 2 * np.arange(num_parts, dtype=np.int64) + 1
        return (odd_numbers * num_frames // (2 * num_parts)).astype(np.int32)


def _invalid(text: str) -> SamplingError:
    return SamplingError(
        f"no frame sampling {text!r}: write uniform:K for K frames spread over the video (uniform:25), every:N for "
        "every N-th frame (every:2), with a whole number of at least 1, or fps:F for F frames per second (fps:2.5), "
        "with a number above 0"
    )
