"""Processes that decode: videos go in, blocks of network-ready frames come out, and a reader that hangs is replaced.

A decoder is native code that may spin or crash on a damaged file, so it runs in a process of its own that can be
killed. Each process has a pipe and answers one video at a time; a pipe that nobody reads makes its process wait, so
memory stays bounded however many and however long the videos are.
"""

import multiprocessing
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.video import FrameCount, VideoError, read_frames
from models.preprocessing import Preprocessing, resize_and_crop
from pipeline.sampling import FrameSampling

FRAMES_PER_BLOCK = 32
_HEARTBEAT_SECONDS = 1.0
_POLL_SECONDS = 0.5
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


@dataclass(frozen=True)
class Failed:
    """Video number ``job`` gave up; frames of it that were handed out are to be dropped."""

    job: int
    reason: str


Event = Frames | Finished | Failed


@dataclass(frozen=True)
class _Heartbeat:
    """A reader goes on decoding, though no wanted frame has come up."""


_Message = Event | _Heartbeat


def read_videos(
    paths: Iterable[Path], sampling: FrameSampling, preprocessing: Preprocessing, workers: int, timeout: float
) -> Generator[Event, None, None]:
    """Decode, sample, resize and crop videos on ``workers`` processes.

    Args:
        paths: read lazily, one whenever a process is free; the n-th is job n.
        timeout: seconds without a newly decoded frame after which a reader is killed and its video has ``Failed``.

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
            ready = set(wait([reader.connection for reader in busy], timeout=_POLL_SECONDS))
            for reader in busy:
                if reader.connection in ready:
                    event = reader.receive()
                elif time.monotonic() - reader.last_sign_of_life > timeout:
                    event = reader.give_up(f"no new frame for {timeout:g} s: the reader hung and was killed")
                else:
                    continue
                if event is not None:
                    yield event
                    # While this generator stood still nobody listened; that is not the readers' fault.
                    for other in busy:
                        other.last_sign_of_life = time.monotonic()
                if reader.job is None:
                    reader.start(next(jobs, None))
    finally:
        for reader in readers:
            reader.stop()


class _Reader:
    """One process and what it is doing."""

    connection: Connection
    process: SpawnProcess

    def __init__(self, sampling: FrameSampling, preprocessing: Preprocessing) -> None:
        self._task = (sampling, preprocessing)
        self.job: int | None = None
        self.last_sign_of_life = 0.0
        self._launch()

    def _launch(self) -> None:
        self.connection, theirs = _spawn.Pipe()
        self.process = _spawn.Process(target=_serve, args=(theirs, *self._task), daemon=True)
        self.process.start()
        theirs.close()

    def start(self, job: tuple[int, Path] | None) -> None:
        if job is None:
            return
        self.job, path = job
        self.last_sign_of_life = time.monotonic()
        self.connection.send((self.job, path))

    def receive(self) -> Event | None:
        try:
            event: _Message = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(timeout=5)
            return self.give_up(f"the decoder crashed (exit code {self.process.exitcode})")
        self.last_sign_of_life = time.monotonic()
        if isinstance(event, _Heartbeat):
            return None
        if not isinstance(event, Frames):
            self.job = None
        return event

    def give_up(self, reason: str) -> Failed:
        assert self.job is not None
        failed, self.job = Failed(self.job, reason), None
        self.stop()
        self._launch()
        return failed

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, sampling: FrameSampling, preprocessing: Preprocessing) -> None:
    """The process: one video after the other, until the other end of the pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    last_sent = time.monotonic()

    def send(message: _Message) -> None:
        nonlocal last_sent
        connection.send(message)
        last_sent = time.monotonic()

    def heartbeat() -> None:
        if time.monotonic() - last_sent > _HEARTBEAT_SECONDS:
            send(_Heartbeat())

    try:
        while True:
            job, path = connection.recv()
            for event in _read(job, path, sampling, preprocessing, heartbeat):
                send(event)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _read(
    job: int, path: Path, sampling: FrameSampling, preprocessing: Preprocessing, on_frame: Callable[[], None]
) -> Iterator[Event]:
    block: list[tuple[int, NDArray[np.uint8]]] = []
    try:
        frames = read_frames(path, sampling.indices, on_frame)
        for index, frame in frames:
            block.append((index, resize_and_crop(frame, preprocessing)))
            if len(block) == FRAMES_PER_BLOCK:
                yield _as_frames(job, block)
                block = []
        if block:
            yield _as_frames(job, block)
        yield Finished(job, frames.count, frames.header.fps)
    except VideoError as error:
        yield Failed(job, str(error))
    except (MemoryError, OSError) as error:
        yield Failed(job, f"{path} could not be read: {type(error).__name__}: {error}")


def _as_frames(job: int, block: list[tuple[int, NDArray[np.uint8]]]) -> Frames:
    indices, pixels = zip(*block, strict=True)
    return Frames(job, np.array(indices, dtype=np.int32), np.stack(pixels))
