"""A table of several evaluations: ``leaderboard.csv`` with raw numbers, ``.md`` and ``.html`` for reading."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluation.metrics import COUNTS, METRICS
from pipeline.evaluation.predictions import EvaluationError
from pipeline.reports.pages import CLIP_AND_VIDEO_TITLES as TITLES
from pipeline.reports.pages import csv_bytes, drawn, percent, relative_url, render_page, write_files

Row = Mapping[str, Any]

# Runs that agree in EXPERIMENT are repeats of one experiment; REPEAT identifies each repeat.
EXPERIMENT = ("dataset", "evaluated_on", "model", "backbone", "settings")
FOLD = ("split", "holdout_group")
REPEAT = (*FOLD, "seed")

REVERSED_DROP = "reversed_drop"  # in video top-1


def write_leaderboard(folder: Path, rows: Sequence[Row], reports: Sequence[Path] = ()) -> str:
    """Write ``leaderboard.csv``, ``.md`` and ``.html`` into ``folder`` and return the Markdown.

    Experiments are sorted by dataset, then by decreasing mean video top-1.

    Args:
        rows: one ``metrics.json`` per run. Besides the metrics, these facts are shown where they are known: ``run``
            (its name), ``dataset, model, backbone, split, holdout_group, seed``; ``evaluated_on``, if not the test
            videos of the split; and ``settings``: a short text with every other setting that differs between runs.
            The CSV and HTML files also show the drop for reversed frames if any run has it. Runs that agree in
            ``EXPERIMENT`` are repeats of one experiment, and their mean is shown as well (see ``deviation``).
        reports: the page of each row, which the HTML links to.

    Raises:
        EvaluationError: there are no runs, or one lacks a metric.
    """
    if reports:
        links = [relative_url(report, folder) for report in reports]
        rows = [{**row, "report": link} for row, link in zip(rows, links, strict=True)]
    grouped = experiments([_with_reversed_drop(row) for row in rows])
    markdown = _markdown(grouped)
    write_files(
        folder,
        {
            "leaderboard.csv": csv_bytes(_csv_rows(grouped)),
            "leaderboard.html": _page(grouped).encode(errors="replace"),
            "leaderboard.md": markdown.encode(errors="replace"),
        },
    )
    return markdown


def _with_reversed_drop(row: Row) -> Row:
    """The row with ``REVERSED_DROP`` like a metric, if it was measured."""
    measured = row.get("order", {}).get("reversed")
    if measured is None:
        return row
    intervals = {**row.get("intervals", {}), REVERSED_DROP: measured["interval"]}
    return {**row, REVERSED_DROP: measured["drop"], "intervals": intervals}


def experiments(rows: Sequence[Row]) -> list[list[Row]]:
    """Group the runs by experiment: sorted by dataset, then by decreasing mean; within a group by fold and seed."""
    if not rows:
        raise EvaluationError("a leaderboard needs at least one evaluated run. Name the folders of evaluated runs.")
    for row in rows:
        if lacking := [name for name in METRICS if name not in row]:
            raise EvaluationError(f"run {row.get('run')!r} lacks {', '.join(lacking)}. Evaluate it again.")
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str([row.get(key) for key in EXPERIMENT]), []).append(row)
    repeats = [sorted(group, key=lambda row: [str(row.get(key)) for key in REPEAT]) for group in groups.values()]
    return sorted(repeats, key=lambda group: (str(group[0].get("dataset")), -mean(group, "video_top1")))


def mean(runs: Sequence[Row], metric: str) -> float:
    """Mean of a metric over one experiment's repeats."""
    return statistics.fmean(run[metric] for run in runs)


def deviation(runs: Sequence[Row], metric: str) -> tuple[float, str]:
    """Sample standard deviation of a metric over one experiment's repeats, and what it was computed over.

    The folds of one protocol (three splits, or each person held out once) make *one* estimate together. Where several
    seeds were each run on the same folds, the deviation is therefore computed over the seeds' means (``"seeds"``).
    With one seed it is computed over the folds (``"folds"``), and where seeds and folds do not form a full grid over
    all runs (``"runs"``).
    """
    by_seed: dict[object, list[Row]] = {}
    for run in runs:
        by_seed.setdefault(run.get("seed"), []).append(run)
    folds = [sorted(str([run.get(key) for key in FOLD]) for run in repeats) for repeats in by_seed.values()]
    if len(by_seed) > 1 and all(fold == folds[0] for fold in folds):
        return statistics.stdev(mean(repeats, metric) for repeats in by_seed.values()), "seeds"
    over = "folds" if len(by_seed) == 1 and len(set(folds[0])) == len(runs) else "runs"
    return statistics.stdev(run[metric] for run in runs), over


