"""Groups that a regular expression finds in the names of videos."""

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.records import DatasetError

# A millisecond per name is a thousand times what usual patterns need.
_SECONDS, _SECONDS_PER_NAME = 5.0, 0.001


def find_groups(text: str, paths: Sequence[Path]) -> list[str]:
    """The group of each file: what the first (...) of the expression ``text`` finds in its name without the ending.

    Raises ``DatasetError`` if ``text`` is no expression with parentheses, does not match a name, or takes too long: the
    time of some expressions doubles with every character of a name, and a run's settings may come from anybody.
    """
    seconds = _SECONDS + _SECONDS_PER_NAME * len(paths)
    try:
        with _time_limit(seconds):
            pattern = re.compile(text)
            matches = [pattern.search(path.stem) for path in paths]
    except (re.error, OverflowError, RecursionError) as error:
        raise DatasetError(f"group_pattern {text!r} is not a regular expression: {error}. Fix it.") from error
    except TimeoutError as error:
        raise DatasetError(
            f"group_pattern {text!r} takes more than {seconds:.0f} s for the names of {len(paths)} videos. Repeat "
            "nothing that is itself repeated, as in '(a+)+'."
        ) from error
    if pattern.groups == 0:
        raise DatasetError(
            f"group_pattern {text!r} has no parentheses. Put them around the group: '^([^_]+)_' finds ann in "
            "ann_run.avi."
        )
    groups = []
    for path, match in zip(paths, matches, strict=True):
        if match is None or not match[1]:
            raise DatasetError(
                f"group_pattern {text!r} finds no group in {path.stem!r} ({path}). It must match every file's name "
                "without its ending."
            )
        groups.append(match[1])
    return groups


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TimeoutError`` if the context takes more processor time. ``re`` looks for signals while it searches."""

    def stop(*_: object) -> None:
        raise TimeoutError

    previous = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)
