"""The figures of an evaluation: each is a picture (PNG and SVG) with its numbers (CSV).

They are drawn on white; the dark theme of the pages inverts them.
"""

import io
import math
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
from pipeline.reports.pages import csv_bytes, percent

MISSING = "(missing)"
FIGURES = ("confusion", "calibration", "length", "frames_seen", "learning_curves", "spectrum")
"""The figures that the report of an evaluation may have."""
BLUE, RED, GREY = "#1f62b0", "#c42030", "#8a929b"
_SIZE = (5.4, 3.7)  # inches: two such figures fit side by side on the page
_NAMED_CELL = 0.2  # inches: fits one line of 9-point text
_LARGEST_MATRIX = 22.0  # inches


@dataclass(frozen=True)
class StaticFigure:
    """One figure.

    Attributes:
        name: of its files, without a suffix.
        title, caption: the text above and below it on the page; empty where a page has its own text.
        description: its content, for people who can't see it; empty likewise.
        rows: of its CSV, the column names first.
    """

    name: str
    title: str
    caption: str
    description: str
    png: bytes
    svg: bytes
    rows: tuple[tuple[object, ...], ...]

    def files(self) -> dict[str, bytes]:
        """File names and contents."""
        return {f"{self.name}.png": self.png, f"{self.name}.svg": self.svg, f"{self.name}.csv": csv_bytes(self.rows)}


def confusion_figure(counts: IntArray, classes: Sequence[str], unit: str = "video") -> StaticFigure:
    """A confusion matrix, as ``confusion_matrix`` returns it, with each row divided by its number of videos.

    Correct answers are blue and mistakes red, on a scale on which even a single mistake is visible. With up to 20
    classes the cells show the number of videos. With more than 110 the picture stays as large as it is, so that its
    memory does, and only every second, third, ... class is named. A class without test videos is a grey row. The column
    of missing videos is drawn only if there are any.
    """
    num_classes = len(classes)
    columns = [*classes, MISSING] if counts[:, -1].any() else list(classes)
    rows = [("true \\ predicted", *classes, MISSING)]
    rows += [(name, *row) for name, row in zip(classes, counts.tolist(), strict=True)]
    counts = counts[:, : len(columns)]
    support = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(support, 1)
    correct = np.eye(num_classes, len(columns), dtype=bool) & (support > 0)
    wrong = ~correct & (counts > 0)

    cell = cell_size(num_classes)
    width, height = cell * len(columns), cell * num_classes
    # The cells fill the figure. Names and colour bars are outside of it; the tight bounding box includes them.
    figure = Figure(figsize=(width, height), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.broadcast_to(support > 0, counts.shape), cmap="gray", vmin=-5, vmax=1)
    for bar_index, (title, shown, colours) in enumerate((("correct", correct, "Blues"), ("wrong", wrong, "Reds"))):
        # By default, cells of a few pixels are blurred, and a single mistake with them.
        sharp = "nearest" if cell * figure.dpi >= 1 else None
        masked = np.ma.masked_where(~shown, share)
        image = axes.imshow(masked, cmap=colours, norm=PowerNorm(0.5, 0, 1), interpolation=sharp)
        left = 1 + (0.2 + 0.8 * bar_index) / width
        bar_axes = axes.inset_axes((left, 1 - 2.4 / height, 0.12 / width, 2.2 / height))
        bar = figure.colorbar(image, cax=bar_axes)
        bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5%", "20%", "50%", "100%"], size=8)
        bar_axes.set_title(title, size=9, loc="left")
    name_classes(axes, classes, columns, cell, size=9 if num_classes > 20 else 10)
    if cell >= _NAMED_CELL:
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
        f"Rows: the true class; columns: the predicted class of its {unit}s, as a share of the row.",
        f"Confusion matrix of {num_classes} classes. Its numbers are in confusion.csv, the largest in the next table.",
        rows=rows,
    )


