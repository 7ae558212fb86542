"""``python -m data.demo``: render the demo dataset."""

import sys

from data.command import run_command
from data.demo.dataset import main

if __name__ == "__main__":
    sys.exit(run_command(main))
