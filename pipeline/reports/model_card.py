"""The model card of an evaluation: Markdown in the form of the Hugging Face Hub, which shows its metadata block.

Every sentence follows from facts and numbers of the evaluation; https://huggingface.co/docs/hub/model-cards.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pipeline.evaluation.metrics import class_scores
from pipeline.evaluation.predictions import Predictions
from pipeline.reports.pages import drawn, markdown_line, markdown_text, percent
from pipeline.reports.verdict import calibration_sentence, order_sentence
from pipeline.settings.config import BASELINE

LIBRARY = "np-rnn-action-recognition"
_NUM_WORST = 5
_ABOUT = ("backbone", "clips", "settings", "num_parameters", "best_epoch", "seed", "versions", "fingerprint")
_TASKS = {"video": "video-classification", "digit": "image-classification"}
_HEADS = {
    BASELINE: "The average of all frames, with a linear layer,",
    "rank_pooling": "The average of all frames and their trend in time, with linear layers,",
    "attentive": "An attentive probe, which weighs the frames,",
}
"""Models that are not recurrent, in words."""


def model_card(
    title: str,
    predictions: Predictions,
    facts: Mapping[str, Any],
    results: Mapping[str, Any],
    titles: Mapping[str, str],
    baseline: str | None,
    unit: str,
) -> str:
    """The Markdown.

    Args:
        facts, results: what ``metrics.json`` contains.
        titles: of the metrics to show, by name.
        baseline: a sentence on the comparison with the baseline.
    """
    dataset, tested = markdown_text(facts.get("dataset")), facts.get("evaluated_on") or f"test {unit}s"
    parts = facts.get("parts") or {}
    sections = [
        f"# {markdown_text(title)}",
        _what_it_is(facts, len(predictions.classes), unit),
        "## Results",
        f"On {len(predictions.video_ids):,} {tested}, with 95 % intervals from a bootstrap over "
        f"{drawn(results['num_groups'], results['num_videos'], unit)}:",
        _table(
            ["metric", "%", "interval"],
            (
                [name, percent(results[key]), " to ".join(map(percent, results["intervals"][key]))]
                for key, name in titles.items()
            ),
        ),
        baseline or "It was not compared with a baseline.",
        order_sentence(results["order"]["reversed"]) if "order" in results else "",
        calibration_sentence(predictions, results["expected_calibration_error"]) or "",
        "`report.html` in the folder of the evaluation shows every mistake, and `metrics.json` has all numbers.",
        "## Data",
        f"{dataset}, split {markdown_text(facts.get('split'))}. No group (a person, a scene, a source) is in two "
        "parts, and no choice was made on a test video."
        if parts
        else f"{dataset}.",
        _table(["part", f"{unit}s", "groups", "classes"], ([name, *counts.values()] for name, counts in parts.items()))
        if parts
        else "",
        f"Classes: {', '.join(map(markdown_text, predictions.classes))}.",
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(predictions, results, unit)),
        "## How to use it",
        _usage(unit),
        "## About this run",
        _table(
            ["fact", "value"],
            ([key.replace("_", " "), facts[key]] for key in _ABOUT if facts.get(key) not in (None, "")),
        ),
    ]
    return f"---\n{_metadata(facts, results, titles, unit)}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def _what_it_is(facts: Mapping[str, Any], num_classes: int, unit: str) -> str:
    model, dataset = markdown_text(facts.get("model")), markdown_text(facts.get("dataset"))
    head = _HEADS.get(str(facts.get("model")), f"A recurrent network, {model},")
    if unit != "video":
        return f"{head} reads {dataset} pixel by pixel."
    backbone = markdown_text(facts.get("backbone"))
    return (
        f"{head} classifies videos into {num_classes} classes. It reads features of {backbone}, one vector per frame."
    )


def _metadata(facts: Mapping[str, Any], results: Mapping[str, Any], titles: Mapping[str, str], unit: str) -> str:
    dataset, task = str(facts.get("dataset")), _TASKS[unit]
    scores = [
        EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=f"test of split {facts.get('split')}" if facts.get("split") else "test",
            metric_type="accuracy",
            metric_name=title,
            metric_value=round(results[name], 6),
        )
        for name, title in titles.items()
    ]
    card = ModelCardData(
        model_name=str(facts.get("run", facts.get("model"))),
        library_name=LIBRARY,
        pipeline_tag=task,
        tags=["action-recognition", str(facts.get("model"))],
        metrics=["accuracy"],
        eval_results=scores,
    )
    return card.to_yaml().strip()


def _limits(predictions: Predictions, results: Mapping[str, Any], unit: str) -> Iterable[str]:
    yield f"It always answers with one of its {len(predictions.classes)} classes, whatever a {unit} shows."
    yield (
        f"The numbers are about {unit}s like these: {drawn(results['num_groups'], results['num_videos'], unit)}. Test "
        "it on your own before you rely on it."
    )
    scored = [row for row in class_scores(predictions) if row.recall is not None]
    worst = [row for row in sorted(scored, key=lambda row: (row.recall, row.name)) if (row.recall or 0) < 1]
    if worst:
        listed = ", ".join(f"{markdown_text(row.name)} ({percent(row.recall)} %)" for row in worst[:_NUM_WORST])
        yield f"The lowest recalls: {listed}."
    if results["num_missing"]:
        yield f"{results['num_missing']} {unit}s could not be read, and count as wrong answers."
    yield "The licence of the backbone's weights, and that of the data, apply to what is made from them."


def _usage(unit: str) -> str:
    if unit != "video":
        return "See the project's README."
    return (
        f"With the project {LIBRARY}, where RUN is this folder:\n\n"
        "    python -m pipeline.predict clip.mp4 --run RUN\n\n"
        "```python\n"
        "from pipeline.predict import Recognizer\n\n"
        'Recognizer.load("RUN").predict("clip.mp4")\n'
        "```"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [markdown_line(head), markdown_line(["---"] * len(head)), *map(markdown_line, rows)]
    return "\n".join(lines)
