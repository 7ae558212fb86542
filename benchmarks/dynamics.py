"""Draw how recurrent networks carry state and gradient over time: one figure with a column for each network.

    python -m benchmarks.dynamics                                   # every initialisation, untrained
    python -m benchmarks.dynamics --init np_rnn irnn lstm --length 200
    python -m benchmarks.dynamics --run runs/addition               # before and after training

The rows of the figure show:

    1  the eigenvalues of the recurrent matrix
    2  the eigenvalues of one step, d state_t+1 / d state_t, in which a ReLU network has switched some units off
    3  how a small change of the first state grows or shrinks over time
    4  how much gradient reaches the steps before the last
    5  how many units are active, and how many are dead

docs/np_rnn.md explains them. The numbers behind the figure are printed, and written as CSV next to it.

Untrained networks read sequences of the addition task. A run on addition, multiplication or pixel MNIST reads sequences
of its own task. A run on video reads standard normal numbers in place of standardised features, so it does not need its
videos.
"""

import csv
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from PIL import Image
from tabulate import tabulate

from benchmarks.stepping import ComplexArray, Dynamics, FloatArray, Probe, measure
from data.command import parse_arguments, run_command
from data.sequences import EVALUATION_BATCH, ArithmeticTask, load_task
from models.classifier import SequenceClassifier
from models.config import InputScale, ModelConfig, ModelName
from pipeline.settings.config import Config, ConfigError
from pipeline.training.loop import load_best, new_classifier
from pipeline.training.run import Run, find_runs

RECURRENT: tuple[ModelName, ...] = (
    *("np_rnn", "irnn", "scaled_irnn", "nrnn", "orthogonal", "rnn_relu", "rnn_tanh"),
    *("lstm", "gru"),
)
"""The networks that are made of PyTorch's cells, which ``benchmarks.stepping`` steps through."""
BEFORE, AFTER = "before training", "after training"
COLOURS = {BEFORE: "#0072B2", AFTER: "#D55E00"}  # Okabe & Ito: safe for colour-blind readers
DISTANCES = (10, 50)  # steps at which the table reports growth and gradient
FAINTEST = 1e-9  # smallest change or gradient that is shown; see stepping.SMALL
DOTTED = (0, (1, 1))
DEFAULT_LENGTH, DEFAULT_CLIP = 400, 25


@dataclass(frozen=True)
class Arguments:
    """Which networks to draw, and on which sequences."""

    run: tuple[Path, ...] = ()
    """runs, or folders of runs, to draw before and after training"""
    init: tuple[ModelName, ...] = ()
    """models to draw untrained; by default all, or none if --run is given"""
    length: int | None = None
    """steps per sequence; by default as trained, or 400 without a run. Pixel MNIST is always read in full"""
    hidden: int = 100
    """units of untrained networks"""
    input_scale: InputScale = "sqrt_hidden"
    """input scale of untrained np_rnn and nrnn"""
    sequences: int = 64
    """sequences that each network reads"""
    seed: int = 0
    """seed of untrained networks and of random numbers"""
    output: Path = Path("runs/dynamics.png")
    """the figure; its numbers are written next to it as .csv"""

    def __post_init__(self) -> None:
        for name in self.init:
            if name not in RECURRENT:
                raise ConfigError(f"--init {name} has no cell to step through. Choose from {', '.join(RECURRENT)}.")
        if self.length is not None and self.length < 2:
            raise ConfigError(f"--length must be at least 2, not {self.length}")
        if self.hidden < 2:
            raise ConfigError(f"--hidden must be at least 2, not {self.hidden}")
        if not 1 <= self.sequences <= EVALUATION_BATCH:
            raise ConfigError(f"--sequences must be 1 to {EVALUATION_BATCH}, not {self.sequences}")
        if self.output.suffix != ".png":
            raise ConfigError(f"--output must end in .png: {self.output}")


class Column(NamedTuple):
    """One network in the figure."""

    name: str
    models: dict[str, SequenceClassifier]
    """keys: ``BEFORE`` and, for a run, ``AFTER``"""
    probe: Probe
    source: str
    """describes the probe in the figure's title"""


def main(arguments: Sequence[str]) -> int:
    """Write the figure and its numbers; returns exit code 0."""
    options = parse_arguments(Arguments, arguments, prog="python -m benchmarks.dynamics", description=__doc__)
    torch.set_flush_denormal(True)
    runs = find_runs(list(options.run)) if options.run else []
    untrained = options.init if options.init or options.run else RECURRENT
    columns = [column_of_run(run, options) for run in runs]
    columns += [untrained_column(name, options) for name in untrained]
    columns.sort(key=lambda column: RECURRENT.index(column.models[BEFORE].config.model))
    measured = [
        {stage: measure(model, column.probe, options.seed) for stage, model in column.models.items()}
        for column in columns
    ]
    rows = [
        {"network": column.name, "stage": stage} | summary(dynamics)
        for column, stages in zip(columns, measured, strict=True)
        for stage, dynamics in stages.items()
    ]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_png(draw([column.name for column in columns], measured, title_of(columns, options)), options.output)
    table = options.output.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(tabulate([{key: cell(value) for key, value in row.items()} for row in rows], "keys", disable_numparse=True))
    print(f"\n{options.output}\n{table}")
    return 0


