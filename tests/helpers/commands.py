"""The project's commands as a user runs them: each in its own process, in the repository's folder."""

import os
import subprocess
import sys

from tests.helpers import REPOSITORY

TIME_LIMIT = 240.0  # seconds


def start(*arguments: object) -> "subprocess.Popen[str]":
    """Start ``python ARGUMENTS``."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]", time_limit: float = TIME_LIMIT) -> "subprocess.CompletedProcess[str]":
    """Wait until the process ends; kill it after the time limit."""
    try:
        stdout, stderr = process.communicate(timeout=time_limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run(*arguments: object, time_limit: float = TIME_LIMIT) -> "subprocess.CompletedProcess[str]":
    """Run ``python ARGUMENTS`` until it ends."""
    return finish(start(*arguments), time_limit)


def message(done: "subprocess.CompletedProcess[str]") -> str:
    """The output on one line, without the boxes that the parser draws around its errors."""
    return " ".join(word for word in (done.stdout + done.stderr).split() if not set(word) <= set("│╭╮╰╯─"))
