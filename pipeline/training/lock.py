"""The lock of a run folder: one process writes a run at a time."""

import errno
import fcntl
import io
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from data.errors import UserError

LOCK = ".lock"
# What file systems without locks answer: NFS without lockd, Lustre without -o flock.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}


class RunInUseError(UserError):
    """Another process uses the run. The message names it."""


@contextmanager
def locked(folder: Path, work: str, *, shared: bool = False) -> Iterator[int | None]:
    """Hold the lock of ``folder``, which is created if it is missing, and yield the lock's file descriptor.

    The operating system releases the lock when the process ends, however it ends. The lock file stays: if it were
    removed, two processes could hold locks on two files of that name.

    Args:
        work: what this process does with the run, for the message that others get.
        shared: allow other processes to hold a shared lock at the same time. If this process may not write to the
            folder and no process ever locked it, there is no lock, and the descriptor is ``None``.

    Raises:
        RunInUseError: another process holds the lock. The message names its work, process, host and time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = _open(folder / LOCK, shared)
    if file is None:
        yield None
        return
    with closing(file):
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = file.read(1000).decode(errors="replace").strip() or "another process"
            raise RunInUseError(
                f"{folder} is in use: {holder}. Wait until it is done, end it, or choose another run (--name)."
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            print(
                f"warning: {folder} can't be locked ({error.strerror}), so nothing stops a second training there. NFS "
                "needs lockd, Lustre the mount option flock; or write the runs to another disk (--runs).",
                file=sys.stderr,
            )
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        with suppress(OSError):  # a full disk
            file.truncate(0)
            file.write(f"{work} by process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
        yield file.fileno()


def _open(path: Path, shared: bool) -> io.FileIO | None:
    try:
        return _open_own_file(path, "r+b", os.O_RDWR | os.O_CREAT)
    except OSError as error:
        if not shared or error.errno not in _READ_ONLY:
            raise
    try:
        return _open_own_file(path, "rb", os.O_RDONLY)
    except FileNotFoundError:
        return None


def _open_own_file(path: Path, mode: str, flags: int) -> io.FileIO:
    """Open a regular file, and no link or pipe or second name of a file, which a folder from elsewhere may contain."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file of its own, delete it", str(path))
    return io.FileIO(descriptor, mode)
