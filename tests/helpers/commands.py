"""The project's command lines, run as a user runs them: each in a process of its own, in the repository's folder."""

import os
import subprocess
import sys

from tests.helpers import REPOSITORY

TIME_LIMIT = 240.0  # seconds


def start(*arguments: object) -> "subprocess.Popen[str]":
    """``python ARGUMENTS``, running."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", time_limit: float = TIME_LIMIT) -> "subprocess.CompletedProcess[str]":
    """Wait for its end; it is killed where that does not come."""
    try:
        stdout, stderr = process.communicate(timeout=time_limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run(*arguments: object, time_limit: float = TIME_LIMIT) -> "subprocess.CompletedProcess[str]":
    """``python ARGUMENTS``, to its end."""
    return finish(start(*arguments), time_limit)


def message(done: "subprocess.CompletedProcess[str]") -> str:
    """All it said, on one line, without the frames that the parser draws around its errors."""
    return " ".join(word for word in (done.stdout + done.stderr).split() if not set(word) <= set("│╭╮╰╯─"))
