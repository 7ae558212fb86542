"""Files that are either whole or not there."""

import hashlib
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_ABANDONED_AFTER_SECONDS = 24 * 3600
# Two containers may share a store, a host name and their process ids: what they write must not have one name.
_THIS_PROCESS = uuid.uuid4().hex


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a file under a temporary name in ``path``'s folder, then publish it as ``path``.

    Whatever ``write`` or the disk raises goes on to the caller, with the temporary file removed; an
    ``OSError`` names ``path`` at least.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        # A disk that is full, over quota or behind a network may say so only now; and without this a power cut may
        # leave the final name with nothing behind it.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def temporary_name(path: Path) -> Path:
    """Where ``path`` is made before it is whole: a name beside it that says which process is at work.

    So what a killed process left can be told from work in progress. It does not hold the name itself, which may be as
    long as a file's name may be.
    """
    digest = hashlib.sha256(f"{_THIS_PROCESS}/{path.name}".encode(errors="surrogateescape")).hexdigest()[:16]
    return path.parent / f".{digest}.{socket.gethostname()}.{os.getpid()}.tmp"


def write_text_atomically(path: Path, text: str) -> None:
    """``path`` with ``text`` in UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def find_abandoned(folder: Path) -> list[Path]:
    """Temporary files and folders under ``folder`` whose process is gone or, on another host, that are a day old."""
    # os.walk, not rglob: that raises where another job publishes a temporary folder under its eyes.
    temporary = (
        Path(parent, name)
        for parent, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if name.startswith(".") and name.endswith(".tmp")
    )
    return [path for path in temporary if _is_abandoned(path)]


def _is_abandoned(temporary: Path) -> bool:
    name_and_host, _, pid = temporary.name.removesuffix(".tmp").rpartition(".")
    if not pid.isdecimal():
        return False  # not one of ours
    with suppress(OSError):
        age = time.time() - temporary.stat().st_mtime
        on_this_host = name_and_host.endswith(f".{socket.gethostname()}")
        return (on_this_host and not _alive(int(pid))) or age > _ABANDONED_AFTER_SECONDS
    return False


def remove_abandoned(folder: Path) -> int:
    """Remove what ``find_abandoned`` finds; how many.

    What may not be removed (a store that can only be read) is left.
    """
    removed = 0
    for temporary in find_abandoned(folder):
        with suppress(OSError):
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink()
            removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
