"""Measure how long training takes on the CPU, and the matrix products' share of it.

    python -m benchmarks.recurrent --threads 2   # layers, and the whole training step of classifiers
    python -m benchmarks.recurrent --layers min_gru lem     # these beside np_rnn's, LSTM's and GRU's
    python -m benchmarks.recurrent --epoch       # an epoch at UCF101's size, with validation: about two minutes

A layer's step is a forward and a backward pass with a dense gradient for the states of all steps and none for the
inputs. A classifier's step is that of train.py, from the float16 features of a table to the new weights. All candidates
take turns in one run, so noise affects them equally: compare the ratios, which are medians over the rounds.

A model's products are those that no implementation can avoid, in float32 with preallocated operands. Per layer: the
inputs and the states with their weights, and in the backward pass the gradients of both weight matrices and of the
states. Per linear layer (the read-out and the skip connection): the scores, the weights' gradient, and for the read-out
its inputs' gradient. The products of an epoch are those of its training steps, and those of scoring the validation
clips (the row ``floor`` of ``benchmarks.evaluation``).
"""

import dataclasses
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks import evaluation
from benchmarks.evaluation import make_features, median_ratio
from data.records import Split, VideoDataset
from models.classifier import SequenceClassifier
from models.config import ModelConfig, ModelName
from models.features import power_normalize
from models.initializers import init_gated_, init_np_rnn_
from models.relu_rnn import ReluRNN
from models.state_networks import STATE_NETWORKS
from pipeline.objectives.classification import cross_entropy
from pipeline.objectives.videos import VideoClassification, VideoTask
from pipeline.settings.config import Config, EvaluationOverrides, TrainingConfig
from pipeline.settings.parsing import from_flat, read_yaml
from pipeline.training.batches import Batch, FeatureTable, training_batches
from pipeline.training.clips import ClipSampling
from pipeline.training.loop import fit, new_optimizer, update
from pipeline.training.run import Run

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
VIDEO_MODELS: tuple[ModelName, ...] = ("np_rnn", "lstm", "gru", "mean")
GATES = {"lstm": 4, "gru": 3}
UCF101 = Path(__file__).parent.parent / "configs" / "ucf101.yaml"


