"""Read frames from a video file: RGB, upright, in order, in one pass, one frame in memory at a time.

decord reads first; OpenCV takes over if decord fails. Both give the same pixels, and both count a frame only if it was
really decoded, so that the count can be compared with the file's header.

    frames = read_frames(path, wanted=range(0, 100, 4))
    for index, frame in frames:            # frame: uint8 [height, width, 3]
        ...
    if frames.count.is_short:
        ...                                # the file ended early: keep the frames, or fail
"""

import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data.errors import UserError, printable

# Problems are raised or counted here; the C libraries' own lines on stderr would only break progress bars. FFmpeg
# inside OpenCV reads its log level once, at the first file it opens. A level set in the environment has precedence.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import decord
import numpy as np
from numpy.typing import NDArray

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
decord.logging.set_level(decord.logging.QUIET)

# FFmpeg also draws text, shows pictures, and follows playlists to other files and addresses. It reads this variable at
# every file that OpenCV opens, and refuses other formats than these, its names for the containers of video.
FILE_FORMATS = "format_whitelist;avi,matroska,mov,asf,flv,mpeg,mpegts,mpegvideo,mxf,ogg,yuv4mpegpipe"
OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_options = os.environ.get(OPTIONS, "")
if "format_whitelist" not in _options:
    os.environ[OPTIONS] = "|".join(filter(None, [FILE_FORMATS, _options]))

Frame = NDArray[np.uint8]
Wanted = Collection[int] | Callable[[int, float], Iterable[int]] | None

# AVI headers of real datasets count one frame (HMDB51) or two (UT-Interaction) that are not in the file.
USUAL_OVERCOUNT = 2

# MP4 files that start with one of these are pictures (HEIC, AVIF).
_PICTURES = frozenset(
    b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
)

# The clock of a picture that is attached to a recording. FFmpeg gives it as the picture's frame rate.
_COVER_FPS = 90_000

# decord replaces frames it cannot decode at the end by copies of the last one. Any positive tolerance below one frame
# makes it raise at the first such copy instead (0 means "no limit").
_NO_COPIED_FRAMES = 1e-9


class VideoError(UserError):
    """No frame can be read from a file. The message says which file, why, and what to do."""


@dataclass(frozen=True)
class VideoHeader:
    """What a file's header says, before anything is decoded.

    Attributes:
        num_frames: at least 1. Matroska and WebM headers have no such field: there the packets are counted, and if
            they end before the stated duration, the missing ones are estimated and added. Other containers (MPEG, WMV,
            ...) promise nothing: there the frames that can be decoded are counted.
        fps: frames per second; 0.0 if the file does not say.
        width, height: size of the upright frame, in pixels.
    """

    num_frames: int
    fps: float
    width: int
    height: int


@dataclass(frozen=True)
class FrameCount:
    """How many frames a file's header promises, and how many were decoded.

    Attributes:
        header_frames: ``FrameStream.header.num_frames``.
        decoded_frames: frames really decoded, at least 1; copies in place of broken frames are not counted.
        decoder: the decoder that reached the end, ``"decord"`` or ``"opencv"``.
    """

    header_frames: int
    decoded_frames: int
    decoder: str

    @property
    def is_short(self) -> bool:
        """Whether more frames are missing than an inexact header explains: the file is cut off or damaged."""
        return self.header_frames - self.decoded_frames > USUAL_OVERCOUNT


