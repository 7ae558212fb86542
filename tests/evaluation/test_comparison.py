"""pipeline/comparison.py: paired statistics, against scipy, scikit-learn and by hand."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from pipeline.evaluation.comparison import (
    PAIRED_METRICS,
    ComparisonError,
    VideoPredictions,
    aligned,
    bootstrap,
    confusion_difference,
    difference_of,
    flips,
    holm,
    mcnemar,
    paired_difference,
    read_video_predictions,
    recall_differences,
    video_level,
)
from pipeline.evaluation.predictions import Predictions
from pipeline.reports.report import write_evaluation
from tests.evaluation.test_metrics import random_predictions

MISSING = -1


def answers(name: str, labels: list[int], predicted: list[int], num_classes: int = 3) -> VideoPredictions:
    """A model that is sure of each answer; ``MISSING`` for a video that could not be decoded."""
    probabilities = np.zeros((len(labels), num_classes))
    for video, answer in enumerate(predicted):
        if answer != MISSING:
            probabilities[video] = 0.25 / (num_classes - 1)
            probabilities[video, answer] = 0.75
    return VideoPredictions(
        name=name,
        classes=tuple("abcdefghij"[:num_classes]),
        video_ids=tuple(f"v{video}" for video in range(len(labels))),
        labels=np.array(labels),
        probabilities=probabilities,
        missing=np.array(predicted) == MISSING,
    )


@st.composite
def pairs_of_answers(draw: st.DrawFn) -> tuple[VideoPredictions, VideoPredictions]:
    """Two models' answers to one to twelve videos of three classes."""
    num_videos = draw(st.integers(1, 12))
    labels = draw(st.lists(st.integers(0, 2), min_size=num_videos, max_size=num_videos))
    said = st.lists(st.integers(MISSING, 2), min_size=num_videos, max_size=num_videos)
    return answers("first", labels, draw(said)), answers("second", labels, draw(said))


def noisy(seed: int, strength: float, num_videos: int = 300, num_classes: int = 5) -> VideoPredictions:
    """Models of different ``strength`` and ``seed`` on the same videos, equally hard for all of them."""
    shared = np.random.default_rng(0)
    labels = shared.integers(num_classes, size=num_videos)
    scores = shared.normal(size=(num_videos, num_classes))
    scores += np.random.default_rng(seed).normal(scale=0.5, size=scores.shape)
    scores[np.arange(num_videos), labels] += strength
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    ids = tuple(f"v{video}" for video in range(num_videos))
    return VideoPredictions(
        f"seed {seed}", tuple("abcde"[:num_classes]), ids, labels, probabilities, np.zeros(num_videos, dtype=bool)
    )


def test_the_difference_is_that_of_the_metrics_of_scikit_learn() -> None:
    """What is reported as difference is the second model's metric minus the first's, in each metric."""
    a, b = noisy(1, 1.0), noisy(2, 1.4)
    for metric, score in (("video_top1", accuracy_score), ("mean_class_accuracy", balanced_accuracy_score)):
        expected = score(b.labels, b.predicted) - score(a.labels, a.predicted)
        assert paired_difference(a, b, metric).difference == pytest.approx(expected)


def test_the_interval_is_that_of_scipys_paired_bootstrap() -> None:
    """The interval of the difference in top-1 agrees with scipy's own paired percentile bootstrap."""
    a, b = noisy(1, 1.0), noisy(2, 1.4)
    ours = paired_difference(a, b, "video_top1", resamples=4000)
    theirs = stats.bootstrap(
        (b.right.astype(float), a.right.astype(float)),
        lambda of_b, of_a, axis: of_b.mean(axis=axis) - of_a.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=4000,
        vectorized=True,
        random_state=7,
    ).confidence_interval
    # One draw more or less in the tail moves a bound by one video.
    assert ours.low == pytest.approx(theirs.low, abs=1.5 / 300)
    assert ours.high == pytest.approx(theirs.high, abs=1.5 / 300)
    assert ours.num_videos == 300


def test_a_model_differs_from_itself_by_nothing() -> None:
    """Both models get the same videos in each draw, so that equal answers differ by 0 in all of them."""
    a = noisy(1, 1.0)
    for metric in PAIRED_METRICS:
        difference = paired_difference(a, dataclasses.replace(a, name="again"), metric)
        assert (difference.difference, difference.low, difference.high) == (0, 0, 0)


