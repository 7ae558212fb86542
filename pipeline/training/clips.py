"""Which of a video's stored frames make up a clip, the frames of one forward pass.

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

import numpy as np

from pipeline.features.sampling import Indices
from pipeline.settings.config import TrainingConfig


@dataclass(frozen=True)
class ClipSampling:
    """Which of a video's stored frames one forward pass sees.

    Attributes:
        frames: of a clip; ``None``: all of them, the video is its one clip.
        stride: distance between neighbouring frames of a clip.
        per_video: clips of each video in evaluation, evenly spread.
        step: where set, evaluation looks at dense clips instead, one every ``step`` frames.
    """

    frames: int | None = None
    stride: int = 1
    per_video: int = 10
    step: int | None = None

    def __str__(self) -> str:
        """How evaluation looks at a video, in words."""
        if self.frames is None:
            return "the whole video"
        which = f"up to {self.per_video} clips" if self.step is None else f"a clip every {self.step} frames, each"
        apart = "" if self.stride == 1 else f", {self.stride} apart"
        return f"{which} of {self.frames} frames{apart}"

    def draw(self, num_frames: int, rng: np.random.Generator) -> Indices:
        """One random clip, for training."""
        return random_clip(num_frames, self.frames, rng, self.stride)

    def all(self, num_frames: int) -> list[Indices]:
        """The clips that a video is evaluated on."""
        if self.frames is not None and self.step is not None:
            return dense_clips(num_frames, self.frames, self.stride, self.step)
        return even_clips(num_frames, self.frames, self.per_video, self.stride)


def clip_sampling(settings: TrainingConfig) -> ClipSampling:
    return ClipSampling(settings.clip_frames, settings.clip_stride, settings.clips_per_video, settings.clip_step)


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
