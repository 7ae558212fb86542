"""The page that sets several evaluations side by side, and the tables and figures that go with it.

Runs of one test list are compared in pairs, video by video. Runs of several splits, or seeds, of one experiment stand
side by side with their mean; across splits nothing is paired.
"""

import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data.atomic import write_atomically
from pipeline.evaluation.comparison import (
    PAIRED_METRICS,
    ComparisonError,
    ConfusionDifference,
    RecallDifference,
    VideoPredictions,
    confusion_difference,
    flips,
    recall_differences,
)
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.predictions import NOT_PREDICTED, IntArray
from pipeline.reports.compare_figures import (
    changed_classes,
    confusion_difference_figure,
    difference_figure,
    recall_difference_figure,
)
from pipeline.reports.compare_runs import (
    LEVEL,
    TEST_LIST,
    Evaluation,
    Pair,
    all_pairs,
    by_test_list,
    in_points,
    read_evaluations,
)
from pipeline.reports.figures import MISSING, StaticFigure, shortened
from pipeline.reports.leaderboard import COUNTS, EXPERIMENT, REPEAT, deviation, experiments
from pipeline.reports.pages import render_page
from pipeline.reports.report import csv_bytes
from pipeline.reports.report_page import TITLES

NUM_LISTED = 20  # rows of a list on the page; the CSV files hold all
NUM_DETAILED = 10  # pairs that get matrices and lists of videos; the others are in the tables
FIGURES = "comparison_figures"


def write_comparison(folder: Path, evaluations: Sequence[Path]) -> Path:
    """Compares evaluations; writes ``comparison.html, comparison.csv, flips.csv, comparison_figures/`` into ``folder``.

    Args:
        evaluations: folders that ``write_evaluation`` filled. The order decides which of a pair is A.

    Returns the page. Raises ``ComparisonError`` where an evaluation is missing or damaged, where two of one split are
    of different videos, labels or classes, and where there is nothing to compare.
    """
    folds = by_test_list(read_evaluations(evaluations))
    taking_part = [evaluation for fold in folds for evaluation in fold]
    grouped = [runs for runs in experiments([{**e.results, "number": e.number} for e in taking_part]) if len(runs) > 1]
    pairs = all_pairs(folds)
    if not pairs and not grouped:
        listed = "; ".join(f"{e.name}: {_label(e.results, (*EXPERIMENT, *REPEAT))}" for e in taking_part)
        raise ComparisonError(
            f"nothing to compare: no two of the runs share a test list, and none are repeats of one experiment "
            f"({listed}). Name runs of one split, or one experiment's runs on several."
        )
    details = [PairDetails.of(pair) for pair in pairs[:NUM_DETAILED]]
    figures = [figure for detail in details for figure in detail.figures]
    if pairs:
        names = [(pair.a.name, pair.b.name) for pair in pairs]
        figures.insert(0, difference_figure(names, [pair.differences["video_top1"] for pair in pairs]))
    files = {
        **{f"{FIGURES}/{figure.name}.{kind}": content for figure in figures for kind, content in _contents(figure)},
        "comparison.csv": csv_bytes(_pair_rows(pairs)),
        "flips.csv": csv_bytes(_flip_rows(folds)),
        "comparison.html": _page(folder, folds, pairs, details, grouped).encode(),
    }
    for name, content in files.items():
        write_atomically(folder / name, partial(Path.write_bytes, data=content))
    # An earlier comparison of more pairs must not leave figures that this page knows nothing of.
    for old in (folder / FIGURES).glob("*_difference_*"):
        if f"{FIGURES}/{old.name}" not in files:
            old.unlink()
    return folder / "comparison.html"


