"""Train a classifier: python train.py --dataset ucf101

Caches the features that are missing, trains, evaluates on the test list and writes the report. The tasks without video
go the same way: python train.py --dataset addition --length 200
"""

import sys
from collections.abc import Sequence

from data.catalog import load_dataset
from data.command import run_command
from data.sequences import load_task
from pipeline.settings.config import Config
from pipeline.settings.parsing import parse_command_line


def main(arguments: Sequence[str]) -> int:
    """0: all done; 1: some videos failed and were left out, as --allow-missing asks."""
    config = parse_command_line(Config, arguments)
    data = config.data
    if data.has_video:
        dataset = load_dataset(data)
    else:
        task = load_task(data)
    import torch  # slow to import, as what follows: a typo or a wrong folder is answered before

    # Fading states and gradients end in denormal numbers, slow on some CPUs. The program decides that, not the library,
    # for it holds for the whole process; and before any tensor work, for PyTorch's threads take it from their parent.
    torch.set_flush_denormal(True)
    if data.has_video:
        from pipeline.experiment import run_experiment

        return run_experiment(config, dataset)
    from pipeline.sequence_experiment import run_sequence_experiment

    return run_sequence_experiment(config, task)


if __name__ == "__main__":
    sys.exit(run_command(main))
