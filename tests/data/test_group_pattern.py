"""data/group_pattern.py: groups from the names of videos, whatever the expression is."""

import signal
import time
from pathlib import Path

import pytest

from data.group_pattern import find_groups
from data.records import DatasetError

VIDEOS = [Path(f"p{number}_{'a' * 60}_run.avi") for number in range(3)]


def test_the_first_parentheses_are_the_group() -> None:
    """A pattern finds the group of every file, and afterwards no time limit is left that could stop the command."""
    assert find_groups("^(p[0-9])_(a*)", VIDEOS) == ["p0", "p1", "p2"]
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


@pytest.mark.parametrize("pattern", ["_((a+)+)+$", "_(a|a)*$", "(.*){1,99}(.*){1,99}="])
def test_a_pattern_that_takes_for_ever_is_refused(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern whose time doubles with every character, from settings that a stranger made, ends in a message."""
    monkeypatch.setattr("data.group_pattern._SECONDS", 0.2)
    started = time.process_time()
    with pytest.raises(DatasetError, match="takes more than"):
        find_groups(pattern, VIDEOS)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("pattern", ["(", "(a{99999999999})", "(" * 3000 + "a" + ")" * 3000])
def test_what_is_no_expression_is_refused(pattern: str) -> None:
    """Whatever ``re`` raises for an expression that it can't compile, the user sees a message."""
    with pytest.raises(DatasetError, match="is not a regular expression"):
        find_groups(pattern, VIDEOS)
