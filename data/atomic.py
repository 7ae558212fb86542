"""Files that are either whole or not there."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_ABANDONED_AFTER_SECONDS = 24 * 3600


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
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def temporary_name(path: Path) -> Path:
    """Where ``path`` is made before it is whole: a name beside it that says which process is at work.

    So what a killed process left can be told from work in progress.
    """
    return path.parent / f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp"


def write_text_atomically(path: Path, text: str) -> None:
    """``path`` with ``text`` in UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def find_abandoned(folder: Path) -> list[Path]:
    """Temporary files and folders under ``folder`` whose process is gone or, on another host, that are a day old."""
    abandoned = []
    for temporary in folder.rglob(".*.tmp"):
        name_and_host, _, pid = temporary.name.removesuffix(".tmp").rpartition(".")
        if not pid.isdecimal():
            continue  # not one of ours
        with suppress(OSError):
            age = time.time() - temporary.stat().st_mtime
            on_this_host = name_and_host.endswith(f".{socket.gethostname()}")
            if (on_this_host and not _alive(int(pid))) or age > _ABANDONED_AFTER_SECONDS:
                abandoned.append(temporary)
    return abandoned


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
