"""The report of one evaluation: every file of its folder, and the HTML page.

``evaluation/`` of a run contains ``predictions.safetensors`` (all predictions; what comparisons read), ``metrics.json,
predictions.csv, per_class.csv, slices.csv, confusion.csv, confusion.png, MODEL_CARD.md, report.html``,
``embedding.csv`` where there is a map, the figures of the page as PNG, SVG and CSV in ``figures/`` and, if requested,
strips of frames in ``strips/``. Each file is written atomically, ``metrics.json`` last: where it exists, the others are
complete.
"""

import dataclasses
import fcntl
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.analysis import (
    accuracy_against_length,
    accuracy_against_share_seen,
    map_positions,
)
from pipeline.evaluation.comparison import PairedDifference, aligned, bootstrap, order_drops, paired_differences
from pipeline.evaluation.metrics import (
    calibration,
    class_scores,
    confused_pairs,
    confusion_matrix,
    expected_calibration_error,
    metrics,
    metrics_without,
)
from pipeline.evaluation.predictions import FILE_NAME, EvaluationError, FloatArray, Predictions
from pipeline.evaluation.provenance import MODEL_CARD, metrics_to_json
from pipeline.evaluation.slices import Property, Slice, enough_groups, find_slices, why_left_out
from pipeline.reports.figures import (
    FIGURES,
    StaticFigure,
    calibration_figure,
    confusion_figure,
    frames_seen_figure,
    learning_curves,
    length_figure,
    spectrum_figure,
)
from pipeline.reports.model_card import model_card
from pipeline.reports.page_data import OverTime, page_data
from pipeline.reports.pages import (
    CLIP_AND_VIDEO_TITLES,
    VIDEO_TITLES,
    csv_bytes,
    render_page,
    shown_titles,
    write_files,
)
from pipeline.reports.verdict import baseline_sentence, calibration_sentence, order_sentence, verdict

NUM_LISTED = 20  # rows of the tables of confused pairs and, without scripts, of mistakes; the CSV files contain all
MAP_FILE = "embedding.csv"

_SHOWN_ELSEWHERE = ("provenance", "parts", "dataset", "evaluated_on", "split", "holdout_group", "model", "seed")
_FOLDED = ("run", "fingerprint", "num_epochs", "training_seconds", "command", "versions")  # facts that few ask for


