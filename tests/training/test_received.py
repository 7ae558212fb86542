"""pipeline/training/received.py: what a run folder from elsewhere may contain."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from data.errors import UserError
from pipeline.training.received import ReceivedError, check_received
from pipeline.training.run import Run, find_runs


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


STRANGE: dict[str, Callable[[Path], object]] = {
    "link to a file": lambda path: path.symlink_to("/etc/hostname"),
    "link to a folder": lambda path: path.symlink_to("/tmp"),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link within the run": lambda path: path.symlink_to("config.yaml"),
    "pipe": os.mkfifo,
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path)),
    "huge file": huge,
}


@pytest.mark.parametrize("make", STRANGE.values(), ids=STRANGE.keys())
@pytest.mark.parametrize("name", ["config.yaml", "a/b/c/figure.png"])
def test_strange_files_are_refused(tmp_path: Path, make: Callable[[Path], object], name: str) -> None:
    """The error names the file; reading the settings of the run fails instead of blocking or filling the memory."""
    (tmp_path / "config.yaml").write_text("dataset: demo\n")
    path = tmp_path / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)
    with pytest.raises(ReceivedError, match=str(path)):
        check_received(tmp_path)
    with pytest.raises(UserError):
        Run(tmp_path).config()


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    """The user named it, so that is where the run is."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("dataset: demo\nsplits: ['1']\nseeds: [0]\n")
    (tmp_path / "link").symlink_to("run")
    assert Run(tmp_path / "link").config().data.dataset == "demo"


def test_folders_may_be_nested_deeply(tmp_path: Path) -> None:
    """More levels than Python's recursion limit don't end the search for runs."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    levels = [tmp_path / "/".join("d" * depth) for depth in range(1, 1500)]
    for level in levels:
        level.mkdir()
    try:
        assert [run.folder for run in find_runs([tmp_path])] == [tmp_path / "run"]
    finally:
        for level in reversed(levels):  # rmtree is recursive too
            level.rmdir()