def test_pairing_narrows_the_interval() -> None:
    """Models that err on the same hard videos: with other videos drawn for each, the interval would be wider."""
    a, b = noisy(1, 1.0), noisy(2, 1.4)
    paired = difference_of(bootstrap(a, seed=0), bootstrap(b, seed=0), "video_top1")
    unpaired = difference_of(bootstrap(a, seed=0), bootstrap(b, seed=1), "video_top1")
    assert paired == paired_difference(a, b)
    assert paired.high - paired.low < 0.8 * (unpaired.high - unpaired.low)


@settings(max_examples=30, deadline=None)
@given(pairs_of_answers())
def test_swapping_the_models_changes_the_sign(pair: tuple[VideoPredictions, VideoPredictions]) -> None:
    """A minus B is minus B minus A, bounds included, and McNemar's test is the same."""
    a, b = pair
    for metric in PAIRED_METRICS:
        forth, back = paired_difference(a, b, metric, 50), paired_difference(b, a, metric, 50)
        assert forth.difference == -back.difference
        assert forth.low == pytest.approx(-back.high)
        assert forth.high == pytest.approx(-back.low)
    forth_test, back_test = mcnemar(a.right, b.right), mcnemar(b.right, a.right)
    assert (forth_test.only_a, forth_test.p_value) == (back_test.only_b, back_test.p_value)


def test_only_metrics_of_whole_videos_are_compared() -> None:
    """Clip-level accuracy of one row per video would be a number without meaning: it is refused by name."""
    a = answers("a", [0, 1], [0, 1])
    with pytest.raises(ComparisonError, match="'clip_top1' is not compared by video; there are video_top1"):
        paired_difference(a, a, "clip_top1")


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 5), st.integers(0, 5))
def test_mcnemar_is_the_two_sided_sign_test(only_a: int, only_b: int, both: int, neither: int) -> None:
    """The p-value is the binomial tail, counted out, and videos that both or neither have right are not in it."""
    right_a = np.repeat([True, False, True, False], [only_a, only_b, both, neither])
    right_b = np.repeat([False, True, True, False], [only_a, only_b, both, neither])
    test = mcnemar(right_a, right_b)
    discordant = only_a + only_b
    tail = sum(math.comb(discordant, k) for k in range(min(only_a, only_b) + 1)) / 2**discordant
    assert test.p_value == pytest.approx(min(1, 2 * tail))
    assert (test.both, test.only_a, test.only_b, test.neither) == (both, only_a, only_b, neither)


def test_mcnemar_tells_a_real_difference_from_noise() -> None:
    """Nine videos against one is unlikely chance (22/1024), five against five is chance."""
    nine, one = np.array([True] * 9 + [False]), np.array([False] * 9 + [True])
    assert mcnemar(nine, one).p_value == pytest.approx(22 / 1024)
    five = np.array([True] * 5 + [False] * 5)
    assert mcnemar(five, ~five).p_value == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_corrects_upwards_and_keeps_the_order(p_values: list[float]) -> None:
    """Corrected values never fall, lie between the raw value and Bonferroni's, and keep the order of the raw ones."""
    corrected = holm(p_values)
    for raw, adjusted in zip(p_values, corrected, strict=True):
        assert raw <= adjusted <= 1
    assert corrected[int(np.argmin(p_values))] == min(1, len(p_values) * min(p_values))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()
    assert corrected[order[-1]] <= max(1e-300, *(len(p_values) * p for p in p_values))


