"""The HTML page of one evaluation: the numbers it shows, and the data that its script shows on demand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.analysis import confusion_order
from pipeline.evaluation.comparison import (
    PAIRED_METRICS,
    ComparisonError,
    PairedDifference,
    aligned,
    bootstrap,
    difference_of,
    read_video_predictions,
    video_level,
)
from pipeline.evaluation.metrics import class_scores, confused_pairs, confusion_matrix
from pipeline.evaluation.predictions import NOT_PREDICTED, Predictions, video_predictions, video_probabilities
from pipeline.reports.figures import StaticFigure
from pipeline.reports.pages import render_page
from pipeline.reports.verdict import verdict

TITLES = {"video_top1": "Top-1", "video_top5": "Top-5", "mean_class_accuracy": "Mean-class accuracy"}
NUM_LISTED = 20  # confused pairs and confident mistakes on the page; the CSV files hold all of them
NUM_TOP = 5
FOR_MACHINES = {"made_from"}  # facts that nobody reads on a page
NUM_CURVE_POINTS = 32  # of a curve of beliefs; more would only make the page heavier


@dataclass(frozen=True)
class BaselineComparison:
    """How a baseline did on the same videos.

    Attributes:
        name: of the baseline's run.
        scores: its metrics, by name.
        differences: this evaluation's metrics minus the baseline's.
    """

    name: str
    scores: Mapping[str, float]
    differences: Mapping[str, PairedDifference]


def compare_with_baseline(predictions: Predictions, evaluation_folder: Path) -> BaselineComparison | str:
    """Against another run's evaluation of the same videos; where they can't be compared, the reason."""
    try:
        baseline = read_video_predictions(evaluation_folder)
        own = video_level(predictions, "this evaluation")
        theirs = bootstrap(aligned(baseline, own))
    except ComparisonError as error:
        return str(error)
    ours = bootstrap(own)
    differences = {metric: difference_of(theirs, ours, metric) for metric in PAIRED_METRICS}
    return BaselineComparison(baseline.name, theirs.scores, differences)


def evaluation_page(
    predictions: Predictions,
    facts: Mapping[str, object],
    results: Mapping[str, object],
    figures: Sequence[StaticFigure],
    *,
    history: Sequence[Mapping[str, object]],
    beliefs: Mapping[str, NDArray[np.floating]],
    strips: Mapping[str, str],
    baseline: BaselineComparison | str | None,
    unit: str,
) -> str:
    """The page, whole in one file but for the strips of frames: it opens from disk, offline.

    Args:
        results: what ``metrics`` gives.
        figures: the confusion matrix first.
        beliefs: probabilities after each frame ``[num_frames, num_classes]``, by video id.
        strips: URLs relative to the page, by video id.
    """
    places = {name: place for place, name in enumerate(predictions.classes)}
    scores = sorted(class_scores(predictions), key=lambda row: (row.recall is None, row.recall, row.name))
    titles = metric_titles(unit)
    if len(predictions.classes) <= 5:  # then the true class is always among the top five
        titles = {name: title for name, title in titles.items() if not name.endswith("top5")}
    return render_page(
        "report.html.j2",
        ("sortable.js", "video_cards.js", "report.js"),
        title=_title(facts),
        facts={key: value for key, value in facts.items() if value is not None and key not in FOR_MACHINES},
        results=results,
        titles=titles,
        unit=unit,
        num_right=int((video_predictions(predictions) == predictions.labels).sum()),
        verdict=verdict(predictions, history, unit),
        baseline=None if isinstance(baseline, str) else baseline,
        no_baseline=baseline if isinstance(baseline, str) else None,
        pairs=confused_pairs(predictions),
        mistakes=_confident_mistakes(predictions),
        num_listed=NUM_LISTED,
        scores=scores,
        places=places,
        confusion=figures[0],
        figures=figures[1:],
        strips=strips,
        data=_page_data(predictions, beliefs, strips, unit),
    )


def _page_data(
    predictions: Predictions, beliefs: Mapping[str, NDArray[np.floating]], strips: Mapping[str, str], unit: str
) -> dict[str, object]:
    """What report.js shows: every video with its answer. Its top five are in tenths of a percent, curves in percent."""
    probabilities, predicted = video_probabilities(predictions), video_predictions(predictions)
    best_first = np.argsort(-probabilities, axis=1, kind="stable")[:, :NUM_TOP]
    videos = []
    for place, video_id in enumerate(predictions.video_ids):
        label, answer = int(predictions.labels[place]), int(predicted[place])
        video: dict[str, object] = {"id": video_id, "true": label}
        if answer != NOT_PREDICTED:
            video["predicted"] = answer
            video["top"] = [[int(name), round(1000 * probabilities[place, name])] for name in best_first[place]]
        if video_id in strips:
            video["strip"] = strips[video_id]
        if video_id in beliefs:
            shown = list(dict.fromkeys([label, answer, *best_first[place].tolist()]))[: 2 if answer == label else 3]
            video["frames"] = len(beliefs[video_id])
            video["curves"] = [[name, curve_points(beliefs[video_id][:, name])] for name in shown]
        videos.append(video)
    return {
        "unit": unit,
        "classes": predictions.classes,
        "clusters": confusion_order(confusion_matrix(predictions)),
        "videos": videos,
        "hasStrips": bool(strips),
    }


def curve_points(probabilities: NDArray[np.floating]) -> list[int]:
    """A curve in whole percent, evenly thinned out to ``NUM_CURVE_POINTS`` with its first and last point kept."""
    chosen = np.linspace(0, len(probabilities) - 1, min(len(probabilities), NUM_CURVE_POINTS)).round().astype(int)
    return [round(100 * float(value)) for value in probabilities[chosen]]


def _confident_mistakes(predictions: Predictions) -> list[dict[str, object]]:
    """The wrong videos, the surest first."""
    probabilities, predicted = video_probabilities(predictions), video_predictions(predictions)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero((predicted != predictions.labels) & ~predictions.missing)
    return [
        {
            "place": int(video),
            "video_id": predictions.video_ids[video],
            "true": predictions.classes[predictions.labels[video]],
            "predicted": predictions.classes[predicted[video]],
            "confidence": float(confidence[video]),
            "true_probability": float(probabilities[video, predictions.labels[video]]),
        }
        for video in wrong[np.argsort(-confidence[wrong], kind="stable")]
    ]


def metric_titles(unit: str) -> dict[str, str]:
    """The metrics to show; where no video was cut into clips, there is nothing to say about clips."""
    if unit != "video":
        return TITLES
    by_video = {key: title.replace("Top", "Video top") for key, title in TITLES.items()}
    return {**by_video, "clip_top1": "Clip top-1", "clip_top5": "Clip top-5"}


def _title(facts: Mapping[str, object]) -> str:
    model, dataset = facts.get("model", "Evaluation"), facts.get("dataset")
    parts = [f"{model} on {dataset}" if dataset is not None else str(model)]
    words = (("split", "split"), ("holdout_group", "held out"), ("seed", "seed"))
    return ", ".join(parts + [f"{word} {facts[key]}" for key, word in words if facts.get(key) is not None])
