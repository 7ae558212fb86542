"""What one evaluation leaves on disk: tables, pictures and the HTML page.

``evaluation/`` of a run folder holds ``metrics.json, predictions.csv, per_class.csv, confusion.csv, confusion.png,
report.html``. Each is written aside and published with ``os.replace``, ``metrics.json`` last: where it lies, the
others are whole.
"""

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from data.atomic import write_atomically
from pipeline.evaluation import (
    EvaluationError,
    IntArray,
    Predictions,
    class_scores,
    confused_pairs,
    confusion_matrix,
    metrics,
    video_predictions,
    video_probabilities,
)

TEMPLATE = Path(__file__).with_name("report.html.j2")
MISSING = "(missing)"
NUM_LISTED = 20  # confused pairs and confident mistakes on the page; the CSV files hold all of them
METRIC_TITLES = {
    "video_top1": "Video top-1",
    "video_top5": "Video top-5",
    "mean_class_accuracy": "Mean-class accuracy",
    "clip_top1": "Clip top-1",
    "clip_top5": "Clip top-5",
}


def write_evaluation(
    folder: Path,
    predictions: Predictions,
    facts: Mapping[str, object],
    history: Sequence[Mapping[str, object]] = (),
) -> dict[str, object]:
    """Writes every file of one evaluation into ``folder`` and returns what ``metrics.json`` holds.

    Args:
        folder: made if need be; its older files of the same names are replaced.
        predictions: what the model said about every video of the test list.
        facts: how the numbers came about: ``dataset, split, seed, model, ...``. They go into ``metrics.json`` beside
            the metrics and to the head of the page. What JSON does not know is written as ``str``.
        history: the rows of ``metrics.jsonl``, for the learning curves.

    Raises ``EvaluationError`` if a fact bears the name of a metric.
    """
    results = metrics(predictions)
    if clash := sorted(results.keys() & facts.keys()):
        raise EvaluationError(f"facts would overwrite the metrics {', '.join(clash)}. Give these facts other names.")
    summary: dict[str, object] = {**facts, **results}
    counts = confusion_matrix(predictions)
    picture = confusion_picture(counts, predictions.classes)
    # All is made before anything is published, so that a failure leaves the older files as they were.
    files = {
        "predictions.csv": _csv(_prediction_rows(predictions)),
        "per_class.csv": _csv(_class_rows(predictions)),
        "confusion.csv": _csv(_confusion_rows(counts, predictions.classes)),
        "confusion.png": picture,
        "report.html": _page(predictions, facts, results, picture, learning_curves(history)).encode(),
        "metrics.json": (json.dumps(summary, indent=2, ensure_ascii=False, default=str) + "\n").encode(),
    }
    for name, content in files.items():
        write_atomically(folder / name, partial(Path.write_bytes, data=content))
    return summary


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
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
        *(f"p:{name}" for name in predictions.classes),
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


def _confusion_rows(counts: IntArray, classes: Sequence[str]) -> Iterable[list[object]]:
    yield ["true \\ predicted", *classes, MISSING]
    for name, row in zip(classes, counts.tolist(), strict=True):
        yield [name, *row]


