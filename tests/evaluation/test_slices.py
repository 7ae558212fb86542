"""pipeline/evaluation/slices.py: where a run fails by more than chance."""

from collections.abc import Sequence

import numpy as np
import pytest

from pipeline.evaluation import slices
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.slices import GROUP, Property, bins_of, find_slices, why_left_out
from tests.evaluation.test_metrics import predictions_of


def predict(correct: Sequence[bool], groups: Sequence[str] = ()) -> Predictions:
    """Predictions of two classes that are correct or not."""
    answers = [(video, [0.9, 0.1] if right else [0.1, 0.9]) for video, right in enumerate(correct)]
    predictions = predictions_of([0] * len(correct), answers, num_classes=2)
    return Predictions(
        predictions.classes,
        predictions.video_ids,
        predictions.labels,
        predictions.clip_probabilities,
        predictions.clip_videos,
        tuple(groups),
    )


def make_property(values: Sequence[float], name: str = "length") -> Property:
    return Property(name, "s", {f"v{number}": float(value) for number, value in enumerate(values)})


def test_a_planted_slice_is_found_and_priced() -> None:
    """The quarter of short videos, in which half of the mistakes were planted, comes first, with its cost in mistakes;
    an irrelevant property is not blamed."""
    rng = np.random.default_rng(0)
    lengths, groups = rng.permutation(400) / 10, [f"g{number % 40}" for number in range(400)]
    correct = rng.random(400) < np.where(lengths < 10, 0.5, 0.9)
    first, *others = find_slices(
        predict(correct.tolist(), groups), [make_property(lengths), make_property(rng.random(400), "noise")]
    )
    short = lengths < 10
    assert (first.name, first.label, first.accuracy.num_videos) == ("length", "0 – 9.9 s", 100)
    assert first.rest == correct[~short].mean()
    assert first.cost == pytest.approx(100 * (correct[~short].mean() - correct[short].mean()))
    assert first.share == pytest.approx(first.cost / (~correct).sum())
    assert first.gap_low < first.gap < first.gap_high and first.gap_low > 0.15
    assert first.fails and not any(part.fails for part in others)


def test_a_group_that_fails_is_found() -> None:
    """One person whose videos are all wrong is named; with as many mistakes spread evenly, nobody is."""
    groups = [f"g{number // 10}" for number in range(200)]
    at_once = [number // 10 != 7 for number in range(200)]
    (found,) = [part for part in find_slices(predict(at_once, groups), []) if part.fails]
    assert (found.name, found.label, found.cost, found.share) == (GROUP, "g7", 10, 1)
    spread = [number % 20 != 0 for number in range(200)]
    assert not any(part.fails for part in find_slices(predict(spread, groups), []))


@pytest.mark.parametrize("groups_differ", [False, True])
def test_noise_fails_in_one_evaluation_of_twenty_at_most(groups_differ: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 5 % of 200 evaluations in which accuracy depends on no property name a slice, even if groups differ in
    their accuracy, and in the property, which would fool a test that takes videos for independent."""
    monkeypatch.setattr(slices, "_FLIPS", 1000)  # enough for 38 slices
    monkeypatch.setattr(slices, "_RESAMPLES", 10)
    num_alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        groups = rng.integers(30, size=240)
        skill, lengths = rng.normal(size=(2, 30))
        odds = 1.4 + 2 * groups_differ * skill[groups]
        correct = rng.random(240) < 1 / (1 + np.exp(-odds))
        properties = [
            make_property(lengths[groups] + 0.1 * rng.normal(size=240)),
            make_property(rng.random(240), "brightness"),
        ]
        found = find_slices(predict(correct.tolist(), [f"g{group}" for group in groups]), properties)
        # Groups that differ do fail: only the other slices are false alarms.
        num_alarms += any(part.fails for part in found if not groups_differ or part.name != GROUP)
    assert num_alarms <= 10


def test_bins_are_quarters_and_equal_values_stay_together() -> None:
    """Each quarter has its share of the videos; two frame rates make two slices, whatever their shares."""
    names = [f"v{number}" for number in range(80)]
    quarters = bins_of(make_property(range(80)), names)
    assert [part.member.sum() for part in quarters] == [20] * 4
    assert [part.label for part in quarters][:2] == ["0 – 19 s", "20 – 39 s"]
    rates = bins_of(make_property([25.0] * 60 + [30.0] * 20), names)
    assert [(part.label, part.member.sum()) for part in rates] == [("25 s", 60), ("30 s", 20)]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "unknown"),
        ({"v1": 2.0}, "known for 1 of 80 only"),
        (dict.fromkeys(map("v{}".format, range(80)), 76800.0), "all 76,800 s"),
    ],
)
def test_a_property_without_slices_says_why(values: dict[str, float], reason: str) -> None:
    """A property that is unknown, known of few videos, or the same everywhere gives no slice and a reason."""
    one = Property("size", "s", values)
    assert why_left_out(one, [f"v{number}" for number in range(80)]) == reason
    predictions = predict([True] * 79 + [False])
    assert find_slices(predictions, [one]) == []


def test_an_outlier_does_not_make_a_slice() -> None:
    """One video that is longer than all others, which are equal, is too little to ask about."""
    one = make_property([1.0] * 79 + [9.0])
    assert why_left_out(one, [f"v{number}" for number in range(80)]) == "nearly all 1 s"


def test_all_right_and_all_wrong_give_numbers() -> None:
    """Without a mistake, or without a right answer, no slice fails and no share is NaN."""
    for correct in (True, False):
        groups = [f"g{number // 8}" for number in range(80)]
        for part in find_slices(predict([correct] * 80, groups), [make_property(range(80))]):
            assert not part.fails and part.cost == 0 and np.isfinite([part.gap_low, part.gap_high, part.share]).all()


def test_few_groups_are_said_to_be_too_few() -> None:
    """With five groups even a slice that one half of them fails in can't be told from chance: the page says so."""
    groups, lengths = [f"g{number % 5}" for number in range(100)], np.arange(100) % 5
    found = find_slices(predict((lengths > 1).tolist(), groups), [make_property(lengths)])
    assert not any(part.fails for part in found if part.name != GROUP)
    assert not slices.enough_groups(5, len(found)) and slices.enough_groups(20, len(found))
