"""What an evaluation says in plain words: how good the model is, what it confuses most, and what to do about it.

Every clause follows from numbers of this evaluation; where they support none, it is left out.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.evaluation.analysis import accuracy
from pipeline.evaluation.metrics import confused_pairs
from pipeline.evaluation.predictions import Predictions, video_predictions, video_probabilities

NOTABLE_SHARE = 0.2  # of all mistakes, for two classes to be named as the place to begin
NOTABLE_GAP = 0.1  # between two accuracies, or an accuracy and a confidence


def verdict(predictions: Predictions, history: Sequence[Mapping[str, object]] = (), unit: str = "video") -> str:
    """Two or three sentences. ``history``: the rows of ``metrics.jsonl``; ``unit``: what is classified."""
    right = video_predictions(predictions) == predictions.labels
    if right.all():
        return (
            f"It makes no mistake here. With {len(right):,} {unit}s that leaves room for a true accuracy down to "
            f"{_percent(accuracy(right).low)}: to learn more, test it on more or harder {unit}s."
        )
    parts = [_against_guessing(predictions, right, unit), _confusion(predictions), _advice(predictions, history, unit)]
    return " ".join(part for part in parts if part)


def _against_guessing(predictions: Predictions, right: np.ndarray, unit: str) -> str:
    support = np.bincount(predictions.labels)
    largest = int(support.argmax())
    guessing = support[largest] / len(right)
    if accuracy(right).low > guessing:
        return ""
    return (
        f"It can't be told apart from guessing: to answer “{predictions.classes[largest]}” for every {unit} would be "
        f"right for {_percent(guessing)}."
    )


def _confusion(predictions: Predictions) -> str:
    pairs = confused_pairs(predictions)
    if not pairs:
        return ""
    worst = pairs[0]
    if worst.count == 1:
        return "No two classes stand out: every confusion happened once." if len(pairs) > 1 else ""
    back = next((p.count for p in pairs if (p.true, p.predicted) == (worst.predicted, worst.true)), 0)
    return (
        f"What it confuses most: “{worst.true}” is taken for “{worst.predicted}” {_times(worst.count)}, "
        f"{_percent(worst.share)} of that class" + (f" (and the other way round {_times(back)})." if back else ".")
    )


def _advice(predictions: Predictions, history: Sequence[Mapping[str, object]], unit: str) -> str:
    right = video_predictions(predictions) == predictions.labels
    num_wrong, num_missing = int((~right).sum()), int(predictions.missing.sum())
    if 2 * num_missing >= num_wrong:
        return (
            f"First get the {num_missing} {unit}s that could not be read: they are {_percent(num_missing / num_wrong)} "
            "of all mistakes."
        )
    pairs = confused_pairs(predictions)
    both_ways = sum(pair.count for pair in pairs if {pair.true, pair.predicted} == {pairs[0].true, pairs[0].predicted})
    if both_ways >= 3 and both_ways >= NOTABLE_SHARE * num_wrong:
        return (
            f"These two classes alone make {_percent(both_ways / num_wrong)} of all mistakes: begin with their "
            f"{unit}s, which a click below shows."
        )
    learnt = next((row["train_accuracy"] for row in reversed(history) if row.get("train_accuracy") is not None), None)
    if isinstance(learnt, float) and np.isfinite(learnt):
        if learnt - right.mean() > NOTABLE_GAP:
            return (
                f"It was right on {_percent(learnt)} of what it was trained on, so it knows those {unit}s better than "
                f"what they have in common: try more training {unit}s, or more dropout or weight decay."
            )
        if learnt < 1 - 2 * NOTABLE_GAP:
            return (
                f"It was right on only {_percent(learnt)} of what it was trained on: try longer training, a larger "
                "network or better features before anything else."
            )
    confidence = video_probabilities(predictions)[~predictions.missing].max(axis=1).mean()
    if confidence - right[~predictions.missing].mean() > NOTABLE_GAP:
        return (
            f"It is surer than it should be (mean confidence {_percent(float(confidence))}): don't take its "
            "probabilities at their word."
        )
    return "Begin with the confident mistakes below: each is a wrong label, or shows what the model really goes by."


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
