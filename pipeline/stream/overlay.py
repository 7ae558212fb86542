"""The frames that a stream read, as a video with the action, its probability and a timeline drawn on them."""

import colorsys
import os
import shutil
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data.atomic import temporary_name
from data.errors import UserError, printable
from pipeline.stream.session import Answer

_SECONDS = 20.0  # of the timeline
_SMALLEST = 240  # rows of the video; smaller frames are enlarged, so that text can be read
_MOST_REPEATS = 250  # of a frame, in place of dropped ones


class Overlay:
    """Writes an MP4 with one frame for each step of the network. A dropped frame is replaced by the one before it."""

    def __init__(self, path: Path, rate: float, labels: Sequence[str]) -> None:
        """``rate``: steps per second. Raises ``UserError`` if the path can't be written to."""
        if printable(path.absolute()) != str(path.absolute()):  # OpenCV would crash
            raise UserError(f"--overlay {printable(path)} is not UTF-8. Choose another name.")
        self._path, self._rate, self._labels = path, rate, labels
        # OpenCV chooses the container by the extension, so the unfinished file lies in a folder.
        self._folder = temporary_name(path.absolute())
        self._history: deque[tuple[int, float]] = deque(maxlen=max(2, round(_SECONDS * rate)))
        self._writer: cv2.VideoWriter | None = None
        self._size, self._last_step = (0, 0), -1
        self._last: NDArray[np.uint8] | None = None

    def add(self, answer: Answer, current: int | None) -> None:
        """Draw an answer on its frame. ``current``: the class of the action that goes on."""
        best = int(np.argmax(answer.probabilities))
        self._history.append((best, float(answer.probabilities[best])))
        writer = self._writer or self._open(answer.frame.pixels)
        if self._last is not None:
            for _ in range(min(answer.frame.step - self._last_step - 1, _MOST_REPEATS)):
                writer.write(self._last)
        picture = Image.fromarray(answer.frame.pixels).resize(self._size)
        self._draw(picture, current, best, float(answer.probabilities[best]))
        self._last = np.asarray(picture, dtype=np.uint8)[..., ::-1].copy()  # OpenCV writes BGR
        self._last_step = answer.frame.step
        writer.write(self._last)

    def close(self) -> None:
        """Finish the video and give it its name. Without a frame, there is no video."""
        if self._writer is None:
            return
        self._writer.release()
        os.replace(self._folder / "overlay.mp4", self._path)
        shutil.rmtree(self._folder)
        self._writer = None

    def _open(self, frame: NDArray[np.uint8]) -> cv2.VideoWriter:
        height, width = frame.shape[:2]
        factor = max(1, -(-_SMALLEST // height))
        self._size = (width * factor // 2 * 2, height * factor // 2 * 2)  # the codec needs even numbers
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / "overlay.mp4"
        writer = cv2.VideoWriter(str(target), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), self._rate, self._size)
        if not writer.isOpened():
            shutil.rmtree(self._folder)
            raise UserError(
                f"--overlay {self._path} can't be written: FFmpeg refuses {self._size} at {self._rate:g} fps"
            )
        self._writer = writer
        return writer

    def _draw(self, picture: Image.Image, current: int | None, best: int, probability: float) -> None:
        width, height = self._size
        line = height // 12
        top = height - 3 * line
        panel = picture.crop((0, top, width, height)).point(lambda value: value // 3)
        draw = ImageDraw.Draw(panel)
        # Pillow's own font has neither the dash below nor letters beyond Latin.
        font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 0.7 * line)
        text = "–" if current is None else self._labels[current]
        draw.text((line // 3, line / 2), text, fill="white", font=font, anchor="lm")
        # The most probable class, whether or not it is an action yet.
        draw.rectangle((0, line, round(probability * (width - 1)), 2 * line - 2), fill=_colour(best))
        guess = f"{self._labels[best]}  {100 * probability:.0f} %"
        draw.text((line // 3, 1.5 * line), guess, fill="white", font=font, anchor="lm")
        column = width / (self._history.maxlen or 1)
        first = width - column * len(self._history)
        for number, (label, value) in enumerate(self._history):
            left = first + number * column
            draw.rectangle((left, 3 * line - value * line, left + column, 3 * line), fill=_colour(label))
        picture.paste(panel, (0, top))


def _colour(label: int) -> tuple[int, int, int]:
    """Neighbouring classes have hues that are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75, 0.8)
    return round(255 * red), round(255 * green), round(255 * blue)
