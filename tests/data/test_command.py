"""How commands end: exit codes, and messages instead of tracebacks."""

from collections.abc import Callable, Sequence

import pytest

from data.command import run_command
from data.records import DatasetError
from data.video import VideoError
from models.backbones import BackboneError
from models.config import ModelConfigError
from pipeline.cache.store import StoreError
from pipeline.features.sampling import SamplingError
from pipeline.settings.config import ConfigError


def raising(error: BaseException) -> Callable[[Sequence[str]], int]:
    def main(arguments: Sequence[str]) -> int:
        raise error

    return main


@pytest.mark.parametrize("code", [0, 1, 2])
def test_exit_code_is_what_main_returns(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's own code reaches the shell, and its arguments reach the command without the program's name."""
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
    """Each package's own errors are told in one message, without a traceback."""
    assert run_command(raising(kind("what, where, what to do"))) == 2
    assert capsys.readouterr() == ("", "error: what, where, what to do\n")


def test_error_of_the_disk_is_a_message_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """A full disk or a forbidden file is not a defect of the program."""
    assert run_command(raising(PermissionError(13, "Permission denied", "runs/x"))) == 2
    assert capsys.readouterr().err == "error: [Errno 13] Permission denied: 'runs/x'\n"


def test_interruption_is_code_130_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C tells that what was finished is kept."""
    assert run_command(raising(KeyboardInterrupt())) == 130
    assert "The same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("shapes do not match"), KeyError("x"), AssertionError()])
def test_defects_keep_their_traceback(error: Exception) -> None:
    """What is not meant for the user is not dressed up as their mistake."""
    with pytest.raises(type(error)):
        run_command(raising(error))
