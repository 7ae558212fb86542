"""Train a classifier: python train.py --dataset ucf101

Caches the features that are missing, trains, evaluates on the test list and writes the report.
"""

import sys
from collections.abc import Sequence

from data.catalog import load_dataset
from pipeline.command import run_command
from pipeline.config import Config, parse_command_line


def main(arguments: Sequence[str]) -> int:
    """0: all done; 1: some videos failed and were left out, as --allow-missing asks."""
    config = parse_command_line(Config, arguments)
    dataset = load_dataset(config.data.dataset, config.data.options)
    from pipeline.experiment import run_experiment  # slow to import: a typo or a wrong folder is answered before

    return run_experiment(config, dataset)


if __name__ == "__main__":
    sys.exit(run_command(main))
