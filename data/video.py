"""Frames out of a video file: RGB, upright, in order, in one pass, one frame in memory at a time.

decord reads first and OpenCV takes over where decord gives up. Both hand out the same pixels; both count a frame only
if it was really decoded, so what they deliver can be held against what the file's header says.

    frames = read_frames(path, wanted=range(0, 100, 4))
    for index, frame in frames:            # frame: uint8 [height, width, 3]
        ...
    if frames.count.is_short:
        ...                                # the file ended early: keep what there is, or fail
"""

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data.errors import UserError

# What goes wrong is raised or counted here; the C libraries' own lines on stderr would only break progress bars.
# FFmpeg inside OpenCV reads its level once, at the first file it opens. An environment that sets one keeps it.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import decord
import numpy as np
from numpy.typing import NDArray

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
decord.logging.set_level(decord.logging.QUIET)

Frame = NDArray[np.uint8]
Wanted = Collection[int] | Callable[[int], Iterable[int]] | None

# AVI headers of real datasets count one frame (HMDB51) or two (UT-Interaction) that are not in the file.
USUAL_OVERCOUNT = 2

# decord stands in for frames it cannot decode at the end with copies of the last one. Any positive tolerance below one
# frame makes it raise at the first such copy instead (0 means "no limit").
_NO_COPIED_FRAMES = 1e-9


class VideoError(UserError):
    """A file that gives no frame. The message says which file, why, and what to do."""


@dataclass(frozen=True)
class VideoHeader:
    """What a file says of itself, before anything is decoded.

    Attributes:
        num_frames: as the header says, at least 1. Matroska and WebM have no such field: there the packets are
            counted, and a file that ends before its duration is taken to lack the rest. Other containers (MPEG, WMV,
            ...) promise nothing: what can be decoded is counted.
        fps: frames per second; 0.0 where the file does not say.
        width, height: in pixels, of the upright frame.
    """

    num_frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class FrameCount:
    """How many frames a file promised and gave.

    Attributes:
        header_frames: ``FrameStream.header.num_frames``.
        decoded_frames: frames really decoded, at least 1; stand-ins for broken frames are not counted.
        decoder: ``"decord"`` or ``"opencv"``: the one that reached the end.
    """

    header_frames: int
    decoded_frames: int
    decoder: str

    @property
    def is_short(self) -> bool:
        """Whether more frames are missing than a sloppy header explains: the file is cut off or damaged."""
        return self.header_frames - self.decoded_frames > USUAL_OVERCOUNT


class FrameStream:
    """The wanted frames of one file; iterate over it once. Made by ``read_frames``.

    Attributes:
        path: the video file.
        header: as ``read_header`` gives it; but where the file holds clearly more packets, that is ``num_frames``.
    """

    def __init__(self, path: Path, wanted: Wanted, on_frame: Callable[[], object]) -> None:
        self.path = path
        self.header = read_header(path, on_frame)
        self._reader: decord.VideoReader | None = None
        with suppress(_DecordFailedError):
            self._reader = _open_decord(path)
            if len(self._reader) > self.header.num_frames + USUAL_OVERCOUNT:
                # A header that counts too few: uniform sampling would see only the beginning.
                self.header = replace(self.header, num_frames=len(self._reader))
        indices: Iterable[int] | None = wanted(self.header.num_frames) if callable(wanted) else wanted
        self._wanted = None if indices is None else frozenset(map(int, indices))
        self._on_frame = on_frame
        self._count: FrameCount | None = None

    @property
    def count(self) -> FrameCount:
        """Frames promised and decoded; known once the iteration has come to its end."""
        assert self._count is not None, "the count is known only after the last frame"
        return self._count

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        """Yields ``(index, frame)``: the frame's place in the file, from 0, and uint8 ``[height, width, 3]`` RGB.

        Raises ``VideoError`` where not one frame could be decoded.
        """
        decoder, num_decoded = "decord", 0
        try:
            for pixels in _decord_frames(self._reader):
                if self._wants(num_decoded):
                    yield num_decoded, pixels()
                num_decoded += 1
                self._on_frame()
        except _DecordFailedError:
            # How many of the good frames decord hands out before it raises depends on the timing of its threads.
            # OpenCV hands out all of them, so starting over with it gives the same frames every time.
            decoder, num_skipped = "opencv", num_decoded
            for index, pixels in enumerate(_opencv_frames(self.path)):
                if index >= num_skipped:
                    if self._wants(index):
                        yield index, pixels()
                    num_decoded = index + 1
                self._on_frame()
        if num_decoded == 0:
            raise VideoError(
                f"{self.path} holds no frame that can be decoded, although its header tells of "
                f"{self.header.num_frames}: the file is cut off or damaged. Get it again."
            )
        self._count = FrameCount(self.header.num_frames, num_decoded, decoder)

    def _wants(self, index: int) -> bool:
        return self._wanted is None or index in self._wanted


def read_frames(path: Path, wanted: Wanted = None, on_frame: Callable[[], object] = lambda: None) -> FrameStream:
    """The frames of a file, decoded once from the first to the last without seeking.

    Args:
        path: the video file.
        wanted: indices of the frames to hand out, in any order, or a function that gives them for the number of frames
            that ``FrameStream.header`` tells of; ``None``: all. The others are decoded (later frames build on them)
            but not copied. Indices past the end of the file are simply not met.
        on_frame: called after every decoded frame, wanted or not: a sign of life.

    Returns:
        An iterable of ``(index, frame)`` in ascending order, which afterwards holds the ``count``. The whole file is
        decoded even where the last wanted frame lies early, so that the count is that of the file.

    Raises:
        VideoError: the file is missing, empty or no video; while iterating: not one frame could be decoded.
    """
    return FrameStream(path, wanted, on_frame)


