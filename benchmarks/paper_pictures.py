"""The pictures of ``benchmarks.paper``."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.paper_plan import CHANCE_MSE, Arguments, Chosen, Method, Outcomes, Scores, grid_cells, median_error
from pipeline.reports.sequence_table import SOLVED_MSE

LOWEST, HIGHEST = 1e-5, 1.0  # test errors that can be told apart; what diverged stands at the latter
MARKERS = "osD^v<>Ph"


def draw_grid(asked: Arguments, done: Outcomes, chosen: Chosen) -> Figure:
    """A panel for each method: colour tells the test error, text the steps until the task was solved."""
    columns = min(3, len(asked.methods))
    rows = math.ceil(len(asked.methods) / columns)
    figure = Figure((3.3 * columns, 2 * rows + 0.3), dpi=100, layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, method in zip(panels, asked.methods, strict=False):
        axes.set_title(method, fontsize=10, fontweight="bold")
        draw_grid_of_method(axes, method, asked, done, chosen)
    for axes in panels[len(asked.methods) :]:
        axes.set_axis_off()
    figure.supxlabel("learning rate", fontsize=9)
    figure.supylabel("clipping", fontsize=9)
    return figure


def draw_grid_of_method(axes: Axes, method: Method, asked: Arguments, done: Outcomes, chosen: Chosen) -> None:
    colours = np.full((len(asked.clippings), len(asked.learning_rates)), np.nan)
    for cell in grid_cells(asked):
        if cell.method != method or cell not in done:
            continue
        outcome = done[cell]
        row, column = asked.clippings.index(cell.clip_gradient), asked.learning_rates.index(cell.learning_rate)
        text, ink = "diverged", "black"
        if outcome.mse is not None:
            colours[row, column] = math.log10(drawn_at(outcome.mse))
            text = f"{outcome.steps_to_solve:,}" if outcome.solved and outcome.steps_to_solve else f"{outcome.mse:.2g}"
            ink = "white" if outcome.mse < SOLVED_MSE else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
        if chosen.get(method) == (cell.learning_rate, cell.clip_gradient):
            frame = Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, edgecolor="#D55E00", linewidth=2.5)
            axes.add_patch(frame)
    axes.imshow(colours, cmap="cividis", vmin=-4, vmax=-0.5, aspect="auto")
    axes.set_facecolor("0.9")
    axes.set_xticks(range(len(asked.learning_rates)), [f"{rate:g}" for rate in asked.learning_rates], fontsize=8)
    axes.set_yticks(range(len(asked.clippings)), [f"{norm:g}" for norm in asked.clippings], fontsize=8)


def draw_errors(asked: Arguments, scores: Scores) -> Figure:
    """A panel for each of addition and multiplication: test error by length. At least one seed of them is done."""
    datasets = list(dict.fromkeys(task.dataset for task, _ in scores if not task.has_classes))
    figure = Figure((4.4 * len(datasets) + 1.6, 4), dpi=100, layout="constrained")
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False).flat, datasets, strict=True):
        tasks = sorted({task for task, _ in scores if task.dataset == dataset}, key=lambda task: task.length)
        for number, method in enumerate(asked.methods):
            known = [task for task in tasks if (task, method) in scores]
            lengths = [task.length for task in known]
            width, on_top = (2.5, 3) if method == "np_rnn" else (1, 2)
            medians = [drawn_at(median_error(scores[task, method])) for task in known]
            style = {"color": f"C{number}", "marker": MARKERS[number], "linewidth": width, "zorder": on_top}
            axes.plot(lengths, medians, label=method, **style)
            for task in known:
                seeds = [drawn_at(outcome.mse) for outcome in scores[task, method]]
                axes.scatter([task.length] * len(seeds), seeds, 12, f"C{number}", marker=MARKERS[number], alpha=0.4)
        axes.axhline(CHANCE_MSE[dataset], color="0.5", linestyle="--", linewidth=0.8)
        axes.axhline(SOLVED_MSE, color="0.5", linestyle=":", linewidth=0.8)
        axes.set(title=dataset, xlabel="steps of a sequence", ylabel="test error (1: diverged)", yscale="log")
        axes.set_ylim(LOWEST, 1.4 * HIGHEST)
        axes.set_xticks([task.length for task in tasks])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    return figure


def drawn_at(error: float | None) -> float:
    """Where a test error stands on the logarithmic axis; ``None``: diverged."""
    return HIGHEST if error is None else min(max(error, LOWEST), HIGHEST)


def save_png(figure: Figure, path: Path) -> None:
    with path.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)
