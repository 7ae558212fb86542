"""pipeline/labels/probabilities.py: class probabilities from models that saw no video of the group."""

import numpy as np
import pytest

from data.records import DatasetError
from pipeline.labels.probabilities import fold_numbers, probabilities_out_of_fold, video_vectors
from pipeline.store.packed import PackedFeatures
from tests.helpers.synthetic import make_features, make_record


def test_a_vector_is_the_mean_of_each_third_in_order() -> None:
    """The thirds keep the order of the frames; a video with fewer frames than parts still fills each part."""
    rising = np.eye(6)[[0, 0, 1, 1, 2, 2]]
    features = {"a": [make_features(rising)], "b": [make_features(rising[::-1])], "c": [make_features(rising[:1])]}
    packed = PackedFeatures.in_memory(features)
    a, b, c = video_vectors(packed, [make_record(name) for name in "abc"])
    assert a.reshape(3, 6) == pytest.approx(np.eye(6)[:3], abs=1e-5)
    assert b.reshape(3, 6) == pytest.approx(np.eye(6)[[2, 1, 0]], abs=1e-5)
    assert c.reshape(3, 6) == pytest.approx(np.eye(6)[[0, 0, 0]], abs=1e-5)


def test_folds_never_divide_a_group_and_are_as_many_as_groups_allow() -> None:
    """No video is judged by a model of its group; one group is too few, and the message says so."""
    videos = [make_record(f"v{number}", number % 2, f"g{number // 4}") for number in range(16)]
    folds = fold_numbers(videos, 10)
    assert sorted(set(folds.tolist())) == [0, 1, 2, 3]
    assert all(len({folds[number] for number in range(group, group + 4)}) == 1 for group in range(0, 16, 4))
    with pytest.raises(DatasetError, match="in 1 groups"):
        fold_numbers(videos[:4], 10)


def test_no_video_is_judged_by_its_own_label() -> None:
    """Changing the labels of one fold changes nothing in that fold's own probabilities, but those of the others."""
    rng = np.random.default_rng(0)
    labels, folds = np.arange(60) % 3, np.arange(60) // 15
    vectors = (np.eye(3)[labels] + 0.5 * rng.normal(size=(60, 3))).astype(np.float32)
    before = probabilities_out_of_fold(vectors, labels, folds, 3)
    assert before.sum(axis=1) == pytest.approx(1) and (before.argmax(axis=1) == labels).mean() > 0.7
    changed = np.where(folds == 0, (labels + 1) % 3, labels)
    after = probabilities_out_of_fold(vectors, changed, folds, 3)
    assert np.array_equal(after[folds == 0], before[folds == 0])
    assert not np.allclose(after[folds != 0], before[folds != 0])


def test_a_class_that_one_fold_alone_has_is_not_judged() -> None:
    """Its videos would look wrong only because no model has seen their class."""
    labels, folds = np.array([0, 1, 0, 1, 2, 2]), np.array([0, 0, 1, 1, 1, 1])
    vectors = np.eye(3, dtype=np.float32)[labels]
    probabilities = probabilities_out_of_fold(vectors, labels, folds, 3)
    assert np.isnan(probabilities).all(axis=1).tolist() == [False] * 4 + [True] * 2
