"""Clips: the stored frames of a video that one forward pass sees.

A clip of ``clip_frames`` frames with a ``stride`` spans ``(clip_frames - 1) * stride + 1`` stored frames:

    >>> [clip.tolist() for clip in even_clips(10, clip_frames=3, num_clips=2, stride=2)]
    [[0, 2, 4], [5, 7, 9]]

A recurrent network learns the tempo that the stride sets, so the stride is the same for all videos. A video shorter
than the span has one clip with fewer frames:

    >>> [clip.tolist() for clip in even_clips(4, clip_frames=3, num_clips=2, stride=2)]
    [[0, 2]]

No function repeats a frame within a clip or returns a clip twice. A video without frames has no clips.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.features.sampling import Indices
from pipeline.settings.config import TrainingConfig


@dataclass(frozen=True)
class ClipSampling:
    """How clips are sampled from a video.

    Attributes:
        frames: frames per clip; ``None``: the whole video is its one clip.
        stride: distance between consecutive frames of a clip, in stored frames.
        per_video: evenly spread clips per video in evaluation.
        step: if set, evaluation uses dense clips instead, one every ``step`` stored frames.
    """

    frames: int | None = None
    stride: int = 1
    per_video: int = 10
    step: int | None = None

    @classmethod
    def from_config(cls, config: TrainingConfig) -> Self:
        return cls(config.clip_frames, config.clip_stride, config.clips_per_video, config.clip_step)

    def __str__(self) -> str:
        """How evaluation samples a video, in words."""
        if self.frames is None:
            return "the whole video"
        number = f"up to {self.per_video} clips" if self.step is None else f"a clip every {self.step} frames, each"
        stride = "" if self.stride == 1 else f", {self.stride} apart"
        return f"{number} of {self.frames} frames{stride}"

    def lengths(self, num_frames: NDArray[np.integer]) -> NDArray[np.integer]:
        """The number of frames in each clip of videos with ``num_frames`` stored frames."""
        available = -(-num_frames // self.stride)
        return available if self.frames is None else np.minimum(available, self.frames)

    def draw(self, num_frames: int, rng: np.random.Generator) -> Indices:
        """One random clip, for training."""
        return random_clip(num_frames, self.frames, rng, self.stride)

    def all(self, num_frames: int) -> list[Indices]:
        """The clips for evaluation."""
        if self.frames is not None and self.step is not None:
            return dense_clips(num_frames, self.frames, self.stride, self.step)
        return even_clips(num_frames, self.frames, self.per_video, self.stride)


def even_clips(num_frames: int, clip_frames: int | None, num_clips: int, stride: int = 1) -> list[Indices]:
    """Clips spread evenly over a video: the first starts with it, the last ends with it, a single one is central.

    Args:
        num_frames: stored frames of the video.
        clip_frames: frames per clip; ``None``: the whole video is one clip.
        num_clips: maximum number of clips; a short video has fewer distinct ones.
        stride: distance between consecutive frames of a clip.

    Returns:
        Frame indices of each clip, int32, in order of their first frame.
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
    """One clip, its start drawn uniformly from all that fit; arguments as for ``even_clips``.

    Empty for a video without frames.
    """
    num_starts = _num_starts(num_frames, clip_frames, stride)
    start = int(rng.integers(num_starts)) if num_starts > 1 else 0
    return _clip(start, num_frames, clip_frames, stride)


def dense_clips(num_frames: int, clip_frames: int, stride: int, step: int) -> list[Indices]:
    """A clip every ``step`` frames, and one more that ends with the video, so that its end is covered.

    >>> [clip.tolist() for clip in dense_clips(8, clip_frames=3, stride=1, step=2)]
    [[0, 1, 2], [2, 3, 4], [4, 5, 6], [5, 6, 7]]
    """
    assert step >= 1, step
    num_starts = _num_starts(num_frames, clip_frames, stride)
    starts = [*range(0, num_starts - 1, step), num_starts - 1] if num_starts else []
    return [_clip(start, num_frames, clip_frames, stride) for start in starts]


def _num_starts(num_frames: int, clip_frames: int | None, stride: int) -> int:
    """Number of frames at which a clip can start: 1 if the video is no longer than a clip, 0 if it is empty."""
    assert num_frames >= 0 and stride >= 1 and (clip_frames is None or clip_frames >= 1)
    if num_frames == 0 or clip_frames is None:
        return min(num_frames, 1)
    return max(1, num_frames - (clip_frames - 1) * stride)


def _clip(start: int, num_frames: int, clip_frames: int | None, stride: int) -> Indices:
    return np.arange(start, num_frames, stride, dtype=np.int32)[:clip_frames]
