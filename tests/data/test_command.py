"""data/command.py and data/errors.py: exit codes, messages instead of tracebacks, and the hint at a near name."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from data.command import run_command
from data.errors import did_you_mean
from data.records import DatasetError
from data.video import VideoError
from models.backbones import BackboneError
from models.config import ModelConfigError
from pipeline.features.sampling import SamplingError
from pipeline.settings.config import ConfigError
from pipeline.store.store import StoreError
from tests.helpers import REPOSITORY


def raising(error: BaseException) -> Callable[[Sequence[str]], int]:
    def main(arguments: Sequence[str]) -> int:
        raise error

    return main


@pytest.mark.parametrize("code", [0, 1, 2])
def test_exit_code_is_what_main_returns(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's code reaches the shell, and the arguments reach the command without the program's name."""
    monkeypatch.setattr("sys.argv", ["train.py", "--dataset", "demo"])
    seen: list[str] = []

    def main(arguments: Sequence[str]) -> int:
        seen.extend(arguments)
        return code

    assert run_command(main) == code
    assert seen == ["--dataset", "demo"]


@pytest.mark.parametrize(
    "kind", [DatasetError, VideoError, BackboneError, ModelConfigError, ConfigError, SamplingError, StoreError]
)
def test_error_for_the_user_is_a_message_and_code_2(kind: type[ValueError], capsys: pytest.CaptureFixture[str]) -> None:
    """The errors of every package are printed as one message, without a traceback."""
    assert run_command(raising(kind("what, where, what to do"))) == 2
    assert capsys.readouterr() == ("", "error: what, where, what to do\n")


def test_disk_error_is_a_message_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk or a forbidden file is not a defect of the program."""
    assert run_command(raising(PermissionError(13, "Permission denied", "runs/x"))) == 2
    assert capsys.readouterr().err == "error: [Errno 13] Permission denied: 'runs/x'\n"


def test_interruption_is_code_130_and_says_how_to_continue(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C says that finished work is kept and how to resume."""
    assert run_command(raising(KeyboardInterrupt())) == 130
    message = capsys.readouterr().err
    assert "finished work is kept" in message and "--resume" in message


@pytest.mark.parametrize("error", [ValueError("shapes do not match"), KeyError("x"), AssertionError()])
def test_defects_keep_their_traceback(error: Exception) -> None:
    """A defect of the program is not presented as the user's mistake."""
    with pytest.raises(type(error)):
        run_command(raising(error))


def test_hint_names_the_nearest_or_at_most_thirty_names() -> None:
    """A typo gets the nearest name; where none is near, a dataset of thousands of groups does not flood the screen."""
    names = [f"person{number:04d}" for number in range(1000)]
    assert did_you_mean("persom0007", names) == " Did you mean 'person0007'?"
    hint = did_you_mean("x", names)
    assert hint.startswith(" There are: person0000, person0001") and hint.endswith("person0029 and 970 more.")


PRINT = """
import os, sys
from data.command import run_command
def main(arguments):
    print("café", file=open(arguments[0], "w", encoding="utf-8"))
    print("on standard output: café \\udce9")
    print("on standard error: café", file=sys.stderr)
    os.system("echo from a library; echo from a library >&2")
    return 0
sys.exit(run_command(main))
"""


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(tmp_path: Path, closed: str) -> None:
    """With a standard stream closed, the command ends as usual, and no text for the stream ends up elsewhere."""
    path = tmp_path / "file"
    command = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", PRINT, path]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60)
    assert done.returncode == 0
    assert path.read_text(encoding="utf-8") == "café\n"
    assert b"error" not in done.stdout and b"output" not in done.stderr


def test_ascii_terminal_gets_escapes(tmp_path: Path) -> None:
    """A class name that the terminal can't show is escaped, and does not end the command."""
    command = [sys.executable, "-c", PRINT, tmp_path / "file"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert r"on standard output: caf\xe9 \udce9" in done.stdout and r"on standard error: caf\xe9" in done.stderr


@pytest.mark.parametrize(
    "command", ["train.py", "evaluate.py runs", "-m pipeline.cache", "-m pipeline.tune", "-m data.demo"]
)
def test_deleted_working_folder_is_a_message(tmp_path: Path, command: str) -> None:
    """In a folder that was deleted meanwhile, every command says so, instead of a traceback from some import."""
    arguments = [str(REPOSITORY / word) if word.endswith(".py") else word for word in command.split()]
    shell = ["sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && "$@"', "sh", sys.executable, *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "error: the working folder was deleted" in done.stderr and "Traceback" not in done.stderr


FAILING_STREAMS = [("2>/dev/full", 1), (">/dev/full", 2), (">/dev/full 2>/dev/full", 2)]


@pytest.mark.parametrize(("redirection", "code"), FAILING_STREAMS)
def test_a_full_device_behind_a_stream(tmp_path: Path, redirection: str, code: int) -> None:
    """Messages that can't be written are dropped, and the work is done; a result that can't be written is an error."""
    program = PRINT.replace("return 0", "print('x' * 100_000, file=sys.stderr); return 1")
    command = ["sh", "-c", f'"$@" {redirection}', "sh", sys.executable, "-c", program, tmp_path / "file"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    assert (tmp_path / "file").read_text(encoding="utf-8") == "café\n"
    if redirection == ">/dev/full":
        assert "error: [Errno 28] No space left on device" in done.stderr
