"""Read frames from a camera, an address or standard input, as they come: RGB, upright, one in memory at a time."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np

from data.video import FILE_FORMATS, OPTIONS, Frame, VideoError

# What cameras and servers send besides the containers of files. FFmpeg still refuses pictures, text and drawings.
_ADDRESS_FORMATS = f"{FILE_FORMATS},rtsp,rtp,sdp,hls,dash,mpjpeg,live_flv"
# OpenCV's own default, which it forgets once any option is set: UDP loses parts of pictures.
_TRANSPORT = "rtsp_transport;tcp"
_MOST_FPS = 240.0  # a stream that states more has given its clock's rate


class LiveCapture:
    """An open camera, address or pipe. Iterate over it once.

    Attributes:
        fps: frames per second; 0.0 if the source does not say.
        num_frames: frames of a recording behind an address; 0 if the source does not say, as live ones don't.
    """

    def __init__(self, location: str | int, timeout: float, shown: str) -> None:
        """Open a source.

        Args:
            location: number of a camera, an address, or FFmpeg's ``pipe:0`` for standard input.
            timeout: seconds that an address may take to answer, or to send the next frame.
            shown: what messages call the source.

        Raises ``VideoError`` if there is no video.
        """
        self._shown = shown
        milliseconds = int(1000 * timeout)
        if isinstance(location, int):
            self._capture = cv2.VideoCapture(location)
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds, cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
            # Each further thread of the decoder would hold back one more frame.
            parameters += [cv2.CAP_PROP_N_THREADS, 1]
            with _address_options():
                self._capture = cv2.VideoCapture(location, cv2.CAP_FFMPEG, parameters)
        if not self._capture.isOpened():
            raise VideoError(f"no video comes from {shown}")
        # The time stamps of cameras differ from driver to driver, so their frames have the time at which they arrive.
        self._states_time = not isinstance(location, int)
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps <= _MOST_FPS else 0.0
        self.num_frames = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))

    def __iter__(self) -> Iterator[tuple[float, Callable[[], Frame]]]:
        """Yield the time of each frame and a function that copies the frame, until the source ends or is silent.

        The time is in seconds from the first frame, and increases: that of the stream if it has one, else the time at
        which the frame arrived.
        """
        first_arrival = first_position = None
        last = -1.0
        try:
            while self._capture.grab():
                now, position = time.monotonic(), self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if first_arrival is None or first_position is None:
                    first_arrival, first_position = now, position
                seconds = position - first_position if self._states_time else now - first_arrival
                if seconds <= last:  # a clock that stands still or was set back: from here on, that of arrival
                    self._states_time, first_arrival = False, now - last - 1 / (self.fps or 25.0)
                    seconds = now - first_arrival
                last = seconds
                yield seconds, self._pixels
        finally:
            self.close()

    def _pixels(self) -> Frame:
        ok, frame = self._capture.retrieve()
        if not ok:
            raise VideoError(f"{self._shown} has a pixel format that cannot be converted to RGB. Choose yuv420p there.")
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def close(self) -> None:
        self._capture.release()


@contextmanager
def _address_options() -> Iterator[None]:
    """FFmpeg's options while an address is opened. Those that the user has set keep their precedence."""
    before = os.environ[OPTIONS]
    options = before.replace(FILE_FORMATS, _ADDRESS_FORMATS)
    os.environ[OPTIONS] = options if "rtsp_transport" in options else f"{options}|{_TRANSPORT}"
    try:
        yield
    finally:
        os.environ[OPTIONS] = before
