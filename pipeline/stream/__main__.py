"""Recognise actions while a video runs: python -m pipeline.stream 0 --run runs/demo/np_rnn-split_1-seed_0"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

import tyro

from data.command import parse_arguments, run_command
from data.errors import did_you_mean
from pipeline.settings.config import ConfigError
from pipeline.stream.events import Segment, Segmenter, Thresholds

if TYPE_CHECKING:
    from pipeline.recognizer.recognizer import Recognizer
    from pipeline.stream.session import Answer
    from pipeline.stream.sources import Lost, OpenSource, Source

_SECONDS_BETWEEN_WRITES = 5.0  # of the segments, while the stream runs


@dataclass(frozen=True)
class Arguments:
    """Recognise actions while a video runs. Prints events as JSON Lines (docs/stream.md); Ctrl-C ends it."""

    source: tyro.conf.Positional[str]
    """a video file, a camera's number (0), an address (rtsp://, http://, tcp://, udp://), or - for standard input"""
    run: Path | None = None
    """folder of a run, made by train.py, whose frames have a tempo (--sampling every:N or fps:F)"""
    bundle: Path | None = None
    """an exported run, instead of --run"""
    horizon: float | None = None
    """seconds that an answer depends on at most; the length of the run's training clips if unset, which is also the
    longest"""
    thresholds: Thresholds = field(default_factory=Thresholds)
    background: str | None = None
    """a class that is no action, so it is never reported"""
    update: float = 1.0
    """seconds between two updates of an action that goes on"""
    stats: float = 10.0
    """seconds between two lines of statistics"""
    live: Literal["auto", "yes", "no"] = "auto"
    """yes: the source does not wait, so frames that come too fast are dropped; no: it waits, as a file does. auto:
    cameras and addresses are live, files, standard input and recordings behind an address are not"""
    max_lag: float = 1.0
    """seconds that a frame of a live source may wait before it is dropped"""
    timeout: float = 5.0
    """seconds that an address may take to answer, or to send the next frame, before it counts as lost"""
    reconnect: float | None = None
    """seconds after which a lost source is given up; never if unset"""
    segments: Path | None = None
    """write the actions to this file: .json (ActivityNet's format), .csv, .vtt or .srt (subtitles)"""
    overlay: Path | None = None
    """write the frames that were read to this .mp4, with the action, its probability and a timeline"""
    timeline: Path | None = None
    """write the class probabilities over time to this .html page"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses a GPU if there is one"""

    def __post_init__(self) -> None:
        if (self.run is None) == (self.bundle is None):
            raise ConfigError("name what recognises the actions: --run FOLDER or --bundle FILE, one of them")
        for name in ("horizon", "max_lag", "timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name.replace('_', '-')} must be above 0 and finite, not {value}")
        for name in ("update", "stats", "reconnect"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"--{name} must be at least 0, not {value}")
        for name, extension in (("overlay", ".mp4"), ("timeline", ".html")):
            path = getattr(self, name)
            if path is not None and path.suffix.lower() != extension:
                raise ConfigError(f"--{name} {path} must end with {extension}")