def calibration_figure(
    bins: Sequence[CalibrationBin], error: float, unit: str = "video", temperature: float = 1.0
) -> StaticFigure:
    """Reliability diagram.

    Args:
        error: the expected calibration error of the bins.
        temperature: what the scores were divided by.
    """
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
    plain(axes)
    plain(below)
    rescaling = f"The scores were divided by a temperature of {temperature:.3g}, fitted on the validation {unit}s."
    if temperature == 1:  # there were no validation videos, or the checkpoint is from an earlier version
        rescaling = "The scores were not rescaled (temperature 1)."
    return static_figure(
        figure,
        "calibration",
        "Calibration",
        f"Expected calibration error {percent(error)} %: the gap between confidence and accuracy (red), averaged over "
        f"{len(bins)} equal bins weighted by their {unit}s. On the dashed line, answers given with 80 % confidence are "
        f"correct in 80 % of the cases; below it, the model is overconfident. {rescaling}",
        f"Accuracy by confidence in {len(bins)} bins, with the diagonal of perfect calibration.",
        rows=[
            ("low", "high", "count", "confidence", "accuracy"),
            *((part.low, part.high, part.count, part.confidence, part.accuracy) for part in bins),
        ],
    )


def length_figure(bins: Sequence[LengthBin], quantity: str, unit: str = "video") -> StaticFigure:
    """Accuracy by length; ``quantity`` is the unit of the lengths."""
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
        f"{unit.capitalize()}s binned by length, at least {fewest} per bin, with 95 % intervals.",
        f"Accuracy in {len(bins)} bins of length.",
        rows=[
            ("shortest", "longest", "num_videos", "accuracy", "low", "high"),
            *((part.shortest, part.longest, part.accuracy.num_videos, *_bounds(part.accuracy)) for part in bins),
        ],
    )


def frames_seen_figure(accuracies: Sequence[Accuracy], unit: str = "video") -> StaticFigure:
    """Accuracy after each tenth of the frames: the result of ``accuracy_against_share_seen``."""
    figure, axes = _single()
    seen = [10 * tenths for tenths in TENTHS]
    _with_intervals(axes, seen, accuracies, "o-")
    axes.set(xlabel=f"% of the {unit}'s frames seen", ylabel="accuracy", ylim=(0, 1.03), xticks=seen)
    return static_figure(
        figure,
        "frames_seen",
        "Accuracy against frames seen",
        f"How early the answer is correct: each {unit} is read once from its first frame and classified after every "
        "tenth of its frames; with 95 % intervals. The last point may differ from the scores above, which average "
        "several clips.",
        "Accuracy after 10, 20, ... 100 % of the frames: "
        + ", ".join(f"{100 * accuracy.share:.0f} %" for accuracy in accuracies),
        rows=[
            ("percent_seen", "num_videos", "accuracy", "low", "high"),
            *(
                (percent_seen, accuracy.num_videos, *_bounds(accuracy))
                for percent_seen, accuracy in zip(seen, accuracies, strict=True)
            ),
        ],
    )


