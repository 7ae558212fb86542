"""pipeline/evaluation/metrics.py: the protocol, against scikit-learn and by hand."""

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
    bootstrap_group_means,
    bootstrap_scores,
    class_scores,
    confused_pairs,
    confusion_matrix,
    metrics,
)
from pipeline.evaluation.predictions import NOT_PREDICTED, EvaluationError, Predictions, true_class_ranks


def predictions_of(labels: list[int], clips: list[tuple[int, list[float]]], num_classes: int) -> Predictions:
    """Predictions from clips given as (video, probabilities) pairs."""
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


def copied(predictions: Predictions, times: int) -> Predictions:
    """Every video ``times`` times; its copies are a group."""
    number = len(predictions.video_ids)
    return Predictions(
        predictions.classes,
        tuple(f"{name}-{copy}" for copy in range(times) for name in predictions.video_ids),
        np.tile(predictions.labels, times),
        np.tile(predictions.clip_probabilities, (times, 1)),
        np.concatenate([predictions.clip_videos + copy * number for copy in range(times)]),
        predictions.video_ids * times,
    )


def scores_of(predictions: Predictions) -> dict[str, Any]:
    return metrics(predictions, resamples=10)


def test_the_metrics_agree_with_scikit_learn() -> None:
    """Without ties and missing videos, every metric is what scikit-learn computes from the same scores."""
    predictions = random_predictions(num_videos=300, num_classes=11, num_clips=4)
    labels, clip_labels = predictions.labels, predictions.labels[predictions.clip_videos]
    by_video, by_clip = predictions.video_probabilities, predictions.clip_probabilities
    scores = scores_of(predictions)
    assert scores["clip_top1"] == pytest.approx(accuracy_score(clip_labels, by_clip.argmax(axis=1)))
    assert scores["clip_top5"] == pytest.approx(top_k_accuracy_score(clip_labels, by_clip, k=5))
    assert scores["video_top1"] == pytest.approx(accuracy_score(labels, by_video.argmax(axis=1)))
    assert scores["video_top5"] == pytest.approx(top_k_accuracy_score(labels, by_video, k=5))
    assert scores["mean_class_accuracy"] == pytest.approx(balanced_accuracy_score(labels, by_video.argmax(axis=1)))
    assert (scores["num_clips"], scores["num_videos"], scores["num_classes"]) == (1200, 300, 11)
    assert (confusion_matrix(predictions)[:, :-1] == sklearn_confusion(labels, by_video.argmax(axis=1))).all()


def test_the_class_table_agrees_with_scikit_learn() -> None:
    """Precision, recall, F1 and support of every class are scikit-learn's, also for a class without test videos."""
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
        predictions.labels, predictions.predicted, labels=range(9), average=None, zero_division=0
    )
    table = [(row.precision or 0, row.recall or 0, row.f1 or 0, row.support) for row in class_scores(predictions)]
    np.testing.assert_allclose(np.array(table).T, np.array(expected))
    assert class_scores(predictions)[4].recall is None


def reference_metrics(labels: list[int], clips: list[tuple[int, list[float]]]) -> list[float]:
    """The metrics in the order of ``METRICS``, computed with plain loops from their definitions."""

    def rank(probabilities: list[float], label: int) -> int:
        true = probabilities[label]
        return sum(p > true or (p == true and index < label) for index, p in enumerate(probabilities))

    clip_ranks, video_ranks, by_class = [], [], dict[int, list[bool]]()
    for video, label in enumerate(labels):
        rows = [probabilities for clip_video, probabilities in clips if clip_video == video]
        clip_ranks += [rank(probabilities, label) for probabilities in rows] or [99]
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        video_ranks.append(rank(means, label) if rows else 99)
        by_class.setdefault(label, []).append(video_ranks[-1] == 0)

    def share(ranks: list[int], k: int) -> float:
        return sum(rank < k for rank in ranks) / len(ranks)

    mean_class = sum(sum(correct) / len(correct) for correct in by_class.values()) / len(by_class)
    return [share(clip_ranks, 1), share(clip_ranks, 5), share(video_ranks, 1), share(video_ranks, 5), mean_class]


