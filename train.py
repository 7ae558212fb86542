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
    import torch  # slow to import, as what follows: a typo or a wrong folder is answered before

    from pipeline.experiment import run_experiment

    # Fading states and gradients end in denormal numbers, slow on some CPUs. The program decides that, not the library,
    # for it holds for the whole process; and before any tensor work, for PyTorch's threads take it from their parent.
    torch.set_flush_denormal(True)
    return run_experiment(config, dataset)


if __name__ == "__main__":
    sys.exit(run_command(main))
