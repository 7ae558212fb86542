"""Several evaluations side by side: ``leaderboard.csv`` with raw numbers, ``.md`` and ``.html`` to be read."""

import csv
import io
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data.atomic import write_text_atomically
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.predictions import EvaluationError
from pipeline.reports.pages import render_page
from pipeline.reports.report_page import metric_titles

Row = Mapping[str, Any]

# Runs that agree in the first are repeats of one experiment; the others tell the repeats apart.
EXPERIMENT = ("dataset", "evaluated_on", "model", "backbone", "settings")
FOLD = ("split", "holdout_group")
REPEAT = (*FOLD, "seed")
METRIC_TITLES = metric_titles("video")
COUNTS = ("num_videos", "num_clips", "num_classes", "num_missing")


def write_leaderboard(folder: Path, rows: Sequence[Row], reports: Sequence[Path] = ()) -> str:
    """Writes ``leaderboard.csv``, ``.md`` and ``.html`` into ``folder``; returns the Markdown.

    Args:
        rows: one ``metrics.json`` per run. Beside the metrics these facts are shown, each where it is known: ``run``
            (its name), ``dataset, model, backbone, split, holdout_group, seed``; ``evaluated_on``, where that is not
            the split's test videos; and ``settings``: one short text for whatever else was set differently from run to
            run. Runs that agree in dataset, videos, model, backbone and settings are repeats of one experiment, and an
            experiment of several runs also gets their mean (see ``deviation``).
        reports: each row's page, for the HTML to link to.

    Experiments stand by dataset, then the best mean video top-1 first. Raises ``EvaluationError`` if there is no run or
    one lacks a metric.
    """
    if reports:
        links = [quote(Path(os.path.relpath(report.resolve(), folder.resolve())).as_posix()) for report in reports]
        rows = [{**row, "report": link} for row, link in zip(rows, links, strict=True)]
    grouped = experiments(rows)
    markdown = _markdown(grouped)
    write_text_atomically(folder / "leaderboard.csv", _csv(grouped))
    write_text_atomically(folder / "leaderboard.html", _page(grouped))
    write_text_atomically(folder / "leaderboard.md", markdown)
    return markdown


def deviation(runs: Sequence[Row], metric: str) -> tuple[float, str]:
    """Sample standard deviation of one experiment's repeats, and what it was taken over.

    The folds of one protocol (three splits, or each person held out once) make *one* estimate together. So where
    several seeds were each run on the same folds, the deviation is that of the seeds' means (``"seeds"``); with one
    seed it is that of the folds (``"folds"``). Where seeds and folds make no full grid it is that of all runs
    (``"runs"``).
    """
    by_seed: dict[object, list[Row]] = {}
    for run in runs:
        by_seed.setdefault(run.get("seed"), []).append(run)
    folds = [sorted(str([run.get(key) for key in FOLD]) for run in repeats) for repeats in by_seed.values()]
    if len(by_seed) > 1 and all(fold == folds[0] for fold in folds):
        return statistics.stdev(_mean(repeats, metric) for repeats in by_seed.values()), "seeds"
    over = "folds" if len(by_seed) == 1 and len(set(folds[0])) == len(runs) else "runs"
    return statistics.stdev(run[metric] for run in runs), over


def _mean(runs: Sequence[Row], metric: str) -> float:
    return statistics.fmean(run[metric] for run in runs)


def experiments(rows: Sequence[Row]) -> list[list[Row]]:
    """The runs grouped by experiment: by dataset, then the best mean first; inside, by fold and seed."""
    if not rows:
        raise EvaluationError("a leaderboard needs at least one evaluated run. Give the folders of runs that are.")
    for row in rows:
        if lacking := [name for name in METRICS if name not in row]:
            raise EvaluationError(f"run {row.get('run')!r} lacks {', '.join(lacking)}. Evaluate it again.")
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str([row.get(key) for key in EXPERIMENT]), []).append(row)
    repeats = [sorted(group, key=lambda row: [str(row.get(key)) for key in REPEAT]) for group in groups.values()]
    return sorted(repeats, key=lambda group: (str(group[0].get("dataset")), -_mean(group, "video_top1")))