def confusion_picture(counts: IntArray, classes: Sequence[str]) -> bytes:
    """PNG of a confusion matrix as ``confusion_matrix`` gives it; each row is divided by its number of videos.

    Right answers are blue and mistakes red, on a scale that lets a single mistake be seen. Cells are wide enough for
    the names of both axes at any number of classes; up to 20 classes they also hold the number of videos. A class
    without test videos is a grey row; the column of missing videos is drawn if there are any.
    """
    num_classes = len(classes)
    columns = [*classes, MISSING] if counts[:, -1].any() else list(classes)
    counts = counts[:, : len(columns)]
    support = counts.sum(axis=1, keepdims=True)
    share = counts / np.maximum(support, 1)
    right = np.eye(num_classes, len(columns), dtype=bool) & (support > 0)
    mistaken = ~right & (counts > 0)

    cell = float(np.clip(6 / num_classes, 0.2, 0.8))  # inches; 0.2 is a line of 9-point names
    width, height = cell * len(columns), cell * num_classes
    # The cells fill the figure; names and colour bars hang outside, and saving it "tight" takes them in.
    figure = Figure(figsize=(width, height), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.broadcast_to(support > 0, counts.shape), cmap="gray", vmin=-5, vmax=1)
    for place, (title, shown, colours) in enumerate((("right", right, "Blues"), ("mistaken", mistaken, "Reds"))):
        image = axes.imshow(np.ma.masked_where(~shown, share), cmap=colours, norm=PowerNorm(0.5, 0, 1))
        bar_axes = axes.inset_axes((1 + (0.2 + 0.8 * place) / width, 1 - 2.4 / height, 0.12 / width, 2.2 / height))
        bar = figure.colorbar(image, cax=bar_axes)
        bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5%", "20%", "50%", "100%"], size=8)
        bar_axes.set_title(title, size=9, loc="left")
    # Text is drawn as it stands: a class called "$5" is no formula.
    size = 9 if num_classes > 20 else 10
    axes.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=90, size=size, parse_math=False)
    axes.set_yticks(range(num_classes), [_short(name) for name in classes], size=size, parse_math=False)
    axes.set_xlabel("predicted class", size=12)
    axes.set_ylabel("true class", size=12)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(num_classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.9", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    if num_classes <= 20:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                text = f"{count}\n{share[row, column]:.0%}" if num_classes < 8 else str(count)
                colour = "white" if share[row, column] > 0.4 else "black"
                axes.text(column, row, text, ha="center", va="center", color=colour, size=9)
    return _png(figure)


def learning_curves(history: Sequence[Mapping[str, object]]) -> bytes | None:
    """PNG of loss and accuracy over the epochs, for training and validation; ``None`` if there is nothing to draw.

    A row may lack a value, hold ``None`` or (a run that diverged) NaN: the curve has a gap there.
    """
    drawn = [
        (quantity, part)
        for quantity in ("loss", "accuracy")
        for part in ("train", "validation")
        if any(row.get(f"{part}_{quantity}") is not None for row in history)
    ]
    if not drawn:
        return None
    figure = Figure(figsize=(9, 3.2), dpi=110, layout="constrained")
    panels = dict(zip(("loss", "accuracy"), figure.subplots(1, 2), strict=True))
    epochs = [row.get("epoch", place) for place, row in enumerate(history, start=1)]
    for quantity, part in drawn:
        values = [row.get(f"{part}_{quantity}") for row in history]
        curve = [np.nan if value is None else value for value in values]
        style = {"train": "--", "validation": "-"}[part]
        panels[quantity].plot(epochs, curve, style, marker="." if len(curve) < 40 else "", label=part)
    for quantity, axes in panels.items():
        axes.set(xlabel="epoch", title=quantity)
        axes.grid(color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False)
    panels["accuracy"].set_ylim(0, 1.02)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def _short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= 28 else name[:27] + "…"


def _page(
    predictions: Predictions,
    facts: Mapping[str, object],
    results: Mapping[str, object],
    confusion_png: bytes,
    curves_png: bytes | None,
) -> str:
    """The page, whole in one file: it opens from disk, offline, and runs no script."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=_percent, readable=_readable, data_uri=_data_uri)
    scores = class_scores(predictions)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=_title(facts),
        facts=facts,
        results=results,
        titles=METRIC_TITLES,
        num_right=int((video_predictions(predictions) == predictions.labels).sum()),
        pairs=confused_pairs(predictions),
        mistakes=_confident_mistakes(predictions),
        num_listed=NUM_LISTED,
        scores=sorted(scores, key=lambda row: (row.recall is None, row.recall, row.name)),
        confusion_png=confusion_png,
        curves_png=curves_png,
    )


def _confident_mistakes(predictions: Predictions) -> list[dict[str, object]]:
    """The wrong videos, the surest first."""
    probabilities, predicted = video_probabilities(predictions), video_predictions(predictions)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero((predicted != predictions.labels) & ~predictions.missing)
    return [
        {
            "video_id": predictions.video_ids[video],
            "true": predictions.classes[predictions.labels[video]],
            "predicted": predictions.classes[predicted[video]],
            "confidence": float(confidence[video]),
            "true_probability": float(probabilities[video, predictions.labels[video]]),
        }
        for video in wrong[np.argsort(-confidence[wrong], kind="stable")]
    ]


def _title(facts: Mapping[str, object]) -> str:
    model, dataset = facts.get("model", "Evaluation"), facts.get("dataset")
    parts = [f"{model} on {dataset}" if dataset is not None else str(model)]
    words = (("split", "split"), ("holdout_group", "held out"), ("seed", "seed"))
    return ", ".join(parts + [f"{word} {facts[key]}" for key, word in words if facts.get(key) is not None])


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _readable(value: object) -> str:
    if value is None:
        return "–"
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list | tuple) else str(value)


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
