"""Why the initialisation matters, to look at: one figure with a column for each network.

    python -m benchmarks.dynamics                                   # every way to start, untrained
    python -m benchmarks.dynamics --init np_rnn irnn lstm --length 200
    python -m benchmarks.dynamics --run runs/addition               # before training, and after

Rows: the eigenvalues of the recurrent matrix; those of one step of the network, d state_t+1 / d state_t, where a ReLU
has switched some units off; what becomes of a small change of the first state; how much gradient arrives at a distance
from the end; how many units are active, and how many are dead. docs/np_rnn.md explains it. The numbers behind the
figure are printed, and written beside it as CSV.

Untrained networks read sequences of the addition task, and a run on addition, multiplication or pixel MNIST those of
its own task. A run on video reads random numbers (standard normal, in place of standardised features): its videos need
not be at hand.
"""

import csv
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
import tyro
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from PIL import Image
from tabulate import tabulate

from benchmarks.stepping import ComplexArray, Dynamics, FloatArray, Probe, measure
from data.command import run_command
from data.sequences import EVALUATION_BATCH, ArithmeticTask, load_task
from models.classifier import STATE_NETWORKS, SequenceClassifier
from models.config import InputScale, ModelConfig, ModelName
from pipeline.settings.config import Config, ConfigError
from pipeline.training.loop import load_best, new_classifier
from pipeline.training.run import Run, find_runs

RECURRENT: tuple[ModelName, ...] = tuple(name for name in get_args(ModelName) if name in STATE_NETWORKS)
BEFORE, AFTER = "before training", "after training"
COLOURS = {BEFORE: "#0072B2", AFTER: "#D55E00"}  # Okabe & Ito: told apart with any colour vision
DISTANCES = (10, 50)  # steps; where growth and gradient are told in numbers
FAINTEST = 1e-9  # what is shown of a change or a gradient; see stepping.SMALL
DOTTED = (0, (1, 1))
DEFAULT_LENGTH, DEFAULT_CLIP = 400, 25


@dataclass(frozen=True)
class Arguments:
    """What to look at."""

    run: tuple[Path, ...] = ()
    """runs, or folders of runs: shown before and after training"""
    init: tuple[ModelName, ...] = ()
    """models: shown untrained (default, where no run is given: all)"""
    length: int | None = None
    """steps of a sequence (default: as the run was trained; 400 without a run). Digits are always shown whole"""
    hidden: int = 100
    """units of untrained networks"""
    input_scale: InputScale = "sqrt_hidden"
    """of untrained np_rnn and nrnn"""
    sequences: int = 64
    """how many each network reads"""
    seed: int = 0
    """of untrained networks and of random numbers"""
    output: Path = Path("runs/dynamics.png")
    """the figure; the numbers lie beside it as .csv"""

    def __post_init__(self) -> None:
        if "mean" in self.init:
            raise ConfigError(f"--init mean: a frame average has no state. Models: {', '.join(RECURRENT)}")
        if self.length is not None and self.length < 2:
            raise ConfigError(f"length is at least 2, not {self.length}")
        if self.hidden < 2:
            raise ConfigError(f"hidden is at least 2, not {self.hidden}")
        if not 1 <= self.sequences <= EVALUATION_BATCH:
            raise ConfigError(f"sequences is 1 to {EVALUATION_BATCH}, not {self.sequences}")
        if self.output.suffix != ".png":
            raise ConfigError(f"output is a .png file, not {self.output}")


class Column(NamedTuple):
    """A column of the figure."""

    name: str
    models: dict[str, SequenceClassifier]
    """by ``BEFORE`` and ``AFTER``"""
    probe: Probe
    source: str
    """of the probe, in words"""