def learning_curves(history: Sequence[Mapping[str, object]]) -> StaticFigure | None:
    """Training and validation loss and accuracy by epoch; ``None`` if there is nothing to draw.

    Where a row lacks a value, or has ``None`` or NaN (a run that diverged), the curve has a gap.
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
    epochs = [row.get("epoch", number) for number, row in enumerate(history, start=1)]
    curves = {}
    for quantity, part in drawn:
        values = [row.get(f"{part}_{quantity}") for row in history]
        curves[f"{part}_{quantity}"] = curve = [np.nan if value is None else value for value in values]
        style, colour = {"train": ("--", GREY), "validation": ("-", BLUE)}[part]
        panels[quantity].plot(epochs, curve, style, color=colour, marker="." if len(curve) < 40 else "", label=part)
    for quantity, axes in panels.items():
        axes.set_ylabel(quantity)
        plain(axes)
        if axes.lines:
            axes.legend(frameon=False)
    panels["accuracy"].set(xlabel="epoch", ylim=(0, 1.02))
    return static_figure(
        figure,
        "learning_curves",
        "Learning curves",
        "Dashed: training, solid: validation.",
        "Loss and accuracy on training and validation data, by epoch.",
        rows=[("epoch", *curves), *zip(epochs, *curves.values(), strict=True)],
    )


def spectrum_figure(spectra: Mapping[str, NDArray[np.complexfloating]]) -> StaticFigure:
    """Eigenvalues of a recurrent matrix, ``before`` and ``after`` training, with the unit circle."""
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
        f"Eigenvalues of W_hh before and after training; the largest modulus is {largest}. Along an eigenvector, the "
        "state decays if the eigenvalue is inside the circle, persists if it is on it, and grows if it is outside.",
        f"Eigenvalues in the complex plane with the unit circle; largest modulus {largest}.",
        rows=[
            ("when", "real", "imaginary"),
            *((name, value.real, value.imag) for name, values in spectra.items() for value in values.tolist()),
        ],
    )


def cell_size(num_columns: int) -> float:
    """Side of a confusion matrix's cell in inches, so that the names fit as long as the matrix does."""
    return float(min(np.clip(6 / num_columns, _NAMED_CELL, 0.8), _LARGEST_MATRIX / num_columns))


def name_classes(axes: Axes, rows: Sequence[str], columns: Sequence[str], cell: float, size: int) -> None:
    """Name the rows and columns of a confusion matrix, or every second, third, ... if its cells are small."""
    step = math.ceil(_NAMED_CELL / cell)
    # Without parse_math, a class called "$5" is not a formula.
    for names, set_ticks, rotation in ((columns, axes.set_xticks, 90), (rows, axes.set_yticks, 0)):
        shown = [shortened(name) for name in names[::step]]
        set_ticks(range(0, len(names), step), shown, rotation=rotation, size=size, parse_math=False)
    axes.set_xlabel("predicted class", size=12)
    axes.set_ylabel("true class", size=12)


def _single() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=110, layout="constrained")
    axes = figure.subplots()
    plain(axes)
    return figure, axes


def plain(axes: Axes) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _bounds(accuracy: Accuracy) -> tuple[float, float, float]:
    return accuracy.share, accuracy.low, accuracy.high


def _with_intervals(axes: Axes, positions: Sequence[int], accuracies: Sequence[Accuracy], style: str) -> None:
    share, low, high = np.array([_bounds(accuracy) for accuracy in accuracies]).T
    # Rounding errors may place a bound on the wrong side of the share.
    around = np.maximum([share - low, high - share], 0)
    axes.errorbar(positions, share, yerr=around, fmt=style, color=BLUE, capsize=3, markersize=5)


def static_figure(
    figure: Figure,
    name: str,
    title: str = "",
    caption: str = "",
    description: str = "",
    *,
    rows: Iterable[tuple[object, ...]],
) -> StaticFigure:
    """Encode a drawn figure. The same numbers always give the same bytes."""
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.draw_without_rendering()  # computes the layout, which the extent depends on
        figure.set_layout_engine("none")  # each format would compute it again
        extent = figure.get_tightbbox().padded(0.1)
        png, svg = (_saved(figure, kind, extent) for kind in ("png", "svg"))
    return StaticFigure(name, title, caption, description, png, svg, tuple(rows))


def _saved(figure: Figure, kind: str, extent: Bbox) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(buffer, format=kind, bbox_inches=extent, facecolor="white", metadata=metadata)
    return buffer.getvalue()


def shortened(name: str) -> str:
    """A class name on one line, cut to 28 characters, with what can't be drawn (a lone surrogate) replaced."""
    name = "".join(letter if letter.isprintable() else "�" for letter in " ".join(name.split()))
    return name if len(name) <= 28 else name[:27] + "…"
