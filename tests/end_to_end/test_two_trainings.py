"""Two processes and one run, through the real command lines: the second is refused until the first has ended."""

import re
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.commands import finish, run, start


def arguments(runs: Path, *more: object) -> list[object]:
    """A training that takes minutes, with short epochs."""
    return [
        *("train.py", "--dataset", "addition", "--length", 10, "--epochs", 10000, "--steps-per-epoch", 5),
        *("--patience", 10000, "--batch-size", 16, "--hidden-size", 4, "--runs", runs, "--name", "a", *more),
    ]


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_being_trained_is_left_alone(tmp_path: Path, ending: signal.Signals) -> None:
    """--overwrite, --resume and evaluate.py name the process that trains; after kill -9 or Ctrl-C of it they work."""
    folder = tmp_path / "addition" / "a"
    first = start(*arguments(tmp_path))
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert first.poll() is None
    for command, code in (
        (arguments(tmp_path, "--overwrite"), 2),
        (arguments(tmp_path, "--resume"), 2),
        (["evaluate.py", folder], 1),
    ):
        done = run(*command)
        assert done.returncode == code
        assert re.search(rf"{folder} is in use: training by process {first.pid} on \S+ since 20", done.stderr)
    first.send_signal(ending)
    ended = finish(first)
    assert "Traceback" not in ended.stderr
    assert run("evaluate.py", folder).returncode == 0
    before = (folder / "metrics.jsonl").read_text()
    second = start(*arguments(tmp_path, "--resume"))
    while (folder / "metrics.jsonl").read_text() == before and time.monotonic() < deadline:
        time.sleep(0.05)
    second.send_signal(signal.SIGINT)
    assert finish(second).returncode == 130
    assert (folder / "metrics.jsonl").read_text().startswith(before[:100])