def main(arguments: Sequence[str]) -> int:
    """0: the figure and its numbers are written."""
    asked = tyro.cli(Arguments, args=list(arguments), description=__doc__)
    torch.set_flush_denormal(True)
    columns = [column_of_run(run, asked) for run in (find_runs(list(asked.run)) if asked.run else [])]
    columns += [untrained_column(name, asked) for name in asked.init or (() if asked.run else RECURRENT)]
    columns.sort(key=lambda column: RECURRENT.index(column.models[BEFORE].config.model))
    measured = [
        {stage: measure(model, column.probe, asked.seed) for stage, model in column.models.items()}
        for column in columns
    ]
    rows = [
        {"network": column.name, "stage": stage} | summary(found)
        for column, stages in zip(columns, measured, strict=True)
        for stage, found in stages.items()
    ]
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    save_png(draw([column.name for column in columns], measured, title_of(columns, asked)), asked.output)
    table = asked.output.with_suffix(".csv")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(tabulate([{key: cell(value) for key, value in row.items()} for row in rows], "keys", disable_numparse=True))
    print(f"\n{asked.output}\n{table}")
    return 0


def untrained_column(name: ModelName, asked: Arguments) -> Column:
    config = ModelConfig(
        model=name, hidden_size=asked.hidden, readout="last", input_scale=asked.input_scale, identity_weight=1.0
    )
    torch.manual_seed(asked.seed)
    model = SequenceClassifier(config, ArithmeticTask.num_inputs, num_classes=1)
    task = ArithmeticTask("addition", asked.length or DEFAULT_LENGTH)
    return Column(name, {BEFORE: model}, *arithmetic_probe(task, asked))


def column_of_run(run: Run, asked: Arguments) -> Column:
    """A run's best network, and the one it began as.

    Raises ``ConfigError`` for a frame average, and what ``load_best`` raises.
    """
    config = run.config()
    if config.model.model == "mean":
        raise ConfigError(f"{run.folder} is a frame average, which has no state: leave it out of --run")
    trained, classes = load_best(run, config)
    models = {BEFORE: as_it_began(config, trained, len(classes)), AFTER: trained}
    return Column(f"{run.folder.parent.name}/{run.name}", models, *probe_for(config, trained, len(classes), asked))


def as_it_began(config: Config, trained: SequenceClassifier, num_classes: int) -> SequenceClassifier:
    """A run's network before its first step, made from the run's seed as training made it."""
    model = new_classifier(config.model, config.run.seeds[0], len(trained.feature_mean), num_classes)
    model.feature_mean.copy_(trained.feature_mean)
    model.feature_scale.copy_(trained.feature_scale)
    return model


def probe_for(config: Config, model: SequenceClassifier, num_classes: int, asked: Arguments) -> tuple[Probe, str]:
    """What a run's network reads, and what that is in words; raises ``DatasetError`` where there are no digits."""
    if config.data.has_video:
        return random_probe(model, num_classes, asked.length or config.training.clip_frames or DEFAULT_CLIP, asked)
    task = load_task(config.data)
    if isinstance(task, ArithmeticTask):
        return arithmetic_probe(ArithmeticTask(task.name, asked.length or task.length), asked)
    inputs, labels = task.test.batch(slice(asked.sequences))
    probe = Probe(torch.from_numpy(inputs).double(), torch.from_numpy(labels))
    return probe, f"{task.name}{' permuted' if task.permuted else ''}, {task.length} steps"


def arithmetic_probe(task: ArithmeticTask, asked: Arguments) -> tuple[Probe, str]:
    batch = next(task.test_batches())
    inputs = torch.from_numpy(batch.inputs[:, : asked.sequences]).double()
    targets = torch.from_numpy(batch.targets[: asked.sequences]).double()
    return Probe(inputs, targets), f"{task.name}, {task.length} steps"


def random_probe(model: SequenceClassifier, num_classes: int, length: int, asked: Arguments) -> tuple[Probe, str]:
    """Inputs that are standard normal once the network has standardised them, and random labels."""
    generator = torch.Generator().manual_seed(asked.seed)
    size = (length, asked.sequences, len(model.feature_mean))
    inputs = torch.randn(size, generator=generator) / model.feature_scale + model.feature_mean
    labels = torch.randint(num_classes, (asked.sequences,), generator=generator)
    return Probe(inputs.double(), labels), f"random numbers in place of video features, {length} steps"


