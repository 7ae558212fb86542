"""Measure how long a training step of a recurrent layer takes on the CPU, and the matrix products' share of it.

    python -m benchmarks.recurrent               # print the table
    python -m benchmarks.recurrent --busy 2      # the same while two other processes keep cores busy
    python -m benchmarks.recurrent --denormals   # the cost of numbers below 1e-38, and which threads flush them to zero

A layer's step is a forward and a backward pass with a dense gradient for the states of all steps and none for the
inputs. A classifier's step is that of train.py, from the batch to the new weights. All candidates take turns in one
run, so noise affects them equally: compare the ratios, which are medians over the rounds.

While other processes are busy, a step can take ten times as long on two threads as on one, because OpenMP's threads
spin while they wait for each other at every product. Setting OMP_NUM_THREADS=1 or OMP_WAIT_POLICY=PASSIVE in the
environment avoids that.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks import evaluation
from models.classifier import SequenceClassifier
from models.config import ModelConfig, ModelName
from models.initializers import init_gated_, init_gaussian_rnn_, init_irnn_, init_np_rnn_
from models.relu_rnn import ReluRNN
from pipeline.objectives.classification import cross_entropy
from pipeline.settings.config import TrainingConfig
from pipeline.training.batches import Batch, FeatureTable, training_batches
from pipeline.training.clips import ClipSampling
from pipeline.training.loop import parameter_groups

Step = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


class Size(NamedTuple):
    steps: int
    batch: int
    inputs: int
    hidden: int


SIZES = (
    Size(784, 100, 1, 100),  # MNIST, pixel by pixel
    Size(150, 64, 2, 100),  # the addition task
    Size(1000, 32, 2, 128),
    Size(25, 64, 1280, 512),  # a video's features, where the matrix products take most of the time
)
VIDEO = Size(25, 32, 1280, 256)
VIDEO_CLASSES = 101


def main(seconds: float = 10.0, threads: int | None = None, busy: int = 0, denormals: bool = False) -> None:
    """Print a table.

    Args:
        seconds: time to measure each size, without the warm-up.
        threads: number of PyTorch's threads (default: PyTorch's own choice).
        busy: number of other processes that each keep a core busy.
        denormals: measure the cost of denormal numbers instead.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    with busy_processes(busy):
        if denormals:
            compare_denormals(seconds)
            return
        torch.set_flush_denormal(True)
        print(f"{torch.get_num_threads()} threads, {busy} other busy processes; ms per training step")
        for size in SIZES:
            compare_layers(size, seconds)
        compare_classifiers(seconds)


def compare_layers(size: Size, seconds: float) -> None:
    layers = {
        "nn.RNN": init_np_rnn_(nn.RNN(size.inputs, size.hidden, nonlinearity="relu"), "hidden"),
        "ReluRNN": init_np_rnn_(ReluRNN(size.inputs, size.hidden), "hidden"),
        "nn.LSTM": init_gated_(nn.LSTM(size.inputs, size.hidden)),
        "nn.GRU": init_gated_(nn.GRU(size.inputs, size.hidden)),
    }
    inputs = torch.randn(size.steps, size.batch, size.inputs)
    grad_states = torch.randn(size.steps, size.batch, size.hidden)
    candidates = {name: training_step(layer, inputs, grad_states) for name, layer in layers.items()}
    times = take_turns({**candidates, "bare products": bare_products(size)}, seconds)
    print(f"\n(T, B, input, hidden) = {tuple(size)}, {len(times['nn.RNN'])} rounds")
    print(f"{'':14} {'ms':>8} {'nn.RNN / this':>13} {'this / bare products':>21}")
    for name, milliseconds in times.items():
        print(
            f"{name:14} {statistics.median(milliseconds):8.1f} {median_ratio(times['nn.RNN'], milliseconds):13.2f}"
            f" {median_ratio(milliseconds, times['bare products']):21.2f}"
        )


