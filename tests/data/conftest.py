"""Fixtures for the tests of datasets."""

from collections.abc import Callable, Sequence

import pytest

from data.command import run_command

Main = Callable[[Sequence[str]], int]


@pytest.fixture
def exit_code_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int | str | None]:
    """Runs a command's ``main`` with the given arguments in this process and returns the command's exit code."""

    def run(main: Main, *arguments: str) -> int | str | None:
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        try:
            return run_command(main)
        except SystemExit as stop:  # the parser's answer to an unknown flag
            return stop.code

    return run