def untrained_column(name: ModelName, options: Arguments) -> Column:
    config = ModelConfig(
        model=name,
        hidden_size=options.hidden,
        readout="last",
        inputs="frames",
        skip_connection=False,
        power_norm=False,
        input_scale=options.input_scale,
        identity_weight=1.0,
    )
    torch.manual_seed(options.seed)
    model = SequenceClassifier(config, ArithmeticTask.num_inputs, num_classes=1)
    task = ArithmeticTask("addition", options.length or DEFAULT_LENGTH)
    return Column(name, {BEFORE: model}, *arithmetic_probe(task, options))


def column_of_run(run: Run, options: Arguments) -> Column:
    """A run's best network, and the same network before training.

    Raises ``ConfigError`` for a network that is not in ``RECURRENT``, and what ``load_best`` raises.
    """
    config = run.config()
    if config.model.model not in RECURRENT:
        raise ConfigError(f"{run.folder} is a {config.model.model}, which has no cell to step through: leave it out")
    trained, classes = load_best(run, config)
    models = {BEFORE: before_training(config, trained, len(classes)), AFTER: trained}
    return Column(f"{run.folder.parent.name}/{run.name}", models, *probe_for(config, trained, len(classes), options))


def before_training(config: Config, trained: SequenceClassifier, num_classes: int) -> SequenceClassifier:
    """A run's network before its first step, initialised from the run's seed as training did."""
    model = new_classifier(config.model, config.run.seeds[0], len(trained.feature_mean), num_classes)
    model.feature_mean.copy_(trained.feature_mean)
    model.feature_scale.copy_(trained.feature_scale)
    return model


def probe_for(config: Config, model: SequenceClassifier, num_classes: int, options: Arguments) -> tuple[Probe, str]:
    """What a run's network reads, and a description of it; raises ``DatasetError`` if MNIST is missing."""
    if config.data.has_video:
        length = options.length or config.training.clip_frames or DEFAULT_CLIP
        return random_probe(model, num_classes, length, options)
    task = load_task(config.data)
    if isinstance(task, ArithmeticTask):
        return arithmetic_probe(ArithmeticTask(task.name, options.length or task.length), options)
    inputs, labels = task.test.batch(slice(options.sequences))
    probe = Probe(torch.from_numpy(inputs).double(), torch.from_numpy(labels))
    name = f"{task.name} permuted" if task.permuted else task.name
    return probe, f"{name}, {task.length} steps"


def arithmetic_probe(task: ArithmeticTask, options: Arguments) -> tuple[Probe, str]:
    batch = next(task.test_batches())
    inputs = torch.from_numpy(batch.inputs[:, : options.sequences]).double()
    targets = torch.from_numpy(batch.targets[: options.sequences]).double()
    return Probe(inputs, targets), f"{task.name}, {task.length} steps"


def random_probe(model: SequenceClassifier, num_classes: int, length: int, options: Arguments) -> tuple[Probe, str]:
    """Inputs that are standard normal after the network's standardisation, with random labels."""
    generator = torch.Generator().manual_seed(options.seed)
    size = (length, options.sequences, len(model.feature_mean))
    inputs = torch.randn(size, generator=generator) / model.feature_scale + model.feature_mean
    labels = torch.randint(num_classes, (options.sequences,), generator=generator)
    return Probe(inputs.double(), labels), f"random numbers in place of video features, {length} steps"


def summary(dynamics: Dynamics) -> dict[str, float | None]:
    """One row of the table: medians over sequences, ``None`` where a network has no such number."""
    size, step_size = np.abs(dynamics.eigenvalues), np.abs(dynamics.step_eigenvalues)
    row: dict[str, float | None] = {
        "|eig W| max": float(size.max()) if len(size) else None,
        "|eig W| > 0.9": float((size > 0.9).sum()) if len(size) else None,
        "relu gain": dynamics.relu_gain,
        "|eig step| max": float(np.median(step_size.max(axis=1))),
        "|eig step| > 0.9": float(np.median((step_size > 0.9).sum(axis=1))),
    }
    for name, last, curve in (("change", "T", dynamics.growth), ("gradient", "T-1", dynamics.gradient)):
        for steps in DISTANCES:
            row[f"{name} {steps}"] = float(np.median(curve[steps])) if steps < len(curve) else None
        row[f"{name} {last}"] = float(np.median(curve[-1]))
    return row | {"active": float(dynamics.active[-1]), "dead": float(dynamics.dead[-1])}


