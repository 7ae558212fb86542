"""The search for settings, and the trainings that score them.

The K folds form a ring: after the last comes the first. In the search, each candidate is trained K times, without folds
i and i + 1, and scored on both. Two of these trainings are without fold i: they score fold i - 1 and fold i + 1. The
candidate with the best score there is trained on all folds except i, and scored on fold i. So no video is scored by
settings that it helped to choose, nor by a model that was trained on it.

The best score is the highest accuracy; the lower loss decides a tie.

No training uses validation videos: it ends with its last epoch.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.evaluation.predictions import BoolArray, FloatArray
from pipeline.tune.search_space import Contender
from pipeline.tune.trainings import Result, Scores, Trainer, Training

Ring = list[Result]
"""The results of one candidate; training ``i`` was without folds ``i`` and ``i + 1``."""


class Score(NamedTuple):
    """Top-1 accuracy in [0, 1] and mean negative log-likelihood in nats."""

    top1: float
    loss: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a contender.

    Attributes:
        chosen: the candidate for each outer fold.
        recommended: the candidate with the best score over all folds.
        searched: the scores of the candidates over all folds; empty without a search.
        correct, probability: ``[num_seeds, num_videos]``, the videos fold by fold: whether the answer is correct, and
            the probability of the true class.
        seconds: sum over all trainings.
    """

    contender: Contender
    chosen: list[int]
    recommended: int
    searched: list[Score]
    correct: BoolArray
    probability: FloatArray
    seconds: float

    @property
    def losses(self) -> FloatArray:
        """float64 ``[num_seeds, num_videos]``: negative log-likelihood in nats."""
        return Scores(self.correct, self.probability).losses


@dataclass(frozen=True)
class Budget:
    """Seconds for all trainings, ``num_workers`` at a time; ``text`` is what the user wrote."""

    seconds: float
    text: str
    num_workers: int


def tune(contenders: Sequence[Contender], trainer: Trainer, seeds: Sequence[int], budget: Budget) -> list[Outcome]:
    """Search, choose, and score every contender. All contenders have the same number of candidates."""
    rings = search(contenders, trainer, len(seeds), budget)
    num_folds = len(trainer.folds)
    chosen = {name: [choose(tried, fold) for fold in range(num_folds)] for name, tried in rings.items()}
    trainings = {
        (contender.name, seed): [
            Training(f"{contender.name}, fold {fold}, seed {seed}", contender.configs[candidate], (fold,), seed)
            for fold, candidate in enumerate(chosen[contender.name])
        ]
        for contender in contenders
        for seed in seeds
    }
    results = trainer.run([one for group in trainings.values() for one in group], "final trainings")
    outcomes = []
    for contender in contenders:
        tried = rings[contender.name]
        final = [[results[one.key] for one in trainings[contender.name, seed]] for seed in seeds]
        scores = [[result.scores[fold] for fold, result in enumerate(of_seed)] for of_seed in final]
        outcomes.append(
            Outcome(
                contender=contender,
                chosen=chosen[contender.name],
                recommended=best([score_of(all_scores(ring)) for ring in tried]),
                searched=[score_of(all_scores(ring)) for ring in tried],
                correct=np.array([np.concatenate([part.correct for part in parts]) for parts in scores]),
                probability=np.array([np.concatenate([part.probability for part in parts]) for parts in scores]),
                seconds=sum(result.seconds for group in [*tried, *final] for result in group),
            )
        )
    return outcomes


def search(contenders: Sequence[Contender], trainer: Trainer, num_seeds: int, budget: Budget) -> dict[str, list[Ring]]:
    """Try one more candidate of every contender per round, while the next round and the final trainings fit the budget.

    The first round is always made, unless there is only one candidate to choose from. The times are those in the log,
    so a resumed command decides as an uninterrupted one.

    Returns:
        the results of the candidates that were tried, by contender.
    """
    rings: dict[str, list[Ring]] = {contender.name: [] for contender in contenders}
    num_candidates, num_folds = len(contenders[0].configs), len(trainer.folds)
    if num_candidates == 1:
        return rings
    spent = 0.0
    for number in range(num_candidates):
        if number > 0:
            # A round and the final trainings of one seed are equally many, and the latter have one fold more.
            per_round = spent / number
            final = per_round * num_seeds * (num_folds - 1) / (num_folds - 2)
            if number == 1 and spent + final > budget.seconds:
                print(
                    f"warning: --budget {budget.text} is too short. The given settings and the final trainings are "
                    f"made all the same; that takes about {(spent + final) / 60:.0f} min.",
                    file=sys.stderr,
                )
            if spent + per_round + final > budget.seconds:
                print(
                    f"searched {number} of {num_candidates} candidates: the next would exceed --budget {budget.text}",
                    file=sys.stderr,
                )
                break
        trainings = {
            contender.name: [
                Training(f"{contender.name}, candidate {number}, ring {i}", config, (i, (i + 1) % num_folds), seed=0)
                for i in range(num_folds)
            ]
            for contender in contenders
            for config in (contender.configs[number],)
        }
        what = f"candidate {number + 1} of {num_candidates}"
        results = trainer.run([one for group in trainings.values() for one in group], what)
        for name, group in trainings.items():
            rings[name].append([results[one.key] for one in group])
        spent += sum(result.seconds for result in results.values()) / budget.num_workers
    return rings


def choose(tried: Sequence[Ring], fold: int) -> int:
    """The candidate for outer fold ``fold``: the best on the folds before and after it, of trainings without it."""
    num_folds = len(tried[0]) if tried else 0
    return best(
        [
            score_of(
                [
                    ring[fold - 1].scores[(fold - 1) % num_folds],
                    ring[fold].scores[(fold + 1) % num_folds],
                ]
            )
            for ring in tried
        ]
    )


def best(scores: Sequence[Score]) -> int:
    """The index of the best score; 0 if there is none, because there was nothing to choose from."""
    return max(range(len(scores)), key=lambda index: (scores[index].top1, -scores[index].loss), default=0)


def all_scores(ring: Ring) -> list[Scores]:
    return [scores for result in ring for scores in result.scores.values()]


def score_of(parts: Sequence[Scores]) -> Score:
    """The score over the videos of all parts."""
    correct, losses = (np.concatenate([getattr(part, name) for part in parts]) for name in ("correct", "losses"))
    return Score(float(correct.mean()), float(losses.mean()))
