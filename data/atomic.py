"""Write files atomically: a file under its final name is always complete."""

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
# Two containers may share a store, a host name and a process id; their temporary files must still differ.
_THIS_PROCESS = uuid.uuid4().hex


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary name in ``path``'s folder, then rename the file to ``path``.

    If ``write`` or the disk raises, the temporary file is removed and the exception is passed on. An ``OSError``
    without a file name, or with the temporary one, gets ``path`` as its file name.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        # A full, remote or over-quota disk may report its error only now; and without fsync a power cut may leave the
        # final name with no content.
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
    """Return the temporary name for ``path``, in the same folder.

    It names the host and process, so that ``find_abandoned`` can distinguish the remains of a killed process from work
    in progress. It contains a hash instead of ``path``'s name, which may already have the maximal length.
    """
    digest = hashlib.sha256(f"{_THIS_PROCESS}/{path.name}".encode(errors="surrogateescape")).hexdigest()[:16]
    return path.parent / f".{digest}.{socket.gethostname()}.{os.getpid()}.tmp"


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def find_abandoned(folder: Path) -> list[Path]:
    """Find temporary files and folders under ``folder`` whose process is gone or, on another host, a day old."""
    # os.walk, not rglob: rglob raises if another job renames a temporary folder meanwhile.
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
        return False  # not written by write_atomically
    with suppress(OSError):
        age = time.time() - temporary.stat().st_mtime
        on_this_host = name_and_host.endswith(f".{socket.gethostname()}")
        return (on_this_host and not _alive(int(pid))) or age > _ABANDONED_AFTER_SECONDS
    return False


def remove_abandoned(folder: Path) -> int:
    """Remove what ``find_abandoned`` finds and return how many were removed.

    What cannot be removed (in a read-only store) is left.
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