@settings(deadline=None)
@given(st.data())
def test_the_metrics_follow_the_protocol(data: st.DataObject) -> None:
    """With ties, missing videos, classes without videos and any number of clips, plain loops give the same metrics."""
    num_classes = data.draw(st.integers(1, 8))
    labels = data.draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=8))
    # With sixteenths and 1, 2 or 4 clips, sums and means are exact, so ties do not depend on the order of summation.
    cuts = st.lists(st.integers(0, 16), min_size=num_classes - 1, max_size=num_classes - 1).map(sorted)
    clips = [
        (video, (np.diff([0, *data.draw(cuts), 16]) / 16).tolist())
        for video in range(len(labels))
        for _ in range(data.draw(st.sampled_from([0, 1, 2, 4])))
    ]
    scores = scores_of(predictions_of(labels, clips, num_classes))
    assert [scores[name] for name in METRICS] == pytest.approx(reference_metrics(labels, clips))


def test_a_tie_of_means_goes_to_the_first_class() -> None:
    """Two contradicting clips make a tie, which is correct only for the class of the lower index, as in argmax."""
    contradicting = [[0.75, 0.25], [0.25, 0.75]]
    predictions = predictions_of([0, 1], [(video, row) for video in (0, 1) for row in contradicting], num_classes=2)
    scores = scores_of(predictions)
    assert predictions.predicted.tolist() == [0, 0]
    assert (scores["video_top1"], scores["mean_class_accuracy"], scores["clip_top1"]) == (0.5, 0.5, 0.5)


def test_a_case_worked_by_hand() -> None:
    """One confident clip outweighs two unsure wrong ones in the mean, while most of the video's clips are wrong."""
    predictions = predictions_of(
        labels=[0, 1, 1],
        clips=[(0, [0.9, 0.1]), (0, [0.4, 0.6]), (0, [0.45, 0.55]), (1, [0.2, 0.8]), (2, [0.7, 0.3])],
        num_classes=2,
    )
    assert predictions.video_probabilities[0] == pytest.approx([1.75 / 3, 1.25 / 3])
    scores = scores_of(predictions)
    assert scores["clip_top1"] == pytest.approx(2 / 5)
    assert scores["video_top1"] == pytest.approx(2 / 3)
    assert scores["mean_class_accuracy"] == pytest.approx((1 + 1 / 2) / 2)
    assert scores["video_top5"] == 1  # fewer than five classes: every class is in the top five


def test_videos_may_have_different_numbers_of_clips() -> None:
    """A video with many clips counts once at the video level and many times at the clip level."""
    clips = [(0, [1.0, 0.0])] * 8 + [(1, [1.0, 0.0])]
    scores = scores_of(predictions_of(labels=[0, 1], clips=clips, num_classes=2))
    assert (scores["clip_top1"], scores["video_top1"]) == (pytest.approx(8 / 9), 0.5)


def test_a_tie_never_helps() -> None:
    """A model that gives all classes the same probability is correct for the first class or the first five only."""
    predictions = predictions_of(list(range(10)), [(video, [0.1] * 10) for video in range(10)], num_classes=10)
    scores = scores_of(predictions)
    assert (scores["clip_top1"], scores["video_top1"], scores["mean_class_accuracy"]) == (0.1, 0.1, 0.1)
    assert (scores["clip_top5"], scores["video_top5"]) == (0.5, 0.5)
    assert true_class_ranks(np.full((3, 3), 1 / 3), np.array([0, 1, 2])).tolist() == [0, 1, 2]


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1), st.integers(0, 5))
def test_ranks_order_the_classes_as_a_stable_sort(rows: list[list[int]], label: int) -> None:
    """With any ties, the rank is the position in a stable descending sort, so rank 0 is argmax."""
    scores = np.array(rows, dtype=np.float64)
    ranks = true_class_ranks(scores, np.full(len(rows), label))
    order = np.argsort(-scores, axis=1, kind="stable")
    assert ranks.tolist() == [row.tolist().index(label) for row in order]
    assert ((ranks == 0) == (scores.argmax(axis=1) == label)).all()


