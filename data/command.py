"""How a command ends: its exit code, and a plain message instead of a traceback."""

import os
import sys
from collections.abc import Callable, Sequence

from data.errors import UserError


def run_command(main: Callable[[Sequence[str]], int]) -> int:
    """Run ``main`` on the process's arguments and return the exit code.

    A ``UserError`` or an ``OSError`` (a full disk, for example) prints its message and returns 2. Ctrl-C returns 130.
    Any other exception is a defect and keeps its traceback.
    """
    # Spinning OpenMP threads starve the reader processes. PyTorch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return main(sys.argv[1:])
    except KeyboardInterrupt:
        print(
            "\ninterrupted; finished work is kept. Run the same command again to continue (training: add --resume)",
            file=sys.stderr,
        )
        return 130
    except (OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
