"""Write the report of ``benchmarks.paper``: tables, figures and a CSV file of the finished cells."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jinja2
from tabulate import tabulate

from benchmarks.paper_pictures import draw_errors, draw_grid
from benchmarks.paper_plan import (
    CHANCE_MSE,
    TUNING_SEED,
    TWO_LAYERS,
    Arguments,
    Cell,
    Chosen,
    Method,
    Outcome,
    Outcomes,
    Scores,
    Task,
    config_of,
    grid_cells,
    median_error,
    median_steps,
    scores_of,
)
from data.atomic import write_text_atomically
from data.sequences import ArithmeticTask
from models.classifier import SequenceClassifier
from pipeline.objectives.sequences import LEARNED_EPOCHS, LEARNED_MSE
from pipeline.reports.sequence_table import SOLVED_MSE

TEMPLATE = Path(__file__).with_name("paper.md.j2")
NOTHING = "–"


def write_report(options: Arguments, done: Outcomes, chosen: Chosen) -> str:
    """Write the report to ``options.output`` and the figures and CSV file next to it. Returns the report's text."""
    scores = scores_of(options, done, chosen)
    has_errors = any(not task.has_classes for task, _ in scores)
    folder, stem = options.output.parent, options.output.stem
    folder.mkdir(parents=True, exist_ok=True)
    draw_grid(options, done, chosen).savefig(folder / f"{stem}_grid.png")
    if has_errors:
        draw_errors(options, scores).savefig(folder / f"{stem}_mse.png")
    write_text_atomically(folder / f"{stem}.csv", csv_of(done))
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined)
    text = template.render(
        arguments=options,
        command=command(options),
        stem=stem,
        num_done=len(done),
        hours=sum(outcome.seconds for outcome in done.values()) / 3600,
        made_with="; ".join(sorted({outcome.made_with for outcome in done.values()})),
        parameters=", ".join(f"{method} {num_parameters(method, options):,}" for method in options.methods),
        two_layers=[method for method in options.methods if method in TWO_LAYERS],
        memory=config_of(Cell("grid", options.tuning_task, "np_rnn_memory", 1.0, 1.0, 0), options).model.memory_units,
        adam_beta2=config_of(grid_cells(options)[0], options).training.adam_beta2,
        tuning_seed=TUNING_SEED,
        learnt_epochs=LEARNED_EPOCHS,
        learnt_mse=LEARNED_MSE,
        solved_mse=SOLVED_MSE,
        chance=CHANCE_MSE,
        listed=listed,
        grid=grid_table(options, done, chosen),
        arithmetic={dataset: task_table(dataset, options, scores) for dataset in arithmetic_datasets(options)},
        has_errors=has_errors,
        images=image_table(options, scores),
        standing=standing_table(options, done, scores),
    )
    write_text_atomically(options.output, text + "\n")
    return text


def command(options: Arguments) -> str:
    """The command line of this comparison, without the options that only change where and how fast it runs."""
    defaults, words = Arguments(), ["python -m benchmarks.paper"]
    left_out = ("results", "output", "budget", "workers", "device", "mnist_root")
    for name, value in vars(options).items():
        if name not in left_out and value != getattr(defaults, name):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(number, () if value is True else values)]
    return " ".join(words)


def num_parameters(method: Method, options: Arguments) -> int:
    cell = next(cell for cell in grid_cells(options) if cell.method == method)
    model = SequenceClassifier(config_of(cell, options).model, ArithmeticTask.num_inputs, num_classes=1)
    return sum(parameter.numel() for parameter in model.parameters())


def grid_table(options: Arguments, done: Outcomes, chosen: Chosen) -> str:
    """For each method, how many settings of the grid solve the task, and which were chosen."""
    edge = {min(options.learning_rates), max(options.learning_rates)}
    rows = []
    for method in options.methods:
        outcomes = grid_outcomes(method, options, done)
        solved = [outcome for outcome in outcomes if outcome.solved]
        row: dict[str, object] = {"method": method, "solved": NOTHING, "share": NOTHING, "diverged": NOTHING}
        row |= {"fewest steps": NOTHING, "chosen rate": NOTHING, "chosen clipping": NOTHING}
        if outcomes:
            row["solved"] = f"{len(solved)} of {len(outcomes)}"
            if len(outcomes) == len(options.grid):
                row["share"] = f"{len(solved) / len(outcomes):.0%}"
            row["diverged"] = sum(outcome.diverged for outcome in outcomes)
            steps = [outcome.steps_to_solve for outcome in solved if outcome.steps_to_solve is not None]
            row["fewest steps"] = min(steps, default=NOTHING)
        if method in chosen:
            rate, norm = chosen[method]
            row["chosen rate"] = f"{number(rate)}*" if rate in edge else number(rate)
            row["chosen clipping"] = number(norm)
        rows.append(row)
    return table(rows)


def grid_outcomes(method: Method, options: Arguments, done: Outcomes) -> list[Outcome]:
    return [done[cell] for cell in grid_cells(options) if cell.method == method and cell in done]


def arithmetic_datasets(options: Arguments) -> list[str]:
    return list(dict.fromkeys(task.dataset for task in options.all_tasks if not task.has_classes))


