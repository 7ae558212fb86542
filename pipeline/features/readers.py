"""Reader processes: videos go in, blocks of preprocessed frames come out, and a reader that hangs is replaced.

A decoder is native code that may loop forever or crash on a damaged file, so it runs in a process that can be killed.
Each process reads one video at a time and sends its frames through a pipe. It blocks while nobody reads from the pipe,
so memory stays bounded however many and however long the videos are.

The processes are started with ``subprocess``, not ``multiprocessing``, whose processes would import the caller's script
a second time and can't be started from a daemonic pool worker.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.identity import FileIdentity, identify
from data.processes import end_with_parent
from data.video import FrameCount, VideoError, read_frames
from models.cnn.preprocessing import VIEWS, Preprocessing, resize_and_crop
from pipeline.features.sampling import FrameSampling, SamplingError

FRAMES_PER_BLOCK = 32
BYTES_PER_BLOCK = 8 * 2**20  # for whole frames, which can be large; a block has at least one frame
_HEARTBEAT_SECONDS = 0.2
_POLL_SECONDS = 0.5
_STARTUP_SECONDS = 60.0  # added to the first timeout of a process, which has to import the decoders
_SOURCES = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Frames:
    """Consecutive sampled frames of video number ``job``.

    Attributes:
        indices: int32 ``[n]``.
        pixels: RGB uint8 ``[n * views, crop, crop, 3]``, all views of a frame before the next frame; or whole frames,
            ``[n, height, width, 3]``.
    """

    job: int
    indices: NDArray[np.int32]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Finished:
    """Video number ``job`` has been read to its end."""

    job: int
    path: Path
    count: FrameCount
    fps: float
    source: FileIdentity


@dataclass(frozen=True)
class Failed:
    """Video number ``job`` can't be read. Discard its earlier frames."""

    job: int
    reason: str


Event = Frames | Finished | Failed


@dataclass(frozen=True)
class _Heartbeat:
    """Sent by a reader that has started, or that is decoding without having reached the next sampled frame."""


_Message = Event | _Heartbeat


def read_videos(
    paths: Iterable[Path],
    sampling: FrameSampling,
    preprocessing: Preprocessing | None,
    *,
    views: Sequence[str] = VIEWS[:1],
    workers: int,
    timeout: float,
    stop: threading.Event | None = None,
) -> Generator[Event, None, None]:
    """Decode, sample, resize and crop videos in reader processes.

    Args:
        paths: read lazily, one when a process becomes free; the n-th path is job n.
        preprocessing: ``None`` yields whole frames, as decoded.
        views: the views to cut from each frame, of ``models.cnn.preprocessing.VIEWS``.
        workers: number of processes. 0: decode in this process, which then hangs or crashes with its decoder.
        timeout: seconds without a newly decoded frame after which a reader is killed and its video has ``Failed``.
        stop: another thread may set it to end the generator, even while no reader sends anything.

    Yields:
        for each video any number of ``Frames`` in order, then one ``Finished`` or ``Failed``. Events of different
        videos interleave. Closing the generator ends the processes.
    """
    jobs, task = enumerate(paths), _Task(sampling, preprocessing, tuple(views))
    if workers == 0:
        for job, path in jobs:
            for decoded in _read(job, path, task, lambda: None):
                if stop is not None and stop.is_set():
                    return
                yield decoded
        return
    readers = [_Reader(task) for _ in range(workers)]
    try:
        for reader in readers:
            reader.start(next(jobs, None))
        while busy := [reader for reader in readers if reader.job is not None]:
            wait([reader.connection for reader in busy], timeout=_POLL_SECONDS)
            for reader in busy:
                if stop is not None and stop.is_set():
                    return
                # Not the result of wait(): a reader may have sent something since, while the caller held the generator.
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


@dataclass(frozen=True)
class _Task:
    """The settings for all videos of a reader."""

    sampling: FrameSampling
    preprocessing: Preprocessing | None
    views: tuple[str, ...]