def cell(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"<{FAINTEST:g}" if 0 < value < FAINTEST else f"{value:.3g}"


def title_of(columns: Sequence[Column], options: Arguments) -> str:
    sources = dict.fromkeys(column.source for column in columns)
    return f"{options.sequences} sequences each: {'; '.join(sources)}"


def short_names(names: Sequence[str]) -> list[str]:
    """Split names at / and - and drop the parts that all names share; one part per line.

    >>> short_names(["addition/np_rnn-seed_0", "addition/irnn-seed_0"])
    ['np_rnn', 'irnn']
    """
    split = [re.split("[/-]", name) for name in names]
    shared = set.intersection(*map(set, split))
    return ["\n".join([part for part in parts if part not in shared] or parts) for parts in split]


def draw(names: Sequence[str], measured: Sequence[Mapping[str, Dynamics]], title: str) -> Figure:
    """Draw a column for each network; all columns share the axes of a row."""
    figure = Figure((1.2 + 1.4 * max(3, len(names)), 8.5), dpi=100, layout="constrained")
    axes = figure.subplots(5, len(names), sharex="row", sharey="row", squeeze=False)
    for column, (name, stages) in enumerate(zip(short_names(names), measured, strict=True)):
        axes[0, column].set_title(name, fontsize=10, fontweight="bold")
        for stage, dynamics in stages.items():
            draw_spectrum(axes[0, column], dynamics.eigenvalues, stage)
            draw_spectrum(axes[1, column], dynamics.step_eigenvalues[0], stage)
            draw_quartiles(axes[2, column], dynamics.growth, stage)
            draw_quartiles(axes[3, column], dynamics.gradient, stage)
            axes[4, column].plot(100 * dynamics.active, color=COLOURS[stage])
            axes[4, column].plot(100 * dynamics.dead, color=COLOURS[stage], linestyle=DOTTED)
    finish_axes(axes)
    drawn = [stage for stage in COLOURS if any(stage in stages for stages in measured)]
    lines = {stage: Line2D([], [], color=COLOURS[stage]) for stage in drawn}
    lines |= {"active": Line2D([], [], color="black"), "dead": Line2D([], [], color="black", linestyle=DOTTED)}
    figure.suptitle(title, fontsize=11)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), frameon=False)
    return figure


def draw_spectrum(axes: Axes, values: ComplexArray, stage: str) -> None:
    """Eigenvalues and the unit circle: rings before training, dots after, so that neither hides the other."""
    axes.set_aspect("equal")
    if not len(values):
        if stage == BEFORE:
            axes.text(0.5, 0.5, "several\nmatrices:\nsee below", ha="center", va="center", transform=axes.transAxes)
        return
    axes.add_patch(Circle((0, 0), 1, fill=False, color="0.6", linewidth=0.8))
    if stage == BEFORE:
        axes.scatter(values.real, values.imag, s=14, facecolors="none", edgecolors=COLOURS[stage], linewidths=0.7)
    else:
        axes.scatter(values.real, values.imag, s=8, color=COLOURS[stage], linewidths=0)


def draw_quartiles(axes: Axes, curves: FloatArray, stage: str) -> None:
    """Median and quartiles over the sequences of ``curves``, ``[steps, sequences]``, on a logarithmic scale."""
    low, middle, high = np.quantile(curves, (0.25, 0.5, 0.75), axis=1)
    axes.set_yscale("log", nonpositive="clip")
    axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    axes.fill_between(np.arange(len(curves)), low, high, color=COLOURS[stage], alpha=0.25, linewidth=0)
    axes.plot(middle, color=COLOURS[stage])


def finish_axes(axes: npt.NDArray[Any]) -> None:
    """Set the labels, and the limits that do not follow from the data."""
    labels = (
        ("eigenvalues\nof $W_{hh}$", "real part"),
        ("eigenvalues\nof one step", "real part"),
        ("what is left of\na small change", "steps after it"),
        ("gradient\nof the loss", "steps before the last"),
        ("units, %", "step"),
    )
    for row, (vertical, horizontal) in zip(axes, labels, strict=True):
        row[0].set_ylabel(vertical)
        for panel in row:
            panel.set_xlabel(horizontal, fontsize=8)
            panel.tick_params(labelsize=8)
    highest = max(panel.dataLim.ymax for panel in axes[2:4].flat)
    for row in axes[2:4]:
        row[0].set_ylim(FAINTEST, 3 * highest)
    axes[4, 0].set_ylim(-4, 104)


def save_png(figure: Figure, path: Path) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(128).save(path, optimize=True)  # a palette takes a third of the bytes


if __name__ == "__main__":
    sys.exit(run_command(main))
