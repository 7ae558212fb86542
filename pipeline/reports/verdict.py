"""A summary of an evaluation in two or three sentences: how good the model is, what it confuses most, what to do next.

Each sentence follows from numbers of the evaluation; it is left out where they do not support it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.analysis import accuracy
from pipeline.evaluation.comparison import PairedDifference
from pipeline.evaluation.metrics import confused_pairs
from pipeline.evaluation.predictions import Predictions
from pipeline.reports.pages import percent, points

NOTABLE_SHARE = 0.2  # of all mistakes: two classes with more are named as the place to start
NOTABLE_GAP = 0.1  # between two accuracies
NEGLIGIBLE_ERROR = 0.05  # expected calibration error
NEGLIGIBLE_DROP = 0.02  # of accuracy: a classifier that loses less hardly uses the order of frames


def verdict(predictions: Predictions, history: Sequence[Mapping[str, object]] = (), unit: str = "video") -> str:
    """Two or three sentences. ``history``: the rows of ``metrics.jsonl``; ``unit``: what is classified."""
    if predictions.correct.all():
        return (
            f"The model makes no mistakes here. With {len(predictions.labels):,} {unit}s, the true accuracy may still "
            f"be as low as {percent(_lower_bound(predictions))} %. To learn more, test it on more or harder "
            f"{unit}s."
        )
    parts = [_chance_level(predictions, unit), _confusion(predictions, unit), _advice(predictions, history, unit)]
    return " ".join(part for part in parts if part)


def baseline_sentence(name: str, difference: PairedDifference, unit: str = "video") -> str:
    """The result of the comparison with a baseline; ``difference``: in top-1, this evaluation minus the baseline."""
    low, high = points(difference.low, plus=True), points(difference.high, plus=True)
    size = f"{points(difference.difference, plus=True)} points [{low}, {high}]"
    if difference.low > 0:
        conclusion = "this model is better"
    elif difference.high < 0:
        conclusion = "this model is worse"
    else:
        conclusion = "this model is not significantly better or worse"
    return f"Compared with the baseline {name} on the same {unit}s, {conclusion}: {size}."


def order_sentence(reversed_frames: Mapping[str, Any]) -> str:
    """What reversing the frames costs, and whether the classifier uses their order.

    ``reversed_frames`` is the entry of ``order_drops`` for reversed frames.
    """
    low, high = reversed_frames["interval"]
    if max(-low, high) < NEGLIGIBLE_DROP:
        conclusion = "this classifier hardly uses their order"
    elif low > 0 or high < 0:
        conclusion = "this classifier uses their order"
    else:
        conclusion = "there are too few videos to tell whether this classifier uses the order"
    drop, low, high = (points(value) for value in (reversed_frames["drop"], low, high))
    return f"Reversing the frames costs {drop} points [{low}, {high}]: {conclusion}."


def calibration_sentence(predictions: Predictions, error: float | None) -> str | None:
    """Whether its probabilities mean what they say; ``None`` if nothing was predicted.

    ``error`` is the expected calibration error.
    """
    answered = ~predictions.missing
    if error is None or not answered.any():
        return None
    confidence, right = float(predictions.confidence[answered].mean()), float(predictions.correct[answered].mean())
    if error < NEGLIGIBLE_ERROR:
        conclusion = "they can be taken at face value"
    elif abs(confidence - right) < error / 2:
        conclusion = "too high for some answers and too low for others"
    else:
        conclusion = "it is overconfident" if confidence > right else "it is not confident enough"
    return (
        f"Its probabilities: mean confidence {percent(confidence)} %, correct {percent(right)} %, expected calibration "
        f"error {percent(error)} %: {conclusion}."
    )


def _lower_bound(predictions: Predictions) -> float:
    return accuracy(predictions.correct, predictions.group_indices).low


def _chance_level(predictions: Predictions, unit: str) -> str:
    support = np.bincount(predictions.labels)
    largest = int(support.argmax())
    guessing = support[largest] / len(predictions.labels)
    if _lower_bound(predictions) > guessing:
        return ""
    return (
        f"The model is not significantly better than guessing: always answering “{predictions.classes[largest]}” would "
        f"be correct for {percent(guessing)} % of the {unit}s."
    )


def _confusion(predictions: Predictions, unit: str) -> str:
    pairs = confused_pairs(predictions)
    if not pairs:
        return ""
    worst = pairs[0]
    if worst.count == 1:
        return "No two classes stand out: every confusion occurred only once." if len(pairs) > 1 else ""
    reverse = next((p.count for p in pairs if (p.true, p.predicted) == (worst.predicted, worst.true)), 0)
    reversed_too = f" {_counted(reverse, unit)} went the other way." if reverse else ""
    return (
        f"The most common confusion: {worst.count} {unit}s of “{worst.true}” ({percent(worst.share)} % of that class) "
        f"were classified as “{worst.predicted}”.{reversed_too}"
    )


def _advice(predictions: Predictions, history: Sequence[Mapping[str, object]], unit: str) -> str:
    num_wrong, num_missing = int((~predictions.correct).sum()), int(predictions.missing.sum())
    if 2 * num_missing >= num_wrong:
        return (
            f"First fix the {_counted(num_missing, unit)} that could not be read: "
            f"{percent(num_missing / num_wrong)} % of all mistakes."
        )
    pairs = confused_pairs(predictions)
    both_ways = sum(pair.count for pair in pairs if {pair.true, pair.predicted} == {pairs[0].true, pairs[0].predicted})
    if len(predictions.classes) > 2 and both_ways >= 3 and both_ways >= NOTABLE_SHARE * num_wrong:
        return (
            f"These two classes alone account for {percent(both_ways / num_wrong)} % of all mistakes. Start with their "
            f"{unit}s: click the pair in the table below."
        )
    trained = next((row["train_accuracy"] for row in reversed(history) if row.get("train_accuracy") is not None), None)
    if isinstance(trained, float) and np.isfinite(trained):
        if trained - predictions.correct.mean() > NOTABLE_GAP:
            return (
                f"Its training accuracy is {percent(trained)} %, so it overfits: try more training {unit}s, or more "
                "dropout or weight decay."
            )
        if trained < 1 - 2 * NOTABLE_GAP:
            return (
                f"Its training accuracy is only {percent(trained)} %, so it underfits: try longer training, a larger "
                "network or better features first."
            )
    return (
        "Start with the confident mistakes below: each has a wrong label or shows what the model actually responds to."
    )


def _counted(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
