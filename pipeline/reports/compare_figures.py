"""The figures of a comparison: B minus A for pairs of models, in top-1, in the confusion matrix and in recall."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.evaluation.comparison import ConfusionDifference, PairedDifference, RecallDifference
from pipeline.reports.figures import (
    BLUE,
    MISSING,
    RED,
    StaticFigure,
    cell_size,
    name_classes,
    plain,
    shortened,
    static_figure,
)

_MAX_ROWS = 100  # of a figure with a name per row; a picture has at most 2^16 pixels per side


def difference_figure(pairs: Sequence[tuple[str, str]], differences: Sequence[PairedDifference]) -> StaticFigure:
    """A forest plot of the difference in top-1 for pairs of models (names of A and B), with its interval.

    It shows the first ``_MAX_ROWS`` pairs; the CSV contains all.
    """
    figure, axes = _named_rows([f"{shortened(b)} − {shortened(a)}" for a, b in pairs[:_MAX_ROWS]])
    rows = range(len(pairs[:_MAX_ROWS]))
    low, middle, high = (
        [100 * getattr(difference, name) for difference in differences[:_MAX_ROWS]]
        for name in ("low", "difference", "high")
    )
    axes.hlines(rows, low, high, color=BLUE)
    axes.plot(middle, rows, "o", color=BLUE, markersize=5)
    axes.set_xlabel("difference in top-1, percentage points")
    return static_figure(
        figure,
        "differences",
        rows=[
            ("a", "b", "difference", "low", "high", "num_videos"),
            *((a, b, d.difference, d.low, d.high, d.num_videos) for (a, b), d in zip(pairs, differences, strict=True)),
        ],
    )


def runs_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], models: Mapping[str, str]) -> StaticFigure | None:
    """Validation loss and accuracy of several runs by epoch, a colour per model; ``None`` if fewer than two have any.

    Args:
        histories: the rows of ``metrics.jsonl`` by run.
        models: the model of each run.
    """
    quantities = ("validation_loss", "validation_accuracy")
    known = {
        run: rows
        for run, rows in histories.items()
        if any(row.get(quantity) is not None for row in rows for quantity in quantities)
    }
    if len(known) < 2:
        return None
    colours = {name: f"C{number % 10}" for number, name in enumerate(dict.fromkeys(models[run] for run in known))}
    figure = Figure(figsize=(7.5, 4.6), dpi=110, layout="constrained")
    rows: list[tuple[object, ...]] = [("run", "model", "epoch", *quantities)]
    panels = figure.subplots(2, sharex=True)
    for run, history in known.items():
        model = models[run]
        epochs = [row.get("epoch", number) for number, row in enumerate(history, start=1)]
        for axes, quantity in zip(panels, quantities, strict=True):
            values = [np.nan if row.get(quantity) is None else row[quantity] for row in history]
            axes.plot(epochs, values, color=colours[model], linewidth=1, alpha=0.7)
        rows += [(run, model, epoch, *map(row.get, quantities)) for epoch, row in zip(epochs, history, strict=True)]
    panels[0].set_ylabel("validation loss")
    panels[1].set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1.02))
    for axes in panels:
        plain(axes)
    lines = [Line2D([], [], color=colour) for colour in colours.values()]
    figure.legend(lines, map(shortened, colours), frameon=False, loc="outside upper right", ncols=min(len(lines), 4))
    return static_figure(
        figure,
        "learning_curves",
        "Learning curves",
        "A line per run, a colour per model.",
        f"Validation loss and accuracy of {len(known)} runs, by epoch.",
        rows=rows,
    )


def confusion_difference_figure(
    name: str, a: str, b: str, difference: ConfusionDifference, classes: Sequence[str]
) -> StaticFigure:
    """B's confusion matrix minus A's, as shares of the videos of each row, for the classes in which anything changed.

    Blue: B is better (more videos on the diagonal, fewer off it); red: A is better. The CSV contains all classes, in
    videos.
    """
    rows, columns = changed_classes(difference)
    names = [*classes, MISSING]
    shown = difference.shares[np.ix_(rows, columns)]
    gain = np.where(np.equal.outer(rows, columns), shown, -shown)
    largest = float(np.abs(gain).max(initial=0.01))
    cell = cell_size(max(len(columns), 1))
    width, height = cell * max(len(columns), 3), cell * max(len(rows), 3)
    figure = Figure(figsize=(width, height), dpi=110)
    # As in confusion_figure, names and the colour bar are outside of the figure.
    axes = figure.add_axes((0, 0, 1, 1))
    image = axes.imshow(gain, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto")
    name_classes(axes, [names[row] for row in rows], [names[column] for column in columns], cell, size=9)
    bar = figure.colorbar(image, cax=axes.inset_axes((1 + 0.2 / width, 0, 0.12 / width, 1)))
    bar.set_ticks([-largest, 0, largest], labels=[f"{largest:.0%} worse", "0", f"{largest:.0%} better"], size=8)
    axes.set_title(f"{shortened(b)} − {shortened(a)}", size=10, parse_math=False)
    return static_figure(
        figure,
        name,
        rows=[
            ("true \\ predicted", *names),
            *((name, *row) for name, row in zip(classes, difference.counts.tolist(), strict=True)),
        ],
    )


def changed_classes(difference: ConfusionDifference) -> tuple[list[int], list[int]]:
    """The rows and columns of the classes whose row or column is not all 0.

    The last column, missing videos, is included only if it is not all 0.
    """
    changed = difference.counts != 0
    num_classes = len(changed)
    rows = np.flatnonzero(changed.any(axis=1) | changed[:, :num_classes].any(axis=0)).tolist()
    columns = [*rows, num_classes] if changed[:, num_classes].any() else rows
    return rows, columns


def recall_difference_figure(name: str, a: str, b: str, rows: Sequence[RecallDifference]) -> StaticFigure:
    """Bars for the ``_MAX_ROWS`` classes whose recall changed most: ``rows`` start with them. The CSV contains all."""
    changed = [row for row in rows if row.difference][:_MAX_ROWS]
    figure, axes = _named_rows([shortened(row.name) for row in changed])
    colours = [BLUE if row.difference > 0 else RED for row in changed]
    axes.barh(range(len(changed)), [100 * row.difference for row in changed], color=colours)
    axes.set_xlabel("difference in recall, percentage points")
    axes.set_title(f"{shortened(b)} − {shortened(a)}", size=10, parse_math=False)
    return static_figure(
        figure,
        name,
        rows=[
            ("class", "recall_a", "recall_b", "difference", "num_videos"),
            *((row.name, row.a, row.b, row.difference, row.support) for row in rows),
        ],
    )


def _named_rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Axes with a row for each name, the first at the top, and a vertical line at 0."""
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
