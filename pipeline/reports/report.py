"""What one evaluation leaves on disk: tables, figures and the HTML page.

``evaluation/`` of a run folder holds ``metrics.json, predictions.csv, per_class.csv, confusion.csv, confusion.png,
report.html``, the page's figures as PNG, SVG and CSV in ``figures/`` and, where they were asked for, strips of frames
in ``strips/``. Each file is written aside and published with ``os.replace``, ``metrics.json`` last: where it lies, the
others are whole.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.atomic import write_atomically
from pipeline.evaluation.analysis import accuracy_against_length, accuracy_against_share_seen
from pipeline.evaluation.comparison import PROBABILITY
from pipeline.evaluation.metrics import calibration, class_scores, confusion_matrix, expected_calibration_error, metrics
from pipeline.evaluation.predictions import EvaluationError, Predictions, video_predictions, video_probabilities
from pipeline.evaluation.scoring import Beliefs
from pipeline.reports.figures import (
    StaticFigure,
    calibration_figure,
    confusion_figure,
    frames_seen_figure,
    learning_curves,
    length_figure,
    spectrum_figure,
)
from pipeline.reports.report_page import compare_with_baseline, evaluation_page


def write_evaluation(
    folder: Path,
    predictions: Predictions,
    facts: Mapping[str, object],
    history: Sequence[Mapping[str, object]] = (),
    *,
    beliefs: Beliefs | None = None,
    seconds: Mapping[str, float] | None = None,
    strips: Mapping[str, Path] | None = None,
    spectra: Mapping[str, NDArray[np.complexfloating]] | None = None,
    baseline: Path | None = None,
    unit: str = "video",
) -> dict[str, object]:
    """Writes every file of one evaluation into ``folder`` and returns what ``metrics.json`` holds.

    Args:
        folder: made if need be; its older files of the same names are replaced.
        predictions: what the model said about every video of the test list.
        facts: how the numbers came about: ``dataset, split, seed, model, ...``. They go into ``metrics.json`` beside
            the metrics and to the head of the page. What JSON does not know is written as ``str``.
        history: the rows of ``metrics.jsonl``, for the learning curves.
        beliefs: what the model believed after each frame.
        seconds: how long each video is, by video id. Without them the number of stored frames is its length.
        strips: the strip of frames of each video that has one, by video id: files inside ``folder``.
        spectra: eigenvalues of the recurrent matrix, ``before`` and ``after`` training.
        baseline: evaluation folder of a run to compare with; its reason is on the page where that can't be done.
        unit: what one row is called, "video" or "digit".

    What is not given is not on the page. Raises ``EvaluationError`` if a fact bears the name of a metric.
    """
    results = metrics(predictions)
    if clash := sorted(results.keys() & facts.keys()):
        raise EvaluationError(f"facts would overwrite the metrics {', '.join(clash)}. Give these facts other names.")
    summary: dict[str, object] = {**facts, **results}
    believed = {} if beliefs is None else dict(zip(beliefs.video_ids, beliefs.probabilities, strict=True))
    confusion = confusion_figure(confusion_matrix(predictions), predictions.classes, unit)
    others = [
        _calibration(predictions, unit),
        _against_length(predictions, seconds or {}, believed, unit),
        frames_seen_figure(accuracy_against_share_seen(predictions, believed), unit) if believed else None,
        learning_curves(history),
        spectrum_figure(spectra) if spectra else None,
    ]
    figures = [confusion, *(figure for figure in others if figure is not None)]
    page = evaluation_page(
        predictions,
        facts,
        results,
        figures,
        history=history,
        beliefs=believed,
        strips={video_id: path.relative_to(folder).as_posix() for video_id, path in (strips or {}).items()},
        baseline=None if baseline is None else compare_with_baseline(predictions, baseline),
        unit=unit,
    )
    # All is made before anything is published, so that a failure leaves the older files as they were.
    files = {
        "predictions.csv": csv_bytes(_prediction_rows(predictions)),
        "per_class.csv": csv_bytes(_class_rows(predictions)),
        "confusion.csv": csv_bytes(confusion.rows),
        "confusion.png": confusion.png,
        **{f"figures/{figure.name}.png": figure.png for figure in figures},
        **{f"figures/{figure.name}.svg": figure.svg for figure in figures},
        **{f"figures/{figure.name}.csv": csv_bytes(figure.rows) for figure in figures},
        "report.html": page.encode(),
        "metrics.json": (json.dumps(summary, indent=2, ensure_ascii=False, default=str) + "\n").encode(),
    }
    for path in (folder / "figures").glob("*"):  # an older evaluation may have had figures that this one has not
        if path.relative_to(folder).as_posix() not in files:
            path.unlink()
    for name, content in files.items():
        write_atomically(folder / name, partial(Path.write_bytes, data=content))
    return summary


def _calibration(predictions: Predictions, unit: str) -> StaticFigure | None:
    bins = calibration(predictions)
    error = expected_calibration_error(bins)
    return None if error is None else calibration_figure(bins, error, unit)


def _against_length(
    predictions: Predictions,
    seconds: Mapping[str, float],
    believed: Mapping[str, NDArray[np.floating]],
    unit: str,
) -> StaticFigure | None:
    """In seconds where they are known, else in stored frames; nothing where all are equally long."""
    num_frames = {video_id: float(len(belief)) for video_id, belief in believed.items()}
    for quantity, lengths in (("seconds", seconds), ("stored frames", num_frames)):
        if bins := accuracy_against_length(predictions, lengths):
            return length_figure(bins, quantity, unit)
    return None


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    """Comma-separated values, UTF-8; ``None`` is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _prediction_rows(predictions: Predictions) -> Iterable[list[object]]:
    """One row per video, in the list's order; nine digits, so that a float32 score is read back unchanged."""
    num_top = min(5, len(predictions.classes))
    top_names = [f"top{place}{what}" for place in range(1, num_top + 1) for what in ("_class", "_probability")]
    yield [
        *("video_id", "label", "predicted", "correct", "confidence", "num_clips"),
        *top_names,
        *(PROBABILITY + name for name in predictions.classes),
    ]
    probabilities = video_probabilities(predictions)
    best_first = np.argsort(-probabilities, axis=1, kind="stable")[:, :num_top]
    predicted, num_clips = video_predictions(predictions), predictions.clip_counts
    for video, video_id in enumerate(predictions.video_ids):
        label = int(predictions.labels[video])
        if predictions.missing[video]:
            yield [video_id, predictions.classes[label], "", 0, "", 0]
            continue
        row = [f"{probability:.9g}" for probability in probabilities[video].tolist()]
        top = [cell for place in best_first[video] for cell in (predictions.classes[place], row[place])]
        yield [
            *(video_id, predictions.classes[label], predictions.classes[predicted[video]]),
            *(int(predicted[video] == label), row[predicted[video]], int(num_clips[video])),
            *top,
            *row,
        ]


def _class_rows(predictions: Predictions) -> Iterable[list[object]]:
    yield ["class", "precision", "recall", "f1", "support", "confused_with", "num_confused"]
    for scores in class_scores(predictions):
        yield [
            *(scores.name, scores.precision, scores.recall, scores.f1, scores.support),
            *(scores.confused_with, scores.num_confused),
        ]
