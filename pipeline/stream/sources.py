"""Where a stream comes from: the frames of a file, a camera, an address or a pipe that a network should read."""

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self

from data.live import LiveCapture
from data.video import Frame, FrameStream, VideoError, read_frames
from pipeline.recognizer.tempo import Tempo

# Where a file or a stream does not say.
USUAL_FPS = 25.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0  # seconds between two attempts to reconnect


@dataclass(frozen=True)
class Source:
    """What the user named.

    Attributes:
        kind: a file, a camera, an address, or standard input.
        text: as given.
    """

    kind: Literal["file", "camera", "address", "pipe"]
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """A number is a camera, ``-`` is standard input, and ``://`` is in every address; anything else is a file.

        Raises ``VideoError`` if the file does not exist.
        """
        if text == "-":
            return cls("pipe", text)
        if text.isdecimal():
            return cls("camera", text)
        if "://" in text:
            return cls("address", text)
        if not Path(text).is_file():
            raise VideoError(
                f"there is no file {text}. A source is a file, a camera's number (0), an address "
                "(rtsp://, http://, tcp://, udp://), or - for standard input."
            )
        return cls("file", text)

    @property
    def shown(self) -> str:
        """The source in messages and results: an address without its user name and password."""
        if self.kind == "address":
            return re.sub(r"://[^/?#]*@", "://", self.text)
        return {"pipe": "standard input", "camera": f"camera {self.text}"}.get(self.kind, self.text)

    @property
    def name(self) -> str:
        """A file's name without its extension, as datasets name their videos; ``shown`` for everything else."""
        return Path(self.text).stem if self.kind == "file" else self.shown


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """A frame that is due.

    Attributes:
        step: its position among the frames that are due, from 0. Frames that were dropped count.
        time: media time in seconds.
        arrived: ``time.monotonic()`` when it was decoded.
        pixels: RGB uint8 ``[height, width, 3]``.
    """

    step: int
    time: float
    arrived: float
    pixels: Frame


@dataclass(frozen=True)
class Lost:
    """A live source has stopped. What comes next does not follow what came before."""

    time: float
    reason: str


@dataclass(frozen=True)
class Finished:
    """Nothing more comes. ``reason``: ``end``, or ``lost`` for a live source that did not come back."""

    time: float
    reason: Literal["end", "lost"]


Item = StreamFrame | Lost | Finished


@dataclass(frozen=True)
class OpenSource:
    """A source that has been opened.

    Attributes:
        tempo: which frames are due, with the source's frame rate (``USUAL_FPS`` if unknown).
        is_live: whether frames are lost that nobody takes. A file waits.
        read: the frames that are due, in order, until the event is set. Call it once.
    """

    tempo: Tempo
    is_live: bool
    read: Callable[[threading.Event], Iterator[Item]] = field(repr=False)


def open_source(
    source: Source,
    tempo: Tempo,
    *,
    live: bool | None = None,
    timeout: float = 5.0,
    reconnect: float = float("inf"),
) -> OpenSource:
    """Open a source.

    Args:
        tempo: which frames are due; its frame rate is not used.
        live: whether the source goes on while nobody reads. ``None``: cameras do, and addresses unless a recording of
            known length is behind them.
        timeout: seconds that an address may take to answer, or to send the next frame.
        reconnect: seconds after which a live source that was lost is given up.

    Raises ``VideoError`` if there is no video.
    """
    if source.kind == "file":
        frames = read_frames(Path(source.text), lambda *header: tempo.sampling.indices(*header)[:: tempo.stride])
        fps = frames.header.fps or USUAL_FPS
        return OpenSource(replace(tempo, fps=fps), bool(live), lambda stop: _read_file(frames, fps, stop))

    def open_capture() -> LiveCapture:
        if source.kind == "camera":
            return LiveCapture(int(source.text), timeout, source.shown)
        return LiveCapture("pipe:0" if source.kind == "pipe" else source.text, timeout, source.shown)

    try:
        capture = open_capture()
    except VideoError as error:
        raise VideoError(f"{error}. {_advice(source)}") from error
    comes_back = source.kind in ("camera", "address") and live is not False and not capture.num_frames
    is_live = comes_back if live is None else live

    tempo = replace(tempo, fps=capture.fps or USUAL_FPS)

    def read(stop: threading.Event) -> Iterator[Item]:
        return _read_live(capture, open_capture, tempo, reconnect if comes_back else None, source.shown, stop)

    return OpenSource(tempo, is_live, read)


def _advice(source: Source) -> str:
    if source.kind == "camera":
        return "Is it connected, and does no other program use it? For a file of that name, write ./ before it."
    if source.kind == "pipe":
        return "Pipe a container that can be read from its beginning: ffmpeg -i ... -f mpegts - | ..."
    return "Check that it can be reached from here, and that ffplay or VLC shows it."


def _read_file(frames: FrameStream, fps: float, stop: threading.Event) -> Iterator[Item]:
    seconds = 0.0
    for step, (index, pixels) in enumerate(frames):
        if stop.is_set():
            return
        seconds = index / fps
        yield StreamFrame(step, seconds, time.monotonic(), pixels)
    if frames.count.is_short:
        print(
            f"warning: {frames.path} is cut off or damaged: {frames.count.decoded_frames} of "
            f"{frames.count.header_frames} frames decode",
            file=sys.stderr,
        )
    yield Finished(frames.count.decoded_frames / fps, "end")


def _read_live(
    capture: LiveCapture,
    open_again: Callable[[], LiveCapture],
    tempo: Tempo,
    reconnect: float | None,
    shown: str,
    stop: threading.Event,
) -> Iterator[Item]:
    """``reconnect``: seconds after which a lost source is given up; ``None``: the source ends when nothing comes."""
    now, first_step = 0.0, 0
    while True:
        # After a loss, media time goes on as the clock does.
        base = now
        last_step = -1
        for index, (seconds, pixels) in enumerate(capture):
            if stop.is_set():
                return
            now = base + seconds
            step = tempo.step(index, seconds)
            if step > last_step:
                last_step = step
                yield StreamFrame(first_step + step, now, time.monotonic(), pixels())
        if last_step >= 0:
            now += tempo.frame_seconds  # of the last frame
        if reconnect is None:
            yield Finished(now, "end")
            return
        first_step += last_step + 1
        yield Lost(now, f"no more frames from {shown}")
        lost = time.monotonic()
        found = _reconnect(open_again, lost + reconnect, stop)
        if found is None:
            yield Finished(now, "lost")
            return
        capture = found
        now += time.monotonic() - lost


def _reconnect(open_again: Callable[[], LiveCapture], until: float, stop: threading.Event) -> LiveCapture | None:
    pause = _FIRST_PAUSE
    while not stop.wait(min(pause, max(0.0, until - time.monotonic()))):
        try:
            return open_again()
        except VideoError:
            if time.monotonic() >= until:
                return None
            pause = min(2 * pause, _LONGEST_PAUSE)
    return None
