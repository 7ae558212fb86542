"""Draw the figures of ``benchmarks.paper``."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.paper_plan import CHANCE_MSE, Arguments, Chosen, Method, Outcomes, Scores, grid_cells, median_error
from pipeline.reports.sequence_table import SOLVED_MSE

LOWEST, HIGHEST = 1e-5, 1.0  # limits of the error axis; diverged trainings are drawn at the upper one
MARKERS = "osD^v<>Ph"


def draw_grid(options: Arguments, done: Outcomes, chosen: Chosen) -> Figure:
    """Draw a panel for each method. Colours show the test error, numbers the steps until the task was solved."""
    columns = min(3, len(options.methods))
    rows = math.ceil(len(options.methods) / columns)
    figure = Figure((3.3 * columns, 2 * rows + 0.3), dpi=100, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, method in zip(panels, options.methods, strict=False):
        axes.set_title(method, fontsize=10, fontweight="bold")
        draw_grid_of_method(axes, method, options, done, chosen)
    for axes in panels[len(options.methods) :]:
        axes.set_axis_off()
    figure.supxlabel("learning rate", fontsize=9)
    figure.supylabel("clipping", fontsize=9)
    return figure


def draw_grid_of_method(axes: Axes, method: Method, options: Arguments, done: Outcomes, chosen: Chosen) -> None:
    colours = np.full((len(options.clippings), len(options.learning_rates)), np.nan)
    for cell in grid_cells(options):
        if cell.method != method or cell not in done:
            continue
        outcome = done[cell]
        row, column = options.clippings.index(cell.clip_gradient), options.learning_rates.index(cell.learning_rate)
        text, ink = "diverged", "black"
        if outcome.mse is not None:
            colours[row, column] = math.log10(clamp(outcome.mse))
            text = f"{outcome.steps_to_solve:,}" if outcome.solved and outcome.steps_to_solve else f"{outcome.mse:.2g}"
            ink = "white" if outcome.mse < SOLVED_MSE else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
        if chosen.get(method) == (cell.learning_rate, cell.clip_gradient):
            frame = Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=2.5)
            axes.add_patch(frame)
    axes.imshow(colours, cmap="cividis", vmin=-4, vmax=-0.5, aspect="auto")
    axes.set_facecolor("0.9")
    axes.set_xticks(range(len(options.learning_rates)), [f"{rate:g}" for rate in options.learning_rates], fontsize=8)
    axes.set_yticks(range(len(options.clippings)), [f"{norm:g}" for norm in options.clippings], fontsize=8)


def draw_errors(options: Arguments, scores: Scores) -> Figure:
    """Draw the test error over the sequence length, in a panel for each of addition and multiplication.

    At least one seed of one of the two must be done.
    """
    datasets = list(dict.fromkeys(task.dataset for task, _ in scores if not task.has_classes))
    figure = Figure((4.4 * len(datasets) + 1.6, 4), dpi=100, layout="constrained")
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False).flat, datasets, strict=True):
        tasks = sorted({task for task, _ in scores if task.dataset == dataset}, key=lambda task: task.length)
        for number, method in enumerate(options.methods):
            known = [task for task in tasks if (task, method) in scores]
            lengths = [task.length for task in known]
            width, order = (2.5, 3) if method == "np_rnn" else (1, 2)
            medians = [clamp(median_error(scores[task, method])) for task in known]
            style = {"color": f"C{number}", "marker": MARKERS[number], "linewidth": width, "zorder": order}
            axes.plot(lengths, medians, label=method, **style)
            for task in known:
                seeds = [clamp(outcome.mse) for outcome in scores[task, method]]
                axes.scatter([task.length] * len(seeds), seeds, 12, f"C{number}", marker=MARKERS[number], alpha=0.4)
        axes.axhline(CHANCE_MSE[dataset], color="0.5", linestyle="--", linewidth=0.8)
        axes.axhline(SOLVED_MSE, color="0.5", linestyle=":", linewidth=0.8)
        axes.set(title=dataset, xlabel="steps of a sequence", ylabel="test error (1: diverged)", yscale="log")
        axes.set_ylim(LOWEST, 1.4 * HIGHEST)
        axes.set_xticks([task.length for task in tasks])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    return figure


def clamp(error: float | None) -> float:
    """Limit a test error to the range of the logarithmic axis; ``None`` (diverged) becomes the upper limit."""
    return HIGHEST if error is None else min(max(error, LOWEST), HIGHEST)
