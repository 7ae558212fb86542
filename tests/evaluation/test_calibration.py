"""Calibration in pipeline/evaluation/metrics.py: whether confidence and accuracy agree."""

import math

import numpy as np
import pytest

from pipeline.evaluation.metrics import calibration, expected_calibration_error, metrics, negative_log_likelihood
from pipeline.evaluation.predictions import Predictions
from tests.evaluation.test_metrics import predictions_of, random_predictions


def two_class(confidences: list[float], correct: list[bool]) -> Predictions:
    """Videos of class 0 with these confidences, classified correctly or not."""
    rows = [[c, 1 - c] if good else [1 - c, c] for c, good in zip(confidences, correct, strict=True)]
    return predictions_of([0] * len(rows), list(enumerate(rows)), num_classes=2)


def test_a_case_worked_by_hand() -> None:
    """Three bins with gaps of 0.45, 0.65 and 0.1, of one, one and three videos: the error is their weighted mean."""
    predictions = two_class([0.55, 0.65, 0.9, 0.9, 0.9], [True, False, True, True, True])
    bins = calibration(predictions, num_bins=5)
    assert [(part.low, part.high, part.count) for part in bins if part.count] == [
        (pytest.approx(0.4), pytest.approx(0.6), 1),
        (pytest.approx(0.6), pytest.approx(0.8), 1),
        (pytest.approx(0.8), pytest.approx(1.0), 3),
    ]
    assert [part.accuracy for part in bins] == [None, None, 1.0, 0.0, 1.0]
    assert expected_calibration_error(bins) == pytest.approx((0.45 + 0.65 + 3 * 0.1) / 5)


def test_the_error_follows_its_definition() -> None:
    """On random predictions the error equals the sum over bins computed directly, and every video is in one bin."""
    predictions = random_predictions(num_videos=500, num_classes=6, num_clips=2)
    probabilities = predictions.video_probabilities
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == predictions.labels
    bins = calibration(predictions, num_bins=10)
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    assert expected_calibration_error(bins) == pytest.approx(expected)
    assert sum(part.count for part in bins) == 500


def test_certainty_and_missing_videos() -> None:
    """A confidence of exactly 1 is in the last bin; missing videos are in none; without videos the error is None."""
    bins = calibration(predictions_of([0, 1], [(0, [1.0, 0.0])], num_classes=2))
    assert [part.count for part in bins] == [0] * 14 + [1]
    assert expected_calibration_error(bins) == 0
    nothing = calibration(predictions_of([0, 1], [], num_classes=2))
    assert expected_calibration_error(nothing) is None


def test_the_likelihood_by_hand() -> None:
    """It is that of the mean over clips; a probability of 0 counts as 1e-12, and a missing video is left out."""
    clips = [(0, [0.5, 0.5]), (0, [1.0, 0.0]), (1, [1.0, 0.0])]
    predictions = predictions_of([0, 1, 1], clips, num_classes=2)
    assert negative_log_likelihood(predictions) == pytest.approx((-math.log(0.75) - math.log(1e-12)) / 2)
    assert negative_log_likelihood(predictions_of([0, 1], [], num_classes=2)) is None


def test_the_metrics_contain_both_figures() -> None:
    """metrics.json has the calibration error that the figure shows, in 15 bins, and the likelihood."""
    predictions = random_predictions(num_videos=50, num_classes=3, num_clips=2)
    results = metrics(predictions, resamples=1)
    assert results["expected_calibration_error"] == expected_calibration_error(calibration(predictions, num_bins=15))
    assert results["negative_log_likelihood"] == negative_log_likelihood(predictions)
