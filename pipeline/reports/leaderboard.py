"""A table of several evaluations: ``leaderboard.csv`` with raw numbers, ``.md`` and ``.html`` for reading.

Experiments are ranked by what was measured alike: on the same splits and with the same seeds.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.evaluation.metrics import COUNTS, METRICS
from pipeline.evaluation.predictions import EvaluationError
from pipeline.reports.pages import CLIP_AND_VIDEO_TITLES as TITLES
from pipeline.reports.pages import (
    csv_bytes,
    drawn,
    markdown_line,
    markdown_text,
    percent,
    relative_url,
    render_page,
    shown_titles,
    write_files,
)

Row = Mapping[str, Any]

# Runs that agree in EXPERIMENT are repeats of one experiment; REPEAT identifies each repeat.
EXPERIMENT = ("dataset", "evaluated_on", "model", "backbone", "settings")
FOLD = ("split", "holdout_group")
REPEAT = (*FOLD, "seed")

REVERSED_DROP = "reversed_drop"  # in video top-1


def write_leaderboard(
    folder: Path, rows: Sequence[Row], reports: Sequence[Path] = (), verdicts: Sequence[str] = ()
) -> str:
    """Write ``leaderboard.csv``, ``.md`` and ``.html`` into ``folder`` and return the Markdown.

    Args:
        rows: one ``metrics.json`` per run. Besides the metrics, these facts are shown where they are known: ``run``
            (its name), ``dataset, model, backbone, split, holdout_group, seed``; ``evaluated_on``, if not the test
            videos of the split; and ``settings``: a short text with every other setting that differs between runs.
            The CSV and HTML files also show the drop for reversed frames if any run has it. Runs that agree in
            ``EXPERIMENT`` are repeats of one experiment, and their mean is shown as well (see ``deviation``).
        reports: the page of each row, which the HTML links to.
        verdicts: sentences that say which model is the best.

    Raises:
        EvaluationError: there are no runs, or one lacks a metric.
    """
    if reports:
        links = [relative_url(report, folder) for report in reports]
        rows = [{**row, "report": link} for row, link in zip(rows, links, strict=True)]
    grouped = experiments([_with_reversed_drop(row) for row in rows])
    markdown = _markdown(grouped, verdicts)
    write_files(
        folder,
        {
            "leaderboard.csv": csv_bytes(_csv_rows(grouped)),
            "leaderboard.html": _page(grouped, verdicts).encode(errors="replace"),
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


@dataclass(frozen=True)
class Experiment:
    """The runs of one experiment, and which of them it is ranked by.

    Attributes:
        runs: all of them, by fold and seed.
        compared: those on the folds and with the seeds that all ranked experiments have; all runs if it is not ranked.
        rank: from 1 among the experiments on the same videos; ``None`` if it lacks some of these folds and seeds.
        missing: what it lacks, such as "split 2, seed 0".
    """

    runs: tuple[Row, ...]
    compared: tuple[Row, ...]
    rank: int | None = None
    missing: tuple[str, ...] = ()

    @property
    def coverage(self) -> str:
        """The number of runs, such as "3 of 12" where not all of them could be compared."""
        if len(self.compared) == len(self.runs):
            return str(len(self.runs))
        return f"{len(self.compared)} of {len(self.runs)}"


def experiments(rows: Sequence[Row]) -> list[Experiment]:
    """Group the runs by experiment, and rank the experiments.

    They are sorted by dataset, and there by rank: by the mean video top-1 over the folds and seeds that all ranked
    experiments have. Those that lack some of these come last.

    Raises ``EvaluationError`` if there are no runs, or one lacks a metric.
    """
    if not rows:
        raise EvaluationError("a leaderboard needs at least one evaluated run. Name the folders of evaluated runs.")
    for row in rows:
        if lacking := [name for name in METRICS if name not in row]:
            raise EvaluationError(f"run {row.get('run')!r} lacks {', '.join(lacking)}. Evaluate it again.")
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str([row.get(key) for key in EXPERIMENT]), []).append(row)
    on_same_videos: dict[tuple[str, str], list[list[Row]]] = {}
    for group in groups.values():
        group.sort(key=place)
        key = str(group[0].get("dataset")), str(group[0].get("evaluated_on") or "")
        on_same_videos.setdefault(key, []).append(group)
    return [one for _, alike in sorted(on_same_videos.items()) for one in _ranked(alike)]


def place(row: Row) -> tuple[str, ...]:
    """The fold and the seed of a run."""
    return tuple(str(row.get(key)) for key in REPEAT)


def _ranked(groups: Sequence[Sequence[Row]]) -> list[Experiment]:
    common = _common_places([frozenset(map(place, group)) for group in groups])
    ranked, others = [], []
    for group in groups:
        compared = tuple(row for row in group if place(row) in common)
        if len({place(row) for row in compared}) == len(common):
            ranked.append(Experiment(tuple(group), compared))
        else:
            lacking = sorted(common - set(map(place, group)))
            names = [" ".join(REPEAT[:1]), REPEAT[1].replace("_", " "), REPEAT[2]]
            missing = (
                ", ".join(f"{name} {value}" for name, value in zip(names, where, strict=True) if value != "None")
                for where in lacking
            )
            others.append(Experiment(tuple(group), tuple(group), missing=tuple(missing)))
    ranked.sort(key=lambda one: -mean(one.compared, "video_top1"))
    others.sort(key=lambda one: (-len(one.runs), -mean(one.runs, "video_top1")))
    return [replace(one, rank=rank) for rank, one in enumerate(ranked, start=1)] + others


def _common_places(coverages: Sequence[frozenset[tuple[str, ...]]]) -> frozenset[tuple[str, ...]]:
    """The folds and seeds by which to rank: those with the most comparable runs, of at least two experiments."""

    def comparable(places: frozenset[tuple[str, ...]]) -> tuple[int, int]:
        number = sum(places <= coverage for coverage in coverages)
        return min(number, 2), number * len(places)

    candidates = {one & other for one in coverages for other in coverages if one & other}
    return max(sorted(candidates, key=sorted), key=comparable)


def parts_by_split(rows: Sequence[Row]) -> dict[str, Any]:
    """The numbers of videos, groups and classes in each part of each split that the runs were trained on."""
    keys = FOLD if len({str(row.get("dataset")) for row in rows}) == 1 else ("dataset", *FOLD)
    named = ((", ".join(str(row[key]) for key in keys if row.get(key) is not None), row) for row in rows)
    return {name: row["parts"] for name, row in sorted(named, key=lambda one: one[0]) if row.get("parts")}


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


def _csv_rows(experiments: Sequence[Experiment]) -> Iterable[Sequence[object]]:
    """For each experiment a row with its mean (if it has several runs), then its runs; empty where not applicable."""
    any_drop = any(REVERSED_DROP in run for one in experiments for run in one.runs)
    names = [*METRICS, REVERSED_DROP] if any_drop else METRICS
    scores = [f"{name}{part}" for name in names for part in ("", "_low", "_high", "_deviation")]
    columns = ["kind", "rank", "run", *EXPERIMENT, *REPEAT, "num_runs", "missing", "deviation_over", *COUNTS, *scores]
    yield columns
    for one in experiments:
        if len(one.runs) > 1:
            row = {
                **{key: one.runs[0].get(key) for key in EXPERIMENT},
                **{"kind": "mean", "rank": one.rank, "num_runs": len(one.compared), "missing": "; ".join(one.missing)},
            }
            for name in _shared_by(one.compared, names):
                row[name] = mean(one.compared, name)
                if len(one.compared) > 1:
                    row[f"{name}_deviation"], row["deviation_over"] = deviation(one.compared, name)
            yield [row.get(column) for column in columns]
        for run in one.runs:
            intervals = run.get("intervals", {})
            low = {f"{name}_low": intervals[name][0] for name in names if name in intervals}
            high = {f"{name}_high": intervals[name][1] for name in names if name in intervals}
            row = {**run, **low, **high, "kind": "run", "num_runs": 1}
            if len(one.runs) == 1:
                row |= {"rank": one.rank, "missing": "; ".join(one.missing)}
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


def _page(experiments: Sequence[Experiment], verdicts: Sequence[str]) -> str:
    runs = [run for one in experiments for run in one.runs]
    facts = [key for key in _known_facts(runs) if key != "run"]
    differing = [key for key in facts if not _is_shared(key, runs)]
    titles = _titles(runs)
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
        verdicts=verdicts,
        facts=differing,
        experiment_facts=[key for key in differing if key in EXPERIMENT] or ["model"],
        shared_facts={key: runs[0][key] for key in facts if key not in differing},
        titles=titles,
        resampling=_resampling(runs),
        scales={name: (min(values), max(values)) for name, values in bounds.items()},
        experiments=experiments if _has_repeats(experiments) else (),
        compared_on=_compared_on(experiments),
        parts=parts_by_split(runs),
        split_means=_split_means(experiments),
        means={
            number: {
                name: (mean(one.compared, name), *_deviation(one.compared, name))
                for name in _shared_by(one.compared, titles)
            }
            for number, one in enumerate(experiments)
        },
    )


def _split_means(experiments: Sequence[Experiment]) -> dict[str, list[float | None]]:
    """The mean video top-1 of each experiment on each split, over its seeds; empty if no experiment has several."""
    keys = [key for key in FOLD if any(run.get(key) is not None for one in experiments for run in one.runs)]
    folds = sorted({str([run.get(key) for key in keys]): run for one in experiments for run in one.runs}.items())
    if all(len({str([run.get(key) for key in keys]) for run in one.runs}) < 2 for one in experiments):
        return {}
    means: dict[str, list[float | None]] = {}
    for fold, first in folds:
        name = ", ".join(f"{key.replace('_', ' ')} {first[key]}" for key in keys if first.get(key) is not None)
        on_it = [[run for run in one.runs if str([run.get(key) for key in keys]) == fold] for one in experiments]
        means[name] = [mean(runs, "video_top1") if runs else None for runs in on_it]
    return means


def _has_repeats(experiments: Sequence[Experiment]) -> bool:
    return any(len(one.runs) > 1 for one in experiments)


def _deviation(runs: Sequence[Row], metric: str) -> tuple[float | None, str]:
    return deviation(runs, metric) if len(runs) > 1 else (None, "")


def _compared_on(experiments: Sequence[Experiment]) -> str:
    """By what the experiments are ranked, where that needs an explanation."""
    if all(one.rank is not None and len(one.compared) == len(one.runs) for one in experiments):
        return ""
    ranked = [one for one in experiments if one.rank is not None]
    sentence = "Ranked by the folds and seeds that all ranked models have in common"
    if len(ranked) < len(experiments):
        sentence += "; a model without a rank lacks some of them"
    return f"{sentence}."


def _titles(runs: Sequence[Row]) -> dict[str, str]:
    return shown_titles(TITLES, (run.get("num_classes") for run in runs))


def _markdown(experiments: Sequence[Experiment], verdicts: Sequence[str]) -> str:
    runs = [run for one in experiments for run in one.runs]
    # Settings are long: they are shown only where runs differ in them.
    shown = [key for key in _known_facts(runs) if key != "settings" or not _is_shared(key, runs)]
    titles = _titles(runs)
    sections = []
    if _has_repeats(experiments):
        keys = [key for key in shown if key in EXPERIMENT]
        lines = [
            markdown_line(["rank", *keys, "runs", *titles.values(), "± over", "lacks"]),
            _line_below_head(["right", *(["left"] * len(keys)), *(["right"] * (1 + len(titles))), "left", "left"]),
        ]
        lines += [_mean_line(one, keys, titles) for one in experiments]
        notes = " ".join(filter(None, [_compared_on(experiments), "± is one sample standard deviation."]))
        sections.append("## Mean over runs\n\n" + "\n".join(lines) + f"\n\n{notes}\n")
    lines = [
        markdown_line([*shown, "videos", *titles.values()]),
        _line_below_head([*(["left"] * len(shown)), *(["right"] * (1 + len(titles)))]),
    ]
    for run in runs:
        scores = [_with_interval(run, name) for name in titles]
        lines.append(markdown_line([*(run.get(key) for key in shown), run.get("num_videos"), *scores]))
    sections.append("## Runs\n\n" + "\n".join(lines) + f"\n\nIn brackets: 95 % interval, {_resampling(runs)}.\n")
    head = "".join(f"{markdown_text(verdict)}\n\n" for verdict in verdicts)
    return f"# Leaderboard\n\n{head}All scores in percent of the test videos or clips.\n\n" + "\n".join(sections)


def _mean_line(one: Experiment, keys: Sequence[str], titles: Iterable[str]) -> str:
    facts = [one.runs[0].get(key) for key in keys]
    means = [percent(mean(one.compared, name)) for name in titles]
    over = None
    if len(one.compared) > 1:
        deviations = [percent(deviation(one.compared, name)[0]) for name in titles]
        means = [f"{value} ± {spread}" for value, spread in zip(means, deviations, strict=True)]
        over = deviation(one.compared, "video_top1")[1]
    return markdown_line([one.rank, *facts, one.coverage, *means, over, "; ".join(one.missing)])


def _with_interval(run: Row, name: str) -> str:
    interval, score = run.get("intervals", {}).get(name), percent(run[name])
    return f"{score} ({percent(interval[0])}–{percent(interval[1])})" if interval else score


def _line_below_head(alignments: Sequence[str]) -> str:
    return "| " + " | ".join("---:" if alignment == "right" else "---" for alignment in alignments) + " |"
