"""The report of ``benchmarks.paper``: tables, pictures and a CSV of whatever cells are done."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jinja2
from tabulate import tabulate

from benchmarks.paper_pictures import draw_errors, draw_grid, save_png
from benchmarks.paper_plan import (
    CHANCE_MSE,
    TUNING_SEED,
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


def write_report(asked: Arguments, done: Outcomes, chosen: Chosen) -> str:
    """Write ``asked.output``, and beside it the pictures and the CSV. Returns the report."""
    scores = scores_of(asked, done, chosen)
    has_errors = any(not task.has_classes for task, _ in scores)
    folder, stem = asked.output.parent, asked.output.stem
    folder.mkdir(parents=True, exist_ok=True)
    save_png(draw_grid(asked, done, chosen), folder / f"{stem}_grid.png")
    if has_errors:
        save_png(draw_errors(asked, scores), folder / f"{stem}_mse.png")
    write_text_atomically(folder / f"{stem}.csv", csv_of(done))
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), undefined=jinja2.StrictUndefined)
    text = template.render(
        arguments=asked,
        command=command(asked),
        stem=stem,
        num_done=len(done),
        hours=sum(outcome.seconds for outcome in done.values()) / 3600,
        made_with="; ".join(sorted({outcome.made_with for outcome in done.values()})),
        parameters=", ".join(f"{method} {num_parameters(method, asked):,}" for method in asked.methods),
        adam_beta2=config_of(grid_cells(asked)[0], asked).training.adam_beta2,
        tuning_seed=TUNING_SEED,
        learnt_epochs=LEARNED_EPOCHS,
        learnt_mse=LEARNED_MSE,
        solved_mse=SOLVED_MSE,
        chance=CHANCE_MSE,
        listed=listed,
        grid=grid_table(asked, done, chosen),
        arithmetic={dataset: task_table(dataset, asked, scores) for dataset in arithmetic_datasets(asked)},
        has_errors=has_errors,
        images=image_table(asked, scores),
        standing=standing_table(asked, done, scores),
    )
    write_text_atomically(asked.output, text + "\n")
    return text


def command(asked: Arguments) -> str:
    """The command line that makes this comparison, without what says where and how fast."""
    default, words = Arguments(), ["python -m benchmarks.paper"]
    of_place = ("results", "output", "budget", "workers", "device", "mnist_root")
    for name, value in vars(asked).items():
        if name not in of_place and value != getattr(default, name):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(number, values)]
    return " ".join(words)


def num_parameters(method: Method, asked: Arguments) -> int:
    cell = next(cell for cell in grid_cells(asked) if cell.method == method)
    model = SequenceClassifier(config_of(cell, asked).model, ArithmeticTask.num_inputs, num_classes=1)
    return sum(parameter.numel() for parameter in model.parameters())


def grid_table(asked: Arguments, done: Outcomes, chosen: Chosen) -> str:
    """How many settings of the grid train each method, and which was chosen."""
    edge = {min(asked.learning_rates), max(asked.learning_rates)}
    rows = []
    for method in asked.methods:
        outcomes = of_grid(method, asked, done)
        solved = [outcome for outcome in outcomes if outcome.solved]
        row: dict[str, object] = {"method": method, "solved": NOTHING, "share": NOTHING, "diverged": NOTHING}
        row |= {"fewest steps": NOTHING, "chosen rate": NOTHING, "chosen clipping": NOTHING}
        if outcomes:
            row["solved"] = f"{len(solved)} of {len(outcomes)}"
            if len(outcomes) == len(asked.grid):
                row["share"] = f"{len(solved) / len(outcomes):.0%}"
            row["diverged"] = sum(outcome.diverged for outcome in outcomes)
            steps = [outcome.steps_to_solve for outcome in solved if outcome.steps_to_solve is not None]
            row["fewest steps"] = min(steps, default=NOTHING)
        if method in chosen:
            rate, norm = chosen[method]
            row |= {"chosen rate": number(rate) + "*" * (rate in edge), "chosen clipping": number(norm)}
        rows.append(row)
    return table(rows)


def of_grid(method: Method, asked: Arguments, done: Outcomes) -> list[Outcome]:
    return [done[cell] for cell in grid_cells(asked) if cell.method == method and cell in done]


def arithmetic_datasets(asked: Arguments) -> list[str]:
    return list(dict.fromkeys(task.dataset for task in asked.all_tasks if not task.has_classes))


def task_table(dataset: str, asked: Arguments, scores: Scores) -> str:
    """Addition or multiplication: a row for each method, a column for each length."""
    tasks = sorted((task for task in asked.all_tasks if task.dataset == dataset), key=lambda task: task.length)
    rows = []
    for method in asked.methods:
        of_method = {task: scores[task, method] for task in tasks if (task, method) in scores}
        row = {"method": method, "longest T solved": longest_solved(of_method)}
        rows.append(row | {f"T = {task.length}": told(of_method.get(task, ())) for task in tasks})
    return table(rows)


def longest_solved(of_method: Mapping[Task, Sequence[Outcome]]) -> str:
    """The longest T that any seed solved, and how many did; where not all did, also the longest that all did."""
    if not of_method:
        return NOTHING
    solved = {task.length: [outcome.solved for outcome in outcomes] for task, outcomes in of_method.items()}
    by_some = [length for length, seeds in solved.items() if any(seeds)]
    by_all = [length for length, seeds in solved.items() if all(seeds)]
    lengths = sorted({max(lengths) for lengths in (by_some, by_all) if lengths}, reverse=True)
    return ", ".join(f"{length} ({sum(solved[length])} of {len(solved[length])})" for length in lengths) or "none"


def told(outcomes: Sequence[Outcome]) -> str:
    """What came of the seeds of a task and a method, in a few words."""
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


def image_table(asked: Arguments, scores: Scores) -> str:
    """Accuracies of pixel MNIST; empty where it is not asked for."""
    tasks = [task for task in asked.all_tasks if task.has_classes]
    rows = [
        {"method": method} | {str(task): accuracies(scores.get((task, method), ())) for task in tasks}
        for method in asked.methods
    ]
    return table(rows) if tasks else ""


def accuracies(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return NOTHING
    known = [100 * outcome.accuracy for outcome in outcomes if outcome.accuracy is not None]
    seeds = ["diverged" if outcome.accuracy is None else f"{100 * outcome.accuracy:.1f}" for outcome in outcomes]
    # A mean over what is left of seeds that diverged would look better than they are.
    mean = f"{statistics.fmean(known):.1f}" if len(known) == len(outcomes) else NOTHING
    return f"{mean} ({' '.join(seeds)})"


def standing_table(asked: Arguments, done: Outcomes, scores: Scores) -> str:
    """Which methods do better than np_rnn and which worse, wherever all seeds are done; empty where that is nowhere."""
    ranks: dict[str, dict[Method, tuple[float, ...]]] = {f"grid ({asked.tuned_on})": {}}
    for method in asked.methods:
        outcomes = of_grid(method, asked, done)
        if len(outcomes) == len(asked.grid):
            ranks[f"grid ({asked.tuned_on})"][method] = (-sum(outcome.solved for outcome in outcomes),)
    for task in asked.all_tasks:
        seeds = {method: scores.get((task, method), ()) for method in asked.methods}
        ranks[str(task)] = {m: rank(task, found) for m, found in seeds.items() if len(found) == len(asked.seeds)}
    rows = [
        {
            "on": what,
            "better than np_rnn": listed(m for m in of if of[m] < of["np_rnn"]) or NOTHING,
            "level": listed(m for m in of if of[m] == of["np_rnn"] and m != "np_rnn") or NOTHING,
            "worse": listed(m for m in of if of[m] > of["np_rnn"]) or NOTHING,
        }
        for what, of in ranks.items()
        if "np_rnn" in of and len(of) > 1
    ]
    return table(rows) if rows else ""


def rank(task: Task, outcomes: Sequence[Outcome]) -> tuple[float, ...]:
    """The lower the better; one that diverged has no accuracy at all."""
    if task.has_classes:
        return (-statistics.fmean(outcome.accuracy or 0.0 for outcome in outcomes),)
    return -sum(outcome.solved for outcome in outcomes), median_steps(outcomes)


def csv_of(done: Outcomes) -> str:
    """Every cell that is done, with all digits."""
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
