"""Class probabilities of frames that arrive one by one."""

from collections.abc import Callable, Sequence

from data.video import Frame
from pipeline.recognizer.head import Array, Head
from pipeline.recognizer.rolling import RollingProbabilities
from pipeline.recognizer.tempo import Filled, StreamError, Tempo


class Stream:
    """Reads frames one by one, with constant memory and constant work. ``Recognizer.stream`` makes one."""

    def __init__(self, encode: Callable[[Sequence[Frame]], Array], head: Head, tempo: Tempo, horizon: int) -> None:
        """``horizon`` is that of ``RollingProbabilities``."""
        self._encode, self._tempo = encode, tempo
        self._rolling, self._filled = RollingProbabilities(head, horizon), Filled(horizon)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame begins a new stream."""
        self._rolling.reset()
        self._filled.reset()
        self._num_pushed, self._step = 0, -1
        self._begin = self._last = 0.0
        self._answer: Array | None = None

    def push(self, frame: Frame, time: float | None = None) -> Array:
        """Read the next frame, and return the class probabilities after it.

        A frame between two that the network reads costs nothing: its answer is the last one.

        Args:
            frame: RGB uint8 ``[height, width, 3]``. OpenCV gives BGR: push ``frame[:, :, ::-1]``.
            time: its time in seconds, from any beginning. ``None``: no frame was lost since the last one.

        Returns:
            float32 ``[num_classes]``.

        Raises ``StreamError`` if times go back, or if the tempo is one of time (``fps:F``) and neither ``time`` nor the
        stream's frame rate is known.
        """
        step = self._step_of(time)
        if self._answer is None or step > self._step:
            (features,) = self._encode([frame])
            num_missing = step - self._step - 1 if self._answer is not None else 0
            for row in self._filled.rows(features, num_missing):
                self._answer = self._rolling.push(row)
            self._step = step
        assert self._answer is not None
        return self._answer

    def _step_of(self, time: float | None) -> int:
        """The step of the next frame."""
        index, fps = self._num_pushed, self._tempo.fps
        if time is None:
            if fps is None and self._tempo.sampling.kind == "fps":
                raise StreamError(
                    f"the sampling {self._tempo.sampling} needs the time of each frame: push(frame, time=SECONDS). Or "
                    "say how many frames per second you push: stream(fps=25)."
                )
            seconds = index / (fps or 1.0)
        else:
            if index == 0:
                self._begin = time
            seconds = time - self._begin
            if fps is not None:
                index = round(seconds * fps)  # lost frames count
        if seconds < self._last:
            raise StreamError(
                f"a frame at {seconds:.3f} s follows one at {self._last:.3f} s, counted from the first. Push frames in "
                "their order, and call reset() where a new stream begins."
            )
        self._num_pushed, self._last = self._num_pushed + 1, seconds
        return self._tempo.step(index, seconds)
