"""Which video a file is, told from a little of its content, so that its features are found wherever the file lies."""

import hashlib
import heapq
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.records import VideoRecord
from data.video_list import ids_of

PIECE_BYTES = 16 * 1024
SAMPLE_SIZE = 16


@dataclass(frozen=True)
class FileIdentity:
    """A file's content, and a shortcut.

    Attributes:
        num_bytes: size of the file.
        digest: sha256 of its size, head, middle and tail, the first 32 hexadecimal digits.
        stamp: inode and time of the last change. The file is the same, unread, while its stamp is.
    """

    num_bytes: int
    digest: str
    stamp: str


def identify(path: Path) -> FileIdentity:
    """Read three pieces of a file. Raises ``OSError`` if it is missing or not a regular file."""
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
        raise OSError(f"{path} is not a regular file")
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        digest = hashlib.sha256(str(status.st_size).encode())
        for start in (0, (status.st_size - PIECE_BYTES) // 2, status.st_size - PIECE_BYTES):
            digest.update(os.pread(file.fileno(), PIECE_BYTES, max(start, 0)))
    return FileIdentity(status.st_size, digest.hexdigest()[:32], stamp_of(status))


def stamp_of(status: os.stat_result) -> str:
    return f"{status.st_ino}-{status.st_ctime_ns}"


def sample(videos: Sequence[VideoRecord]) -> list[VideoRecord]:
    """A few videos, drawn by their ids, so that most stay the same when others are added or removed."""
    drawn = heapq.nsmallest(SAMPLE_SIZE, enumerate(ids_of(videos)), key=lambda numbered: _sha256(numbered[1]))
    return [videos[number] for number, _ in drawn]


def name_by_content(prefix: str, videos: Sequence[VideoRecord]) -> str:
    """A name that a dataset keeps when it is moved or copied: ``prefix`` and a hash of a sample's ids and content.

    Millions of videos cost no more than a few, because only the sample is read. Missing files count by their ids.
    """
    described = []
    for video in sample(videos):
        try:
            described.append(f"{video.video_id}\n{identify(video.path).digest}")
        except OSError:
            described.append(video.video_id)
    return f"{prefix}-{_sha256(chr(10).join(described))[:8]}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
