"""The errors that a user may see, and the hint at the nearest name that ends many of them."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A problem that the user can fix: a setting, a file, a folder. The message says what, where, and what to do.

    ``data.command.run_command`` prints the message and returns exit code 2. Any other exception is a defect of this
    project and keeps its traceback.
    """


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """A hint for the end of an error message: `` Did you mean 'x'?``, or the list of ``words`` where none is near.

    >>> did_you_mean("Divng", ["Diving", "Walking"])
    " Did you mean 'Diving'?"
    >>> did_you_mean("x", ["Diving", "Walking"])
    ' There are: Diving, Walking.'
    """
    known = sorted(words)
    matches = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else f" There are: {', '.join(known)}."