def write_evaluation(
    folder: Path,
    predictions: Predictions,
    facts: Mapping[str, object],
    history: Sequence[Mapping[str, object]] = (),
    *,
    reordered: Mapping[str, Predictions] | None = None,
    probabilities_over_time: OverTime | None = None,
    representations: Mapping[str, NDArray[np.floating]] | None = None,
    properties: Sequence[Property] | None = None,
    strips: Mapping[str, Path] | None = None,
    spectra: Mapping[str, NDArray[np.complexfloating]] | None = None,
    baseline: Path | None = None,
    temperature: float = 1.0,
    excluded: Collection[str] = (),
    unit: str = "video",
) -> dict[str, object]:
    """Write every file of one evaluation into ``folder`` and return the content of ``metrics.json``.

    The page shows only what is given.

    Args:
        folder: created if necessary; older files of the same names are replaced.
        predictions: for every video of the test list.
        facts: the origin of the numbers: ``dataset, split, seed, model, ...``. They are stored in ``metrics.json``
            beside the metrics and shown at the top of the page. Values that JSON can't represent are stored as ``str``.
        history: the rows of ``metrics.jsonl``, for the learning curves.
        reordered: predictions for the same clips with their frames ``reversed`` and ``shuffled``.
        probabilities_over_time: class probabilities after each frame, ``[num_frames, num_classes]``, by video id.
        representations: what the model reads of each video, ``[width]``, by video id: for the map.
        properties: of the videos, to find where the run fails. Without a "length", the number of stored frames is it.
        strips: the strip of frames of each video that has one, by video id: files inside ``folder``.
        spectra: eigenvalues of the recurrent matrix, ``before`` and ``after`` training.
        baseline: evaluation folder of a run to compare with. Where that is impossible, the page gives the reason.
        temperature: what the model's scores were divided by; stored in ``metrics.json``.
        excluded: videos (of the list or not) that the main scores are shown with and without.
        unit: the name of one row, "video" or "digit".

    Raises:
        EvaluationError: a fact has the name of a metric.
        OSError: a file can't be written.
    """
    results = {**metrics(predictions), **metrics_without(predictions, excluded), "temperature": temperature}
    if reordered:
        results["order"] = order_drops(predictions, reordered)
    if clash := sorted(results.keys() & facts.keys()):
        raise EvaluationError(f"facts would overwrite the metrics {', '.join(clash)}. Rename these facts.")
    if representations:
        predictions = dataclasses.replace(predictions, positions=_positions(predictions, representations))
    over_time = probabilities_over_time or {}
    confusion = confusion_figure(confusion_matrix(predictions), predictions.classes, unit)
    others = [
        _calibration(predictions, unit, temperature),
        _against_length(predictions, properties or (), over_time, unit),
        frames_seen_figure(accuracy_against_share_seen(predictions, over_time), unit) if over_time else None,
        learning_curves(history),
        spectrum_figure(spectra) if spectra else None,
    ]
    figures = [confusion, *(figure for figure in others if figure is not None)]
    compared = None if baseline is None else _compare_with_baseline(predictions, baseline, unit)
    titles = shown_titles(CLIP_AND_VIDEO_TITLES if unit == "video" else VIDEO_TITLES, [len(predictions.classes)])
    slices = None if properties is None else find_slices(predictions, properties)
    page = _page(
        predictions,
        facts,
        results,
        figures,
        slices=slices,
        left_out=_left_out(predictions, properties or ()),
        history=history,
        over_time=over_time,
        strips={video_id: path.relative_to(folder).as_posix() for video_id, path in (strips or {}).items()},
        baseline=compared,
        titles=titles,
        unit=unit,
    )
    sentence = compared.sentence if isinstance(compared, _Baseline) else None
    card = model_card(_title(facts), predictions, facts, results, titles, sentence, unit)
    summary = {**facts, **results}
    # All contents are computed before the first file is written, so a failure leaves the older files unchanged.
    figure_files = {f"figures/{name}": content for figure in figures for name, content in figure.files().items()}
    files = {
        "predictions.csv": csv_bytes(predictions.csv_rows()),
        "per_class.csv": csv_bytes(_class_rows(predictions)),
        **({} if slices is None else {"slices.csv": csv_bytes(_slice_rows(slices))}),
        "confusion.csv": figure_files["figures/confusion.csv"],
        "confusion.png": confusion.png,
        **({} if predictions.positions is None else {MAP_FILE: csv_bytes(_map_rows(predictions))}),
        **figure_files,
        "report.html": page.encode(errors="replace"),
        MODEL_CARD: card.encode(errors="replace"),
        "metrics.json": metrics_to_json(summary),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder):
        # An older evaluation may have had figures, or a map, that this one lacks.
        for older in (MAP_FILE, *(f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv"))):
            if older not in files:
                (folder / older).unlink(missing_ok=True)
        predictions.save(folder / FILE_NAME)
        write_files(folder, files)
    return summary


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process writes to the folder: two evaluations of a run must not mix their files."""
    descriptor = os.open(folder, os.O_RDONLY)  # a lock on the folder itself leaves no file behind
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _calibration(predictions: Predictions, unit: str, temperature: float) -> StaticFigure | None:
    bins = calibration(predictions)
    error = expected_calibration_error(bins)
    return None if error is None else calibration_figure(bins, error, unit, temperature)


def _against_length(
    predictions: Predictions, properties: Sequence[Property], over_time: OverTime, unit: str
) -> StaticFigure | None:
    """Accuracy by length in seconds, or in stored frames where seconds are unknown or all equal."""
    seconds = next((one.values for one in properties if one.name == "length"), {})
    num_frames = {video_id: float(len(probabilities)) for video_id, probabilities in over_time.items()}
    for quantity, lengths in (("seconds", seconds), ("stored frames", num_frames)):
        if bins := accuracy_against_length(predictions, lengths):
            return length_figure(bins, quantity, unit)
    return None


def _positions(predictions: Predictions, representations: Mapping[str, NDArray[np.floating]]) -> FloatArray | None:
    without = np.full_like(next(iter(representations.values())), np.nan)
    return map_positions(np.array([representations.get(video_id, without) for video_id in predictions.video_ids]))


def _map_rows(predictions: Predictions) -> Iterable[list[object]]:
    yield ["video_id", "label", "predicted", "x", "y"]
    assert predictions.positions is not None
    for video, (x, y) in enumerate(predictions.positions.tolist()):
        if not math.isnan(x):
            names = predictions.classes[predictions.labels[video]], predictions.classes[predictions.predicted[video]]
            yield [predictions.video_ids[video], *names, round(x, 6), round(y, 6)]


def _class_rows(predictions: Predictions) -> Iterable[list[object]]:
    yield ["class", "precision", "recall", "f1", "support", "confused_with", "num_confused"]
    for scores in class_scores(predictions):
        yield [
            *(scores.name, scores.precision, scores.recall, scores.f1, scores.support),
            *(scores.confused_with, scores.num_confused),
        ]


def _slice_rows(slices: Sequence[Slice]) -> Iterable[list[object]]:
    yield [
        *(
            "by",
            "slice",
            "num_videos",
            "accuracy",
            "accuracy_low",
            "accuracy_high",
            "rest",
            "gap",
            "gap_low",
            "gap_high",
        ),
        *("cost", "share_of_mistakes", "p_value", "fails"),
    ]
    for part in slices:
        yield [
            *(part.name, part.label, part.accuracy.num_videos, part.accuracy.share, part.accuracy.low),
            *(part.accuracy.high, part.rest, part.gap, part.gap_low, part.gap_high),
            *(part.cost, part.share, part.p_value, int(part.fails)),
        ]


def _left_out(predictions: Predictions, properties: Sequence[Property]) -> dict[str, str]:
    """Why there are no slices by a property, by its name."""
    reasons = {one.name: why_left_out(one, predictions.video_ids) for one in properties}
    return {name: reason for name, reason in reasons.items() if reason is not None}


@dataclass(frozen=True)
class _Baseline:
    """A baseline on the same videos.

    Attributes:
        name: of the baseline's run.
        scores: its metrics, by name.
        differences: this evaluation's metrics minus the baseline's.
        sentence: the result in words.
    """

    name: str
    scores: Mapping[str, float]
    differences: Mapping[str, PairedDifference]
    sentence: str


def _compare_with_baseline(predictions: Predictions, evaluation_folder: Path, unit: str) -> _Baseline | str:
    """The comparison with another run's evaluation, or the reason why there is none."""
    name = evaluation_folder.absolute().parent.name
    try:
        baseline = aligned(Predictions.load(evaluation_folder / FILE_NAME), predictions, (name, "this evaluation"))
    except EvaluationError as error:
        return str(error)
    draws = bootstrap(baseline)
    differences = paired_differences(draws, bootstrap(predictions))
    return _Baseline(name, draws.scores, differences, baseline_sentence(name, differences["video_top1"], unit))


def _page(
    predictions: Predictions,
    facts: Mapping[str, object],
    results: Mapping[str, Any],
    figures: Sequence[StaticFigure],
    *,
    slices: Sequence[Slice] | None,
    left_out: Mapping[str, str],
    history: Sequence[Mapping[str, object]],
    over_time: OverTime,
    strips: Mapping[str, str],
    baseline: _Baseline | str | None,
    titles: Mapping[str, str],
    unit: str,
) -> str:
    """The HTML page. It is one file, except for the strips of frames, and works offline.

    Args:
        results: the result of ``metrics`` and, where it was measured, ``order``.
        figures: the confusion matrix first.
        over_time: probabilities after each frame ``[num_frames, num_classes]``, by video id.
        strips: URLs relative to the page, by video id.
    """
    positions = predictions.positions
    return render_page(
        "report.html.j2",
        ("sortable.js", "video_cards.js", "panel.js", "map.js", "videos.js", "report.js"),
        title=_title(facts),
        facts={key: value for key, value in facts.items() if value not in (None, "") and key not in _SHOWN_ELSEWHERE},
        folded=_FOLDED,
        evaluated_on=facts.get("evaluated_on"),
        parts={facts.get("split"): facts["parts"]} if facts.get("parts") else {},
        results=results,
        titles=titles,
        unit=unit,
        num_correct=int(predictions.correct.sum()),
        verdict=verdict(predictions, history, unit),
        order_sentence=order_sentence(results["order"]["reversed"]) if "order" in results else None,
        calibration_sentence=calibration_sentence(predictions, results["expected_calibration_error"]),
        baseline=None if isinstance(baseline, str) else baseline,
        no_baseline=baseline if isinstance(baseline, str) else None,
        pairs=confused_pairs(predictions),
        mistakes=_confident_mistakes(predictions),
        num_listed=NUM_LISTED,
        # The variance of an axis is its share of all variance.
        map_shares=None if positions is None else np.nanvar(positions, axis=0).tolist(),
        num_off_map=0 if positions is None else int(np.isnan(positions[:, 0]).sum()),
        scores=sorted(class_scores(predictions), key=lambda row: (row.recall is None, row.recall, row.name)),
        class_indices={name: index for index, name in enumerate(predictions.classes)},
        slices=slices,
        left_out=left_out,
        enough_groups=enough_groups(predictions.num_groups, len(slices or ())),
        confusion=figures[0],
        figures=figures[1:],
        strips=strips,
        data=page_data(predictions, over_time, strips, unit),
    )


def _confident_mistakes(predictions: Predictions) -> list[dict[str, object]]:
    """The wrongly classified videos, by decreasing confidence."""
    wrong = np.flatnonzero(~predictions.correct & ~predictions.missing)
    return [
        {
            "video_id": predictions.video_ids[video],
            "true": predictions.classes[predictions.labels[video]],
            "predicted": predictions.classes[predictions.predicted[video]],
            "confidence": float(predictions.confidence[video]),
            "true_probability": float(predictions.true_probability[video]),
        }
        for video in wrong[np.argsort(-predictions.confidence[wrong], kind="stable")]
    ]


def _title(facts: Mapping[str, object]) -> str:
    model, dataset = facts.get("model", "Evaluation"), facts.get("dataset")
    parts = [f"{model} on {dataset}" if dataset is not None else str(model)]
    words = (("split", "split"), ("holdout_group", "held out"), ("seed", "seed"))
    return ", ".join(parts + [f"{word} {facts[key]}" for key, word in words if facts.get(key) is not None])
