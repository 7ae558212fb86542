"""Models against each other: paired over videos, pooled over the seeds and splits that both were run on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from pipeline.evaluation.comparison import holm, sign_flip_p
from pipeline.evaluation.metrics import bootstrap_group_means
from pipeline.evaluation.predictions import EvaluationError, FloatArray, Predictions
from pipeline.reports.leaderboard import FOLD, Experiment, Row, experiments, place
from pipeline.reports.pages import p_text, percent, points
from pipeline.settings.config import BASELINE

LEVEL = 0.05
FRAME_AVERAGE = "frame average"
Load = Callable[[Row], Predictions]
"""The predictions of a run, given its ``metrics.json``. Raises ``EvaluationError``."""


@dataclass(frozen=True)
class VideoShare:
    """A video, and the share of each model's runs that classify it correctly."""

    video_id: str
    label: str
    a: float
    b: float


@dataclass(frozen=True, eq=False)
class ModelPair:
    """Two models on the same videos.

    Attributes:
        score_a, score_b: video top-1, in [0, 1], mean over splits and seeds.
        low, high: 95 % interval of A minus B, from a bootstrap over groups.
        corrected_p: p-value of the exact sign-flip test over groups, after Holm's correction over all pairs.
        num_splits, num_seeds, num_videos: what both were run on; a video counts once per split.
        flips: the videos that they classify differently, by decreasing difference.
    """

    a: str
    b: str
    score_a: float
    score_b: float
    low: float
    high: float
    corrected_p: float
    num_splits: int
    num_seeds: int
    num_videos: int
    flips: tuple[VideoShare, ...]

    @property
    def difference(self) -> float:
        return self.score_a - self.score_b

    @property
    def is_significant(self) -> bool:
        return self.corrected_p < LEVEL

    @property
    def runs(self) -> str:
        """What both were run on, such as "4 splits and 3 seeds"."""
        return f"{_counted(self.num_splits, 'split')} and {_counted(self.num_seeds, 'seed')}"

    @property
    def verdict(self) -> str:
        better, worse, sign = (self.a, self.b, 1) if self.difference >= 0 else (self.b, self.a, -1)
        low, high = sorted((sign * self.low, sign * self.high))
        size = f"{points(abs(self.difference))} points [{points(low)}, {points(high)}], {p_text(self.corrected_p)}"
        better, worse = _in_text(better), _in_text(worse)
        if self.is_significant:
            return f"{better} is better than {worse} by {size}, over {self.runs}."
        return f"No significant difference between {better} and {worse}: {size}, over {self.runs}."


def compare_models(board: Sequence[Experiment], load: Load) -> list[ModelPair]:
    """Compare every two models, in the order given, by the splits and seeds that both were run on.

    Pairs without a common split and seed, or whose videos differ, are left out.
    """
    names = [model_name(one, board) for one in board]
    answers = [_Answers(one.runs, load) for one in board]
    pairs, p_values = [], []
    for first, second in combinations(range(len(board)), 2):
        try:
            pair, p_value = _compare((names[first], answers[first]), (names[second], answers[second]))
        except EvaluationError:
            continue
        pairs.append(pair)
        p_values.append(p_value)
    return [replace(pair, corrected_p=p) for pair, p in zip(pairs, holm(p_values), strict=True)]


def best_models(rows: Sequence[Row], load: Load) -> list[str]:
    """For each dataset with two ranked models or more: a sentence about the first.

    It is compared with the frame average, or with the second where there is none. Where predictions are missing or of
    other videos, there is no sentence.
    """
    boards: dict[tuple[str, str], list[Experiment]] = {}
    for one in experiments(rows):
        if one.rank is not None:
            key = str(one.runs[0].get("dataset")), str(one.runs[0].get("evaluated_on"))
            boards.setdefault(key, []).append(replace(one, runs=one.compared))
    sentences = []
    for (dataset, _), board in boards.items():
        first, *others = board
        if not others:
            continue
        other = next((one for one in others if one.runs[0].get("model") == BASELINE), others[0])
        names = [_in_text(model_name(one, board)) for one in (first, other)]
        for pair in compare_models([first, other], load):
            sentence = (
                f"{names[0]} is first: {percent(pair.score_a)} %, {points(pair.difference)} points above {names[1]} "
                f"[{points(pair.low)}, {points(pair.high)}], over {pair.runs}."
            )
            sentences.append(f"{dataset}: {sentence}" if len(boards) > 1 else sentence)
    return sentences