def _csv(experiments: Sequence[Sequence[Row]]) -> str:
    """Each experiment's mean (where there are several runs), then its runs; a cell that does not apply is empty."""
    scores = [f"{name}{part}" for name in METRICS for part in ("", "_low", "_high", "_deviation")]
    columns = ["kind", "run", *EXPERIMENT, *REPEAT, "num_runs", "deviation_over", *COUNTS, *scores]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for runs in experiments:
        if len(runs) > 1:
            mean = {"kind": "mean", "num_runs": len(runs), **{key: runs[0].get(key) for key in EXPERIMENT}}
            for name in METRICS:
                mean[name] = _mean(runs, name)
                mean[f"{name}_deviation"], mean["deviation_over"] = deviation(runs, name)
            table.writerow(mean)
        for run in runs:
            intervals = run.get("intervals", {})
            low = {f"{name}_low": interval[0] for name, interval in intervals.items() if name in METRICS}
            high = {f"{name}_high": interval[1] for name, interval in intervals.items() if name in METRICS}
            table.writerow({**run, **low, **high, "kind": "run", "num_runs": 1})
    return text.getvalue()


def _known_facts(runs: Sequence[Row]) -> list[str]:
    return [key for key in ("run", *EXPERIMENT, *REPEAT) if any(run.get(key) is not None for run in runs)]


def _is_shared(fact: str, runs: Sequence[Row]) -> bool:
    return len({str(run.get(fact)) for run in runs}) == 1


def _page(experiments: Sequence[Sequence[Row]]) -> str:
    runs = [run for repeats in experiments for run in repeats]
    facts = [key for key in _known_facts(runs) if key != "run"]
    telling = [key for key in facts if not _is_shared(key, runs)]
    bounds = {
        name: [bound for run in runs for bound in (run[name], *run.get("intervals", {}).get(name, ()))]
        for name in METRIC_TITLES
    }
    return render_page(
        "leaderboard.html.j2",
        scripts=("sortable.js",),
        runs=runs,
        facts=telling,
        experiment_facts=[key for key in telling if key in EXPERIMENT] or ["model"],
        shared_facts={key: runs[0][key] for key in facts if key not in telling},
        titles=METRIC_TITLES,
        scales={name: (min(values), max(values)) for name, values in bounds.items()},
        means=[
            {
                **repeats[0],
                "num_runs": len(repeats),
                "scores": {name: (_mean(repeats, name), *deviation(repeats, name)) for name in METRIC_TITLES},
            }
            for repeats in experiments
            if len(repeats) > 1
        ],
    )


def _markdown(experiments: Sequence[Sequence[Row]]) -> str:
    runs = [run for repeats in experiments for run in repeats]
    # What all runs share is said by the dataset's and the model's columns; long settings are shown to tell runs apart.
    shown = [key for key in _known_facts(runs) if key != "settings" or not _is_shared(key, runs)]
    sections = []
    if any(len(repeats) > 1 for repeats in experiments):
        keys = [key for key in shown if key in EXPERIMENT]
        lines = [_line([*keys, "runs", *METRIC_TITLES.values(), "± over"]), _rule(len(keys), 1 + len(METRICS), 1)]
        for repeats in experiments:
            facts = [repeats[0].get(key) for key in keys]
            spreads = {name: deviation(repeats, name) for name in METRIC_TITLES} if len(repeats) > 1 else {}
            means = [
                f"{100 * _mean(repeats, name):.1f}" + (f" ± {100 * spreads[name][0]:.1f}" if spreads else "")
                for name in METRIC_TITLES
            ]
            lines.append(_line([*facts, len(repeats), *means, spreads["video_top1"][1] if spreads else None]))
        sections.append("## Mean over runs\n\n" + "\n".join(lines) + "\n\n± is one sample standard deviation.\n")
    lines = [_line([*shown, "videos", *METRIC_TITLES.values()]), _rule(len(shown), 1 + len(METRICS), 0)]
    for run in runs:
        scores = [_with_interval(run, name) for name in METRIC_TITLES]
        lines.append(_line([*(run.get(key) for key in shown), run.get("num_videos"), *scores]))
    sections.append("## Runs\n\n" + "\n".join(lines) + "\n\nIn brackets: 95 % bootstrap interval over videos.\n")
    return "# Leaderboard\n\nAll scores in percent of the test videos or clips.\n\n" + "\n".join(sections)


def _with_interval(run: Row, name: str) -> str:
    interval = run.get("intervals", {}).get(name)
    score = f"{100 * run[name]:.1f}"
    return f"{score} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else score


def _rule(*widths: int) -> str:
    """The line under a Markdown table's head: names to the left, numbers to the right, the rest to the left."""
    left, right, rest = widths
    return "| " + " | ".join(["---"] * left + ["---:"] * right + ["---"] * rest) + " |"


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(cell: object) -> str:
    """Text that Markdown shows as it stands, on one line: a pipe would end the cell, a tag would be one."""
    return "" if cell is None else re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(str(cell).split()))
