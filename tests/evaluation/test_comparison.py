"""pipeline/evaluation/comparison.py: paired statistics, against scipy, scikit-learn and by hand."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from pipeline.evaluation.comparison import (
    PAIRED_METRICS,
    PairedDifference,
    aligned,
    bootstrap,
    confusion_difference,
    flips,
    holm,
    mcnemar,
    order_drops,
    paired_differences,
    recall_differences,
)
from pipeline.evaluation.predictions import EvaluationError, Predictions
from tests.evaluation.test_metrics import copied, random_predictions

MISSING = -1


def answers(labels: list[int], predicted: list[int], num_classes: int = 3) -> Predictions:
    """A model that predicts each given class with probability 0.75; ``MISSING`` for a video without clips."""
    clips = [video for video, answer in enumerate(predicted) if answer != MISSING]
    probabilities = np.full((len(clips), num_classes), 0.25 / (num_classes - 1))
    probabilities[np.arange(len(clips)), [predicted[video] for video in clips]] = 0.75
    return Predictions(
        classes=tuple("abcdefghij"[:num_classes]),
        video_ids=tuple(f"v{video}" for video in range(len(labels))),
        labels=np.array(labels),
        clip_probabilities=probabilities,
        clip_videos=np.array(clips, dtype=np.int64),
    )


def differences(a: Predictions, b: Predictions, resamples: int = 1000) -> dict[str, PairedDifference]:
    return paired_differences(bootstrap(a, resamples), bootstrap(b, resamples))


@st.composite
def pairs_of_answers(draw: st.DrawFn) -> tuple[Predictions, Predictions]:
    """Two models' answers to one to twelve videos of three classes."""
    num_videos = draw(st.integers(1, 12))
    labels = draw(st.lists(st.integers(0, 2), min_size=num_videos, max_size=num_videos))
    predicted = st.lists(st.integers(MISSING, 2), min_size=num_videos, max_size=num_videos)
    return answers(labels, draw(predicted)), answers(labels, draw(predicted))


def noisy(seed: int, strength: float, num_videos: int = 300, num_classes: int = 5) -> Predictions:
    """A model of some ``strength``, with noise from ``seed``, on videos that are equally hard for every model."""
    shared = np.random.default_rng(0)
    labels = shared.integers(num_classes, size=num_videos)
    scores = shared.normal(size=(num_videos, num_classes))
    scores += np.random.default_rng(seed).normal(scale=0.5, size=scores.shape)
    scores[np.arange(num_videos), labels] += strength
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    ids = tuple(f"v{video}" for video in range(num_videos))
    return Predictions(tuple("abcde"[:num_classes]), ids, labels, probabilities, np.arange(num_videos))


def test_the_difference_agrees_with_scikit_learn() -> None:
    """The difference is the second model's metric minus the first's, with the metrics computed by scikit-learn."""
    a, b = noisy(1, 1.0), noisy(2, 1.4)
    for metric, score in (("video_top1", accuracy_score), ("mean_class_accuracy", balanced_accuracy_score)):
        expected = score(b.labels, b.predicted) - score(a.labels, a.predicted)
        assert differences(a, b)[metric].difference == pytest.approx(expected)


def test_the_interval_is_that_of_scipys_paired_bootstrap() -> None:
    """The interval of the difference in top-1 agrees with scipy's own paired percentile bootstrap."""
    a, b = noisy(1, 1.0), noisy(2, 1.4)
    ours = differences(a, b, resamples=4000)["video_top1"]
    theirs = stats.bootstrap(
        (b.correct.astype(float), a.correct.astype(float)),
        lambda correct_b, correct_a, axis: correct_b.mean(axis=axis) - correct_a.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        vectorized=True,
        random_state=7,
    ).confidence_interval
    # One draw more or less in the tail shifts a bound by one video.
    assert ours.low == pytest.approx(theirs.low, abs=1.5 / 300)
    assert ours.high == pytest.approx(theirs.high, abs=1.5 / 300)
    assert ours.num_videos == 300


def test_a_model_does_not_differ_from_itself() -> None:
    """Both models get the same videos in each draw, so equal predictions have a difference of 0 in all of them."""
    a = noisy(1, 1.0)
    for difference in differences(a, dataclasses.replace(a)).values():
        assert (difference.difference, difference.low, difference.high) == (0, 0, 0)


def test_a_drop_is_the_loss_of_top1_with_its_paired_interval() -> None:
    """The drop is positive where the other order is worse, and its interval is that of the paired difference."""
    in_order, backwards = noisy(1, 1.4), noisy(2, 1.0)
    drops = order_drops(in_order, {"reversed": backwards, "shuffled": in_order})
    assert drops["reversed"]["video_top1"] == backwards.correct.mean() < in_order.correct.mean()
    expected = differences(backwards, in_order)["video_top1"]
    assert drops["reversed"]["drop"] == pytest.approx(in_order.correct.mean() - backwards.correct.mean())
    assert drops["reversed"]["interval"] == [expected.low, expected.high]
    assert (drops["shuffled"]["drop"], drops["shuffled"]["interval"]) == (0, [0, 0])


