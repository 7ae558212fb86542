"""The tempo at which a network reads the frames of a stream: the one that it was trained at."""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from pipeline.features.sampling import FrameSampling
from pipeline.recognizer.head import Array


class StreamError(UserError):
    """A stream can't be read. The message says why and what to do."""


@dataclass(frozen=True)
class Tempo:
    """How often a network reads a frame.

    Attributes:
        sampling: the frames whose features were stored for the training.
        stride: distance between two frames of a training clip, in stored frames.
        fps: frame rate of the stream; ``None`` if it is not known.
    """

    sampling: FrameSampling
    stride: int = 1
    fps: float | None = None

    def step(self, index: int, seconds: float) -> int:
        """The step that a frame belongs to; the first frame of each step is read.

        Args:
            index: position of the frame in its stream, from 0.
            seconds: its time in its stream.
        """
        # Of a file with a lower frame rate than the sampling's, every frame is read, and no beat counts as lost.
        is_slow = self.fps is not None and self.sampling.kind == "fps" and self.fps < self.sampling.value
        return (index if is_slow else self.sampling.beat(index, seconds)) // self.stride

    @property
    def frame_seconds(self) -> float:
        """How long a frame of the stream lasts; 0 if its frame rate is not known."""
        return 1 / self.fps if self.fps else 0.0

    @property
    def steps_per_second(self) -> float | None:
        """Steps per second; ``None`` if the stream's frame rate is not known."""
        if self.fps is None:
            return None
        value = self.sampling.value
        return (self.fps / value if self.sampling.kind == "every" else min(self.fps, value)) / self.stride

    def horizon(self, seconds: float | None, most: int | None) -> int:
        """How many steps an answer may depend on: at most those of a training clip.

        Args:
            seconds: the horizon; ``None``: the length of a training clip.
            most: steps of a training clip; ``None``: it was trained on whole videos, of any length.

        Raises ``StreamError`` if it is too long, too short, or unknown.
        """
        if seconds is None:
            if most is None:
                raise StreamError(
                    "the run was trained on whole videos, so it does not say how many frames it can read in a row. "
                    "Give a horizon in seconds, about the length of its training videos."
                )
            return max(2, most)
        rate = self.steps_per_second
        if rate is None:
            raise StreamError(
                f"how many frames {seconds:g} s are depends on the frame rate. Give fps with the horizon."
            )
        steps = round(seconds * rate)
        if most is not None and steps > max(2, most):
            raise StreamError(
                f"a horizon of {seconds:g} s is {steps} frames at {rate:g} per second, but the run was trained on "
                f"clips of {most}. The longest horizon is {most / rate:.2f} s; for a longer one, train on longer clips "
                "(--clip-frames)."
            )
        if steps < 2:
            raise StreamError(f"a horizon of {seconds:g} s is less than two frames, which are {1 / rate:g} s apart.")
        return steps


class Filled:
    """Fills in the features of lost frames, on a straight line between their neighbours.

    The network learned one tempo. Without the lost frames, it would see everything happen faster.
    """

    def __init__(self, most: int) -> None:
        """``most``: the most lost frames to fill in; more would be forgotten by the network anyway."""
        self._most = most
        self.reset()

    def reset(self) -> None:
        self._last: Array | None = None

    def rows(self, features: Array, num_missing: int) -> Array:
        """The features of the missing frames, then those given: ``[feature_dim]`` -> ``[1 to most, feature_dim]``."""
        last, self._last = self._last, features
        if last is None or not num_missing:
            return features[None]
        shares = np.arange(1, num_missing + 2, dtype=np.float32)[-self._most :, None] / (num_missing + 1)
        return last + shares * (features - last)
