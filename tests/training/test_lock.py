"""The lock of a run folder: it is held by one process, names it, and ends with it."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.training.lock import LOCK, RunInUseError, locked
from tests.helpers import REPOSITORY

HOLD = """
import sys, time
from pathlib import Path
from pipeline.training.lock import locked

with locked(Path(sys.argv[1]), "training", shared=sys.argv[2] == "shared"):
    print("locked", flush=True)
    time.sleep(100)
"""


@contextmanager
def holder(folder: Path, kind: str = "exclusive") -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(folder), kind]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_and_told_the_holder(tmp_path: Path) -> None:
    """The message names the process, its host and since when; after kill -9 of the holder the lock is free."""
    with holder(tmp_path) as process:
        for shared in (False, True):
            with pytest.raises(RunInUseError) as error, locked(tmp_path, "training", shared=shared):
                pass
            assert f"{tmp_path} is in use: training by process {process.pid} on {socket.gethostname()} since 20" in str(
                error.value
            )
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locked(tmp_path, "training"):
            assert f"process {os.getpid()}" in (tmp_path / LOCK).read_text()


def test_readers_share_the_lock(tmp_path: Path) -> None:
    """Two evaluations of a run may work at once, and a training may not begin meanwhile."""
    with holder(tmp_path, "shared"):
        with locked(tmp_path, "evaluation", shared=True):
            pass
        with pytest.raises(RunInUseError, match="is in use"), locked(tmp_path, "training"):
            pass


def test_an_exception_releases_the_lock(tmp_path: Path) -> None:
    """After Ctrl-C the same process can lock the folder again."""
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "new", "training"):
        raise KeyboardInterrupt
    with locked(tmp_path / "new", "training"):
        pass


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
def test_a_lock_that_is_not_a_file_of_its_own_is_refused(tmp_path: Path, kind: str) -> None:
    """A received run can't make the lock overwrite another file, or wait for a pipe."""
    precious, lock = tmp_path / "precious", tmp_path / "run" / LOCK
    lock.parent.mkdir()
    precious.write_text("precious")
    make = {"link": lock.symlink_to, "hard link": lock.hardlink_to}
    if kind in make:
        make[kind](precious)
    else:
        os.mkfifo(lock) if kind == "pipe" else lock.mkdir()
    for shared in (False, True):
        with pytest.raises(OSError, match=r"\.lock"), locked(lock.parent, "training", shared=shared):
            pass
    assert precious.read_text() == "precious"


def test_a_folder_that_can_only_be_read_can_be_evaluated_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a lock file nobody trains there; with one it is honoured. Training needs a folder to write to."""
    original = os.open

    def read_only(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return original(path, flags, *mode)

    with holder(tmp_path / "held"):
        monkeypatch.setattr(os, "open", read_only)
        with locked(tmp_path / "free", "evaluation", shared=True) as lock:
            assert lock is None
        with pytest.raises(RunInUseError), locked(tmp_path / "held", "evaluation", shared=True):
            pass
        with pytest.raises(OSError, match="Read-only"), locked(tmp_path / "free", "training"):
            pass


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Work goes on, because many clusters have such a disk, and a warning says what nothing prevents there."""

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path, "training"):
        pass
    warning = capsys.readouterr().err
    assert f"{tmp_path} can't be locked (No locks available)" in warning and "lockd" in warning and "--runs" in warning
