"""data/atomic.py: files are complete or absent, whatever happens to the writer."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data.atomic import remove_abandoned, write_atomically, write_text_atomically
from tests.helpers import REPOSITORY

KILLED_WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
from data.atomic import write_atomically

path, megabyte = Path(sys.argv[1]), 2**20
random.seed(0)
write_atomically(path, lambda temporary: temporary.write_bytes(bytes(4 * megabyte)))
for _ in range(40):
    pid = os.fork()
    if pid == 0:
        for number in range(10**6):
            write_atomically(path, lambda temporary: temporary.write_bytes(bytes([number % 256]) * (4 * megabyte)))
    time.sleep(random.uniform(0.001, 0.04))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    content = path.read_bytes()
    assert len(content) == 4 * megabyte and len(set(content)) == 1, "torn"
print(len(list(path.parent.glob(".*.tmp"))))
"""


def temporary_of(path: Path, host: str, pid: int) -> Path:
    """A temporary file as ``write_atomically`` names it."""
    temporary = path.parent / f".{path.name}.{host}.{pid}.tmp"
    temporary.write_text("half")
    return temporary


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_writes_complete_file_and_creates_its_folder(tmp_path: Path) -> None:
    """The content arrives under the final name, in a folder created for it, and nothing else is left."""
    path = tmp_path / "new" / "folder" / "file.txt"
    write_text_atomically(path, "größe")
    assert path.read_text(encoding="utf-8") == "größe"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError("decoder"), KeyboardInterrupt()])
def test_failure_keeps_the_old_file(tmp_path: Path, error: BaseException) -> None:
    """A write that stops early, by an error or Ctrl-C, leaves the old content and no temporary file."""
    path = tmp_path / "file.txt"
    write_text_atomically(path, "old")

    def half(temporary: Path) -> None:
        temporary.write_text("ne")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_disk_error_names_the_file(tmp_path: Path) -> None:
    """A disk error without a file name (a full disk), or with the temporary one, gets the name of the file."""

    def full(temporary: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device.*file.txt"):
        write_atomically(tmp_path / "file.txt", full)
    with pytest.raises(FileNotFoundError, match="file.txt"):
        write_atomically(tmp_path / "file.txt", Path.read_bytes)  # fails as an open of the temporary file would


def test_name_of_any_length_is_written(tmp_path: Path) -> None:
    """A name of maximal length can be written, because the temporary name is no longer than it."""
    path = tmp_path / ("x" * 255)
    write_text_atomically(path, "whole")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_processes_never_share_a_temporary_name(tmp_path: Path) -> None:
    """Two containers on one store may share a host name and a process id, but not their temporary files."""
    command = "import os, socket; os.getpid = lambda: 7; socket.gethostname = lambda: 'h'; from pathlib import Path; "
    command += "from data.atomic import temporary_name; print(temporary_name(Path('a')), temporary_name(Path('a')))"
    output = [subprocess.check_output([sys.executable, "-c", command], cwd=REPOSITORY, text=True) for _ in range(2)]
    (first, same), (other, _) = map(str.split, output)
    assert first == same != other and first.endswith(".h.7.tmp")


def test_killed_writers_leave_no_torn_file(tmp_path: Path) -> None:
    """After each of forty writers is killed at a random moment the file is complete, and their remains are removed."""
    path = tmp_path / "file.bin"
    command = [sys.executable, "-c", KILLED_WRITERS, str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    num_left = int(done.stdout)
    assert num_left > 0, "no writer was killed while it wrote, so the test proves nothing"
    assert remove_abandoned(tmp_path) == num_left
    assert [file.name for file in tmp_path.iterdir()] == ["file.bin"]


def test_only_abandoned_files_are_removed(tmp_path: Path) -> None:
    """Work in progress, on this or another host, and other programs' files stay; remains of dead processes and day-old
    files go."""
    path, this_host = tmp_path / "deep" / "video.safetensors", socket.gethostname()
    path.parent.mkdir()
    path.write_text("whole")
    kept = [
        path,
        temporary_of(path, this_host, os.getpid()),
        temporary_of(path, "another-host", 1),
        tmp_path / ".somebody.elses.tmp",
    ]
    kept[-1].write_text("not ours")
    gone = [temporary_of(path, this_host, dead_pid()), temporary_of(path, "another-host", 2)]
    day_ago = time.time() - 25 * 3600
    for file in (gone[-1], kept[-1]):
        os.utime(file, (day_ago, day_ago))
    assert remove_abandoned(tmp_path) == 2
    assert all(file.exists() for file in kept)
    assert not any(file.exists() for file in gone)


def test_folder_that_vanishes_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder that another job renames during the search must not end this job."""
    folders = [tmp_path / f".{name}.host.1.tmp" for name in "ab"]
    for folder in folders:
        folder.mkdir()
    scandir = os.scandir

    def while_another_job_works(path: Any) -> Any:
        if Path(path) in folders:
            Path(path).rename(tmp_path / "published")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", while_another_job_works)
    assert remove_abandoned(tmp_path) == 0
    assert (tmp_path / "published").is_dir()


def test_missing_folder_contains_nothing_abandoned(tmp_path: Path) -> None:
    """The first run, whose folder does not exist yet, has nothing to remove."""
    assert remove_abandoned(tmp_path / "missing") == 0
