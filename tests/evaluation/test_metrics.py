"""pipeline/evaluation.py: the protocol, against scikit-learn and by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from sklearn.metrics import confusion_matrix as sklearn_confusion

from pipeline.evaluation.metrics import (
    METRICS,
    bootstrap_scores,
    class_scores,
    confused_pairs,
    confusion_matrix,
    metrics,
)
from pipeline.evaluation.predictions import (
    NOT_PREDICTED,
    EvaluationError,
    Predictions,
    true_class_ranks,
    video_predictions,
    video_probabilities,
)


def predictions_of(labels: list[int], clips: list[tuple[int, list[float]]], num_classes: int) -> Predictions:
    """``clips`` holds (video, probabilities) pairs."""
    return Predictions(
        classes=tuple("abcdefghij"[:num_classes]),
        video_ids=tuple(f"v{index}" for index in range(len(labels))),
        labels=np.array(labels),
        clip_probabilities=np.array([row for _, row in clips]).reshape(-1, num_classes),
        clip_videos=np.array([video for video, _ in clips], dtype=np.int64),
    )


def random_predictions(num_videos: int, num_classes: int, num_clips: int, seed: int = 0) -> Predictions:
    generator = np.random.default_rng(seed)
    labels = generator.integers(num_classes, size=num_videos)
    clip_videos = generator.permutation(np.repeat(np.arange(num_videos), num_clips))
    scores = generator.normal(size=(len(clip_videos), num_classes))
    scores[np.arange(len(clip_videos)), labels[clip_videos]] += 1.5
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    names = tuple(f"class{index}" for index in range(num_classes))
    return Predictions(names, tuple(f"v{i}" for i in range(num_videos)), labels, probabilities, clip_videos)


def scores_of(predictions: Predictions) -> dict[str, Any]:
    return metrics(predictions, resamples=10)


def test_the_metrics_agree_with_scikit_learn() -> None:
    """Where nothing is tied or missing, every metric is what scikit-learn computes from the same scores."""
    predictions = random_predictions(num_videos=300, num_classes=11, num_clips=4)
    labels, clip_labels = predictions.labels, predictions.labels[predictions.clip_videos]
    by_video, by_clip = video_probabilities(predictions), predictions.clip_probabilities
    scores = scores_of(predictions)
    assert scores["clip_top1"] == pytest.approx(accuracy_score(clip_labels, by_clip.argmax(axis=1)))
    assert scores["clip_top5"] == pytest.approx(top_k_accuracy_score(clip_labels, by_clip, k=5))
    assert scores["video_top1"] == pytest.approx(accuracy_score(labels, by_video.argmax(axis=1)))
    assert scores["video_top5"] == pytest.approx(top_k_accuracy_score(labels, by_video, k=5))
    assert scores["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(labels, by_video.argmax(axis=1)))
    assert (scores["num_clips"], scores["num_videos"], scores["num_classes"]) == (1200, 300, 11)
    assert (confusion_matrix(predictions)[:, :-1] == sklearn_confusion(labels, by_video.argmax(axis=1))).all()


def test_the_class_table_agrees_with_scikit_learn() -> None:
    """Precision, recall, F1 and support of every class are scikit-learn's, a class without test videos among them."""
    predictions = random_predictions(num_videos=120, num_classes=9, num_clips=2)
    tested = predictions.labels != 4
    chosen = np.flatnonzero(tested)
    kept = np.isin(predictions.clip_videos, chosen)
    predictions = Predictions(
        predictions.classes,
        tuple(predictions.video_ids[video] for video in chosen),
        predictions.labels[chosen],
        predictions.clip_probabilities[kept],
        np.searchsorted(chosen, predictions.clip_videos[kept]),
    )
    expected = precision_recall_fscore_support(
        predictions.labels, video_predictions(predictions), labels=range(9), average=None, zero_division=0
    )
    table = [(row.precision or 0, row.recall or 0, row.f1 or 0, row.support) for row in class_scores(predictions)]
    np.testing.assert_allclose(np.array(table).T, np.array(expected))
    assert class_scores(predictions)[4].recall is None


