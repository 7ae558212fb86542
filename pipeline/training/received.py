"""What a run folder may contain, wherever it comes from: folders and plain files of a plausible size."""

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from data.errors import UserError

# Text is parsed as a whole, and takes up to twenty times its size in memory.
_MAX_TEXT_BYTES, _MAX_BYTES = 2**27, 2**33
_TEXT = (".yaml", ".json", ".jsonl")


class ReceivedError(UserError):
    """A folder contains something that is not followed or read. The message says what and where."""


def walk(folder: Path) -> Iterator["os.DirEntry[str]"]:
    """Everything in a folder, at any depth. Links are listed, but not followed; what can't be listed is left out.

    Unlike ``os.walk`` and ``rglob`` it has no limit of depth, because it is not recursive.
    """
    pending = [os.fspath(folder)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def check_received(folder: Path) -> None:
    """Check everything in a run's folder before any of it is read or written.

    A link could lead reading and writing out of the folder, a pipe or a device could block for ever, and a huge file
    could exhaust the memory. The folder itself may be a link: the user named it.

    Raises:
        ReceivedError: it contains a link, something that is neither a file nor a folder, or a file that is too large.
    """
    for entry in walk(folder):
        check_file(Path(entry.path), is_folder_allowed=True)


def check_archive(path: Path) -> None:
    """Raise ``ValueError`` or ``BadZipFile`` if a zip file unpacks to more than its size, as no checkpoint does."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError(f"it unpacks to {unpacked:,} bytes")


def check_file(path: Path, is_folder_allowed: bool = False) -> None:
    """``check_received`` for one file. Raises ``FileNotFoundError`` too, which is an ``OSError``."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise ReceivedError(
            f"{path} is a link to {os.readlink(path)}, and links in a run are not followed. Put what it leads to in "
            "its place, or delete it."
        )
    if is_folder_allowed and stat.S_ISDIR(status.st_mode):
        return
    if not stat.S_ISREG(status.st_mode):
        raise ReceivedError(f"{path} is not a plain file. Delete it.")
    limit = _MAX_TEXT_BYTES if path.suffix in _TEXT else _MAX_BYTES
    if status.st_size > limit:
        raise ReceivedError(f"{path} has {status.st_size:,} bytes; at most {limit:,} are read. Delete it.")
