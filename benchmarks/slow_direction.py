"""Train networks whose slow direction passes the ReLU on addition, and print when each has learned it.

    python -m benchmarks.slow_direction                  # a minute or two for each row and seed
    python -m benchmarks.slow_direction --variants blocks memory --seeds 0 1 2

docs/np_rnn.md discusses the result. All start as np_rnn of the paper (c = 1) with 100 units and differ in what is said
below; all have the same settings and see the same sequences.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import torch
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F

from data.command import parse_arguments, run_command
from data.errors import did_you_mean
from data.progress import Progress
from data.sequences import ArithmeticTask
from models.classifier import SequenceClassifier
from models.config import ModelConfig
from models.relu_rnn import ReluRNN
from pipeline.objectives.sequences import mean_squared_error
from pipeline.reports.sequence_table import SOLVED_MSE
from pipeline.settings.config import ConfigError, TrainingConfig
from pipeline.training.loop import new_classifier, new_optimizer, update

NUM_BLOCKS = MEMORY_UNITS = 10
CPU = torch.device("cpu")


class Variant(NamedTuple):
    """``change`` gets W_hh, ``[N, N]``, and W_xh, ``[N, 2]``, of the initialised network, and changes them in place."""

    what: str
    change: Callable[[Tensor, Tensor], object] = lambda recurrent, inputs: None
    memory_units: int = 0
    learns_all: bool = False


def slowest(recurrent: Tensor) -> Tensor:
    """The eigenvector of the largest eigenvalue of a symmetric matrix."""
    return torch.linalg.eigh(recurrent).eigenvectors[:, -1]


def flip_signs(recurrent: Tensor, _inputs: Tensor) -> None:
    signs = slowest(recurrent).sign()
    recurrent *= signs[:, None] * signs


def draw_positive(recurrent: Tensor, _inputs: Tensor) -> None:
    """Fill as np-RNN, with the absolute values of R in place of R."""
    size = len(recurrent)
    gaussian = torch.randn(size, size, dtype=torch.float64).abs()
    matrix = gaussian.T @ gaussian / size + torch.eye(size)
    recurrent.copy_(matrix / torch.linalg.eigvalsh(matrix)[-1])


def draw_blocks(recurrent: Tensor, inputs: Tensor) -> None:
    recurrent.zero_()
    for block in torch.arange(len(recurrent)).tensor_split(NUM_BLOCKS):
        own = recurrent[block][:, block]
        draw_positive(own, inputs)
        recurrent[block[:, None], block] = own


def without_slow_inputs(change: Callable[[Tensor, Tensor], object]) -> Callable[[Tensor, Tensor], None]:
    """Make the input weights orthogonal to the slowest direction of every block that ``change`` makes."""

    def both(recurrent: Tensor, inputs: Tensor) -> None:
        change(recurrent, inputs)
        for block in torch.arange(len(recurrent)).tensor_split(NUM_BLOCKS if change is draw_blocks else 1):
            direction = slowest(recurrent[block][:, block])
            inputs[block] -= torch.outer(direction, direction @ inputs[block])

    return both


VARIANTS = {
    "paper": Variant("the paper's draw"),
    "flipped": Variant("signs flipped, the slow direction is positive", flip_signs),
    "flipped_orthogonal": Variant("the same, W_xh orthogonal to it", without_slow_inputs(flip_signs)),
    "positive": Variant("abs(R) in place of R", draw_positive),
    "positive_orthogonal": Variant(
        "the same, W_xh orthogonal to its slow direction", without_slow_inputs(draw_positive)
    ),
    "blocks": Variant(f"{NUM_BLOCKS} blocks of abs(R), as many slow directions", draw_blocks),
    "blocks_orthogonal": Variant("the same, W_xh orthogonal to all of them", without_slow_inputs(draw_blocks)),
    "shift": Variant("each unit hands its state to the next", lambda w, _: w.copy_(torch.eye(len(w)).roll(1, 0))),
    "identity": Variant("the identity", lambda w, _: w.copy_(torch.eye(len(w)))),
    "memory_learned": Variant(
        f"{MEMORY_UNITS} memory units, all weights learned", memory_units=MEMORY_UNITS, learns_all=True
    ),
    "memory": Variant(f"{MEMORY_UNITS} memory units", memory_units=MEMORY_UNITS),
}


@dataclass(frozen=True)
class Arguments:
    """Which networks to train, and for how long."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    """networks to train"""
    seeds: tuple[int, ...] = (0, 1)
    """seeds of the weights and of the sequences"""
    length: int = 200
    """numbers per sequence"""
    steps: int = 4_000
    """training steps of 50 sequences"""
    validate_every: int = 250
    """steps between validations on 1,000 other sequences"""
    learning_rate: float = 5e-4
    """peak learning rate of AdamW, falling along a cosine"""
    recurrent_learning_rate: float = 1e-4
    """that of the recurrent matrix"""

    def __post_init__(self) -> None:
        for name in self.variants:
            if name not in VARIANTS:
                raise ConfigError(f"unknown variant {name!r}.{did_you_mean(name, tuple(VARIANTS))}")
        if self.length < 2:
            raise ConfigError(f"length must be at least 2, not {self.length}")
        if not 1 <= self.validate_every <= self.steps:
            raise ConfigError(f"validate_every must be 1 to {self.steps} (steps), not {self.validate_every}")


def main(arguments: Sequence[str]) -> int:
    """Train all variants with all seeds, print the table."""
    options = parse_arguments(Arguments, arguments, prog="python -m benchmarks.slow_direction", description=__doc__)
    rows = []
    with closing(Progress(total=len(options.variants) * len(options.seeds), unit="training")) as progress:
        for name in options.variants:
            found = []
            for seed in options.seeds:
                learned, error = train(VARIANTS[name], seed, options)
                when = f"learned after {learned} steps" if learned else "not learned"
                progress.note(f"{name}, seed {seed}: {when}, lowest MSE {error:.2g}")
                progress.advance()
                found.append((learned, error))
            rows.append(
                {
                    "W_hh": VARIANTS[name].what,
                    f"MSE below {SOLVED_MSE} after, steps": ", ".join(f"{n:,}" if n else "never" for n, _ in found),
                    "lowest MSE": ", ".join(f"{error:.2g}" for _, error in found),
                }
            )
    print(tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True))
    return 0


def train(variant: Variant, seed: int, options: Arguments) -> tuple[int | None, float]:
    """Return the steps until the validation error was below ``SOLVED_MSE`` (``None``: never) and the lowest one."""
    model, settings = new_network(variant, seed, options), settings_of(options)
    task = ArithmeticTask("addition", options.length)
    optimizer, schedule = new_optimizer(model, settings, options.steps, num_epochs=1)
    learned, lowest = None, float("inf")
    for step in range(options.steps):
        batch = task.training_batch(seed, step, settings.batch_size)
        outputs = model.train()(torch.from_numpy(batch.inputs))[:, 0]
        update(model, F.mse_loss(outputs, torch.from_numpy(batch.targets)), settings.clip_gradient, optimizer, schedule)
        if (step + 1) % options.validate_every == 0:
            error = mean_squared_error(model, task.validation_batches(), CPU)
            lowest = min(lowest, error)
            if learned is None and error < SOLVED_MSE:
                learned = step + 1
    return learned, lowest


def new_network(variant: Variant, seed: int, options: Arguments) -> SequenceClassifier:
    config = ModelConfig(
        hidden_size=100,
        identity_weight=1.0,
        input_scale="sqrt_hidden",
        readout="last",
        inputs="frames",
        skip_connection=False,
        power_norm=False,
        dropout=0.0,
        memory_units=variant.memory_units,
        memory_steps=options.length,
    )
    model = new_classifier(config, seed, ArithmeticTask.num_inputs, 1)
    (layer,) = model.layers
    assert isinstance(layer, ReluRNN)
    if variant.learns_all:
        replaced = ReluRNN(layer.input_size, layer.hidden_size)
        replaced.load_state_dict(layer.state_dict())
        model.layers[0] = layer = replaced
    torch.manual_seed(seed)
    with torch.no_grad():
        variant.change(layer.weight_hh_l0, layer.weight_ih_l0)
    return model


def settings_of(options: Arguments) -> TrainingConfig:
    return TrainingConfig(
        batch_size=50,
        learning_rate=options.learning_rate,
        recurrent_learning_rate=options.recurrent_learning_rate,
        adam_beta2=0.99,
        weight_decay=0.0,
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
