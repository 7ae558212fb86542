"""Train a classifier: python train.py --dataset ucf101

Caches missing features, trains, evaluates on the test videos and writes the report. Tasks without video work the same
way: python train.py --dataset addition --length 200
"""

import sys
from collections.abc import Sequence

from data.catalog import load_data
from data.command import run_command
from pipeline.settings.config import Config
from pipeline.settings.parsing import parse_command_line


def main(arguments: Sequence[str]) -> int:
    """Return 0 on success, 1 if videos without features were left out (--allow-missing)."""
    config = parse_command_line(Config, arguments)
    # Before the slow imports below, so that a typo or a wrong folder is reported at once.
    data = load_data(config.data)
    import torch

    # Decaying states and gradients become denormal numbers, which are slow on some CPUs. The setting is for the whole
    # process, and PyTorch's threads inherit it, so it comes before any tensor work.
    torch.set_flush_denormal(True)
    from pipeline.experiment import run_experiment

    return run_experiment(config, data)


if __name__ == "__main__":
    sys.exit(run_command(main))