def task_table(dataset: str, options: Arguments, scores: Scores) -> str:
    """The table of addition or multiplication: a row for each method, a column for each length."""
    tasks = sorted((task for task in options.all_tasks if task.dataset == dataset), key=lambda task: task.length)
    rows = []
    for method in options.methods:
        by_task = {task: scores[task, method] for task in tasks if (task, method) in scores}
        row = {"method": method, "longest T solved": longest_solved(by_task)}
        rows.append(row | {f"T = {task.length}": seeds_summary(by_task.get(task, ())) for task in tasks})
    return table(rows)


def longest_solved(by_task: Mapping[Task, Sequence[Outcome]]) -> str:
    """The longest T that any seed solved and, if different, the longest T that all seeds solved."""
    if not by_task:
        return NOTHING
    solved = {task.length: [outcome.solved for outcome in outcomes] for task, outcomes in by_task.items()}
    by_some = [length for length, seeds in solved.items() if any(seeds)]
    by_all = [length for length, seeds in solved.items() if all(seeds)]
    lengths = sorted({max(lengths) for lengths in (by_some, by_all) if lengths}, reverse=True)
    return ", ".join(f"{length} ({sum(solved[length])} of {len(solved[length])})" for length in lengths) or "none"


def seeds_summary(outcomes: Sequence[Outcome]) -> str:
    """The outcomes of the seeds of one task and method in a few words."""
    if not outcomes:
        return NOTHING
    words = [f"{sum(outcome.solved for outcome in outcomes)} of {len(outcomes)}"]
    if math.isfinite(steps := median_steps(outcomes)):
        words.append(f"{steps:,.0f} steps")
    if math.isfinite(error := median_error(outcomes)):
        words.append(f"MSE {error:.2g}")
    if diverged := sum(outcome.diverged for outcome in outcomes):
        words.append(f"{diverged} diverged")
    return "; ".join(words)


def image_table(options: Arguments, scores: Scores) -> str:
    """The table of pixel MNIST; empty if it is not one of the tasks."""
    tasks = [task for task in options.all_tasks if task.has_classes]
    if not tasks:
        return ""
    rows = [
        {"method": method} | {str(task): accuracies(scores.get((task, method), ())) for task in tasks}
        for method in options.methods
    ]
    return table(rows)


def accuracies(outcomes: Sequence[Outcome]) -> str:
    """Mean accuracy and that of each seed, in percent."""
    if not outcomes:
        return NOTHING
    known = [100 * outcome.accuracy for outcome in outcomes if outcome.accuracy is not None]
    seeds = ["diverged" if outcome.accuracy is None else f"{100 * outcome.accuracy:.1f}" for outcome in outcomes]
    # A mean without the diverged seeds would look better than the method is.
    mean = f"{statistics.fmean(known):.1f}" if len(known) == len(outcomes) else NOTHING
    return f"{mean} ({' '.join(seeds)})"


def standing_table(options: Arguments, done: Outcomes, scores: Scores) -> str:
    """Which methods do better and worse than np_rnn, wherever all seeds are done; empty if there is nothing to compare.

    The lower a rank, the better.
    """
    grid = {method: grid_outcomes(method, options, done) for method in options.methods}
    grid_ranks = {m: (-sum(o.solved for o in found),) for m, found in grid.items() if len(found) == len(options.grid)}
    ranks: dict[str, Mapping[Method, tuple[float, ...]]] = {f"grid ({options.tuned_on})": grid_ranks}
    for task in options.all_tasks:
        seeds = {method: scores.get((task, method), ()) for method in options.methods}
        ranks[str(task)] = {m: rank(task, found) for m, found in seeds.items() if len(found) == len(options.seeds)}
    rows = [
        {
            "on": where,
            "better than np_rnn": listed(m for m in rank_of if rank_of[m] < rank_of["np_rnn"]) or NOTHING,
            "level": listed(m for m in rank_of if rank_of[m] == rank_of["np_rnn"] and m != "np_rnn") or NOTHING,
            "worse": listed(m for m in rank_of if rank_of[m] > rank_of["np_rnn"]) or NOTHING,
        }
        for where, rank_of in ranks.items()
        if "np_rnn" in rank_of and len(rank_of) > 1
    ]
    return table(rows) if rows else ""


def rank(task: Task, outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    """Sort key, lower is better; a diverged training counts as accuracy 0."""
    if task.has_classes:
        return (-statistics.fmean(outcome.accuracy or 0.0 for outcome in outcomes),)
    return -sum(outcome.solved for outcome in outcomes), median_steps(outcomes)


def csv_of(done: Outcomes) -> str:
    """All finished cells as CSV, with full precision."""
    text = io.StringIO()
    rows = csv.DictWriter(text, [*Cell._fields, *Outcome.__dataclass_fields__], lineterminator="\n")
    rows.writeheader()
    rows.writerows(cell._asdict() | vars(outcome) for cell, outcome in done.items())
    return text.getvalue()


def table(rows: Sequence[Mapping[str, object]]) -> str:
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def listed(values: Iterable[object]) -> str:
    return ", ".join(map(number, values))


def number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
