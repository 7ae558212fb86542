"""Files that are either whole or not there."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

_ABANDONED_AFTER_SECONDS = 24 * 3600


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a file under a temporary name in ``path``'s folder, then publish it as ``path``.

    The temporary name says which process writes it, so that what a killed process left can be told from work in
    progress. Whatever ``write`` or the disk raises goes on to the caller, with the temporary file removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp"
    try:
        write(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """``path`` with ``text`` in UTF-8, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def remove_abandoned(folder: Path) -> int:
    """Remove temporary files under ``folder`` whose process is gone (or, on another host, a day old); how many."""
    removed = 0
    for temporary in folder.rglob(".*.tmp"):
        host, _, pid = temporary.name.removesuffix(".tmp").rpartition(".")
        try:
            age = time.time() - temporary.stat().st_mtime
            on_this_host = host.endswith(f".{socket.gethostname()}") and pid.isdigit()
            if (on_this_host and not _alive(int(pid))) or age > _ABANDONED_AFTER_SECONDS:
                temporary.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
