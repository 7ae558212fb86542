"""The figures of an evaluation: each a picture (PNG and SVG) and the numbers in it (CSV).

They are drawn on white; the page inverts them where it is dark.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from pipeline.evaluation.analysis import TENTHS, Accuracy, LengthBin
from pipeline.evaluation.metrics import CalibrationBin
from pipeline.evaluation.predictions import IntArray

MISSING = "(missing)"
BLUE, RED, GREY = "#1f62b0", "#c42030", "#8a929b"
_SIZE = (5.4, 3.7)  # inches, of a figure that shares a line of the page with another


@dataclass(frozen=True)
class StaticFigure:
    """One figure.

    Attributes:
        name: of its files, without an ending.
        title, caption: what the page says above and below it.
        description: what it shows, for those who can't see it.
        rows: of its CSV, the column names first.
    """

    name: str
    title: str
    caption: str
    description: str
    png: bytes
    svg: bytes
    rows: tuple[tuple[object, ...], ...]


def confusion_figure(counts: IntArray, classes: Sequence[str], unit: str = "video") -> StaticFigure:
    """A confusion matrix as ``confusion_matrix`` gives it; each row is divided by its number of videos.

    Right answers are blue and mistakes red, on a scale that lets a single mistake be seen. Cells are wide enough for
    the names of both axes at any number of classes; up to 20 classes they also hold the number of videos. A class
    without test videos is a grey row; the column of missing videos is drawn if there are any.
    """
    num_classes = len(classes)
    columns = [*classes, MISSING] if counts[:, -1].any() else list(classes)
    rows = [("true \\ predicted", *classes, MISSING)]
    rows += [(name, *row) for name, row in zip(classes, counts.tolist(), strict=True)]
    counts = counts[:, : len(columns)]
    support = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(support, 1)
    right = np.eye(num_classes, len(columns), dtype=bool) & (support > 0)
    mistaken = ~right & (counts > 0)

    cell = float(np.clip(6 / num_classes, 0.2, 0.8))  # inches; 0.2 is a line of 9-point names
    width, height = cell * len(columns), cell * num_classes
    # The cells fill the figure; names and colour bars hang outside, and saving it "tight" takes them in.
    figure = Figure(figsize=(width, height), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.broadcast_to(support > 0, counts.shape), cmap="gray", vmin=-5, vmax=1)
    for place, (title, shown, colours) in enumerate((("right", right, "Blues"), ("mistaken", mistaken, "Reds"))):
        image = axes.imshow(np.ma.masked_where(~shown, share), cmap=colours, norm=PowerNorm(0.5, 0, 1))
        bar_axes = axes.inset_axes((1 + (0.2 + 0.8 * place) / width, 1 - 2.4 / height, 0.12 / width, 2.2 / height))
        bar = figure.colorbar(image, cax=bar_axes)
        bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5%", "20%", "50%", "100%"], size=8)
        bar_axes.set_title(title, size=9, loc="left")
    # Text is drawn as it stands: a class called "$5" is no formula.
    size = 9 if num_classes > 20 else 10
    axes.set_xticks(
        range(len(columns)), [shortened(name) for name in columns], rotation=90, size=size, parse_math=False
    )
    axes.set_yticks(range(num_classes), [shortened(name) for name in classes], size=size, parse_math=False)
    axes.set_xlabel("predicted class", size=12)
    axes.set_ylabel("true class", size=12)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    if num_classes <= 20:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                text = f"{count}\n{share[row, column]:.0%}" if num_classes < 8 else str(count)
                colour = "white" if share[row, column] > 0.4 else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, size=9)
    return static_figure(
        figure,
        "confusion",
        "Confusion matrix",
        f"Rows: the true class; columns: what its {unit}s were taken for, as a share of the row.",
        f"Confusion matrix of {num_classes} classes; its numbers are in confusion.csv, its largest in the next table.",
        rows,
    )


def calibration_figure(bins: Sequence[CalibrationBin], error: float, unit: str = "video") -> StaticFigure:
    """Reliability diagram. ``error`` is the expected calibration error of the bins."""
    figure = Figure(figsize=(5.4, 4.6), dpi=110, layout="constrained")
    axes, below = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    for part in bins:
        width = part.high - part.low
        below.bar(part.low, part.count, width, align="edge", color=GREY, ec="white")
        if part.accuracy is not None and part.confidence is not None:
            axes.bar(part.low, part.accuracy, width, align="edge", color=BLUE, alpha=0.75, ec="white")
            axes.plot([part.confidence] * 2, [part.accuracy, part.confidence], color=RED, linewidth=2.5)
    axes.plot([0, 1], [0, 1], "--", color="#3a424c", linewidth=1.2, zorder=4)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    below.set(xlabel="confidence", ylabel=f"{unit}s")
    _plain(axes)
    _plain(below)
    return static_figure(
        figure,
        "calibration",
        "Calibration",
        f"Expected calibration error {100 * error:.1f} %: the distance between confidence and accuracy (red), averaged "
        f"over {len(bins)} equal bins weighted by their {unit}s. Bars on the dashed line would mean that answers given "
        "with 80 % confidence are right in 80 % of the cases; below it the model is too sure of itself.",
        f"Accuracy by confidence in {len(bins)} bins, against the diagonal of perfect calibration.",
        [
            ("low", "high", "count", "confidence", "accuracy"),
            *((part.low, part.high, part.count, part.confidence, part.accuracy) for part in bins),
        ],
    )


def length_figure(bins: Sequence[LengthBin], quantity: str, unit: str = "video") -> StaticFigure:
    """Accuracy against length; ``quantity`` is what lengths are measured in."""
    figure, axes = _single()
    _with_intervals(axes, range(len(bins)), [part.accuracy for part in bins], "o")
    names = [
        f"{part.shortest:.3g}" if part.shortest == part.longest else f"{part.shortest:.3g} – {part.longest:.3g}"
        for part in bins
    ]
    axes.set_xticks(range(len(bins)), names, rotation=30, ha="right", size=9)
    axes.set(xlabel=f"length, {quantity}", ylabel="accuracy", ylim=(0, 1.03), xlim=(-0.5, len(bins) - 0.5))
    fewest = min(part.accuracy.num_videos for part in bins)
    return static_figure(
        figure,
        "length",
        "Accuracy against length",
        f"{unit.capitalize()}s by length, at least {fewest} to a bin, with 95 % intervals.",
        f"Accuracy in {len(bins)} bins of length.",
        [
            ("shortest", "longest", "num_videos", "accuracy", "low", "high"),
            *((part.shortest, part.longest, part.accuracy.num_videos, *_bounds(part.accuracy)) for part in bins),
        ],
    )


def frames_seen_figure(accuracies: Sequence[Accuracy], unit: str = "video") -> StaticFigure:
    """Accuracy after each tenth of the frames, as from ``accuracy_against_share_seen``."""
    figure, axes = _single()
    percent = [10 * tenths for tenths in TENTHS]
    _with_intervals(axes, percent, accuracies, "o-")
    axes.set(xlabel=f"% of the {unit}'s frames seen", ylabel="accuracy", ylim=(0, 1.03), xticks=percent)
    return static_figure(
        figure,
        "frames_seen",
        "Accuracy against frames seen",
        f"How early it is right: each {unit} is read once from its first frame, and asked after every tenth; with 95 % "
        "intervals. The last point need not equal the figures above, which average several clips.",
        "Accuracy after 10, 20, ... 100 % of the frames: "
        + ", ".join(f"{100 * accuracy.share:.0f} %" for accuracy in accuracies),
        [
            ("percent_seen", "num_videos", "accuracy", "low", "high"),
            *(
                (share, accuracy.num_videos, *_bounds(accuracy))
                for share, accuracy in zip(percent, accuracies, strict=True)
            ),
        ],
    )


def learning_curves(history: Sequence[Mapping[str, object]]) -> StaticFigure | None:
    """Loss and accuracy over the epochs, for training and validation; ``None`` if there is nothing to draw.

    A row may lack a value, hold ``None`` or (a run that diverged) NaN: the curve has a gap there.
    """
    drawn = [
        (quantity, part)
        for quantity in ("loss", "accuracy")
        for part in ("train", "validation")
        if any(row.get(f"{part}_{quantity}") is not None for row in history)
    ]
    if not drawn:
        return None
    figure = Figure(figsize=(5.4, 4.6), dpi=110, layout="constrained")
    panels = dict(zip(("loss", "accuracy"), figure.subplots(2, sharex=True), strict=True))
    epochs = [row.get("epoch", place) for place, row in enumerate(history, start=1)]
    curves = {}
    for quantity, part in drawn:
        values = [row.get(f"{part}_{quantity}") for row in history]
        curves[f"{part}_{quantity}"] = curve = [np.nan if value is None else value for value in values]
        style, colour = {"train": ("--", GREY), "validation": ("-", BLUE)}[part]
        panels[quantity].plot(epochs, curve, style, color=colour, marker="." if len(curve) < 40 else "", label=part)
    for quantity, axes in panels.items():
        axes.set_ylabel(quantity)
        _plain(axes)
        if axes.lines:
            axes.legend(frameon=False)
    panels["accuracy"].set(xlabel="epoch", ylim=(0, 1.02))
    return static_figure(
        figure,
        "learning_curves",
        "Learning curves",
        "Dashed: training, solid: validation.",
        "Loss and accuracy on training and validation data, by epoch.",
        [("epoch", *curves), *zip(epochs, *curves.values(), strict=True)],
    )


def spectrum_figure(spectra: Mapping[str, NDArray[np.complexfloating]]) -> StaticFigure:
    """Eigenvalues of a recurrent matrix, ``before`` and ``after`` training, beside the unit circle."""
    figure, axes = _single()
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 200))
    axes.plot(circle.real, circle.imag, color=GREY, linewidth=1)
    for name, colour, marker in (("before", GREY, "x"), ("after", BLUE, ".")):
        values = spectra[name]
        axes.scatter(values.real, values.imag, color=colour, marker=marker, s=22, linewidths=1, alpha=0.7, label=name)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="real part", ylabel="imaginary part")
    figure.legend(frameon=False, loc="outside upper right", ncols=len(spectra))
    radii = {name: float(np.abs(values).max()) for name, values in spectra.items()}
    largest = ", ".join(f"{radius:.3f} {name}" for name, radius in radii.items())
    return static_figure(
        figure,
        "spectrum",
        "Spectrum of the recurrent matrix",
        f"Eigenvalues of W_hh before and after training; the largest modulus is {largest}. Inside the circle a "
        "direction of the state is forgotten, on it it is kept, outside it grows.",
        f"Eigenvalues in the complex plane with the unit circle; largest modulus {largest}.",
        [
            ("when", "real", "imaginary"),
            *((name, value.real, value.imag) for name, values in spectra.items() for value in values.tolist()),
        ],
    )


def _single() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=110, layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _bounds(accuracy: Accuracy) -> tuple[float, float, float]:
    return accuracy.share, accuracy.low, accuracy.high


def _with_intervals(axes: Axes, places: Sequence[int], accuracies: Sequence[Accuracy], style: str) -> None:
    share, low, high = np.array([_bounds(accuracy) for accuracy in accuracies]).T
    # Rounding may leave the interval of all right a hair below 1.
    around = np.maximum([share - low, high - share], 0)
    axes.errorbar(places, share, yerr=around, fmt=style, color=BLUE, capsize=3, markersize=5)


def static_figure(
    figure: Figure, name: str, title: str, caption: str, description: str, rows: Iterable[tuple[object, ...]]
) -> StaticFigure:
    """A drawn figure with its numbers, ready to be written."""
    # One evaluation gives one set of bytes: no date, and ids that do not depend on chance.
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.draw_without_rendering()  # places everything, so that its extent is known
        extent = figure.get_tightbbox().padded(0.1)
        png, svg = (_saved(figure, kind, extent) for kind in ("png", "svg"))
    return StaticFigure(name, title, caption, description, png, svg, tuple(rows))


def _saved(figure: Figure, kind: str, extent: Bbox) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(buffer, format=kind, bbox_inches=extent, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def shortened(name: str) -> str:
    """A class name on one line, of at most 28 characters."""
    name = " ".join(name.split())
    return name if len(name) <= 28 else name[:27] + "…"