def main(
    seconds: float = 10.0,
    threads: int | None = None,
    epoch: bool = False,
    layers: tuple[ModelName, ...] = (),
) -> None:
    """Print a table.

    Args:
        seconds: time to measure each size, without the warm-up.
        threads: number of PyTorch's threads (default: PyTorch's own choice).
        epoch: measure an epoch of np_rnn at UCF101's size instead.
        layers: models whose layers are measured too; the classifiers are then left out.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # as train.py does
    if epoch:
        compare_epochs(from_flat(Config, read_yaml(UCF101), str(UCF101)))
        return
    print(f"{torch.get_num_threads()} threads; ms per training step")
    for size in SIZES:
        compare_layers(size, seconds, layers)
    if not layers:
        compare_classifiers(VIDEO, 4000, seconds)


def compare_layers(size: Size, seconds: float, more: Sequence[ModelName] = ()) -> None:
    layers: dict[str, nn.Module] = {
        "nn.RNN": init_np_rnn_(nn.RNN(size.inputs, size.hidden, nonlinearity="relu"), "hidden"),
        "ReluRNN": init_np_rnn_(ReluRNN(size.inputs, size.hidden), "hidden"),
        "nn.LSTM": init_gated_(nn.LSTM(size.inputs, size.hidden)),
        "nn.GRU": init_gated_(nn.GRU(size.inputs, size.hidden)),
    }
    layers |= {model: STATE_NETWORKS[model](size.inputs, ModelConfig(hidden_size=size.hidden)) for model in more}
    inputs = torch.randn(size.steps, size.batch, size.inputs)
    grad_states = torch.randn(size.steps, size.batch, size.hidden)
    candidates = {name: training_step(layer, inputs, grad_states) for name, layer in layers.items()}
    times = take_turns({**candidates, "bare products": bare_products(size)}, seconds)
    print(f"\n(T, B, input, hidden) = {tuple(size)}, {len(times['nn.RNN'])} rounds")
    print(f"{'':14} {'ms':>8} {'nn.RNN / this':>13} {'this / ReluRNN':>14} {'this / bare products':>21}")
    for name, milliseconds in times.items():
        print(
            f"{name:14} {statistics.median(milliseconds):8.1f} {median_ratio(times['nn.RNN'], milliseconds):13.2f}"
            f" {median_ratio(milliseconds, times['ReluRNN']):14.2f}"
            f" {median_ratio(milliseconds, times['bare products']):21.2f}"
        )


def compare_classifiers(size: Size, num_videos: int, seconds: float) -> None:
    """Compare models by the whole step of train.py on cached features, each with its own products."""
    classifiers = {
        name: SequenceClassifier(ModelConfig(name, size.hidden), size.inputs, VIDEO_CLASSES) for name in VIDEO_MODELS
    }
    videos = evaluation.Size(videos=num_videos, frames=size.steps, features=size.inputs, classes=VIDEO_CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        table = FeatureTable(*make_features(Path(folder) / "features.npy", videos))
        steps = {name: WholeStep(classifier, table, size) for name, classifier in classifiers.items()}
        products = {f"{name} products": classifier_products(name, size) for name in VIDEO_MODELS}
        times = take_turns({**steps, **products, "layer products": bare_products(size)}, seconds)
    rounds = len(times["lstm"])
    print(f"\nclassifiers of {VIDEO_CLASSES} classes, (T, B, features, hidden) = {tuple(size)}, {rounds} rounds")
    print(
        f"{'':14} {'ms':>8} {'products':>9} {'ms / products':>14} {'lstm / this':>12} {'gru / this':>10}"
        f" {'parameters':>11} {'per unit':>9}"
    )
    for name, classifier in classifiers.items():
        milliseconds, own_products = times[name], times[f"{name} products"]
        layers = [parameter for layer in classifier.layers for parameter in layer.parameters()]
        print(
            f"{name:14} {statistics.median(milliseconds):8.1f} {statistics.median(own_products):9.1f}"
            f" {median_ratio(milliseconds, own_products):14.2f} {median_ratio(times['lstm'], milliseconds):12.2f}"
            f" {median_ratio(times['gru'], milliseconds):10.2f}"
            f" {sum(parameter.numel() for parameter in classifier.parameters()):11,}"
            f" {sum(parameter.numel() for parameter in layers) // size.hidden:9,}"
        )
    print(
        f"np_rnn / products of its recurrent layer alone ({statistics.median(times['layer products']):.1f} ms): "
        f"{median_ratio(times['np_rnn'], times['layer products']):.2f}"
    )
    parts = steps["np_rnn"].parts.items()
    print("parts of np_rnn's step, ms:", ", ".join(f"{name} {statistics.median(part):.1f}" for name, part in parts))


class WholeStep:
    """A training step of train.py. Each call continues with the next batch and records the time of each part."""

    def __init__(self, model: SequenceClassifier, table: FeatureTable, size: Size) -> None:
        self.parts: dict[str, list[float]] = defaultdict(list)
        self._settings = TrainingConfig()
        self._model = model.train()
        model.set_feature_statistics(*table.statistics(power_normalize))
        self._optimizer, self._schedule = new_optimizer(model, self._settings, 10**5, num_epochs=1)
        self._batches = self._endless_batches(table, ClipSampling(size.steps), size.batch)

    def __call__(self) -> None:
        start = time.perf_counter()
        batch = next(self._batches)
        drawn = time.perf_counter()
        outcome = cross_entropy(self._model, batch, self._settings.label_smoothing)
        scored = time.perf_counter()
        update(self._model, outcome.loss, self._settings.clip_gradient, self._optimizer, self._schedule)
        updated = time.perf_counter()
        for part, elapsed in (("batch", drawn - start), ("forward", scored - drawn), ("update", updated - scored)):
            self.parts[part].append(1000 * elapsed)

    @staticmethod
    def _endless_batches(table: FeatureTable, clips: ClipSampling, batch_size: int) -> Iterator[Batch]:
        rng = np.random.default_rng(0)
        while True:
            yield from training_batches(table, clips, batch_size, rng)


def compare_epochs(config: Config, num_training: int = 9537, num_validation: int = 2107, epochs: int = 3) -> None:
    """Compare epochs of ``fit``, with validation and checkpoints, with their products, measured before each epoch."""
    validation = evaluation.Size(
        videos=num_validation,
        clips=config.training.clips_per_video,
        clip_frames=config.training.clip_frames or VIDEO.steps,
        frames=VIDEO.steps,
        features=VIDEO.inputs,
        hidden=config.model.hidden_size,
        classes=VIDEO_CLASSES,
    )
    size = Size(validation.clip_frames, config.training.batch_size, VIDEO.inputs, validation.hidden)
    config = dataclasses.replace(
        config,
        training=dataclasses.replace(config.training, epochs=epochs),
        run=dataclasses.replace(config.run, splits=("1",)),
    )
    with tempfile.TemporaryDirectory() as folder:
        every_video = dataclasses.replace(validation, videos=num_training + num_validation)
        videos, packed = make_features(Path(folder) / "features.npy", every_video)
        classes = tuple(f"class{number}" for number in range(VIDEO_CLASSES))
        split = Split("1", tuple(videos[:num_training]), tuple(videos[num_training:]), ())
        dataset = VideoDataset("ucf101", "ucf101", classes, tuple(videos), {"1": split})
        cache: Any = SimpleNamespace(load_once=lambda *_: packed, store=None)
        objective = TimedEpochs(VideoTask(dataset, lambda: cache, evaluation.CPU), config, EvaluationOverrides())
        objective.step_products = classifier_products(config.model.model, size)
        objective.validation_products = evaluation.fastest_floor(validation)
        fit(Run(Path(folder) / "run"), config, objective, evaluation.CPU)
        objective.stop()
    training_products = [num_training / size.batch * step for step in objective.step_seconds]
    products = [sum(both) for both in zip(training_products, objective.validation_seconds, strict=True)]
    print(
        f"{config.model.model}, {num_training} training and {num_validation} validation videos of {VIDEO.steps} frames,"
        f" (T, B, features, hidden) = {tuple(size)}, {torch.get_num_threads()} threads, {epochs} epochs\n"
        f"epoch {statistics.median(objective.seconds):.2f} s; products of training "
        f"{statistics.median(training_products):.2f} s, of validation "
        f"{statistics.median(objective.validation_seconds):.2f} s\n"
        f"epoch / products: {median_ratio(objective.seconds, products):.2f}"
    )


class TimedEpochs(VideoClassification):
    """Times every epoch of a training, and before each epoch the products of a step and of a validation."""

    step_products: Step
    validation_products: Step

    def __init__(self, task: VideoTask, config: Config, overrides: EvaluationOverrides) -> None:
        super().__init__(task, config, overrides)
        self.seconds: list[float] = []
        self.step_seconds: list[float] = []
        self.validation_seconds: list[float] = []
        self._started: float | None = None

    def batches(self, epoch: int) -> Iterator[Batch]:
        self.stop()
        self.step_seconds.append(statistics.median(evaluation.seconds(self.step_products) for _ in range(30)))
        self.validation_seconds.append(evaluation.seconds(self.validation_products))
        self._started = time.perf_counter()
        return super().batches(epoch)

    def stop(self) -> None:
        """End the epoch that is being timed, if there is one."""
        if self._started is not None:
            self.seconds.append(time.perf_counter() - self._started)


def training_step(layer: nn.Module, inputs: Tensor, grad_states: Tensor) -> Step:
    def step() -> None:
        layer.zero_grad()
        states, _ = layer(inputs)
        states.backward(grad_states)

    return step


def classifier_products(name: str, size: Size) -> Step:
    """All matrix products of a classifier's training step, see the head of this file."""
    average = linear_products(size.batch, size.inputs, with_input_gradient=False)
    if name == "mean":
        return average
    layer = bare_products(size, GATES.get(name, 1))
    read_out = linear_products(size.batch, 2 * size.hidden, with_input_gradient=True)

    def products() -> None:
        layer()
        read_out()
        average()

    return products


