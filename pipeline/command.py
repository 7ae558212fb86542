"""How a command ends: its exit code, and what the user is told instead of a traceback."""

import os
import sys
from collections.abc import Callable, Sequence

OUR_PACKAGES = ("data", "models", "pipeline")


def run_command(main: Callable[[Sequence[str]], int]) -> int:
    """Run ``main`` on the process's arguments and turn what it raises into an exit code.

    Errors meant for the user are the ``ValueError``s of our own packages and the disk's ``OSError``s: their message is
    printed and the code is 2. Ctrl-C gives 130. Anything else is a defect of ours and keeps its traceback.
    """
    # OpenMP threads that spin while they wait for work starve whatever else wants the cores. Set before PyTorch is
    # imported, for it to hear of it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return main(sys.argv[1:])
    except KeyboardInterrupt:
        print(
            "\ninterrupted; what was finished is kept. The same command goes on (training: add --resume)",
            file=sys.stderr,
        )
        return 130
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        if type(error).__module__.partition(".")[0] not in OUR_PACKAGES:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