class FrameStream:
    """The wanted frames of one file. Create it with ``read_frames`` and iterate over it once.

    Attributes:
        path: the video file.
        header: the result of ``read_header``; ``num_frames`` is corrected if the file contains clearly more packets.
    """

    def __init__(self, path: Path, wanted: Wanted, on_frame: Callable[[], object]) -> None:
        self.path = path
        self.header = read_header(path, on_frame)
        self._reader: decord.VideoReader | None = None
        with suppress(_DecordFailedError):
            self._reader = _open_decord(path)
            if len(self._reader) > self.header.num_frames + USUAL_OVERCOUNT:
                # The header counts too few: uniform sampling would see only the beginning.
                self.header = replace(self.header, num_frames=len(self._reader))
        if callable(wanted):
            wanted = frozenset(wanted(self.header.num_frames, self.header.fps))
        self._wanted = None if wanted is None else frozenset(map(int, wanted))
        self._on_frame = on_frame
        self._count: FrameCount | None = None

    @property
    def count(self) -> FrameCount:
        """Frames promised and decoded; known after the last frame."""
        assert self._count is not None, "the count is known only after the last frame"
        return self._count

    def __iter__(self) -> Iterator[tuple[int, Frame]]:
        """Yield ``(index, frame)``: the frame's position in the file, from 0, and uint8 ``[height, width, 3]`` RGB.

        Raises ``VideoError`` if no frame can be decoded.
        """
        decoder, num_decoded = "decord", 0
        try:
            for pixels in _decord_frames(self._reader):
                if self._wants(num_decoded):
                    yield num_decoded, pixels()
                num_decoded += 1
                self._on_frame()
        except _DecordFailedError:
            # How many good frames decord returns before it raises depends on the timing of its threads. OpenCV returns
            # all of them, so starting over with it gives the same frames every time.
            decoder, num_skipped = "opencv", num_decoded
            for index, pixels in enumerate(_opencv_frames(self.path)):
                if index >= num_skipped:
                    if self._wants(index):
                        yield index, pixels()
                    num_decoded = index + 1
                self._on_frame()
        if num_decoded == 0:
            raise VideoError(
                f"{self.path} contains no frame that can be decoded, although its header promises "
                f"{self.header.num_frames}: the file is cut off or damaged. Get it again."
            )
        self._count = FrameCount(self.header.num_frames, num_decoded, decoder)

    def _wants(self, index: int) -> bool:
        return self._wanted is None or index in self._wanted


def read_frames(path: Path, wanted: Wanted = None, on_frame: Callable[[], object] = lambda: None) -> FrameStream:
    """Read the frames of a file, decoded once from the first to the last without seeking.

    Args:
        path: the video file.
        wanted: indices of the frames to return, in any order, or a function from the header's number of frames and
            frame rate to these indices; ``None``: all. The other frames are decoded (later frames depend on them) but
            not copied. Indices past the end of the file are ignored.
        on_frame: called after every decoded frame, wanted or not; lets the caller detect a decoder that hangs.

    Returns:
        An iterable of ``(index, frame)`` in ascending order, with the ``count`` of frames as an attribute afterwards.
        The file is decoded to its end even if the last wanted frame comes early, so that the count is complete.

    Raises:
        VideoError: the file is missing, empty or not a video; while iterating: no frame can be decoded.
    """
    return FrameStream(path, wanted, on_frame)


def count_frames(path: Path) -> FrameCount:
    """Decode the whole file and count its frames. Raises ``VideoError`` as ``read_frames`` does."""
    frames = read_frames(path, wanted=())
    for _ in frames:
        pass
    return frames.count


def read_first_frame(path: Path) -> Frame:
    """The first frame of a file, uint8 ``[height, width, 3]`` RGB, at the cost of a millisecond.

    Raises ``VideoError`` if the file is missing or no video, or its first frame can't be decoded.
    """
    for pixels in _opencv_frames(path):
        return pixels()
    raise VideoError(f"{path} has no first frame that can be decoded: the file is cut off or damaged. Get it again.")


def read_header(path: Path, on_frame: Callable[[], object] = lambda: None) -> VideoHeader:
    """Read the header of a file. Frames are decoded only if the container does not state their number.

    Args:
        path: the video file.
        on_frame: called after every frame that is decoded for the count; see ``read_frames``.

    Raises:
        VideoError: the file is missing, empty, a still image or not a video, or its header is impossible.
    """
    container = _container(path)
    capture = _open_capture(path)
    try:
        num_frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        fps = capture.get(cv2.CAP_PROP_FPS)
        width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if fps == _COVER_FPS and capture.grab() and not capture.grab():
            raise VideoError(
                f"{path} contains the cover of a recording where a video should be. Remove the file from the dataset; "
                "or if there is a video behind the cover, remove the cover."
            )
    finally:
        capture.release()
    fps = fps if np.isfinite(fps) and fps > 0 else 0.0
    if num_frames < 1 or container not in ("avi", "mp4"):
        # Here num_frames is OpenCV's guess, duration x fps, wrong by any factor for a variable frame rate.
        num_frames = _promised_packets(path, num_frames / fps if fps else 0.0, on_frame)
    size = path.stat().st_size
    if num_frames > size:  # a frame takes at least a byte, and decord would allocate memory for all of them
        raise VideoError(f"{path} has a damaged header: it promises {num_frames} frames in {size} bytes. Get it again.")
    return VideoHeader(num_frames, fps, width, height)