def test_pairing_narrows_the_interval() -> None:
    """For models that are wrong on the same hard videos, different draws for each would widen the interval."""
    a, b = noisy(1, 1.0), noisy(2, 1.4)
    paired = paired_differences(bootstrap(a, seed=0), bootstrap(b, seed=0))["video_top1"]
    unpaired = paired_differences(bootstrap(a, seed=0), bootstrap(b, seed=1))["video_top1"]
    assert paired.high - paired.low < 0.8 * (unpaired.high - unpaired.low)


@settings(max_examples=30, deadline=None)
@given(pairs_of_answers())
def test_swapping_the_models_changes_the_sign(pair: tuple[Predictions, Predictions]) -> None:
    """A minus B is the negative of B minus A, including the bounds, and McNemar's test is the same."""
    a, b = pair
    for forth, back in zip(differences(a, b, 50).values(), differences(b, a, 50).values(), strict=True):
        assert forth.difference == -back.difference
        assert forth.low == pytest.approx(-back.high)
        assert forth.high == pytest.approx(-back.low)
    forth_test, back_test = mcnemar(a.correct, b.correct), mcnemar(b.correct, a.correct)
    assert (forth_test.only_a, forth_test.p_value) == (back_test.only_b, back_test.p_value)


def test_only_video_level_metrics_are_compared() -> None:
    """The paired statistics are over videos, so they contain no clip-level metric."""
    a = answers([0, 1], [0, 1])
    assert tuple(differences(a, a)) == PAIRED_METRICS == ("video_top1", "video_top5", "mean_class_accuracy")


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 5), st.integers(0, 5))
def test_mcnemar_is_the_two_sided_sign_test(only_a: int, only_b: int, both: int, neither: int) -> None:
    """The p-value is the binomial tail, summed directly; videos on which both or neither are correct do not count."""
    correct_a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    correct_b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
    test = mcnemar(correct_a, correct_b)
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1)) / 2**discordant
    assert test.p_value == pytest.approx(min(1, 2 * tail))
    assert (test.both, test.only_a, test.only_b, test.neither) == (both, only_a, only_b, neither)


def test_mcnemar_separates_a_real_difference_from_noise() -> None:
    """Nine videos against one are unlikely by chance (22/1024); five against five are not."""
    nine, one = np.array([True] * 9 + [False]), np.array([False] * 9 + [True])
    assert mcnemar(nine, one).p_value == pytest.approx(22 / 1024)
    five = np.array([True] * 5 + [False] * 5)
    assert mcnemar(five, ~five).p_value == 1


def test_copies_of_videos_make_no_difference_significant() -> None:
    """Ten clips of each source give the interval and the p-value of the sources, not those of ten times as many."""
    a, b = random_predictions(30, 3, 1, seed=1), random_predictions(30, 3, 1, seed=2)
    b = dataclasses.replace(b, labels=a.labels)
    many_a, many_b = copied(a, 10), copied(b, 10)
    assert many_a.num_groups == 30
    once, often = (paired_differences(bootstrap(x), bootstrap(y)) for x, y in ((a, b), (many_a, many_b)))
    assert once["video_top1"].low == often["video_top1"].low and often["video_top1"].num_groups == 30
    p_value = mcnemar(a.correct, b.correct).p_value
    assert mcnemar(many_a.correct, many_b.correct, many_a.group_indices).p_value == pytest.approx(p_value)


def test_groups_are_kept_where_only_one_of_two_evaluations_has_them() -> None:
    """An evaluation by an earlier version, without groups, does not take them from the other."""
    new = copied(random_predictions(6, 2, 1), 2)
    old = dataclasses.replace(new, groups=())
    assert aligned(new, old, ("new", "old")).groups == aligned(old, new, ("old", "new")).groups == new.groups


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_corrects_upwards_and_keeps_the_order(p_values: list[float]) -> None:
    """Corrected values are between the raw ones and Bonferroni's, and in the same order as the raw ones."""
    corrected = holm(p_values)
    for raw, adjusted in zip(p_values, corrected, strict=True):
        assert raw <= adjusted <= 1
    assert corrected[int(np.argmin(p_values))] == min(1, len(p_values) * min(p_values))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()
    assert corrected[order[-1]] <= max(1e-300, *(len(p_values) * p for p in p_values))