def by_the_words_of_the_protocol(labels: list[int], clips: list[tuple[int, list[float]]]) -> list[float]:
    """The metrics in the order of ``METRICS``, by plain loops over the definitions."""

    def rank(probabilities: list[float], label: int) -> int:
        own = probabilities[label]
        return sum(p > own or (p == own and place < label) for place, p in enumerate(probabilities))

    clip_ranks, video_ranks, by_class = [], [], dict[int, list[bool]]()
    for video, label in enumerate(labels):
        of_video = [probabilities for clip_video, probabilities in clips if clip_video == video]
        clip_ranks += [rank(probabilities, label) for probabilities in of_video] or [99]
        means = [sum(column) / len(of_video) for column in zip(*of_video, strict=True)]
        video_ranks.append(rank(means, label) if of_video else 99)
        by_class.setdefault(label, []).append(video_ranks[-1] == 0)

    def share(ranks: list[int], k: int) -> float:
        return sum(place < k for place in ranks) / len(ranks)

    mean_class = sum(sum(right) / len(right) for right in by_class.values()) / len(by_class)
    return [share(clip_ranks, 1), share(clip_ranks, 5), share(video_ranks, 1), share(video_ranks, 5), mean_class]


@settings(deadline=None)
@given(st.data())
def test_the_metrics_are_those_of_the_protocol(data: st.DataObject) -> None:
    """With ties, videos without clips, classes without videos and any number of clips, as plain loops count them."""
    num_classes = data.draw(st.integers(1, 8))
    labels = data.draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=8))
    # Parts of 16, and 1, 2 or 4 clips: sums and means are exact, so that a tie is a tie in any order of adding.
    cuts = st.lists(st.integers(0, 16), min_size=num_classes - 1, max_size=num_classes - 1).map(sorted)
    clips = [
        (video, (np.diff([0, *data.draw(cuts), 16]) / 16).tolist())
        for video in range(len(labels))
        for _ in range(data.draw(st.sampled_from([0, 1, 2, 4])))
    ]
    scores = scores_of(predictions_of(labels, clips, num_classes))
    assert [scores[name] for name in METRICS] == pytest.approx(by_the_words_of_the_protocol(labels, clips))


def test_a_tie_of_means_goes_to_the_first_class() -> None:
    """Two clips that contradict each other leave a video undecided: it is right for the class of the lower index only,
    as argmax has it."""
    contradicting = [[0.75, 0.25], [0.25, 0.75]]
    predictions = predictions_of([0, 1], [(video, row) for video in (0, 1) for row in contradicting], num_classes=2)
    scores = scores_of(predictions)
    assert video_predictions(predictions).tolist() == [0, 0]
    assert (scores["video_top1"], scores["mean_class_accuracy"], scores["clip_top1"]) == (0.5, 0.5, 0.5)


def test_a_case_worked_by_hand() -> None:
    """A video of one sure clip and two unsure wrong ones is right by the mean, while most of its clips are wrong."""
    predictions = predictions_of(
        labels=[0, 1, 1],
        clips=[(0, [0.9, 0.1]), (0, [0.4, 0.6]), (0, [0.45, 0.55]), (1, [0.2, 0.8]), (2, [0.7, 0.3])],
        num_classes=2,
    )
    assert video_probabilities(predictions)[0] == pytest.approx([1.75 / 3, 1.25 / 3])
    scores = scores_of(predictions)
    assert scores["clip_top1"] == pytest.approx(2 / 5)
    assert scores["video_top1"] == pytest.approx(2 / 3)
    assert scores["mean_class_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert scores["video_top5"] == 1  # fewer than five classes: every class is in the top five


def test_clips_of_different_number_per_video() -> None:
    """A video with many clips counts once at the video level and many times at the clip level."""
    clips = [(0, [1.0, 0.0])] * 8 + [(1, [1.0, 0.0])]
    scores = scores_of(predictions_of(labels=[0, 1], clips=clips, num_classes=2))
    assert (scores["clip_top1"], scores["video_top1"]) == (pytest.approx(8 / 9), 0.5)


def test_a_tie_never_helps() -> None:
    """A model that says the same for every class is right for one class only, at top-1 and at top-5."""
    predictions = predictions_of(list(range(10)), [(video, [0.1] * 10) for video in range(10)], num_classes=10)
    scores = scores_of(predictions)
    assert (scores["clip_top1"], scores["video_top1"], scores["mean_class_accuracy"]) == (0.1, 0.1, 0.1)
    assert (scores["clip_top5"], scores["video_top5"]) == (0.5, 0.5)
    assert true_class_ranks(np.full((3, 3), 1 / 3), np.array([0, 1, 2])).tolist() == [0, 1, 2]


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1), st.integers(0, 5))
def test_ranks_order_the_classes_as_a_stable_sort(rows: list[list[int]], label: int) -> None:
    """However many ties there are, the rank is the place in a stable descending sort, so rank 0 is argmax."""
    scores = np.array(rows, dtype=np.float64)
    ranks = true_class_ranks(scores, np.full(len(rows), label))
    order = np.argsort(-scores, axis=1, kind="stable")
    assert ranks.tolist() == [row.tolist().index(label) for row in order]
    assert ((ranks == 0) == (scores.argmax(axis=1) == label)).all()


