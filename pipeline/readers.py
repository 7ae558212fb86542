"""Processes that decode: videos go in, blocks of network-ready frames come out, and a reader that hangs is replaced.

A decoder is native code that may spin or crash on a damaged file, so it runs in a process of its own that can be
killed. Each process has a pipe and answers one video at a time; a pipe that nobody reads makes its process wait, so
memory stays bounded however many and however long the videos are.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.video import FrameCount, VideoError, read_frames
from models.preprocessing import Preprocessing, resize_and_crop
from pipeline.sampling import FrameSampling

FRAMES_PER_BLOCK = 32
_HEARTBEAT_SECONDS = 0.2
_POLL_SECONDS = 0.5
_STARTUP_SECONDS = 60.0  # a new process first loads the decoders, which a busy machine may be slow at
_spawn = multiprocessing.get_context("spawn")  # never fork: decoders and OpenMP do not survive it


@dataclass(frozen=True)
class Frames:
    """Some frames of video number ``job``: uint8 ``[n, crop, crop, 3]`` RGB and their int32 ``[n]`` indices."""

    job: int
    indices: NDArray[np.int32]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Finished:
    """Video number ``job`` is read to its end."""

    job: int
    count: FrameCount
    fps: float
    source_bytes: int


@dataclass(frozen=True)
class Failed:
    """Video number ``job`` gave up; frames of it that were handed out are to be dropped."""

    job: int
    reason: str


Event = Frames | Finished | Failed


@dataclass(frozen=True)
class _Heartbeat:
    """A reader is up, or goes on decoding though no wanted frame has come up."""


_Message = Event | _Heartbeat


def read_videos(
    paths: Iterable[Path],
    sampling: FrameSampling,
    preprocessing: Preprocessing,
    *,
    workers: int,
    timeout: float,
    stop: threading.Event | None = None,
) -> Generator[Event, None, None]:
    """Decode, sample, resize and crop videos on ``workers`` processes.

    Args:
        paths: read lazily, one whenever a process is free; the n-th is job n.
        timeout: seconds without a newly decoded frame after which a reader is killed and its video has ``Failed``.
        stop: once another thread has set it, nothing more comes, even while the readers are silent.

    Yields:
        For each video any number of ``Frames`` in order and then one ``Finished`` or ``Failed``; videos interleave.
        Closing the generator ends the processes.
    """
    jobs = enumerate(paths)
    readers = [_Reader(sampling, preprocessing) for _ in range(workers)]
    try:
        for reader in readers:
            reader.start(next(jobs, None))
        while busy := [reader for reader in readers if reader.job is not None]:
            wait([reader.connection for reader in busy], timeout=_POLL_SECONDS)
            for reader in busy:
                if stop is not None and stop.is_set():
                    return
                # Asked anew for each: this generator may have stood still since, and a reader that lives has spoken.
                if reader.connection.poll():
                    event = reader.receive()
                elif reader.seconds_of_silence() > timeout:
                    event = reader.give_up(f"no new frame for {timeout:g} s: the reader hung and was killed")
                else:
                    continue
                if event is not None:
                    yield event
                if reader.job is None:
                    reader.start(next(jobs, None))
    finally:
        for reader in readers:
            reader.stop()


class _Reader:
    """One process, launched when there is something to read, and what it is doing."""

    connection: Connection
    process: SpawnProcess | None = None
    job: int | None = None

    def __init__(self, sampling: FrameSampling, preprocessing: Preprocessing) -> None:
        self._task = (sampling, preprocessing)
        self._silence = self._asked = 0.0

    def _launch(self) -> None:
        self.stop()
        self.connection, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=_serve, args=(theirs, *self._task), daemon=True)
        # Ctrl-C, which the terminal sends to every process, is the parent's to answer: the new process begins with
        # the signal blocked. The tracker goes first because its own launch would unblock it.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._silence = -_STARTUP_SECONDS

    def start(self, job: tuple[int, Path] | None) -> None:
        if job is None:
            return
        self.job, path = job
        self._silence, self._asked = 0.0, time.monotonic()
        if self.process is None or not self.process.is_alive():
            self._launch()
        with suppress(BrokenPipeError):  # died this moment: ``receive`` will find out
            self.connection.send((self.job, path))

    def seconds_of_silence(self) -> float:
        """Since the last message. However long nobody asked (suspended by Ctrl-Z, say) counts as one turn."""
        now = time.monotonic()
        self._silence += min(now - self._asked, 2 * _POLL_SECONDS)
        self._asked = now
        return self._silence

    def receive(self) -> Event | None:
        try:
            event: _Message = self.connection.recv()
        except (EOFError, OSError):
            return self.give_up(f"the decoder crashed ({self._cause_of_death()})")
        self._silence, self._asked = 0.0, time.monotonic()
        if isinstance(event, _Heartbeat):
            return None
        if not isinstance(event, Frames):
            self.job = None
        return event

    def _cause_of_death(self) -> str:
        assert self.process is not None
        self.process.join(timeout=5)
        code = self.process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def give_up(self, reason: str) -> Failed:
        assert self.job is not None
        failed, self.job = Failed(self.job, reason), None
        self.stop()
        return failed

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


def _serve(connection: Connection, sampling: FrameSampling, preprocessing: Preprocessing) -> None:
    """The process: one video after the other, until the other end of the pipe is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    last_sent = 0.0

    def send(message: _Message) -> None:
        nonlocal last_sent
        connection.send(message)
        last_sent = time.monotonic()

    def heartbeat() -> None:
        if time.monotonic() - last_sent > _HEARTBEAT_SECONDS:
            send(_Heartbeat())

    try:
        heartbeat()
        while True:
            job, path = connection.recv()
            for event in _read(job, path, sampling, preprocessing, heartbeat):
                send(event)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _end_with_parent() -> None:
    """Ends this process when its parent is gone, even while a decoder hangs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _read(
    job: int, path: Path, sampling: FrameSampling, preprocessing: Preprocessing, on_frame: Callable[[], None]
) -> Iterator[Event]:
    block: list[tuple[int, NDArray[np.uint8]]] = []
    try:
        frames = read_frames(path, sampling.indices, on_frame)
        source_bytes = path.stat().st_size
        for index, frame in frames:
            block.append((index, resize_and_crop(frame, preprocessing)))
            if len(block) == FRAMES_PER_BLOCK:
                yield _as_frames(job, block)
                block = []
        if block:
            yield _as_frames(job, block)
        yield Finished(job, frames.count, frames.header.fps, source_bytes)
    except VideoError as error:
        yield Failed(job, str(error))
    except Exception as error:  # whatever a damaged file brings about in the decoders costs this video only
        yield Failed(job, f"{path} could not be read: {type(error).__name__}: {error}")


def _as_frames(job: int, block: list[tuple[int, NDArray[np.uint8]]]) -> Frames:
    indices, pixels = zip(*block, strict=True)
    return Frames(job, np.array(indices, dtype=np.int32), np.stack(pixels))
