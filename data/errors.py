"""The error a user may see, and the hint at the nearest name that ends many messages."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

_MAX_LISTED = 30


class UserError(ValueError):
    """A problem the user can fix: a setting, a file, a folder. The message says what, where, and what to do.

    ``data.command.run_command`` prints the message and returns exit code 2. Any other exception is a bug and keeps its
    traceback.
    """


def printable(path: Path | str) -> str:
    """The path with the bytes that are not UTF-8 escaped, as in ``caf\\xe9``. It equals the path if there are none."""
    return os.fsencode(path).decode(errors="backslashreplace")


def nearest_name(word: str, words: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The word most similar to ``word``, or ``None`` if no similarity (in [0, 1]) reaches ``cutoff``."""
    matches = difflib.get_close_matches(word, sorted(words), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """A hint to append to an error message: the nearest of ``words``, or a list of them if none is near.

    >>> did_you_mean("Divng", ["Diving", "Walking"])
    " Did you mean 'Diving'?"
    >>> did_you_mean("x", ["Diving", "Walking"])
    ' There are: Diving, Walking.'
    """
    known = sorted(words)
    nearest = nearest_name(word, known)
    if nearest is not None:
        return f" Did you mean {nearest!r}?"
    more = f" and {len(known) - _MAX_LISTED} more" if len(known) > _MAX_LISTED else ""
    return f" There are: {', '.join(known[:_MAX_LISTED])}{more}."