@dataclass(frozen=True, eq=False)
class PairDetails:
    """What the page tells of one pair beside its differences."""

    pair: Pair
    confusion: ConfusionDifference
    recalls: list[RecallDifference]

    @classmethod
    def of(cls, pair: Pair) -> "PairDetails":
        a, b = pair.a.answers, pair.b.answers
        return cls(pair, confusion_difference(a, b), recall_differences(a, b))

    @property
    def figures(self) -> list[StaticFigure]:
        """None where nothing changed."""
        a, b, key = self.pair.a.name, self.pair.b.name, self.pair.key
        classes = self.pair.a.answers.classes
        figures = []
        if self.confusion.counts.any():
            figures.append(confusion_difference_figure(f"confusion_difference_{key}", a, b, self.confusion, classes))
        if self.changed_recalls:
            figures.append(recall_difference_figure(f"recall_difference_{key}", a, b, self.recalls))
        return figures

    def matrix(self) -> dict[str, object]:
        """The matrix of differences as a drawing: sizes in pixels, and every cell that is not 0."""
        rows, columns = changed_classes(self.confusion)
        names = [*self.pair.a.answers.classes, MISSING]
        counts, shares = self.confusion.counts, self.confusion.shares
        size = min(max(560 // max(len(columns), 1), 13), 44)
        cells = [
            {
                "x": x * size,
                "y": y * size,
                "is_better": (shares[row, column] > 0) == (row == column),
                # The square root lets a single video be seen beside a whole class.
                "strength": f"{0.15 + 0.6 * abs(shares[row, column]) ** 0.5:.2f}",
                "text": signed(int(counts[row, column])) if size >= 24 else "",
                "tip": f"{names[row]} taken for {names[column]}: {self.confusion.of_a[row, column]} in "
                f"{self.pair.a.name}, {self.confusion.of_b[row, column]} in {self.pair.b.name} "
                f"({signed(int(counts[row, column]))}, {in_points(shares[row, column], '+')} points)",
            }
            for y, row in enumerate(rows)
            for x, column in enumerate(columns)
            if counts[row, column]
        ]
        return {
            "size": size,
            "rows": [shortened(names[row]) for row in rows],
            "columns": [shortened(names[column]) for column in columns],
            "margin": 16 + 7 * max((len(shortened(names[column])) for column in columns), default=0),
            "cells": cells,
            "num_unchanged": len(names) - 1 - len(rows),
        }

    @property
    def changed_recalls(self) -> list[RecallDifference]:
        return [row for row in self.recalls if row.difference]

    def confusions(self) -> list[dict[str, object]]:
        """Every pair of classes that was confused more or less often, the largest change first."""
        classes, counts = self.pair.a.answers.classes, self.confusion.counts[:, :-1]
        changed = [
            {
                "true": classes[row],
                "predicted": classes[column],
                "a": int(self.confusion.of_a[row, column]),
                "b": int(self.confusion.of_b[row, column]),
                "change": int(counts[row, column]),
            }
            for row, column in zip(*counts.nonzero(), strict=True)
            if row != column
        ]
        return sorted(changed, key=lambda change: -abs(change["change"]))

    def flips(self) -> dict[str, list[dict[str, object]]]:
        """The videos whose answer changed, by what became of it; for each what both models said."""
        a, b = self.pair.a.answers, self.pair.b.answers
        found = flips(a, b)

        def rows(videos: IntArray) -> list[dict[str, object]]:
            return [
                {
                    "video_id": a.video_ids[video],
                    "true": a.classes[a.labels[video]],
                    "a": _answer(a, int(video)),
                    "b": _answer(b, int(video)),
                }
                for video in videos
            ]

        return {
            f"Right in {self.pair.b.name} only": rows(found.gained),
            f"Right in {self.pair.a.name} only": rows(found.lost),
            "Wrong in both, but differently": rows(found.otherwise_wrong),
        }


def _answer(answers: VideoPredictions, video: int) -> dict[str, Any]:
    predicted = int(answers.predicted[video])
    return {
        "predicted": MISSING if predicted == NOT_PREDICTED else answers.classes[predicted],
        "is_right": predicted == answers.labels[video],
        "confidence": float(answers.probabilities[video].max()),
        "true_probability": float(answers.probabilities[video, answers.labels[video]]),
    }


def signed(number: int) -> str:
    return f"{number:+d}".replace("-", "−")


def _label(results: Mapping[str, Any], keys: Iterable[str]) -> str:
    """What is known of a run, such as ``split 1, seed 0``."""
    return ", ".join(f"{key.replace('_', ' ')} {results[key]}" for key in keys if results.get(key) is not None)


def _contents(figure: StaticFigure) -> list[tuple[str, bytes]]:
    return [("png", figure.png), ("svg", figure.svg), ("csv", csv_bytes(figure.rows))]


def _pair_rows(pairs: Sequence[Pair]) -> Iterable[list[object]]:
    """One row per pair; a difference is B's metric minus A's, in [-1, 1]."""
    scores = [f"{metric}_{part}" for metric in PAIRED_METRICS for part in ("difference", "low", "high")]
    counts = ["num_both_right", "num_only_a_right", "num_only_b_right", "num_both_wrong"]
    yield [*TEST_LIST, "a", "b", "num_videos", *scores, *counts, "mcnemar_p", "mcnemar_p_holm", "verdict"]
    for pair in pairs:
        differences = [pair.differences[metric] for metric in PAIRED_METRICS]
        yield [
            *(pair.a.results.get(key) for key in TEST_LIST),
            *(pair.a.name, pair.b.name, differences[0].num_videos),
            *(value for d in differences for value in (d.difference, d.low, d.high)),
            *(pair.test.both, pair.test.only_a, pair.test.only_b, pair.test.neither),
            *(pair.test.p_value, pair.corrected_p, pair.verdict),
        ]


def _flip_rows(folds: Sequence[Sequence[Evaluation]]) -> Iterable[list[object]]:
    """One row per video and run, of the videos that the runs of one test list do not all take for the same class."""
    yield [*TEST_LIST, "video_id", "label", "run", "predicted", "correct", "confidence", "true_probability"]
    for fold in folds:
        predicted = [evaluation.answers.predicted for evaluation in fold]
        first = fold[0].answers
        for video, video_id in enumerate(first.video_ids):
            if len({int(of_run[video]) for of_run in predicted}) == 1:
                continue
            for evaluation in fold:
                answer = _answer(evaluation.answers, video)
                yield [
                    *(evaluation.results.get(key) for key in TEST_LIST),
                    *(video_id, first.classes[first.labels[video]], evaluation.name, answer["predicted"]),
                    *(int(answer["is_right"]), f"{answer['confidence']:.9g}", f"{answer['true_probability']:.9g}"),
                ]


def _page(
    folder: Path,
    folds: Sequence[Sequence[Evaluation]],
    pairs: Sequence[Pair],
    details: Sequence[PairDetails],
    repeats: Sequence[Sequence[Mapping[str, Any]]],
) -> str:
    evaluations = sorted((e for fold in folds for e in fold), key=lambda evaluation: evaluation.number)
    results = [evaluation.results for evaluation in evaluations]
    widest = max(
        (abs(bound) for pair in pairs for d in pair.differences.values() for bound in (d.low, d.high, d.difference)),
        default=0.0,
    )
    return render_page(
        "compare.html.j2",
        ("sortable.js",),
        dataset=results[0].get("dataset"),
        unit=evaluations[0].unit,
        titles=TITLES,
        evaluations=evaluations,
        labels={e.number: _label(e.results, ("model", *REPEAT)).removeprefix("model ") for e in evaluations},
        reports={e.number: _url(e.folder / "report.html", folder) for e in evaluations},
        pairs=pairs,
        test_lists={pair.key: _label(pair.a.results, TEST_LIST) for pair in pairs},
        num_test_lists=len({_label(pair.a.results, TEST_LIST) for pair in pairs}),
        widest=max(widest, 0.01),
        level=LEVEL,
        points=partial(in_points, sign="+"),
        signed=signed,
        details=details,
        detailed={detail.pair.key for detail in details},
        num_listed=NUM_LISTED,
        side_by_side=_side_by_side(repeats),
        differing=_differing_facts(results),
        figures=FIGURES,
    )


def _side_by_side(repeats: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
    """Experiments as rows, their splits and seeds as columns; ``None`` where no experiment has several runs."""
    if not repeats:
        return None
    every = [run for runs in repeats for run in runs]
    # Where the model alone does not tell experiments apart, what they differ in does.
    are_named = len({run.get("model") for run in every}) == len(repeats)
    naming = ["model"] if are_named else [key for key in EXPERIMENT if len({str(run.get(key)) for run in every}) > 1]
    columns = list(dict.fromkeys(_label(run, REPEAT) for run in sorted(every, key=lambda run: _label(run, REPEAT))))
    rows = [
        {
            "name": _label(runs[0], naming).removeprefix("model ").removeprefix("settings "),
            "cells": [[run for run in runs if _label(run, REPEAT) == column] for column in columns],
            "means": {
                metric: (statistics.fmean(run[metric] for run in runs), *deviation(runs, metric)) for metric in TITLES
            },
        }
        for runs in repeats
    ]
    return {"columns": columns, "rows": rows}


def _differing_facts(results: Sequence[Mapping[str, Any]]) -> dict[str, list[object]]:
    """What is told of the runs, and is not the same for all: by fact, one value per run."""
    told_elsewhere = {*METRICS, *COUNTS, "intervals", "accuracy", "run", "command", "made_from"}
    facts = [key for key in dict.fromkeys(key for result in results for key in result) if key not in told_elsewhere]
    values = {fact: [result.get(fact) for result in results] for fact in facts}
    return {fact: of_runs for fact, of_runs in values.items() if len(set(map(str, of_runs))) > 1}


def _url(path: Path, folder: Path) -> str:
    """Relative, so that the runs and the page may move together."""
    return quote(Path(os.path.relpath(path, folder.resolve())).as_posix())