def _container(path: Path) -> Literal["avi", "mp4", "matroska", "other"]:
    try:
        with path.open("rb") as file:
            first_bytes = file.read(12)
    except OSError as error:
        raise VideoError(f"cannot read the video {path}: {error.strerror}. Check the path.") from error
    if not first_bytes:
        raise VideoError(f"{path} is empty (0 bytes): its download or copy never started. Get it again.")
    if first_bytes[4:] in _PICTURES or cv2.haveImageReader(_location(path)):
        raise VideoError(f"{path} is a picture, not a video. Get it again, or remove it from the dataset.")
    if first_bytes[:4] == b"RIFF":
        return "avi"
    if first_bytes[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
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
    # The sound may outlast the picture by a tenth of the duration, at most three seconds.
    is_cut_off = 0 < end_of_last < duration - min(0.1 * duration, 3.0)
    return round(num_packets * duration / float(end_of_last)) if is_cut_off else num_packets


class _DecordFailedError(Exception):
    """decord cannot continue; caught in this module."""


def _location(path: Path) -> str:
    # An absolute path, because FFmpeg reads a relative "walk:1.avi" as an address with the protocol "walk".
    location = path.absolute()
    if printable(location) != str(location):  # OpenCV would crash
        raise VideoError(f"the path {printable(location)} is not UTF-8, so no decoder can open it. Rename it.")
    return str(location)


def _open_decord(path: Path) -> "decord.VideoReader":
    if _container(path) == "other":
        # decord counts the packets first and then seeks back to the start. In MPEG streams, which have no index, it
        # lands several frames late without noticing.
        raise _DecordFailedError("no index to seek back by")
    try:
        reader = decord.VideoReader(_location(path), ctx=decord.cpu(0), num_threads=1, fault_tol=_NO_COPIED_FRAMES)
        # If decord found no packet, its length is a guess from the header, and this raises IndexError.
        reader.get_frame_timestamp(0)
    except (decord.DECORDError, RuntimeError, AssertionError, IndexError) as error:
        raise _DecordFailedError from error
    return reader


def _decord_frames(reader: "decord.VideoReader | None") -> Iterator[Callable[[], Frame]]:
    """Advance frame by frame and yield a function that copies the current frame's pixels.

    Only ``next()`` is used: ``get_batch`` and ``skip_frames`` seek to key frames and count copies as frames, which gave
    wrong pixels at the end of real HMDB51 videos (and ``get_batch`` may hang, decord#373).
    """
    if reader is None:
        raise _DecordFailedError("decord cannot open the file")
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
            # decord takes padded rows for rows of wider pixels if their length is a multiple of the width. How rows are
            # padded depends on the processor; widths 32, 48 and 96 have been affected.
            raise _DecordFailedError(f"frame of shape {frame.shape}")
        yield frame.asnumpy


def _open_capture(path: Path) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(_location(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    if not capture.isOpened():
        raise VideoError(
            f"{path} is not a video that can be read: it is cut off, damaged, or in none of the containers AVI, MP4, "
            "MOV, MKV, WebM, MPEG, TS, FLV, WMV, 3GP, OGV, MXF and Y4M. Get it again, convert it to MP4, or remove it "
            "from the dataset."
        )
    return capture


def _opencv_frames(path: Path) -> Iterator[Callable[[], Frame]]:
    """Yield the same as ``_decord_frames``, up to the first broken packet: later frames depend on what is lost."""
    capture = _open_capture(path)

    def pixels() -> Frame:
        ok, frame = capture.retrieve()
        if not ok:
            raise VideoError(
                f"{path} has a pixel format that cannot be converted to RGB. Convert the video to yuv420p."
            )
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    try:
        while capture.grab():
            yield pixels
    finally:
        capture.release()