def test_holm_by_hand() -> None:
    """The smallest counts as often as there are tests, the next once less, and none falls below one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5]) == [0.5]
    assert holm([]) == []


def test_the_matrix_of_differences_by_hand_and_by_scikit_learn() -> None:
    """B's confusion matrix minus A's in videos and as shares of the row, missing videos in the last column."""
    labels = [0, 0, 0, 0, 1, 1]
    a, b = answers("a", labels, [0, 1, 1, 2, 1, 1]), answers("b", labels, [0, 0, 1, MISSING, 1, 0])
    difference = confusion_difference(a, b)
    assert difference.counts.tolist() == [[1, -1, -1, 1], [1, -1, 0, 0], [0, 0, 0, 0]]
    assert difference.shares.tolist() == [[0.25, -0.25, -0.25, 0.25], [0.5, -0.5, 0, 0], [0, 0, 0, 0]]
    a, b = noisy(1, 1.0), noisy(2, 1.4)
    matrices = [sklearn_confusion(model.labels, model.predicted, labels=range(5)) for model in (a, b)]
    assert (confusion_difference(a, b).counts[:, :-1] == matrices[1] - matrices[0]).all()


def test_flips_by_hand() -> None:
    """Each video whose answer changed stands in one list; the one whose true class changed most comes first."""
    labels = [0, 0, 0, 0, 1, 1]
    a, b = answers("a", labels, [0, 1, 1, 1, 1, 0]), answers("b", labels, [1, 0, 2, 1, 1, MISSING])
    found = flips(a, b)
    assert [found.lost.tolist(), found.gained.tolist(), found.otherwise_wrong.tolist()] == [[0], [1], [5, 2]]


@settings(deadline=None)
@given(pairs_of_answers())
def test_flips_agree_with_mcnemar(pair: tuple[VideoPredictions, VideoPredictions]) -> None:
    """Lost and gained are McNemar's discordant videos, and with those answered alike all videos are accounted for."""
    a, b = pair
    found, test = flips(a, b), mcnemar(a.right, b.right)
    assert (len(found.lost), len(found.gained)) == (test.only_a, test.only_b)
    alike = int((a.predicted == b.predicted).sum())
    assert alike + len(found.lost) + len(found.gained) + len(found.otherwise_wrong) == len(a.labels)


def test_differences_in_recall_come_the_largest_first() -> None:
    """By size and not by sign; a class without test videos has no recall and is left out."""
    labels = [0, 0, 0, 0, 1, 1]
    a, b = answers("a", labels, [0, 0, 1, 1, 1, 1]), answers("b", labels, [0, 0, 0, 1, 0, 0])
    rows = recall_differences(a, b)
    assert [(row.name, row.a, row.b, row.difference, row.support) for row in rows] == [
        ("b", 1.0, 0.0, -1.0, 2),
        ("a", 0.5, 0.75, 0.25, 4),
    ]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    """An evaluation's files hold the answers that it was made of: probabilities to nine digits, and who is missing."""
    predictions = random_predictions(num_videos=60, num_classes=7, num_clips=3)
    kept = predictions.clip_videos != 5
    predictions = dataclasses.replace(
        predictions,
        clip_probabilities=predictions.clip_probabilities[kept],
        clip_videos=predictions.clip_videos[kept],
    )
    written = write_evaluation(tmp_path / "my run" / "evaluation", predictions, {})
    read = read_video_predictions(tmp_path / "my run" / "evaluation")
    in_memory = video_level(predictions, "in memory")
    assert read.name == "my run"
    assert (read.classes, read.video_ids) == (in_memory.classes, in_memory.video_ids)
    assert (read.labels == in_memory.labels).all()
    assert np.flatnonzero(read.missing).tolist() == [5]
    np.testing.assert_allclose(read.probabilities, in_memory.probabilities, rtol=1e-8, atol=0)
    assert read.right.mean() == written["video_top1"]
    assert paired_difference(read, in_memory, "mean_class_accuracy").difference == 0


def test_any_name_can_be_read_back(tmp_path: Path) -> None:
    """Commas, quotes, line breaks and a class that begins like a column's name do not mix up the columns."""
    classes = ('a,"b"', "p:a\nb")
    predictions = Predictions(classes, ("x,\ny", "z"), np.array([1, 0]), np.array([[0.25, 0.75]] * 2), np.array([0, 1]))
    write_evaluation(tmp_path, predictions, {})
    read = read_video_predictions(tmp_path)
    assert (read.classes, read.video_ids) == (classes, ("x,\ny", "z"))
    assert read.predicted.tolist() == [1, 1]