def test_holm_by_hand() -> None:
    """The smallest is multiplied by the number of tests, the next by one less, and none is below its predecessor."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5]) == [0.5]
    assert holm([]) == []


def test_the_confusion_difference_by_hand_and_by_scikit_learn() -> None:
    """B's confusion matrix minus A's in videos and as shares of the row, with missing videos in the last column."""
    labels = [0, 0, 0, 0, 1, 1]
    a, b = answers(labels, [0, 1, 1, 2, 1, 1]), answers(labels, [0, 0, 1, MISSING, 1, 0])
    difference = confusion_difference(a, b)
    assert difference.counts.tolist() == [[1, -1, -1, 1], [1, -1, 0, 0], [0, 0, 0, 0]]
    assert difference.shares.tolist() == [[0.25, -0.25, -0.25, 0.25], [0.5, -0.5, 0, 0], [0, 0, 0, 0]]
    a, b = noisy(1, 1.0), noisy(2, 1.4)
    matrices = [sklearn_confusion(model.labels, model.predicted, labels=range(5)) for model in (a, b)]
    assert (confusion_difference(a, b).counts[:, :-1] == matrices[1] - matrices[0]).all()


def test_flips_by_hand() -> None:
    """Each video with a changed prediction is in one list, which starts with the largest change of the true class."""
    labels = [0, 0, 0, 0, 1, 1]
    a, b = answers(labels, [0, 1, 1, 1, 1, 0]), answers(labels, [1, 0, 2, 1, 1, MISSING])
    found = flips(a, b)
    assert [found.lost.tolist(), found.gained.tolist(), found.otherwise_wrong.tolist()] == [[0], [1], [5, 2]]


@settings(deadline=None)
@given(pairs_of_answers())
def test_flips_agree_with_mcnemar(pair: tuple[Predictions, Predictions]) -> None:
    """Lost and gained are McNemar's discordant videos; with the equally classified ones, no video is left."""
    a, b = pair
    found, test = flips(a, b), mcnemar(a.correct, b.correct)
    assert (len(found.lost), len(found.gained)) == (test.only_a, test.only_b)
    alike = int((a.predicted == b.predicted).sum())
    assert alike + len(found.lost) + len(found.gained) + len(found.otherwise_wrong) == len(a.labels)


def test_differences_in_recall_start_with_the_largest() -> None:
    """They are sorted by size, whatever the sign; a class without test videos has no recall and is left out."""
    labels = [0, 0, 0, 0, 1, 1]
    a, b = answers(labels, [0, 0, 1, 1, 1, 1]), answers(labels, [0, 0, 0, 1, 0, 0])
    rows = recall_differences(a, b)
    assert [(row.name, row.a, row.b, row.difference, row.support) for row in rows] == [
        ("b", 1.0, 0.0, -1.0, 2),
        ("a", 0.5, 0.75, 0.25, 4),
    ]


def test_the_order_of_videos_and_classes_does_not_matter() -> None:
    """Predictions of the same videos in another order, with several clips each, are compared video by video."""
    a, single = noisy(1, 1.0), noisy(2, 1.4)
    b = dataclasses.replace(  # two clips per video
        single,
        clip_probabilities=np.concatenate([single.clip_probabilities, a.clip_probabilities]),
        clip_videos=np.concatenate([single.clip_videos, a.clip_videos]),
        positions=np.random.default_rng(1).normal(size=(300, 2)),
    )
    assert b.positions is not None
    videos, classes = np.random.default_rng(0).permutation(300), np.array([3, 0, 4, 1, 2])
    shuffled = Predictions(
        tuple(b.classes[index] for index in classes),
        tuple(b.video_ids[index] for index in videos),
        np.argsort(classes)[b.labels[videos]],
        b.clip_probabilities[:, classes],
        np.argsort(videos)[b.clip_videos],
        positions=b.positions[videos],
    )
    back = aligned(shuffled, a, ("b", "a"))
    assert (back.classes, back.video_ids) == (a.classes, a.video_ids)
    assert (back.labels == b.labels).all() and (back.video_probabilities == b.video_probabilities).all()
    assert differences(a, back) == differences(a, b)
    assert back.positions is not None and (back.positions == b.positions).all()


def test_missing_videos_are_aligned() -> None:
    """A video without clips is still the same missing video in another order."""
    a = answers([0, 1, 2], [0, 1, 2])
    other = answers([2, 1, 0], [MISSING, 1, 0])
    other = dataclasses.replace(other, video_ids=("v2", "v1", "v0"))
    assert aligned(other, a, ("b", "a")).missing.tolist() == [False, False, True]


def test_different_test_lists_are_not_compared() -> None:
    """Different videos, classes or labels are an error that names both runs and counts the differences."""
    a, names = answers([0, 1, 2], [0, 1, 2]), ("the second", "the first")
    with pytest.raises(
        EvaluationError, match=r"the first and the second .* different videos: 1 is only in the first \(v2\)"
    ):
        aligned(answers([0, 1], [0, 1]), a, names)
    renamed = dataclasses.replace(a, classes=("a", "x", "y"))
    with pytest.raises(
        EvaluationError, match=r"classes: 2 are only in the first \(b, c\) and 2 are only in the second"
    ):
        aligned(renamed, a, names)
    relabelled = dataclasses.replace(a, labels=np.array([0, 2, 2]))
    with pytest.raises(
        EvaluationError, match="the first and the second have different labels for 1 of 3 videos: 'v1' is 'b'"
    ):
        aligned(relabelled, a, names)