def model_name(one: Experiment, board: Sequence[Experiment]) -> str:
    """The name of an experiment's model, with the settings that tell it apart from others of the board."""
    run = one.runs[0]
    model = str(run.get("model"))
    name = FRAME_AVERAGE if model == BASELINE else model
    alike = [other for other in board if other.runs[0].get("model") == model]
    differing = [key for key in ("backbone", "settings") if len({str(other.runs[0].get(key)) for other in alike}) > 1]
    details = ", ".join(str(run.get(key)) for key in differing if run.get(key))
    return f"{name} ({details})" if details else name


class _Answers:
    """The predictions of a model's runs, one run for each split and seed, each read once."""

    def __init__(self, runs: Sequence[Row], load: Load) -> None:
        self._runs = {place(run): run for run in runs}
        self._load = load
        self._loaded: dict[tuple[str, ...], Predictions] = {}

    @property
    def places(self) -> set[tuple[str, ...]]:
        return set(self._runs)

    def at(self, where: tuple[str, ...]) -> Predictions:
        if where not in self._loaded:
            self._loaded[where] = self._load(self._runs[where])
        return self._loaded[where]

    def num_right(self, where: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
        """For each split and video: how many of the runs classify it correctly."""
        counts: dict[tuple[str, ...], int] = {}
        for one in where:
            predictions = self.at(one)
            for video_id, correct in zip(predictions.video_ids, predictions.correct.tolist(), strict=True):
                video = (*one[: len(FOLD)], video_id)
                counts[video] = counts.get(video, 0) + correct
        return counts


def _compare(first: tuple[str, _Answers], second: tuple[str, _Answers]) -> tuple[ModelPair, float]:
    """The pair and its p-value, not corrected. Raises ``EvaluationError`` if the videos are not the same."""
    (name_a, a), (name_b, b) = first, second
    common = sorted(a.places & b.places)
    right_a, right_b = a.num_right(common), b.num_right(common)
    if not common or right_a.keys() != right_b.keys():
        raise EvaluationError("the models were not evaluated on the same videos")
    labels, groups = _facts([a.at(where) for where in common], common)
    folds = [where[: len(FOLD)] for where in common]
    num_runs = {fold: folds.count(fold) for fold in folds}
    totals = np.array([num_runs[video[: len(FOLD)]] for video in right_a])
    counts = np.array([[right[video] for video in right_a] for right in (right_a, right_b)])
    shares: FloatArray = counts / totals
    names = [groups[video] for video in right_a]
    draws = bootstrap_group_means(shares, names)
    low, high = np.percentile(draws[0] - draws[1], [2.5, 97.5])
    group_of = np.unique(names, return_inverse=True)[1]
    p_value = sign_flip_p(np.bincount(group_of, counts[0] - counts[1]).astype(np.float64))
    order = np.argsort(-np.abs(shares[0] - shares[1]), kind="stable")
    videos = list(right_a)
    flips = tuple(
        VideoShare(videos[i][-1], labels[videos[i]], float(shares[0, i]), float(shares[1, i]))
        for i in order
        if shares[0, i] != shares[1, i]
    )
    pair = ModelPair(
        *(name_a, name_b, float(shares[0].mean()), float(shares[1].mean()), float(low), float(high), p_value),
        num_splits=len(num_runs),
        num_seeds=len({where[len(FOLD) :] for where in common}),
        num_videos=len(videos),
        flips=flips,
    )
    return pair, p_value


def _facts(
    evaluations: Sequence[Predictions], places: Sequence[tuple[str, ...]]
) -> tuple[dict[tuple[str, ...], str], dict[tuple[str, ...], str]]:
    """For each split and video: its true class, and its group."""
    labels, groups = {}, {}
    for predictions, where in zip(evaluations, places, strict=True):
        names = predictions.groups or predictions.video_ids
        for video_id, label, group in zip(predictions.video_ids, predictions.labels.tolist(), names, strict=True):
            video = (*where[: len(FOLD)], video_id)
            labels[video], groups[video] = predictions.classes[label], group
    return labels, groups


def _in_text(name: str) -> str:
    return f"the {name}" if name.startswith(FRAME_AVERAGE) else name


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