def summary(found: Dynamics) -> dict[str, float | None]:
    """The numbers of one network, medians over sequences; ``None`` where there is no such number."""
    size, step_size = np.abs(found.eigenvalues), np.abs(found.step_eigenvalues)
    row: dict[str, float | None] = {
        "|eig W| max": float(size.max()) if len(size) else None,
        "|eig W| > 0.9": float((size > 0.9).sum()) if len(size) else None,
        "relu gain": found.relu_gain,
        "|eig step| max": float(np.median(step_size.max(axis=1))),
        "|eig step| > 0.9": float(np.median((step_size > 0.9).sum(axis=1))),
    }
    for what, last, curve in (("change", "T", found.growth), ("gradient", "T-1", found.gradient)):
        for steps in DISTANCES:
            row[f"{what} {steps}"] = float(np.median(curve[steps])) if steps < len(curve) else None
        row[f"{what} {last}"] = float(np.median(curve[-1]))
    return row | {"active": float(found.active[-1]), "dead": float(found.dead[-1])}


def cell(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"<{FAINTEST:g}" if 0 < value < FAINTEST else f"{value:.3g}"


def title_of(columns: Sequence[Column], asked: Arguments) -> str:
    sources = dict.fromkeys(column.source for column in columns)
    return f"{asked.sequences} sequences each: {'; '.join(sources)}"


def short_names(names: Sequence[str]) -> list[str]:
    """What tells names apart, one part per line: no part (between / and -) that all of them have."""
    parts = [re.split("[/-]", name) for name in names]
    shared = set.intersection(*map(set, parts))
    return ["\n".join([part for part in own if part not in shared] or own) for own in parts]


def draw(names: Sequence[str], measured: Sequence[Mapping[str, Dynamics]], title: str) -> Figure:
    """The figure: a column for each network; the axes of a row are the same in all columns."""
    figure = Figure((1.2 + 1.4 * max(3, len(names)), 8.5), dpi=100, layout="constrained")
    axes = figure.subplots(5, len(names), sharex="row", sharey="row", squeeze=False)
    for column, (name, stages) in enumerate(zip(short_names(names), measured, strict=True)):
        axes[0, column].set_title(name, fontsize=10, fontweight="bold")
        for stage, found in stages.items():
            draw_spectrum(axes[0, column], found.eigenvalues, stage)
            draw_spectrum(axes[1, column], found.step_eigenvalues[0], stage)
            draw_quartiles(axes[2, column], found.growth, stage)
            draw_quartiles(axes[3, column], found.gradient, stage)
            axes[4, column].plot(100 * found.active, color=COLOURS[stage])
            axes[4, column].plot(100 * found.dead, color=COLOURS[stage], linestyle=DOTTED)
    finish_axes(axes)
    lines = {stage: Line2D([], [], color=COLOURS[stage]) for stage in COLOURS if any(stage in of for of in measured)}
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
    """Median and quartiles over sequences, ``[steps, sequences]``, on a logarithmic scale."""
    low, middle, high = np.quantile(curves, (0.25, 0.5, 0.75), axis=1)
    axes.set_yscale("log", nonpositive="clip")
    axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
    axes.fill_between(np.arange(len(curves)), low, high, color=COLOURS[stage], alpha=0.25, linewidth=0)
    axes.plot(middle, color=COLOURS[stage])


def finish_axes(axes: npt.NDArray[Any]) -> None:
    """Labels, and the limits that are not those of the data."""
    labels = (
        ("eigenvalues\nof $W_{hh}$", "real part"),
        ("eigenvalues\nof one step", "real part"),
        ("what is left of\na small change", "steps after it"),
        ("gradient\nof the loss", "steps before the last"),
        ("units, %", "step"),
    )
    for row, (vertical, horizontal) in zip(axes, labels, strict=True):
        row[0].set_ylabel(vertical)
        for each in row:
            each.set_xlabel(horizontal, fontsize=8)
            each.tick_params(labelsize=8)
    highest = max(each.dataLim.ymax for each in axes[2:4].flat)
    for row in axes[2:4]:
        row[0].set_ylim(FAINTEST, 3 * highest)
    axes[4, 0].set_ylim(-4, 104)


def save_png(figure: Figure, path: Path) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(128).save(path, optimize=True)  # a palette: a third of the bytes


if __name__ == "__main__":
    sys.exit(run_command(main))