def count_frames(path: Path) -> FrameCount:
    """Decodes the whole file and counts. Raises ``VideoError`` as ``read_frames`` does."""
    frames = read_frames(path, wanted=())
    for _ in frames:
        pass
    return frames.count


def read_header(path: Path, on_frame: Callable[[], object] = lambda: None) -> VideoHeader:
    """What the file says of itself. Decodes nothing, unless the container is one that does not say.

    Args:
        path: the video file.
        on_frame: called after every frame that has to be decoded for it: a sign of life.

    Raises:
        VideoError: the file is missing, empty, a picture or no video, or its header is absurd.
    """
    container = _container(path)
    capture = _open_capture(path)
    try:
        num_frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = capture.get(cv2.CAP_PROP_FPS)
        width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    finally:
        capture.release()
    fps = fps if np.isfinite(fps) and fps > 0 else 0.0
    if num_frames < 1 or container not in ("avi", "mp4"):
        # Here num_frames is OpenCV's guess, duration x fps, wrong by any factor for a variable frame rate.
        num_frames = _promised_packets(path, num_frames / fps if fps else 0.0, on_frame)
    size = path.stat().st_size
    if num_frames > size:  # no frame takes less than a byte, and whoever believes it (decord) asks for all memory
        raise VideoError(f"{path} has a damaged header: it tells of {num_frames} frames in {size} bytes. Get it again.")
    if num_frames == 1 and cv2.haveImageReader(_location(path)):
        # FFmpeg goes by the content and takes a picture for a film of one frame.
        raise VideoError(f"{path} is a picture under a video's name. Get it again, or take it out of the dataset.")
    return VideoHeader(num_frames, fps, width, height)


def _container(path: Path) -> Literal["avi", "mp4", "matroska", "other"]:
    try:
        with path.open("rb") as file:
            first_bytes = file.read(8)
    except OSError as error:
        raise VideoError(f"cannot read the video {path}: {error.strerror}. Check the path.") from error
    if not first_bytes:
        raise VideoError(f"{path} is empty (0 bytes): a download or copy that never began. Get it again.")
    if first_bytes[:4] == b"RIFF":
        return "avi"
    if first_bytes[4:] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        return "mp4"
    return "matroska" if first_bytes[:4] == b"\x1a\x45\xdf\xa3" else "other"


def _promised_packets(path: Path, duration: float, on_frame: Callable[[], object]) -> int:
    try:
        reader = _open_decord(path)
    except _DecordFailedError:
        num_frames = 0
        for _ in _opencv_frames(path):
            num_frames += 1
            on_frame()
        return max(1, num_frames)
    num_packets = len(reader)
    _, end_of_last = reader.get_frame_timestamp(num_packets - 1)
    # A tenth, three seconds at most, is left for a sound track that runs on after the picture.
    is_cut_off = 0 < end_of_last < duration - min(0.1 * duration, 3.0)
    return round(num_packets * duration / float(end_of_last)) if is_cut_off else num_packets


class _DecordFailedError(Exception):
    """decord cannot read on; internal."""


def _location(path: Path) -> str:
    # Absolute, because FFmpeg takes a relative "walk:1.avi" for a protocol named walk.
    return os.fspath(path.absolute())


def _open_decord(path: Path) -> "decord.VideoReader":
    if _container(path) == "other":
        # decord counts the packets first and then seeks back to the start. In MPEG streams, which have no index, it
        # lands several frames late and never knows.
        raise _DecordFailedError("no index to seek back by")
    try:
        reader = decord.VideoReader(_location(path), ctx=decord.cpu(0), num_threads=1, fault_tol=_NO_COPIED_FRAMES)
        # Where it found no packet, its length is a guess from the header, and this raises IndexError.
        reader.get_frame_timestamp(0)
    except (decord.DECORDError, RuntimeError, AssertionError, IndexError) as error:
        raise _DecordFailedError from error
    return reader


def _decord_frames(reader: "decord.VideoReader | None") -> Iterator[Callable[[], Frame]]:
    """Goes from frame to frame; what it yields copies the current frame's pixels when called.

    Only ``next()``: ``get_batch`` and ``skip_frames`` seek at key frames and count stand-ins as frames, which gave
    wrong pixels at the end of real HMDB51 clips (and get_batch may spin forever, decord#373).
    """
    if reader is None:
        raise _DecordFailedError("not a file that it opens")
    for num_frames in itertools.count():
        try:
            frame = reader.next()
        except StopIteration:
            return
        except decord.DECORDLimitReachedError as error:
            if num_frames < len(reader) - USUAL_OVERCOUNT:
                raise _DecordFailedError from error
            return
        except decord.DECORDError as error:
            raise _DecordFailedError from error
        if frame.shape[2] != 3:
            # decord takes padded rows for rows of wide pixels where the division has no remainder (widths 32, 48, 96).
            raise _DecordFailedError(f"frame of shape {frame.shape}")
        yield frame.asnumpy


def _open_capture(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(_location(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise VideoError(
            f"{path} is not a video that can be read: no video stream was found in it. It is cut off, damaged, or "
            "something else under a video's name. Get it again, or take it out of the dataset."
        )
    return capture


def _opencv_frames(path: Path) -> Iterator[Callable[[], Frame]]:
    """The same contract as ``_decord_frames``. Ends at the first broken packet: what follows builds on what is lost."""
    capture = _open_capture(path)

    def pixels() -> Frame:
        ok, frame = capture.retrieve()
        if not ok:
            raise VideoError(f"{path} has a pixel format that cannot be converted to RGB. Convert it to a usual one.")
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    try:
        while capture.grab():
            yield pixels
    finally:
        capture.release()