def main(arguments: Sequence[str]) -> int:
    """Return 0, also after Ctrl-C if the source is live, which is how it ends; 130 after Ctrl-C during a file; 1 if a
    live source was lost for good."""
    options = parse_arguments(Arguments, arguments, prog="python -m pipeline.stream")
    from pipeline.recognizer.recognizer import Recognizer
    from pipeline.stream.segments import require_format
    from pipeline.stream.session import answers
    from pipeline.stream.sources import Finished, Source, open_source

    if options.segments is not None:
        require_format(options.segments)
    source = Source.parse(options.source)
    trained = options.run or options.bundle
    assert trained is not None
    recognizer = Recognizer.load(trained, options.device)
    background = _background(options.background, recognizer.labels)
    opened = open_source(
        source,
        recognizer.tempo(),
        live={"auto": None, "yes": True, "no": False}[options.live],
        timeout=options.timeout,
        reconnect=float("inf") if options.reconnect is None else options.reconnect,
    )
    steps = opened.tempo.horizon(options.horizon, recognizer.clips.frames)
    outputs = _Outputs(options, source, opened, recognizer, background)
    stop, reason = threading.Event(), "interrupted"
    ended_at = None
    try:
        with _stopped_by_signals(stop), closing(answers(opened, recognizer, steps, options.max_lag, stop)) as items:
            for item in items:
                if isinstance(item, Finished):
                    reason, ended_at = item.reason, item.time
                else:
                    outputs.take(item)
            outputs.finish(reason, ended_at)
    except BrokenPipeError:  # whoever read the events has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reason = "closed"
        outputs.finish(reason, None)
    except BaseException:
        outputs.close()
        raise
    print(outputs.summary(), file=sys.stderr)
    if reason == "interrupted" and source.kind == "file":
        return 130
    return 1 if reason == "lost" else 0


class _Outputs:
    """Everything that the stream is written to."""

    def __init__(
        self,
        options: Arguments,
        source: "Source",
        opened: "OpenSource",
        recognizer: "Recognizer",
        background: int | None,
    ) -> None:
        from pipeline.stream.lines import EventLines
        from pipeline.stream.overlay import Overlay
        from pipeline.stream.timeline import Timeline

        self._options, self._source, self._labels = options, source, recognizer.labels
        self._segmenter = Segmenter(options.thresholds, background)
        self._lines = EventLines(
            _print, recognizer.labels, self._segmenter, options.update, options.stats, opened.tempo.frame_seconds
        )
        self._segments: list[Segment] = []
        self._num_written, self._last_write = -1, time.monotonic()
        rate = opened.tempo.steps_per_second
        assert rate is not None
        self._overlay = None if options.overlay is None else Overlay(options.overlay, rate, recognizer.labels)
        self._timeline = None if options.timeline is None else Timeline(recognizer.labels)

    def take(self, item: "Answer | Lost") -> None:
        from pipeline.stream.sources import Lost

        if isinstance(item, Lost):
            self._segments += self._lines.lost(item)
            if self._timeline is not None:
                self._timeline.add_gap(item.time)
        else:
            self._segments += self._lines.answer(item)
            if self._overlay is not None:
                self._overlay.add(item, self._segmenter.current)
            if self._timeline is not None:
                self._timeline.add(item)
        if time.monotonic() - self._last_write > _SECONDS_BETWEEN_WRITES:
            self._write_segments()

    def finish(self, reason: str, media_time: float | None) -> None:
        try:
            self._segments += self._lines.finish(reason, media_time)
        finally:
            self.close()

    def close(self) -> None:
        """Write the files. What was recognised until now is kept, whatever ended the stream."""
        self._write_segments()
        if self._overlay is not None:
            self._overlay.close()
        if self._timeline is not None:
            assert self._options.timeline is not None
            self._timeline.write(self._options.timeline, self._segments, self._source.name)

    def summary(self) -> str:
        num_actions = len(self._segments)
        return f"{self._lines.summary()}; {num_actions} action{'' if num_actions == 1 else 's'}"

    def _write_segments(self) -> None:
        from pipeline.stream.segments import write_segments

        if self._options.segments is not None and len(self._segments) != self._num_written:
            write_segments(self._options.segments, self._segments, self._labels, self._source.name)
        self._num_written, self._last_write = len(self._segments), time.monotonic()


def _print(line: str) -> None:
    sys.stdout.write(line)
    sys.stdout.flush()


def _background(name: str | None, labels: Sequence[str]) -> int | None:
    if name is None:
        return None
    if name not in labels:
        raise ConfigError(f"--background {name!r} is not a class of the run.{did_you_mean(name, labels)}")
    return labels.index(name)


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set ``stop``, so that the frame in hand is finished. The second one ends the command."""

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    # A command in the background of a script ignores Ctrl-C, and must go on doing so.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # a handler that was not set in Python
                signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(run_command(main))