def test_a_class_without_test_videos_is_left_out_of_the_mean() -> None:
    """Mean-class accuracy averages over the classes that have test videos, not over all classes."""
    predictions = predictions_of([0, 0, 2], [(0, [1, 0, 0]), (1, [0, 1, 0]), (2, [0, 0, 1])], num_classes=3)
    assert scores_of(predictions)["mean_class_accuracy"] == pytest.approx((0.5 + 1) / 2)
    untested = class_scores(predictions)[1]
    assert (untested.recall, untested.support, untested.precision) == (None, 0, 0.0)


def test_a_missing_video_is_a_wrong_answer_at_every_level() -> None:
    """A video that could not be decoded lowers all metrics, even if it is of class 0, and causes no NaN."""
    predictions = predictions_of([0, 0, 1], [(1, [0.8, 0.2]), (2, [0.3, 0.7])], num_classes=2)
    scores = scores_of(predictions)
    assert [scores[name] for name in METRICS] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2 / 3, 0.75])
    assert (scores["num_missing"], scores["num_videos"], scores["num_clips"]) == (1, 3, 2)
    assert predictions.video_probabilities[0].tolist() == [0, 0]
    assert predictions.predicted.tolist() == [NOT_PREDICTED, 0, 1]
    assert predictions.missing.tolist() == [True, False, False]
    assert confusion_matrix(predictions).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert class_scores(predictions)[0].recall == 0.5


def test_all_videos_may_be_missing() -> None:
    """Scores are zeros, without a division by zero."""
    predictions = predictions_of([0, 1], [], num_classes=2)
    scores = scores_of(predictions)
    assert [scores[name] for name in METRICS] == [0] * 5
    assert confusion_matrix(predictions).tolist() == [[0, 0, 1], [0, 0, 1]]
    assert [row.recall for row in class_scores(predictions)] == [0, 0]


def test_one_class_only() -> None:
    """With a single class everything is correct; scikit-learn's special case for two classes does not interfere."""
    predictions = predictions_of([0, 0], [(0, [1.0]), (1, [1.0])], num_classes=1)
    scores = scores_of(predictions)
    assert [scores[name] for name in METRICS] == [1] * 5
    assert confusion_matrix(predictions).tolist() == [[2, 0]]
    assert [(row.precision, row.recall, row.f1, row.support) for row in class_scores(predictions)] == [(1, 1, 1, 2)]