@pytest.fixture(scope="module")
def two_videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of a sound predictions.csv."""
    folder = tmp_path_factory.mktemp("evaluation")
    probabilities = np.array([[0.75, 0.25], [0.25, 0.75]])
    write_evaluation(
        folder, Predictions(("sit", "stand"), ("v0", "v1"), np.array([0, 0]), probabilities, np.arange(2)), {}
    )
    return (folder / "predictions.csv").read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "is empty or no text"),
        (lambda text: text[:-12], "record 3: 10 cells under 12 columns"),
        (lambda text: text.replace("num_clips", "clips"), "lacks the columns num_clips"),
        (lambda text: text.replace("p:", "q:"), "lacks the columns p:CLASS"),
        (lambda text: text.replace("0.75\n", "0.7x\n"), "is damaged: could not convert"),
        (lambda text: text.replace("0.75\n", "nan\n"), "video 'v1' .* NaN or infinite"),
        (lambda text: text.replace("0.75\n", "0.5\n"), "video 'v1' .* no distribution"),
        (lambda text: text.replace("v0,sit", "v0,swim"), "the label 'swim' has no column"),
        (lambda text: text.replace("v0,sit,sit", "v0,sit,stand"), "'v0' is said to be predicted as 'stand'"),
        (lambda text: text.replace("v1,", "v0,"), "'v0' twice"),
        (lambda text: text.splitlines()[0] + "\n", "video_ids is empty"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, two_videos: str, damage: Callable[[str], str], message: str) -> None:
    """Whatever is wrong with predictions.csv, the error says where, what, and which command mends it."""
    folder = tmp_path / "run" / "evaluation"
    folder.mkdir(parents=True)
    path = folder / "predictions.csv"
    path.write_text(two_videos)
    assert read_video_predictions(folder).video_ids == ("v0", "v1")
    damaged = damage(two_videos)
    assert damaged != two_videos
    path.write_text(damaged)
    with pytest.raises(ComparisonError, match=message) as caught:
        read_video_predictions(folder)
    assert str(path) in str(caught.value)
    assert f"python evaluate.py {tmp_path / 'run'}" in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    """A run that was never evaluated, or a file that is no text, is an error for the user and not a traceback."""
    with pytest.raises(ComparisonError, match="there is no .*predictions.csv, so nothing to compare. Evaluate the run"):
        read_video_predictions(tmp_path)
    (tmp_path / "predictions.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ComparisonError, match="no text"):
        read_video_predictions(tmp_path)


def test_the_order_of_videos_and_classes_does_not_matter() -> None:
    """Lists of the same videos in another order are compared video by video all the same."""
    a, b = noisy(1, 1.0), noisy(2, 1.4)
    videos, classes = np.random.default_rng(0).permutation(300), np.array([3, 0, 4, 1, 2])
    shuffled = VideoPredictions(
        b.name,
        tuple(b.classes[place] for place in classes),
        tuple(b.video_ids[place] for place in videos),
        np.argsort(classes)[b.labels[videos]],
        b.probabilities[videos][:, classes],
        b.missing[videos],
    )
    back = aligned(shuffled, like=a)
    assert (back.classes, back.video_ids) == (a.classes, a.video_ids)
    assert (back.labels == b.labels).all() and (back.probabilities == b.probabilities).all()
    assert paired_difference(a, shuffled) == paired_difference(a, b)


def test_different_test_lists_are_not_compared() -> None:
    """Different videos, classes or labels are an error that names both runs and counts what differs."""
    a = answers("the first", [0, 1, 2], [0, 1, 2])
    shorter = answers("the second", [0, 1], [0, 1])
    with pytest.raises(
        ComparisonError, match=r"the first and the second .* different videos: 1 is only in the first \(v2\)"
    ):
        paired_difference(a, shorter)
    renamed = dataclasses.replace(a, name="the second", classes=("a", "x", "y"))
    with pytest.raises(
        ComparisonError, match=r"classes: 2 are only in the first \(b, c\) and 2 are only in the second"
    ):
        paired_difference(a, renamed)
    relabelled = dataclasses.replace(a, name="the second", labels=np.array([0, 2, 2]))
    with pytest.raises(
        ComparisonError, match="the first and the second give 1 of 3 videos different labels: 'v1' is 'b'"
    ):
        paired_difference(a, relabelled)
