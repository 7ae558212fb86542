"""The search for settings, and the trainings that score them.

The K folds form a ring: after the last comes the first. In the search, each candidate is trained K times, without folds
i and i + 1, and scored on both. Two of these trainings are without fold i: they score fold i - 1 and fold i + 1. The
candidate with the best score there is trained on all folds except i, and scored on fold i. So no video is scored by
settings that it helped to choose, nor by a model that was trained on it.

The best score is the lowest loss (mean negative log-likelihood); the higher accuracy decides a tie. On few videos the
accuracy moves in steps and often ties, while every video's probability counts in the loss. On 300 videos of UCF101 the
loss chose settings as accurate as those that the accuracy chose, with clearly better probabilities.

No training uses validation videos: it ends with its last epoch.
"""

import sys
from collections.abc import Iterable, Sequence
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
    chosen = {name: [choose(tried, fold) for fold in range(len(trainer.folds))] for name, tried in rings.items()}
    trainings = [
        Training(_final_key(contender, fold, seed), contender.configs[candidate], (fold,), seed)
        for contender in contenders
        for seed in seeds
        for fold, candidate in enumerate(chosen[contender.name])
    ]
    results = trainer.run(trainings, "final trainings")
    outcomes = []
    for contender in contenders:
        tried, folds = rings[contender.name], range(len(trainer.folds))
        searched = [score_of(scores for result in ring for scores in result.scores.values()) for ring in tried]
        final = [[results[_final_key(contender, fold, seed)] for fold in folds] for seed in seeds]
        parts = [[result.scores[fold] for fold, result in enumerate(of_seed)] for of_seed in final]
        outcomes.append(
            Outcome(
                contender=contender,
                chosen=chosen[contender.name],
                recommended=best(searched),
                searched=searched,
                correct=np.array([np.concatenate([part.correct for part in of_seed]) for of_seed in parts]),
                probability=np.array([np.concatenate([part.probability for part in of_seed]) for of_seed in parts]),
                seconds=sum(result.seconds for group in (*tried, *final) for result in group),
            )
        )
    return outcomes


def _final_key(contender: Contender, fold: int, seed: int) -> str:
    return f"{contender.name}, fold {fold}, seed {seed}"


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
    pairs = [(i, (i + 1) % num_folds) for i in range(num_folds)]
    # The final trainings of one seed are as many as those of a round, each on K - 1 folds instead of K - 2.
    final_rounds = num_seeds * (num_folds - 1) / (num_folds - 2)
    spent = 0.0
    for number in range(num_candidates):
        if number > 0 and not _is_affordable(number, num_candidates, spent, final_rounds, budget):
            break
        trainings = {
            contender.name: [
                Training(f"{contender.name}, candidate {number}, ring {i}", contender.configs[number], pairs[i], 0)
                for i in range(num_folds)
            ]
            for contender in contenders
        }
        what = f"candidate {number + 1} of {num_candidates}"
        results = trainer.run([one for group in trainings.values() for one in group], what)
        for name, group in trainings.items():
            rings[name].append([results[one.key] for one in group])
        spent += sum(result.seconds for result in results.values()) / budget.num_workers
    return rings


def _is_affordable(number: int, num_candidates: int, spent: float, final_rounds: float, budget: Budget) -> bool:
    """Whether another round fits into the budget after ``number`` rounds took ``spent`` seconds. Says so if not.

    The final trainings are expected to take as long as ``final_rounds`` rounds.
    """
    per_round = spent / number
    final = per_round * final_rounds
    if number == 1 and spent + final > budget.seconds:
        print(
            f"warning: --budget {budget.text} is too short. The given settings and the final trainings take about "
            f"{(spent + final) / 60:.0f} min and are done nevertheless.",
            file=sys.stderr,
        )
    if spent + per_round + final <= budget.seconds:
        return True
    print(
        f"searched {number} of {num_candidates} candidates: the next would exceed --budget {budget.text}",
        file=sys.stderr,
    )
    return False


def choose(tried: Sequence[Ring], fold: int) -> int:
    """The candidate for outer fold ``fold``: the best on the folds before and after it, of trainings without it."""
    return best(
        [
            score_of([ring[fold - 1].scores[(fold - 1) % len(ring)], ring[fold].scores[(fold + 1) % len(ring)]])
            for ring in tried
        ]
    )


def best(scores: Sequence[Score]) -> int:
    """The index of the best score; 0 if there is none, because there was nothing to choose from."""
    return min(range(len(scores)), key=lambda index: (scores[index].loss, -scores[index].top1), default=0)


def score_of(parts: Iterable[Scores]) -> Score:
    """The score over the videos of all parts."""
    parts = list(parts)
    correct = np.concatenate([part.correct for part in parts])
    return Score(float(correct.mean()), float(np.concatenate([part.losses for part in parts]).mean()))