class _Reader:
    """The parent's side of one reader process, which is launched with its first video."""

    connection: Connection
    process: "subprocess.Popen[bytes] | None" = None
    job: int | None = None

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._silence = self._last_check = 0.0

    def _launch(self) -> None:
        self.stop()
        self.connection, theirs = Pipe()
        # -P: the working directory may contain an unrelated folder "pipeline".
        program = f"from pipeline.features.readers import serve; serve({theirs.fileno()}, {os.getpid()})"
        command = [sys.executable, "-P", "-c", program]
        search_path = os.pathsep.join(filter(None, [str(_SOURCES), os.environ.get("PYTHONPATH")]))
        # The terminal sends Ctrl-C to every process, but only the parent handles it: the reader starts with the signal
        # blocked.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": search_path},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
        with suppress(BrokenPipeError):
            self.connection.send(self._task)
        self._silence = -_STARTUP_SECONDS

    def start(self, job: tuple[int, Path] | None) -> None:
        if job is None:
            return
        self.job, path = job
        self._silence, self._last_check = 0.0, time.monotonic()
        if self.process is None or self.process.poll() is not None:
            self._launch()
        with suppress(BrokenPipeError):  # the process has just died; ``receive`` handles it
            self.connection.send((self.job, path))

    def seconds_of_silence(self) -> float:
        """Seconds since the last message. A long gap between two calls (after Ctrl-Z, say) counts as one poll."""
        now = time.monotonic()
        self._silence += min(now - self._last_check, 2 * _POLL_SECONDS)
        self._last_check = now
        return self._silence

    def receive(self) -> Event | None:
        try:
            event: _Message = self.connection.recv()
        except (EOFError, OSError):
            return self.give_up(f"the decoder crashed ({self._cause_of_death()})")
        self._silence, self._last_check = 0.0, time.monotonic()
        if isinstance(event, _Heartbeat):
            return None
        if not isinstance(event, Frames):
            self.job = None
        return event

    def _cause_of_death(self) -> str:
        assert self.process is not None
        code = None
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(timeout=5)
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def give_up(self, reason: str) -> Failed:
        assert self.job is not None
        failed, self.job = Failed(self.job, reason), None
        self.stop()
        return failed

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            with suppress(subprocess.TimeoutExpired):  # a process that waits for a dead network disk can't be killed
                self.process.wait(timeout=5)
            self.connection.close()
            self.process = None


def serve(file_descriptor: int, parent_pid: int) -> None:
    """Main function of a reader process: read one video after another until the pipe is closed."""
    end_with_parent(parent_pid)
    connection = Connection(file_descriptor)
    last_sent = 0.0

    def send(message: _Message) -> None:
        nonlocal last_sent
        connection.send(message)
        last_sent = time.monotonic()

    def heartbeat() -> None:
        if time.monotonic() - last_sent > _HEARTBEAT_SECONDS:
            send(_Heartbeat())

    try:
        task: _Task = connection.recv()
        heartbeat()
        while True:
            job, path = connection.recv()
            for event in _read(job, path, task, heartbeat):
                send(event)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _read(job: int, path: Path, task: _Task, on_frame: Callable[[], None]) -> Iterator[Event]:
    block: list[tuple[int, NDArray[np.uint8]]] = []
    try:
        frames = read_frames(path, task.sampling.indices, on_frame)
        source = identify(path)
        for index, frame in frames:
            pixels = frame[None]
            if task.preprocessing is not None:
                pixels = resize_and_crop(frame, task.preprocessing, task.views)
            if block and not _fits(pixels, block):
                yield _as_frames(job, block)
                block = []
            block.append((index, pixels))
        if block:
            yield _as_frames(job, block)
        yield Finished(job, path, frames.count, frames.header.fps, source)
    except VideoError as error:
        yield Failed(job, str(error))
    except SamplingError as error:
        yield Failed(job, f"{path} can't be sampled: {error}")
    except Exception as error:  # a damaged file can raise anything in the decoders, and must cost this video only
        yield Failed(job, f"{path} could not be read: {type(error).__name__}: {error}")


def _fits(pixels: NDArray[np.uint8], block: list[tuple[int, NDArray[np.uint8]]]) -> bool:
    """Whether one more frame fits into the block. A video's frame size may change half-way."""
    (_, first), length = block[0], len(block) + 1
    return pixels.shape == first.shape and length <= FRAMES_PER_BLOCK and length * pixels.nbytes <= BYTES_PER_BLOCK


def _as_frames(job: int, block: list[tuple[int, NDArray[np.uint8]]]) -> Frames:
    indices, pixels = zip(*block, strict=True)
    return Frames(job, np.array(indices, dtype=np.int32), np.concatenate(pixels))
