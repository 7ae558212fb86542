"""No video is scored by settings that it helped to choose, and the search keeps to its budget."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from data.records import VideoRecord
from pipeline.settings.config import Config
from pipeline.tune.search import Budget, Score, best, choose, plan, search, tune
from pipeline.tune.search_space import Contender, make_contenders
from pipeline.tune.trainings import Result, Scores, Training, split_of

NUM_FOLDS = 5
FOLDS = [tuple(VideoRecord(f"{fold}/{n}", Path(), n % 2, f"{fold}") for n in range(4)) for fold in range(NUM_FOLDS)]
MODELS = ("np_rnn", "gru", "mean")
ENOUGH = Budget(1e9, "9999h", 1)


class StubTrainer:
    """Records trainings, each of which takes 10 s. Candidate ``n`` is right on the first ``right[fold][n]`` videos."""

    def __init__(self, right: Sequence[Sequence[int]] = ((4, 1, 1),) * NUM_FOLDS) -> None:
        self.folds, self.right = FOLDS, right
        self.trainings: list[Training] = []

    def run(self, trainings: Sequence[Training], what: str) -> dict[str, Result]:
        self.trainings += trainings
        return {
            training.key: Result({f: self.scores(training, f) for f in training.left_out}, 10.0)
            for training in trainings
        }

    def scores(self, training: Training, fold: int) -> Scores:
        number = [one.configs.index(training.config) for one in contenders() if training.config in one.configs][0]
        correct = np.arange(len(FOLDS[fold])) < self.right[fold][number]
        return Scores(correct, np.where(correct, 0.9, 0.2))


@functools.cache
def contenders(num_candidates: int = 3) -> list[Contender]:
    return make_contenders(Config(), MODELS, num_candidates)


def searched(trainer: StubTrainer) -> list[Training]:
    return [training for training in trainer.trainings if "candidate" in training.key]


def test_no_video_helps_to_choose_the_settings_that_it_is_scored_with() -> None:
    """Whatever happens on a fold, in training or in validation, the choice for that fold stays the same."""
    trainer = StubTrainer()
    rings = search(contenders(), trainer, 3)
    for fold in range(NUM_FOLDS):
        used = []
        for number in (fold - 1, fold):  # the two trainings that `choose` may read
            training = next(
                one for one in searched(trainer) if one.key == f"gru, candidate 1, ring {number % NUM_FOLDS}"
            )
            used += split_of(FOLDS, training.left_out).train
        assert set(used).isdisjoint(FOLDS[fold]) and used
        for tampered in range(3):
            changed = [list(ring) for ring in rings["gru"]]
            for number in range(NUM_FOLDS):
                scores = dict(changed[tampered][number].scores)
                is_read = number in ((fold - 1) % NUM_FOLDS, fold)
                for scored in scores:
                    if scored == fold or not is_read:
                        scores[scored] = Scores(np.ones(4, dtype=bool), np.ones(4))
                changed[tampered][number] = Result(scores, 10.0)
            assert choose(changed, fold) == choose(rings["gru"], fold) == 0


def test_each_fold_gets_what_is_best_on_its_neighbours() -> None:
    """The choice differs between outer folds if their neighbours differ; the recommendation is over all folds."""
    right = [(4, 0, 0), (0, 4, 0), (0, 0, 4), (0, 0, 4), (0, 0, 4)]
    (outcome, *_) = tune(contenders(), StubTrainer(right), (0,), ENOUGH)
    # Neighbours of 0: 4 and 1, a tie of candidates 1 and 2. Of 1: 0 and 2. Of 4: 3 and 0.
    assert outcome.chosen[0] in (1, 2) and outcome.chosen[1] in (0, 2) and outcome.chosen[3] == 2
    assert outcome.recommended == 2
    assert outcome.searched[2].top1 == pytest.approx(3 / 5)


def test_the_lower_loss_is_chosen_and_the_accuracy_decides_a_tie() -> None:
    """Among candidates with the same loss the more accurate one is chosen, and the first of equal ones."""
    assert best([Score(0.9, 2.0), Score(0.5, 1.0), Score(0.6, 1.0), Score(0.6, 1.0)]) == 2


def test_final_trainings_use_all_other_folds_and_every_seed() -> None:
    """Each video is scored once per model and seed, by a model trained on all other folds with the chosen settings."""
    trainer = StubTrainer()
    outcomes = tune(contenders(), trainer, (3, 4), ENOUGH)
    final = [training for training in trainer.trainings if "candidate" not in training.key][15:]  # after the plan's
    assert sorted((one.config.model.model, one.left_out, one.seed) for one in final) == sorted(
        (model, (fold,), seed) for model in MODELS for fold in range(NUM_FOLDS) for seed in (3, 4)
    )
    for training in final:
        split = split_of(FOLDS, training.left_out)
        assert split.validation == () and len(split.train) == 16 and split.test == FOLDS[training.left_out[0]]
    assert all(outcome.correct.shape == outcome.probability.shape == (2, 20) for outcome in outcomes)


@pytest.mark.parametrize(
    ("minutes", "tried", "num_seeds"),
    [(1000, 3, 3), (18, 3, 3), (15.1, 2, 3), (12, 0, 3), (7.6, 0, 3), (5, 0, 2), (0.1, 0, 1)],
)
def test_everything_fits_the_budget(
    minutes: float, tried: int, num_seeds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """All models try the same number of candidates; if two do not fit there is no search, and then fewer seeds."""
    trainer = StubTrainer()  # a round of 15 trainings takes 150 s with one worker
    outcomes = tune(contenders(), trainer, (0, 1, 2), Budget(minutes * 60, f"{minutes}m", 1))
    assert [len(outcome.searched) for outcome in outcomes] == [tried] * 3
    assert [len(outcome.correct) for outcome in outcomes] == [num_seeds] * 3
    assert len(searched(trainer)) == tried * 15
    different = {(one.key, one.config) for one in trainer.trainings}  # the log makes repeated ones free
    assert len(different) * 10 <= max(150, minutes * 60)
    shown = capsys.readouterr().err
    assert (f"searching {tried} of 3 candidates" in shown) == (tried == 2)
    assert (f"no search, only the given settings, with {num_seeds} of 3 seeds" in shown) == (tried == 0)


def test_more_workers_try_more() -> None:
    """The budget is wall-clock time: two workers do twice as much in it."""
    trainer = StubTrainer()
    tune(contenders(), trainer, (0, 1, 2), Budget(10 * 60, "10m", 2))
    assert len(searched(trainer)) == 45


def test_the_suggested_budget_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    """The warning about a short budget names one that is long enough."""
    assert plan(100.0, 8, 3, Budget(60, "1m", 1)) == (1, 1)
    assert "--budget 10m" in capsys.readouterr().err
    assert plan(100.0, 8, 3, Budget(600, "10m", 1)) == (2, 3)


def test_one_candidate_needs_no_search() -> None:
    """With the given settings only, there is nothing to choose."""
    trainer = StubTrainer()
    outcomes = tune(contenders(1), trainer, (0,), Budget(1, "1s", 1))
    assert not searched(trainer) and all(outcome.chosen == [0] * NUM_FOLDS for outcome in outcomes)