def test_a_class_without_test_videos_is_left_out_of_the_mean() -> None:
    """Mean-class accuracy averages over the classes that were tested, not over all there are."""
    predictions = predictions_of([0, 0, 2], [(0, [1, 0, 0]), (1, [0, 1, 0]), (2, [0, 0, 1])], num_classes=3)
    assert scores_of(predictions)["mean_class_accuracy"] == pytest.approx((0.5 + 1) / 2)
    untested = class_scores(predictions)[1]
    assert (untested.recall, untested.support, untested.precision) == (None, 0, 0.0)


def test_a_missing_video_is_a_wrong_answer_at_every_level() -> None:
    """A video that could not be decoded lowers all metrics, even if it is of class 0, and makes no NaN."""
    predictions = predictions_of([0, 0, 1], [(1, [0.8, 0.2]), (2, [0.3, 0.7])], num_classes=2)
    scores = scores_of(predictions)
    assert [scores[name] for name in METRICS] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2 / 3, 0.75])
    assert (scores["num_missing"], scores["num_videos"], scores["num_clips"]) == (1, 3, 2)
    assert video_probabilities(predictions)[0].tolist() == [0, 0]
    assert video_predictions(predictions).tolist() == [NOT_PREDICTED, 0, 1]
    assert predictions.missing.tolist() == [True, False, False]
    assert confusion_matrix(predictions).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert class_scores(predictions)[0].recall == 0.5


def test_no_video_at_all_could_be_decoded() -> None:
    """Scores are plain zeros, not a division by zero."""
    predictions = predictions_of([0, 1], [], num_classes=2)
    scores = scores_of(predictions)
    assert [scores[name] for name in METRICS] == [0] * 5
    assert confusion_matrix(predictions).tolist() == [[0, 0, 1], [0, 0, 1]]
    assert [row.recall for row in class_scores(predictions)] == [0, 0]


def test_one_class_only() -> None:
    """With a single class everything is right, and no scikit-learn special case for two classes comes in."""
    predictions = predictions_of([0, 0], [(0, [1.0]), (1, [1.0])], num_classes=1)
    scores = scores_of(predictions)
    assert [scores[name] for name in METRICS] == [1] * 5
    assert confusion_matrix(predictions).tolist() == [[2, 0]]
    assert [(row.precision, row.recall, row.f1, row.support) for row in class_scores(predictions)] == [(1, 1, 1, 2)]


def test_confusions_precision_and_recall_by_hand() -> None:
    """Rows are the true class, columns the predicted one, and the tables name the right class as the confusion."""
    one_hot = np.eye(3).tolist()
    answers = [(0, 0), (0, 1), (0, 1), (0, 2), (1, 1), (1, 1), (2, 1)]  # (true, predicted)
    predictions = predictions_of(
        [true for true, _ in answers],
        [(video, one_hot[said]) for video, (_, said) in enumerate(answers)],
        num_classes=3,
    )
    assert confusion_matrix(predictions).tolist() == [[1, 2, 1, 0], [0, 2, 0, 0], [0, 1, 0, 0]]
    first, second, third = class_scores(predictions)
    assert [first.precision, first.recall, first.f1, first.support] == pytest.approx([1, 0.25, 0.4, 4])
    assert (first.confused_with, first.num_confused) == ("b", 2)
    assert [second.precision, second.recall] == pytest.approx([2 / 5, 1])
    assert second.confused_with is None
    assert (third.precision, third.recall, third.f1) == (0, 0, 0)
    pairs = [(pair.true, pair.predicted, pair.count, pair.share) for pair in confused_pairs(predictions)]
    assert pairs == [("a", "b", 2, 0.5), ("c", "b", 1, 1.0), ("a", "c", 1, 0.25)]


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    """An undefined precision is None, not a zero that looks measured."""
    predictions = predictions_of([0, 1], [(0, [1, 0]), (1, [1, 0])], num_classes=2)
    assert class_scores(predictions)[1].precision is None
    assert class_scores(predictions)[1].recall == 0


