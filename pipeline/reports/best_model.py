"""Which model of a leaderboard is the best, in one sentence: paired over videos, pooled over seeds and splits."""

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.evaluation.metrics import bootstrap_group_means
from pipeline.evaluation.predictions import EvaluationError, FloatArray, Predictions
from pipeline.reports.leaderboard import FOLD, Experiment, Row, experiments
from pipeline.reports.pages import percent, points
from pipeline.settings.config import BASELINE

Load = Callable[[Row], Predictions]
"""The predictions of a run, given its ``metrics.json``. Raises ``EvaluationError``."""


def best_models(rows: Sequence[Row], load: Load) -> list[str]:
    """For each dataset with two models or more that can be compared: a sentence about the first.

    It is compared with the frame average, or with the second where there is none. The interval is 95 %, from a
    bootstrap over groups. Where predictions are missing or of other videos, there is no interval.
    """
    boards: dict[tuple[str, str], list[Experiment]] = {}
    for one in experiments(rows):
        if one.rank is not None:
            boards.setdefault((str(one.runs[0].get("dataset")), str(one.runs[0].get("evaluated_on"))), []).append(one)
    several = len(boards) > 1
    return [
        (f"{dataset}: " if several else "") + _sentence(board, load)
        for (dataset, _), board in boards.items()
        if len(board) > 1
    ]


def _sentence(board: Sequence[Experiment], load: Load) -> str:
    first, *others = board
    other = next((one for one in others if one.runs[0].get("model") == BASELINE), others[0])
    scores = [float(np.mean([run["video_top1"] for run in one.compared])) for one in (first, other)]
    try:
        low, high = _interval(first.compared, other.compared, load)
        interval = f" [{points(low)}, {points(high)}]"
    except EvaluationError:
        interval = ""
    folds = len({tuple(str(run.get(key)) for key in FOLD) for run in first.compared})
    seeds = len({str(run.get("seed")) for run in first.compared})
    return (
        f"{_name(first, board)} is first: {percent(scores[0])} %, {points(scores[0] - scores[1])} points above "
        f"{_name(other, board)}{interval}, over {_counted(folds, 'split')} and {_counted(seeds, 'seed')}."
    )


def _interval(first: Sequence[Row], other: Sequence[Row], load: Load) -> tuple[float, float]:
    """The 95 % interval of the difference in video top-1. Raises ``EvaluationError`` if the videos are not the same."""
    values, groups = _correct(first, load)
    other_values, _ = _correct(other, load)
    if values.keys() != other_values.keys():
        raise EvaluationError("the models were evaluated on different videos")
    both = np.array([[side[video] for video in values] for side in (values, other_values)])
    draws: FloatArray = bootstrap_group_means(both, [groups[video] for video in values])
    low, high = np.percentile(draws[0] - draws[1], [2.5, 97.5])
    return float(low), float(high)


def _correct(runs: Sequence[Row], load: Load) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], str]]:
    """For each split and video: the share of the runs that classify it correctly, and its group."""
    answers: dict[tuple[str, str], list[bool]] = {}
    groups: dict[tuple[str, str], str] = {}
    for run in runs:
        predictions, fold = load(run), str([run.get(key) for key in FOLD])
        names = predictions.groups or predictions.video_ids
        for video_id, group, correct in zip(predictions.video_ids, names, predictions.correct.tolist(), strict=True):
            answers.setdefault((fold, video_id), []).append(correct)
            groups[fold, video_id] = group
    return {video: float(np.mean(correct)) for video, correct in answers.items()}, groups


def _name(one: Experiment, board: Sequence[Experiment]) -> str:
    run = one.runs[0]
    model = str(run.get("model"))
    name = "the frame average" if model == BASELINE else model
    alike = [other for other in board if other.runs[0].get("model") == model]
    differing = [key for key in ("backbone", "settings") if len({str(other.runs[0].get(key)) for other in alike}) > 1]
    details = ", ".join(str(run.get(key)) for key in differing if run.get(key))
    return f"{name} ({details})" if details else name


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