def _csv_rows(experiments: Sequence[Sequence[Row]]) -> Iterable[Sequence[object]]:
    """For each experiment a row with its mean (if it has several runs), then its runs; empty where not applicable."""
    any_drop = any(REVERSED_DROP in run for runs in experiments for run in runs)
    names = [*METRICS, REVERSED_DROP] if any_drop else METRICS
    scores = [f"{name}{part}" for name in names for part in ("", "_low", "_high", "_deviation")]
    columns = ["kind", "run", *EXPERIMENT, *REPEAT, "num_runs", "deviation_over", *COUNTS, *scores]
    yield columns
    for runs in experiments:
        if len(runs) > 1:
            row = {"kind": "mean", "num_runs": len(runs), **{key: runs[0].get(key) for key in EXPERIMENT}}
            for name in _shared_by(runs, names):
                row[name] = mean(runs, name)
                row[f"{name}_deviation"], row["deviation_over"] = deviation(runs, name)
            yield [row.get(column) for column in columns]
        for run in runs:
            intervals = run.get("intervals", {})
            low = {f"{name}_low": intervals[name][0] for name in names if name in intervals}
            high = {f"{name}_high": intervals[name][1] for name in names if name in intervals}
            row = {**run, **low, **high, "kind": "run", "num_runs": 1}
            yield [row.get(column) for column in columns]


def _resampling(runs: Sequence[Row]) -> str:
    """What the intervals are over: "bootstrap over 25 groups", with all numbers where the runs differ."""
    return "bootstrap over " + " or ".join(
        dict.fromkeys(drawn(run.get("num_groups"), run.get("num_videos", 0)) for run in runs)
    )


def _shared_by(runs: Sequence[Row], names: Iterable[str]) -> list[str]:
    return [name for name in names if all(name in run for run in runs)]


def _known_facts(runs: Sequence[Row]) -> list[str]:
    return [key for key in ("run", *EXPERIMENT, *REPEAT) if any(run.get(key) is not None for run in runs)]


def _is_shared(fact: str, runs: Sequence[Row]) -> bool:
    return len({str(run.get(fact)) for run in runs}) == 1


def _page(experiments: Sequence[Sequence[Row]]) -> str:
    runs = [run for repeats in experiments for run in repeats]
    facts = [key for key in _known_facts(runs) if key != "run"]
    differing = [key for key in facts if not _is_shared(key, runs)]
    titles = dict(TITLES)
    if any(REVERSED_DROP in run for run in runs):
        titles[REVERSED_DROP] = "Drop if reversed"
    bounds = {
        name: [bound for run in runs if name in run for bound in (run[name], *run.get("intervals", {}).get(name, ()))]
        for name in titles
    }
    return render_page(
        "leaderboard.html.j2",
        scripts=("sortable.js",),
        runs=runs,
        facts=differing,
        experiment_facts=[key for key in differing if key in EXPERIMENT] or ["model"],
        shared_facts={key: runs[0][key] for key in facts if key not in differing},
        titles=titles,
        resampling=_resampling(runs),
        scales={name: (min(values), max(values)) for name, values in bounds.items()},
        means=[
            {
                **repeats[0],
                "num_runs": len(repeats),
                "scores": {
                    name: (mean(repeats, name), *deviation(repeats, name)) for name in _shared_by(repeats, titles)
                },
            }
            for repeats in experiments
            if len(repeats) > 1
        ],
    )


def _markdown(experiments: Sequence[Sequence[Row]]) -> str:
    runs = [run for repeats in experiments for run in repeats]
    # Settings are long: they are shown only where runs differ in them.
    shown = [key for key in _known_facts(runs) if key != "settings" or not _is_shared(key, runs)]
    sections = []
    if any(len(repeats) > 1 for repeats in experiments):
        keys = [key for key in shown if key in EXPERIMENT]
        lines = [
            _line([*keys, "runs", *TITLES.values(), "± over"]),
            _line_below_head([*(["left"] * len(keys)), *(["right"] * (1 + len(TITLES))), "left"]),
        ]
        lines += [_mean_line(repeats, keys) for repeats in experiments]
        sections.append("## Mean over runs\n\n" + "\n".join(lines) + "\n\n± is one sample standard deviation.\n")
    lines = [
        _line([*shown, "videos", *TITLES.values()]),
        _line_below_head([*(["left"] * len(shown)), *(["right"] * (1 + len(TITLES)))]),
    ]
    for run in runs:
        scores = [_with_interval(run, name) for name in TITLES]
        lines.append(_line([*(run.get(key) for key in shown), run.get("num_videos"), *scores]))
    sections.append("## Runs\n\n" + "\n".join(lines) + f"\n\nIn brackets: 95 % interval, {_resampling(runs)}.\n")
    return "# Leaderboard\n\nAll scores in percent of the test videos or clips.\n\n" + "\n".join(sections)


def _mean_line(repeats: Sequence[Row], keys: Sequence[str]) -> str:
    facts = [repeats[0].get(key) for key in keys]
    means = [percent(mean(repeats, name)) for name in TITLES]
    over = None
    if len(repeats) > 1:
        means = [f"{value} ± {percent(deviation(repeats, name)[0])}" for value, name in zip(means, TITLES, strict=True)]
        over = deviation(repeats, "video_top1")[1]
    return _line([*facts, len(repeats), *means, over])


def _with_interval(run: Row, name: str) -> str:
    interval, score = run.get("intervals", {}).get(name), percent(run[name])
    return f"{score} ({percent(interval[0])}–{percent(interval[1])})" if interval else score


def _line_below_head(alignments: Sequence[str]) -> str:
    return "| " + " | ".join("---:" if alignment == "right" else "---" for alignment in alignments) + " |"


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(_escape(cell) for cell in cells) + " |"


def _escape(cell: object) -> str:
    """Text that Markdown shows verbatim on one line: an unescaped pipe would end the cell, a tag would be HTML."""
    return "" if cell is None else re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(str(cell).split()))