def test_the_bootstrap_draws_whole_videos() -> None:
    """Copying every clip ten times adds no information, so the clip-level interval must not shrink."""
    once = random_predictions(num_videos=200, num_classes=7, num_clips=1)
    copied = dataclasses.replace(
        once,
        clip_probabilities=np.repeat(once.clip_probabilities, 10, axis=0),
        clip_videos=np.repeat(once.clip_videos, 10),
    )
    assert metrics(copied)["intervals"] == metrics(once)["intervals"]
    assert metrics(copied)["intervals"]["clip_top1"] == metrics(copied)["intervals"]["video_top1"]  # type: ignore[index]


def test_the_interval_has_the_width_of_the_binomial() -> None:
    """For independent videos the percentile interval is close to the normal approximation of a proportion's."""
    scores = metrics(random_predictions(num_videos=2000, num_classes=5, num_clips=1), resamples=2000)
    share: Any = scores["video_top1"]
    low, high = scores["intervals"]["video_top1"]  # type: ignore[index]
    half_width = 1.96 * np.sqrt(share * (1 - share) / 2000)
    assert (share - low, high - share) == pytest.approx((half_width, half_width), rel=0.12)


def test_the_bootstrap_is_repeatable_and_paired() -> None:
    """One seed gives one interval; two models on one list see the same draws, so a model equals itself in each."""
    predictions = random_predictions(num_videos=50, num_classes=4, num_clips=2)
    other = random_predictions(num_videos=50, num_classes=4, num_clips=3, seed=1)
    assert metrics(predictions, seed=3) == metrics(predictions, seed=3)
    assert metrics(predictions, seed=3)["intervals"] != metrics(predictions, seed=4)["intervals"]
    difference = bootstrap_scores(predictions) - bootstrap_scores(dataclasses.replace(predictions))
    assert (difference == 0).all()
    assert bootstrap_scores(other).shape == (1000, 5)
    with pytest.raises(EvaluationError, match="resamples is 0"):
        metrics(predictions, resamples=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_probabilities_that_are_no_numbers_name_the_video(value: float) -> None:
    """A diverged model is an error that says which video showed it, never a silent wrong answer."""
    with pytest.raises(EvaluationError, match=r"video 'v1' \(row 2 .*NaN or infinite.*learning rate"):
        predictions_of([0, 1], [(0, [1, 0]), (0, [1, 0]), (1, [value, 0.5])], num_classes=2)


@pytest.mark.parametrize("row", [[2.0, -1.0], [0.5, 0.4], [3.1, -0.2]])
def test_scores_that_are_no_distribution_are_rejected(row: list[float]) -> None:
    """Averaging raw scores instead of probabilities would change the video-level result unseen."""
    with pytest.raises(EvaluationError, match="video 'v0'.*softmax"):
        predictions_of([0], [(0, row)], num_classes=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 2])}, r"labels\[1\] is 2, which is outside 0 .. 1"),
        ({"labels": np.array([0, -1])}, r"labels\[1\] is -1"),
        ({"labels": np.array([0.0, 1.0])}, "labels must be a vector of integers"),
        ({"labels": np.array([0])}, r"labels has shape \(1,\) for 2 videos"),
        ({"clip_videos": np.array([0, 5])}, r"clip_videos\[1\] is 5"),
        ({"clip_probabilities": np.ones((2, 1))}, "another list of classes"),
        ({"clip_probabilities": np.ones((1, 2)) / 2}, "clip_probabilities has shape"),
        ({"classes": ("a", "a")}, "classes holds 'a' twice"),
        ({"video_ids": ("v", "v")}, "video_ids holds 'v' twice"),
        ({"video_ids": (), "labels": np.array([], int), "clip_videos": np.array([], int)}, "nothing to evaluate"),
    ],
)
def test_parts_that_do_not_fit_together_are_rejected(change: dict[str, Any], message: str) -> None:
    """Each way in which labels, clips and names can disagree is an error that says what is wrong."""
    sound = predictions_of([0, 1], [(0, [1, 0]), (1, [0, 1])], num_classes=2)
    with pytest.raises(EvaluationError, match=message):
        dataclasses.replace(sound, **change)
