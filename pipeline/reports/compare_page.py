"""The comparison of several evaluations: its page, tables and figures.

Models with several runs are compared first, over all seeds and splits that they have in common. Runs with the same test
list are compared in pairs, video by video. The runs of one experiment on several splits or with several seeds are shown
side by side with their mean.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.evaluation.comparison import (
    PAIRED_METRICS,
    ConfusionDifference,
    RecallDifference,
    confusion_difference,
    flips,
    recall_differences,
)
from pipeline.evaluation.metrics import COUNTS, METRICS
from pipeline.evaluation.predictions import NOT_PREDICTED, EvaluationError, IntArray, Predictions
from pipeline.reports.compare_figures import (
    changed_classes,
    confusion_difference_figure,
    difference_figure,
    recall_difference_figure,
    runs_curves,
)
from pipeline.reports.compare_models import ModelPair, compare_models, model_name
from pipeline.reports.compare_runs import LEVEL, TEST_LIST, Evaluation, Pair, all_pairs, by_test_list, read_evaluations
from pipeline.reports.figures import MISSING, StaticFigure, shortened
from pipeline.reports.leaderboard import EXPERIMENT, FOLD, REPEAT, deviation, experiments, mean, parts_by_split
from pipeline.reports.pages import (
    VIDEO_TITLES,
    csv_bytes,
    drawn,
    p_text,
    points,
    relative_url,
    render_page,
    shown_titles,
    write_files,
)

NUM_LISTED = 20  # rows of a list on the page; the CSV files contain all
NUM_DETAILED = 10  # pairs that get matrices and lists of videos; the others are only in the tables
FIGURES = "comparison_figures"
_OURS = re.compile(r"((confusion|recall)_difference_\d+_\d+|learning_curves)\.(png|svg|csv)")


def write_comparison(folder: Path, evaluations: Sequence[Path]) -> Path:
    """Compare evaluations.

    Writes ``comparison.html, comparison.csv, models.csv, flips.csv, comparison_figures/`` to ``folder``.

    Args:
        evaluations: folders that ``write_evaluation`` filled. Of each pair, the first is A.

    Returns the page. Raises ``EvaluationError`` where an evaluation is missing or damaged, where two with the same
    split differ in their videos, labels or classes, where there is nothing to compare, and where the folder of figures
    is a link.
    """
    if (folder / FIGURES).is_symlink():
        raise EvaluationError(f"{folder / FIGURES} is a link, which is not followed. Delete it, or choose an --output.")
    test_lists = by_test_list(read_evaluations(evaluations))
    compared = sorted((e for group in test_lists for e in group), key=lambda evaluation: evaluation.number)
    rows = [{**evaluation.results, "number": evaluation.number} for group in test_lists for evaluation in group]
    board = experiments(rows)
    repeats = [one.runs for one in board if len(one.runs) > 1]
    predictions = {evaluation.number: evaluation.predictions for evaluation in compared}
    models = compare_models(board, lambda row: predictions[row["number"]]) if repeats else []
    pairs = all_pairs(test_lists)
    if not pairs and not repeats:
        listed = "; ".join(f"{e.name}: {_label(e.results, (*EXPERIMENT, *REPEAT))}" for e in compared)
        raise EvaluationError(
            f"nothing to compare: no two of the runs have the same test list, and none are repeats of one experiment "
            f"({listed}). Name several runs on one split, or one experiment's runs on several splits."
        )
    details = [PairDetails.of(pair) for pair in pairs[:NUM_DETAILED]]
    figures = [figure for detail in details for figure in detail.figures]
    if pairs:
        names = [(pair.a.name, pair.b.name) for pair in pairs]
        figures.insert(0, difference_figure(names, [pair.differences["video_top1"] for pair in pairs]))
    model_of = {run["number"]: model_name(one, board) for one in board for run in one.runs}
    curves = runs_curves({e.name: e.history for e in compared}, {e.name: model_of[e.number] for e in compared})
    if curves is not None:
        figures.append(curves)
    files = {
        **{f"{FIGURES}/{name}": content for figure in figures for name, content in figure.files().items()},
        "comparison.csv": csv_bytes(_pair_rows(pairs)),
        "flips.csv": csv_bytes(_flip_rows(test_lists)),
        "comparison.html": _page(folder, compared, pairs, details, repeats, models, curves).encode(errors="replace"),
    }
    if models:
        files["models.csv"] = csv_bytes(_model_rows(models))
    write_files(folder, files)
    # An earlier comparison of more pairs may have left figures that are not on this page.
    for old in (folder / FIGURES).glob("*"):
        if _OURS.fullmatch(old.name) and f"{FIGURES}/{old.name}" not in files:
            old.unlink(missing_ok=True)
    return folder / "comparison.html"


@dataclass(frozen=True, eq=False)
class PairDetails:
    """The part of the page about one pair."""

    pair: Pair
    confusion: ConfusionDifference
    recalls: list[RecallDifference]

    @classmethod
    def of(cls, pair: Pair) -> "PairDetails":
        a, b = pair.a.predictions, pair.b.predictions
        return cls(pair, confusion_difference(a, b), recall_differences(a, b))

    @property
    def figures(self) -> list[StaticFigure]:
        """The figures in which anything changed."""
        a, b, key = self.pair.a.name, self.pair.b.name, self.pair.key
        classes = self.pair.a.predictions.classes
        figures = []
        if self.confusion.counts.any():
            figures.append(confusion_difference_figure(f"confusion_difference_{key}", a, b, self.confusion, classes))
        if self.changed_recalls:
            figures.append(recall_difference_figure(f"recall_difference_{key}", a, b, self.recalls))
        return figures

    def matrix(self) -> dict[str, object]:
        """The drawing of the difference of the confusion matrices: sizes in pixels, and the cells that are not 0."""
        rows, columns = changed_classes(self.confusion)
        names = [*self.pair.a.predictions.classes, MISSING]
        counts, shares = self.confusion.counts, self.confusion.shares
        size = min(max(560 // max(len(columns), 1), 13), 44)
        cells = [
            {
                "x": x * size,
                "y": y * size,
                "is_better": (shares[row, column] > 0) == (row == column),
                # The square root makes a single video visible beside a whole class.
                "strength": f"{0.15 + 0.6 * abs(shares[row, column]) ** 0.5:.2f}",
                "text": signed(int(counts[row, column])) if size >= 24 else "",
                "tip": f"{names[row]} classified as {names[column]}: {self.confusion.a[row, column]} in "
                f"{self.pair.a.name}, {self.confusion.b[row, column]} in {self.pair.b.name} "
                f"({signed(int(counts[row, column]))}, {points(shares[row, column], plus=True)} points)",
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
        """Every pair of classes that was confused more or less often, by decreasing change."""
        classes, counts = self.pair.a.predictions.classes, self.confusion.counts[:, :-1]
        changed = [
            {
                "true": classes[row],
                "predicted": classes[column],
                "a": int(self.confusion.a[row, column]),
                "b": int(self.confusion.b[row, column]),
                "change": int(counts[row, column]),
            }
            for row, column in zip(*counts.nonzero(), strict=True)
            if row != column
        ]
        return sorted(changed, key=lambda change: -abs(change["change"]))

    def flips(self) -> dict[str, list[dict[str, object]]]:
        """The videos that the models classify differently, by heading, with the answers of both."""
        a, b = self.pair.a.predictions, self.pair.b.predictions
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
            f"Correct only in {self.pair.b.name}": rows(found.gained),
            f"Correct only in {self.pair.a.name}": rows(found.lost),
            "Wrong in both, with different answers": rows(found.otherwise_wrong),
        }


def _answer(predictions: Predictions, video: int) -> dict[str, Any]:
    predicted = int(predictions.predicted[video])
    return {
        "predicted": MISSING if predicted == NOT_PREDICTED else predictions.classes[predicted],
        "is_correct": bool(predictions.correct[video]),
        "confidence": float(predictions.confidence[video]),
        "true_probability": float(predictions.true_probability[video]),
    }


def signed(number: int) -> str:
    return f"{number:+d}".replace("-", "−")


def _label(results: Mapping[str, Any], keys: Iterable[str]) -> str:
    """The known facts of a run, such as ``split 1, seed 0``."""
    return ", ".join(f"{key.replace('_', ' ')} {results[key]}" for key in keys if results.get(key) is not None)


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


def _model_rows(pairs: Sequence[ModelPair]) -> Iterable[list[object]]:
    """One row per pair of models; a difference is A's video top-1 minus B's, in [-1, 1]."""
    names = ["a", "b", "score_a", "score_b", "difference", "low", "high", "corrected_p"]
    names += ["num_splits", "num_seeds", "num_videos", "verdict"]
    yield list(names)
    for pair in pairs:
        yield [getattr(pair, name) for name in names]


def _matrix(pairs: Sequence[ModelPair]) -> list[dict[str, Any]]:
    """A row per model: its name, and for each model the pair and the sign of row minus column; ``None``: no pair."""
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b)))
    by_names = {(pair.a, pair.b): (pair, 1) for pair in pairs} | {(pair.b, pair.a): (pair, -1) for pair in pairs}
    return [{"name": name, "cells": [by_names.get((name, other)) for other in names]} for name in names]


def _flip_rows(test_lists: Sequence[Sequence[Evaluation]]) -> Iterable[list[object]]:
    """One row per video and run, for the videos on which the runs of one test list disagree."""
    yield [*TEST_LIST, "video_id", "label", "run", "predicted", "correct", "confidence", "true_probability"]
    for evaluations in test_lists:
        first = evaluations[0].predictions
        for video, video_id in enumerate(first.video_ids):
            if len({int(evaluation.predictions.predicted[video]) for evaluation in evaluations}) == 1:
                continue
            for evaluation in evaluations:
                answer = _answer(evaluation.predictions, video)
                yield [
                    *(evaluation.results.get(key) for key in TEST_LIST),
                    *(video_id, first.classes[first.labels[video]], evaluation.name, answer["predicted"]),
                    *(int(answer["is_correct"]), f"{answer['confidence']:.9g}", f"{answer['true_probability']:.9g}"),
                ]


def _page(
    folder: Path,
    evaluations: Sequence[Evaluation],
    pairs: Sequence[Pair],
    details: Sequence[PairDetails],
    repeats: Sequence[Sequence[Mapping[str, Any]]],
    models: Sequence[ModelPair],
    curves: StaticFigure | None,
) -> str:
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
        titles=shown_titles(VIDEO_TITLES, (result.get("num_classes") for result in results)),
        evaluations=evaluations,
        models=models,
        model_matrix=_matrix(models),
        labels={e.number: _label(e.results, ("model", *REPEAT)).removeprefix("model ") for e in evaluations},
        reports={e.number: relative_url(e.folder / "report.html", folder) for e in evaluations},
        pairs=pairs,
        test_lists={pair.key: _label(pair.a.results, TEST_LIST) for pair in pairs},
        num_test_lists=len({_label(pair.a.results, TEST_LIST) for pair in pairs}),
        resampling=" or ".join(dict.fromkeys(_drawn(evaluation) for evaluation in evaluations)),
        widest=max(widest, 0.01),
        level=LEVEL,
        p_text=p_text,
        signed=signed,
        details=details,
        detailed={detail.pair.key for detail in details},
        num_listed=NUM_LISTED,
        side_by_side=_side_by_side(repeats),
        differing=_differing_facts(results),
        figures=FIGURES,
        curves=curves,
        parts=parts_by_split(results),
    )


def _drawn(evaluation: Evaluation) -> str:
    predictions = evaluation.predictions
    return drawn(predictions.num_groups, len(predictions.video_ids), evaluation.unit)


def _side_by_side(repeats: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
    """A table with experiments as rows, splits and seeds as columns; ``None`` where no experiment has several runs."""
    if not repeats:
        return None
    every = [run for runs in repeats for run in runs]
    # Experiments with the same model are named after the facts in which they differ.
    are_named = len({run.get("model") for run in every}) == len(repeats)
    naming = ["model"] if are_named else [key for key in EXPERIMENT if len({str(run.get(key)) for run in every}) > 1]
    # Splits side by side, with all seeds in one cell; seeds side by side if there is one split.
    keys = FOLD if len({_label(run, FOLD) for run in every}) > 1 else REPEAT
    columns = sorted({_label(run, keys) for run in every})
    rows = [
        {
            "name": _label(runs[0], naming).removeprefix("model ").removeprefix("settings "),
            "cells": [[run for run in runs if _label(run, keys) == column] for column in columns],
            "means": {metric: (mean(runs, metric), *deviation(runs, metric)) for metric in VIDEO_TITLES},
        }
        for runs in repeats
    ]
    return {"columns": columns, "rows": rows}


def _differing_facts(results: Sequence[Mapping[str, Any]]) -> dict[str, list[object]]:
    """The facts that differ between runs, with one value per run."""
    shown_elsewhere = {*METRICS, *COUNTS, "intervals", "order", "accuracy", "run", "command", "provenance", "parts"}
    facts = [key for key in dict.fromkeys(key for result in results for key in result) if key not in shown_elsewhere]
    values = {fact: [result.get(fact) for result in results] for fact in facts}
    return {fact: by_run for fact, by_run in values.items() if len(set(map(str, by_run))) > 1}
