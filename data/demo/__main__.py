"""``python -m data.demo``: render the embedded dataset."""

import sys

from data.demo.dataset import main

if __name__ == "__main__":
    sys.exit(main())
