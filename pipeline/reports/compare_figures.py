"""The figures of a comparison, each a picture (PNG and SVG) and the numbers in it (CSV), in the manner of
``pipeline.reports.figures``: drawn on white."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.evaluation.comparison import ConfusionDifference, PairedDifference, RecallDifference
from pipeline.reports.figures import BLUE, MISSING, RED, StaticFigure, shortened, static_figure


def difference_figure(pairs: Sequence[tuple[str, str]], differences: Sequence[PairedDifference]) -> StaticFigure:
    """A forest plot: for each pair of models (names of A and B) its difference in top-1 and the interval."""
    figure, axes = _lines([f"{shortened(b)} − {shortened(a)}" for a, b in pairs])
    places = range(len(pairs))
    low, middle, high = (
        [100 * getattr(difference, name) for difference in differences] for name in ("low", "difference", "high")
    )
    axes.hlines(places, low, high, color=BLUE)
    axes.plot(middle, places, "o", color=BLUE, markersize=5)
    axes.set_xlabel("difference in top-1, percentage points")
    return static_figure(
        figure,
        "differences",
        "Differences",
        "Difference in top-1 with its paired 95 % interval.",
        "Each pair's difference in top-1 with its interval; the numbers are in differences.csv.",
        [
            ("a", "b", "difference", "low", "high", "num_videos"),
            *((a, b, d.difference, d.low, d.high, d.num_videos) for (a, b), d in zip(pairs, differences, strict=True)),
        ],
    )


def confusion_difference_figure(
    name: str, a: str, b: str, difference: ConfusionDifference, classes: Sequence[str]
) -> StaticFigure:
    """B's confusion matrix minus A's, each row as shares of its videos, of the classes in which anything changed.

    Blue is where B does better (more on the diagonal, less beside it), red where A does. The CSV holds all classes, in
    videos.
    """
    rows, columns = changed_classes(difference)
    names = [*classes, MISSING]
    shown = difference.shares[np.ix_(rows, columns)]
    gain = np.where(np.equal.outer(rows, columns), shown, -shown)
    largest = float(np.abs(gain).max(initial=0.01))
    cell = float(np.clip(6 / max(len(columns), 1), 0.2, 0.8))  # inches; 0.2 is a line of 9-point names
    width, height = cell * max(len(columns), 3), cell * max(len(rows), 3)
    figure = Figure(figsize=(width, height), dpi=110)
    # The cells fill the figure; names and the colour bar hang outside, and saving it "tight" takes them in.
    axes = figure.add_axes((0, 0, 1, 1))
    image = axes.imshow(gain, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    axes.set_xticks(
        range(len(columns)), [shortened(names[column]) for column in columns], rotation=90, size=9, parse_math=False
    )
    axes.set_yticks(range(len(rows)), [shortened(names[row]) for row in rows], size=9, parse_math=False)
    axes.set_xlabel("predicted class", size=12)
    axes.set_ylabel("true class", size=12)
    bar = figure.colorbar(image, cax=axes.inset_axes((1 + 0.2 / width, 0, 0.12 / width, 1)))
    bar.set_ticks([-largest, 0, largest], labels=[f"{largest:.0%} worse", "0", f"{largest:.0%} better"], size=8)
    axes.set_title(f"{shortened(b)} − {shortened(a)}", size=10, parse_math=False)
    return static_figure(
        figure,
        name,
        "Difference of the confusion matrices",
        f"{b} minus {a}, as shares of each true class.",
        f"Difference of the confusion matrices of {b} and {a}; its numbers are in {name}.csv.",
        [
            ("true \\ predicted", *names),
            *((name, *row) for name, row in zip(classes, difference.counts.tolist(), strict=True)),
        ],
    )


def changed_classes(difference: ConfusionDifference) -> tuple[list[int], list[int]]:
    """Rows and columns of a matrix of differences that are not all 0; a class that is either is both.

    The column of missing videos is the last.
    """
    changed = difference.counts != 0
    num_classes = len(changed)
    rows = np.flatnonzero(changed.any(axis=1) | changed[:, :num_classes].any(axis=0)).tolist()
    return rows, [*rows, num_classes] if changed[:, num_classes].any() else rows


def recall_difference_figure(name: str, a: str, b: str, rows: Sequence[RecallDifference]) -> StaticFigure:
    """The classes whose recall changed, as bars. The CSV holds all classes."""
    changed = [row for row in rows if row.difference]
    figure, axes = _lines([shortened(row.name) for row in changed])
    colours = [BLUE if row.difference > 0 else RED for row in changed]
    axes.barh(range(len(changed)), [100 * row.difference for row in changed], color=colours)
    axes.set_xlabel("difference in recall, percentage points")
    axes.set_title(f"{shortened(b)} − {shortened(a)}", size=10, parse_math=False)
    return static_figure(
        figure,
        name,
        "Difference in recall",
        f"{b} minus {a}, class by class.",
        f"Difference in recall of {b} and {a}, class by class; its numbers are in {name}.csv.",
        [
            ("class", "recall_a", "recall_b", "difference", "num_videos"),
            *((row.name, row.a, row.b, row.difference, row.support) for row in rows),
        ],
    )


def _lines(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Axes with a named line for each of ``names``, the first at the top, around a vertical 0."""
    figure = Figure(figsize=(6, 0.8 + 0.28 * len(names)), dpi=110)
    axes = figure.add_subplot()
    axes.axvline(0, color="0.4", linewidth=1)
    axes.set_yticks(range(len(names)), names, size=9, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure, axes
