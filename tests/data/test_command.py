"""data/command.py and data/errors.py: exit codes, messages instead of tracebacks, and the hint at a near name."""

from collections.abc import Callable, Sequence

import pytest

from data.command import run_command
from data.errors import did_you_mean
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