def compare_classifiers(seconds: float) -> None:
    """Compare models by the whole step of train.py on cached features, from the batch to the new weights."""
    names: tuple[ModelName, ...] = ("np_rnn", "lstm", "gru", "mean")
    models = {name: SequenceClassifier(ModelConfig(name, VIDEO.hidden), VIDEO.inputs, VIDEO_CLASSES) for name in names}
    videos = evaluation.Size(videos=20 * VIDEO.batch, frames=VIDEO.steps, features=VIDEO.inputs, classes=VIDEO_CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        table = evaluation.make_table(Path(folder) / "features.npy", videos)
        candidates = {name: whole_step(model, table) for name, model in models.items()}
        times = take_turns({**candidates, "bare products": bare_products(VIDEO)}, seconds)
    rounds = len(times["lstm"])
    print(f"\nclassifiers of {VIDEO_CLASSES} classes, (T, B, features, hidden) = {tuple(VIDEO)}, {rounds} rounds")
    print(
        f"{'':14} {'ms':>8} {'lstm / this':>12} {'gru / this':>10} {'this / bare products':>21} {'parameters':>11}"
        f" {'per unit':>9}"
    )
    for name, milliseconds in times.items():
        shown = (
            f"{name:14} {statistics.median(milliseconds):8.1f} {median_ratio(times['lstm'], milliseconds):12.2f}"
            f" {median_ratio(times['gru'], milliseconds):10.2f}"
            f" {median_ratio(milliseconds, times['bare products']):21.2f}"
        )
        if name in models:
            layers = [parameter for layer in models[name].layers for parameter in layer.parameters()]
            shown += (
                f" {sum(parameter.numel() for parameter in models[name].parameters()):11,}"
                f" {sum(parameter.numel() for parameter in layers) // VIDEO.hidden:9,}"
            )
        print(shown)


def whole_step(model: SequenceClassifier, table: FeatureTable) -> Step:
    """One step of the training loop, with the next batch of ``table``."""
    optimizer = torch.optim.AdamW(parameter_groups(model, TrainingConfig()), fused=True)
    batches = endless_batches(table)

    def step() -> None:
        batch = next(batches)
        cross_entropy(model, batch, 0.0).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def endless_batches(table: FeatureTable) -> Iterator[Batch]:
    rng = np.random.default_rng(0)
    while True:
        yield from training_batches(table, ClipSampling(), VIDEO.batch, rng)


def training_step(layer: nn.RNNBase, inputs: Tensor, grad_states: Tensor) -> Step:
    def step() -> None:
        layer.zero_grad()
        states, _ = layer(inputs)
        states.backward(grad_states)

    return step


def bare_products(size: Size) -> Step:
    """The matrix products that every ReLU layer's training step needs, in place, and nothing else."""
    num_rows = size.steps * size.batch
    inputs, states, deltas = (torch.randn(num_rows, width) for width in (size.inputs, size.hidden, size.hidden))
    weight_ih, weight_hh = torch.randn(size.hidden, size.inputs), torch.randn(size.hidden, size.hidden)
    state, delta = torch.randn(size.batch, size.hidden), torch.randn(size.batch, size.hidden)
    drive, result = torch.empty_like(states), torch.empty_like(state)

    def products() -> None:
        torch.mm(inputs, weight_ih.t(), out=drive)
        for _ in range(size.steps):
            torch.mm(state, weight_hh.t(), out=result)
        for _ in range(size.steps):
            torch.mm(delta, weight_hh, out=result)
        torch.mm(deltas.t(), states)
        torch.mm(inputs.t(), deltas)  # the faster order for few inputs

    return products


def compare_denormals(seconds: float) -> None:
    """Measure the cost of denormals, numbers below 1.2e-38: many CPUs compute with them a hundred times slower."""
    faint = torch.full((2**22,), 1e-40)
    before = share_denormal(faint * 1)  # large enough to start OpenMP's threads
    torch.set_flush_denormal(True)
    after = share_denormal(faint * 1)
    print(
        f"1e-40 * 1, {torch.get_num_threads()} threads: {before:.0%} of the results are denormal; "
        f"after set_flush_denormal(True) {after:.0%}.\n"
        "It affects the calling thread and threads that start later: call it before any computation.\n"
    )
    torch.set_num_threads(1)
    size = Size(784, 100, 1, 100)
    inputs = torch.rand(size.steps, size.batch, size.inputs)
    inputs[size.steps // 2 :] = 0  # without input the states decay
    grad_states = torch.zeros(size.steps, size.batch, size.hidden)
    grad_states[-1] = 1
    relu = {"nonlinearity": "relu"}
    layers = {
        "np-RNN": init_np_rnn_(nn.RNN(size.inputs, size.hidden, **relu), "hidden"),
        "IRNN": init_irnn_(nn.RNN(size.inputs, size.hidden, **relu)),
        "iRNN, 0.8 I": init_irnn_(nn.RNN(size.inputs, size.hidden, **relu), 0.8),
        "Gaussian ReLU": init_gaussian_rnn_(nn.RNN(size.inputs, size.hidden, **relu)),
        "LSTM": init_gated_(nn.LSTM(size.inputs, size.hidden)),
        "GRU": init_gated_(nn.GRU(size.inputs, size.hidden)),
    }
    candidates = {name: training_step(layer, inputs, grad_states) for name, layer in layers.items()}
    for value in (1.0, 1e-40):
        candidates[f"products of {value:g}"] = repeated(torch.mm, *[torch.full((100, 100), value)] * 2)
        candidates[f"roots of {value:g}"] = repeated(torch.sqrt, torch.full((100, 100), value))  # as in Adam
    both = {(name, flush): with_flush(step, flush) for name, step in candidates.items() for flush in (False, True)}
    times = take_turns(both, seconds)
    torch.set_flush_denormal(False)
    print(f"{'one thread':18} {'ms':>8} {'flushed':>8} {'ratio':>6} {'denormal states':>16}")
    for name in candidates:
        kept, flushed = times[name, False], times[name, True]
        share = f"{share_denormal(layers[name](inputs)[0]):16.3f}" if name in layers else ""
        print(
            f"{name:18} {statistics.median(kept):8.1f} {statistics.median(flushed):8.1f}"
            f" {median_ratio(kept, flushed):6.2f} {share}"
        )


def repeated(operation: Callable[..., Tensor], *operands: Tensor) -> Step:
    return lambda: [operation(*operands) for _ in range(1000)]


def with_flush(step: Step, flush: bool) -> Step:
    def flushing_step() -> None:
        torch.set_flush_denormal(flush)
        step()

    return flushing_step


def share_denormal(values: Tensor) -> float:
    # A comparison would flush them to zero first, so look at the bits.
    exponents = values.detach().view(torch.int32) & 0x7F800000
    mantissas = values.detach().view(torch.int32) & 0x007FFFFF
    return ((exponents == 0) & (mantissas != 0)).double().mean().item()


def take_turns(candidates: dict[Name, Step], seconds: float) -> dict[Name, list[float]]:
    """Call each candidate once to warm up, then all in turn, at least three times; return each call's milliseconds."""
    for step in candidates.values():
        step()
    times: dict[Name, list[float]] = {name: [] for name in candidates}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        for name, step in candidates.items():
            start = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - start))
        rounds += 1
    return times


def median_ratio(times: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, other, strict=True))


@contextlib.contextmanager
def busy_processes(number: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    tyro.cli(main)
