"""The project's commands as a user runs them, in the repository's folder: in a process of their own, or in this one."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec

import pytest

from data.command import run_command
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


def call(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the command ``python ARGUMENTS`` in this process, which spares the seconds that a start of PyTorch takes.

    What its child processes print is not in the output. A defect is raised.
    """
    words = [str(argument) for argument in arguments]
    module = words.pop(0).removesuffix(".py")
    if module == "-m":
        module = words.pop(0)
        spec = find_spec(module)
        if spec is not None and spec.submodule_search_locations is not None:
            module += ".__main__"
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(stdout), redirect_stderr(stderr):
        patched.chdir(REPOSITORY)
        patched.setattr(sys, "argv", [str(arguments[0]), *words])
        try:
            code = run_command(import_module(module).main)
        except SystemExit as ended:  # the parser's
            code = int(ended.code or 0)
    printed, warned = (stream.buffer.getvalue().decode() for stream in (stdout, stderr))
    return subprocess.CompletedProcess(words, code, printed, warned)


def message(done: "subprocess.CompletedProcess[str]") -> str:
    """The output on one line, without the boxes that the parser draws around its errors."""
    return " ".join(word for word in (done.stdout + done.stderr).split() if not set(word) <= set("│╭╮╰╯─"))
