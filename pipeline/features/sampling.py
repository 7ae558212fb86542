"""Which frames of a video the backbone sees. (``pipeline.training.clips`` chooses clips among these stored frames.)"""

from dataclasses import dataclass
from typing import Literal, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError

Indices = NDArray[np.int32]
SamplingKind = Literal["uniform", "every"]


class SamplingError(UserError):
    """A frame sampling is invalid. The message names it and shows the valid forms."""


@dataclass(frozen=True)
class FrameSampling:
    """The frames of a video to extract features of.

    ``uniform:K``: the middle frames of K equal segments of the video; every frame once if there are no more than K.
    ``every:N``: the frames 0, N, 2N, ...

        >>> FrameSampling.parse("uniform:4").indices(100).tolist()
        [12, 37, 62, 87]
        >>> FrameSampling.parse("uniform:4").indices(3).tolist()
        [0, 1, 2]
        >>> FrameSampling.parse("every:40").indices(100).tolist()
        [0, 40, 80]

    Raises ``SamplingError`` for any other kind and for values below 1.
    """

    kind: SamplingKind
    value: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(SamplingKind) or self.value < 1:
            raise _invalid(str(self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The sampling written as ``uniform:25`` or ``every:2``, which is also its ``str()``."""
        kind, _, value = text.partition(":")
        if not value.isdecimal():
            raise _invalid(text)
        return cls(cast(SamplingKind, kind), int(value))

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}"

    def indices(self, num_frames: int) -> Indices:
        """Ascending, distinct frame indices, int32; empty if ``num_frames`` is 0."""
        assert num_frames >= 0, num_frames
        if self.kind == "every":
            return np.arange(0, num_frames, self.value, dtype=np.int32)
        if num_frames <= self.value:
            return np.arange(num_frames, dtype=np.int32)
        # floor((i + 0.5) * num_frames / value), in integers to avoid rounding errors
        odd_numbers = 2 * np.arange(self.value, dtype=np.int64) + 1
        return (odd_numbers * num_frames // (2 * self.value)).astype(np.int32)


def _invalid(text: str) -> SamplingError:
    return SamplingError(
        f"no frame sampling {text!r}: write uniform:K for K frames spread over the video (uniform:25), or every:N for "
        "every N-th frame (every:2), with a whole number of at least 1"
    )
