"""Errors for the user to fix, and the "did you mean" hint that ends many of them."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A problem that the user can fix: a setting, a file, a folder. The message says what, where, and what to do.

    ``data.command.run_command`` prints the message and returns exit code 2. Any other exception is a bug and keeps its
    traceback.
    """


def did_you_mean(word: str, words: Iterable[str], list_all: bool = True) -> str:
    """A hint for the end of an error message: the nearest of ``words``, or all of them if none is near.

    ``list_all=False`` gives no hint instead of a long list.

    >>> did_you_mean("Divng", ["Diving", "Walking"])
    " Did you mean 'Diving'?"
    >>> did_you_mean("x", ["Diving", "Walking"])
    ' There are: Diving, Walking.'
    """
    known = sorted(words)
    matches = difflib.get_close_matches(word, known, n=1)
    if matches:
        return f" Did you mean {matches[0]!r}?"
    return f" There are: {', '.join(known)}." if list_all else ""
