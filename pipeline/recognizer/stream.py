"""Class probabilities of frames that arrive one by one."""

from collections.abc import Callable, Sequence

from data.errors import UserError
from data.video import Frame
from pipeline.features.sampling import FrameSampling
from pipeline.recognizer.head import Array
from pipeline.recognizer.rolling import RollingProbabilities


class StreamError(UserError):
    """A stream can't be read. The message says why and what to do."""


class Tempo:
    """Chooses the frames of a stream that a classifier reads, at the tempo that it was trained at."""

    def __init__(self, sampling: FrameSampling, stride: int = 1, fps: float | None = None) -> None:
        """``stride`` is that of the clips. For ``fps``, see ``Recognizer.stream``."""
        assert sampling.has_tempo, sampling
        self._sampling, self._stride, self._fps = sampling, stride, fps
        self.reset()

    def reset(self) -> None:
        """Begin anew: the next frame is the first."""
        self._num_frames = self._num_sampled = 0
        self._beat, self._last, self._origin = -1, 0.0, 0.0

    def reads(self, time: float | None = None) -> bool:
        """Whether the next frame is to be read. ``time`` is its media time in seconds.

        Raises ``StreamError`` if a time goes back, or if it is needed but neither given nor known from ``fps``.
        """
        index = self._num_frames
        if time is None:
            if self._sampling.kind != "every" and self._fps is None:
                raise StreamError(
                    f"the sampling {self._sampling} needs the time of each frame: push(frame, time=SECONDS). Or say "
                    "how many frames per second you push: stream(fps=25)."
                )
            seconds = index / (self._fps or 1.0)
        else:
            if index == 0:
                self._origin = time
            seconds = time - self._origin
            if self._fps is not None:
                index = round(seconds * self._fps)  # frames that were lost on the way count
        if seconds < self._last:
            raise StreamError(
                f"a frame at {seconds:.3f} s follows one at {self._last:.3f} s. Push frames in order, or call reset() "
                "where a new stream begins."
            )
        self._num_frames, self._last = self._num_frames + 1, seconds
        beat = self._sampling.beat(index, seconds)
        if beat <= self._beat:
            return False
        self._beat = beat
        self._num_sampled += 1
        return (self._num_sampled - 1) % self._stride == 0


class Stream:
    """Reads frames one by one with constant memory and constant work. ``Recognizer.stream`` makes one."""

    def __init__(
        self, encode: Callable[[Sequence[Frame]], Array], tempo: Tempo, probabilities: RollingProbabilities
    ) -> None:
        self._encode, self._tempo, self._probabilities = encode, tempo, probabilities
        self._answer: Array | None = None

    def push(self, frame: Frame, time: float | None = None) -> Array:
        """Read one frame, and return the class probabilities so far.

        A frame between two that the classifier reads costs nothing: the answer is the last one.

        Args:
            frame: RGB uint8 ``[height, width, 3]``. (OpenCV gives BGR: push ``frame[:, :, ::-1]``.)
            time: its media time in seconds, ascending; see ``Recognizer.stream``.

        Returns:
            float32 ``[num_classes]``.

        Raises ``StreamError``, see ``Tempo.reads``.
        """
        if self._tempo.reads(time) or self._answer is None:
            (features,) = self._encode([frame])
            self._answer = self._probabilities.push(features)
        return self._answer

    def reset(self) -> None:
        """Forget everything: the next frame begins a new stream."""
        self._tempo.reset()
        self._probabilities.reset()
        self._answer = None
