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

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
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
    """Search, choose, and score every contender. All contenders have the same number of candidates and of seeds."""
    num_candidates = len(contenders[0].configs)
    if num_candidates > 1:
        # Most of these are final trainings too. Their times are in the log, so a resumed command makes the same plan.
        given = trainer.run(_final_trainings(contenders, seeds[:1], len(trainer.folds)), "given settings")
        per_round = sum(result.seconds for result in given.values()) / budget.num_workers
        num_candidates, num_seeds = plan(per_round, num_candidates, len(seeds), budget)
        seeds = seeds[:num_seeds]
    rings = search(contenders, trainer, num_candidates)
    chosen = {name: [choose(tried, fold) for fold in range(len(trainer.folds))] for name, tried in rings.items()}
    results = trainer.run(_final_trainings(contenders, seeds, len(trainer.folds), chosen), "final trainings")
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


def _final_trainings(
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    num_folds: int,
    chosen: Mapping[str, Sequence[int]] | None = None,
) -> list[Training]:
    """Each outer fold held out once per seed; ``chosen`` are the candidates by contender and fold (default: 0)."""
    return [
        Training(
            _final_key(contender, fold, seed),
            contender.configs[0 if chosen is None else chosen[contender.name][fold]],
            (fold,),
            seed,
        )
        for contender in contenders
        for seed in seeds
        for fold in range(num_folds)
    ]


def plan(per_round: float, num_candidates: int, num_seeds: int, budget: Budget) -> tuple[int, int]:
    """How many candidates to try, and with how many seeds to score the chosen ones. Prints what the budget excludes.

    Args:
        per_round: seconds that all contenders take for one candidate or seed. One round has been made.
        num_candidates, num_seeds: how many there are.

    Returns:
        at least 2 candidates, or 1 for no search; at least 1 seed.
    """
    num_rounds = int(budget.seconds / per_round) - 1
    affordable = num_rounds - num_seeds
    if affordable >= num_candidates:
        return num_candidates, num_seeds
    if affordable >= 2:
        print(f"searching {affordable} of {num_candidates} candidates: --budget {budget.text}", file=sys.stderr)
        return affordable, num_seeds
    num_affordable_seeds = min(num_seeds, 1 + max(0, num_rounds))
    print(
        f"warning: no search, only the given settings, with {num_affordable_seeds} of {num_seeds} seeds. For at least "
        f"two candidates and all seeds, set --budget {math.ceil((num_seeds + 3) * per_round / 60)}m",
        file=sys.stderr,
    )
    return 1, num_affordable_seeds


def search(contenders: Sequence[Contender], trainer: Trainer, num_candidates: int) -> dict[str, list[Ring]]:
    """Try the first ``num_candidates`` of every contender, one after another; none if there is only one.

    Returns:
        the results of the candidates that were tried, by contender.
    """
    rings: dict[str, list[Ring]] = {contender.name: [] for contender in contenders}
    num_folds = len(trainer.folds)
    for number in range(num_candidates if num_candidates > 1 else 0):
        trainings = {
            contender.name: [
                Training(
                    f"{contender.name}, candidate {number}, ring {i}",
                    contender.configs[number],
                    (i, (i + 1) % num_folds),
                    0,
                )
                for i in range(num_folds)
            ]
            for contender in contenders
        }
        what = f"candidate {number + 1} of {num_candidates}"
        results = trainer.run([one for group in trainings.values() for one in group], what)
        for name, group in trainings.items():
            rings[name].append([results[one.key] for one in group])
    return rings


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
