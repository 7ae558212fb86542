"""data/progress.py: plain lines in a log, a bar on a terminal."""

import os
import pty
import re
import subprocess
import sys
import termios

import pytest

from data import progress as module
from data.progress import Progress
from tests.helpers import REPOSITORY

THREE_OF_FOUR = """
from data.progress import Progress

progress = Progress(total=4, unit="video", what="caching features")
for number in range(3):
    progress.advance(failed=number)
progress.note("failed: a.avi: is empty")
progress.close()
"""


def test_log_contains_plain_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal every line is complete: count, rate, time left and figures, without control characters."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    progress = Progress(total=4, unit="video", what="caching")
    progress.advance(failed=0)
    progress.advance(2, failed=1)
    progress.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    for line, done, failed in zip(lines, (1, 3, 3), (0, 1, 1), strict=True):
        pattern = rf"caching: {done}/4 videos, [\d.]+ videos/s, \d\d:\d\d left, failed {failed}"
        assert re.fullmatch(pattern, line)


def test_log_is_not_flooded(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten thousand quick steps give a single line, at the end, because lines are seconds apart."""
    progress = Progress(total=10_000, unit="step")
    for _ in range(10_000):
        progress.advance(loss="0.1")
    assert capsys.readouterr().err == ""
    progress.close()
    assert capsys.readouterr().err.startswith("10000/10000 steps, ")


def test_rate_counts_only_what_this_run_did(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a resumed run, what an earlier run did does not enter the rate and the time left."""
    clock = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: clock)
    progress = Progress(total=100, unit="step", done=80)
    clock = 110.0
    progress.advance(10)
    progress.close()
    assert capsys.readouterr().err == "90/100 steps, 1.0 steps/s, 00:10 left\n"


def test_bytes_are_scaled(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A download shows megabytes and gigabytes, not ten-digit numbers."""
    clock = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: clock)
    progress = Progress(total=7_000_000_000, unit="B", done=5_000_000_000, what="videos.zip")
    clock = 110.0
    progress.advance(500_000_000)
    progress.close()
    assert capsys.readouterr().err == "videos.zip: 5.50GB/7.00GB, 50.0MB/s, 00:30 left\n"


def test_nothing_done_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Work that had nothing to do prints no line."""
    Progress(total=3, unit="video", done=3).close()
    assert capsys.readouterr().err == ""


def test_notes_stay_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """A failure is printed at once, on its own line on standard error."""
    Progress(total=3, unit="video").note("failed: a.avi")
    assert capsys.readouterr() == ("", "failed: a.avi\n")


def test_terminal_gets_a_bar() -> None:
    """On a terminal there is one bar, redrawn in place, with notes above it and no plain lines."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    subprocess.run([sys.executable, "-c", THREE_OF_FOUR], cwd=REPOSITORY, stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "caching features:  75%|" in shown and "3/4" in shown and "video/s" in shown and "failed=2" in shown
    assert "\r" in shown and "failed: a.avi: is empty\r\n" in shown
    assert "videos/s" not in shown