def test_confusions_precision_and_recall_by_hand() -> None:
    """Rows are true classes, columns predicted ones; the tables name the class that is confused most often."""
    one_hot = np.eye(3).tolist()
    answers = [(0, 0), (0, 1), (0, 1), (0, 2), (1, 1), (1, 1), (2, 1)]  # (true, predicted)
    predictions = predictions_of(
        [true for true, _ in answers],
        [(video, one_hot[predicted]) for video, (_, predicted) in enumerate(answers)],
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
    """An undefined precision is None, not 0, which would look like a measurement."""
    predictions = predictions_of([0, 1], [(0, [1, 0]), (1, [1, 0])], num_classes=2)
    assert class_scores(predictions)[1].precision is None
    assert class_scores(predictions)[1].recall == 0


def test_the_bootstrap_draws_whole_videos() -> None:
    """Ten copies of every clip add no information, so the clip-level interval must not shrink."""
    once = random_predictions(num_videos=200, num_classes=7, num_clips=1)
    copied = dataclasses.replace(
        once,
        clip_probabilities=np.repeat(once.clip_probabilities, 10, axis=0),
        clip_videos=np.repeat(once.clip_videos, 10),
    )
    assert metrics(copied)["intervals"] == metrics(once)["intervals"]
    assert metrics(copied)["intervals"]["clip_top1"] == metrics(copied)["intervals"]["video_top1"]  # type: ignore[index]


def test_copies_of_videos_do_not_narrow_the_intervals() -> None:
    """Five clips cut from each source say no more than one: the intervals over groups are those of the sources."""
    sources = random_predictions(num_videos=60, num_classes=4, num_clips=2)
    of_sources, of_copies = metrics(sources), metrics(copied(sources, 5))
    assert of_copies["intervals"] == of_sources["intervals"]
    assert (of_copies["num_groups"], of_copies["num_videos"]) == (60, 300)
    independent: Any = metrics(dataclasses.replace(copied(sources, 5), groups=()))["intervals"]
    low, high = independent["video_top1"]
    assert high - low < 0.6 * np.diff(of_sources["intervals"]["video_top1"]).item()  # type: ignore[index]


def test_videos_that_are_their_own_group_change_nothing() -> None:
    """Without groups, and with a group per video, the draws are those of single videos."""
    predictions = random_predictions(num_videos=50, num_classes=3, num_clips=2)
    singles = dataclasses.replace(predictions, groups=tuple(f"g{number}" for number in range(50)))
    assert (bootstrap_scores(singles) == bootstrap_scores(predictions)).all()
    drawn = np.random.default_rng(0).integers(50, size=50)
    assert bootstrap_scores(predictions)[0, 2] == pytest.approx(predictions.correct[drawn].mean())


def test_the_interval_has_the_width_of_a_binomial_interval() -> None:
    """For independent videos the percentile interval is close to the normal approximation for a proportion."""
    scores = metrics(random_predictions(num_videos=2000, num_classes=5, num_clips=1), resamples=2000)
    share: Any = scores["video_top1"]
    low, high = scores["intervals"]["video_top1"]  # type: ignore[index]
    half_width = 1.96 * np.sqrt(share * (1 - share) / 2000)
    assert (share - low, high - share) == pytest.approx((half_width, half_width), rel=0.12)


def test_the_bootstrap_is_repeatable_and_paired() -> None:
    """The interval depends only on the seed, and two models on one list of videos get the same draws."""
    predictions = random_predictions(num_videos=50, num_classes=4, num_clips=2)
    other = random_predictions(num_videos=50, num_classes=4, num_clips=3, seed=1)
    assert metrics(predictions, seed=3) == metrics(predictions, seed=3)
    assert metrics(predictions, seed=3)["intervals"] != metrics(predictions, seed=4)["intervals"]
    difference = bootstrap_scores(predictions) - bootstrap_scores(dataclasses.replace(predictions))
    assert (difference == 0).all()
    assert bootstrap_scores(other).shape == (1000, 5)
    with pytest.raises(EvaluationError, match="resamples is 0"):
        metrics(predictions, resamples=0)


def test_the_bootstrap_over_groups_draws_whole_groups() -> None:
    """Each draw is a mean over the videos of whole groups; videos that are alike within groups widen the interval."""
    values, groups = np.array([[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]]), ["a", "b", "b", "c", "c", "c"]
    drawn = {(a, b, c) for a in range(4) for b in range(4) for c in range(4) if a + b + c == 3}
    possible = {round((a + 3 * c) / (a + 2 * b + 3 * c), 9) for a, b, c in drawn}
    assert set(bootstrap_group_means(values, groups)[0].round(9)) == possible
    answers = np.repeat(np.arange(40) % 2, 5)[None].astype(float)
    of_groups = bootstrap_group_means(answers, [str(number // 5) for number in range(200)]).std()
    of_videos = bootstrap_group_means(answers, [str(number) for number in range(200)]).std()
    assert of_groups == pytest.approx(of_videos * np.sqrt(5), rel=0.15)


def test_the_bootstrap_over_groups_is_paired() -> None:
    """All rows get the same groups, so two rows with a constant difference keep it in every draw."""
    values = np.random.default_rng(0).random(30)
    draws = bootstrap_group_means(np.array([values, values + 0.25]), [str(number // 3) for number in range(30)])
    assert draws.shape == (2, 1000) and draws[1] - draws[0] == pytest.approx(0.25)
    alone = bootstrap_group_means(values[None], [str(number // 3) for number in range(30)])
    assert alone[0] == pytest.approx(draws[0])