def linear_products(batch: int, width: int, with_input_gradient: bool) -> Step:
    inputs, weight, gradient = (
        torch.randn(*shape) for shape in ((batch, width), (VIDEO_CLASSES, width), (batch, VIDEO_CLASSES))
    )
    scores, grad_weight, grad_inputs = torch.empty_like(gradient), torch.empty_like(weight), torch.empty_like(inputs)

    def products() -> None:
        torch.mm(inputs, weight.t(), out=scores)
        torch.mm(gradient.t(), inputs, out=grad_weight)
        if with_input_gradient:
            torch.mm(gradient, weight, out=grad_inputs)

    return products


def bare_products(size: Size, gates: int = 1) -> Step:
    """The matrix products that a layer's training step needs, in place, and nothing else; a ReLU layer has one gate."""
    num_rows, gated = size.steps * size.batch, gates * size.hidden
    inputs, states, deltas = (torch.randn(num_rows, width) for width in (size.inputs, size.hidden, gated))
    weight_ih, weight_hh = torch.randn(gated, size.inputs), torch.randn(gated, size.hidden)
    state, delta = torch.randn(size.batch, size.hidden), torch.randn(size.batch, gated)
    drive, driven, result = torch.empty(num_rows, gated), torch.empty_like(delta), torch.empty_like(state)
    grad_ih, grad_hh = torch.empty(size.inputs, gated), torch.empty(gated, size.hidden)

    def products() -> None:
        torch.mm(inputs, weight_ih.t(), out=drive)
        for _ in range(size.steps):
            torch.mm(state, weight_hh.t(), out=driven)
        for _ in range(size.steps):
            torch.mm(delta, weight_hh, out=result)
        torch.mm(deltas.t(), states, out=grad_hh)
        torch.mm(inputs.t(), deltas, out=grad_ih)  # the faster order for few inputs

    return products


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


if __name__ == "__main__":
    tyro.cli(main)
