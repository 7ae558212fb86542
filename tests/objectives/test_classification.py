"""The temperature that is fitted on validation predictions."""

import dataclasses

import numpy as np
import pytest
from scipy.special import softmax

from pipeline.evaluation.metrics import negative_log_likelihood
from pipeline.evaluation.predictions import Predictions
from pipeline.objectives.classification import TEMPERATURES, class_validation, fit_temperature

NUM_VIDEOS, NUM_CLASSES = 2000, 5


def calibrated_scores(num_clips: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scores of clips ``[num_videos * num_clips, num_classes]``, and labels drawn from each video's probabilities."""
    rng = np.random.default_rng(0)
    scores = rng.normal(scale=2, size=(NUM_VIDEOS * num_clips, NUM_CLASSES))
    probabilities = softmax(scores, axis=1).reshape(NUM_VIDEOS, num_clips, NUM_CLASSES).mean(axis=1)
    return scores, np.array([rng.choice(NUM_CLASSES, p=row) for row in probabilities])


def predictions_of_scores(scores: np.ndarray, labels: np.ndarray) -> Predictions:
    clip_videos = np.repeat(np.arange(len(labels)), len(scores) // len(labels))
    video_ids = tuple(f"v{number}" for number in range(len(labels)))
    return Predictions(tuple("abcde"), video_ids, labels, softmax(scores, axis=1), clip_videos)


@pytest.mark.parametrize("num_clips", [1, 3])
@pytest.mark.parametrize("factor", [0.5, 1.0, 2.5])
def test_the_fit_recovers_the_factor_of_the_scores(factor: float, num_clips: int) -> None:
    """Scores that are too large by a factor get that temperature, whether a video has one clip or several."""
    scores, labels = calibrated_scores(num_clips)
    assert fit_temperature(predictions_of_scores(scores * factor, labels)) == pytest.approx(factor, rel=0.1)


def test_an_overconfident_classifier_is_made_less_certain() -> None:
    """Its temperature is above 1, the likelihood improves, and no clip's most probable class changes."""
    scores, labels = calibrated_scores()
    overconfident = predictions_of_scores(scores * 3, labels)
    temperature = fit_temperature(overconfident)
    calibrated = predictions_of_scores(scores * 3 / temperature, labels)
    before, after = negative_log_likelihood(overconfident), negative_log_likelihood(calibrated)
    assert temperature > 1
    assert before is not None and after is not None and after < before - 0.1
    assert (calibrated.clip_probabilities.argmax(1) == overconfident.clip_probabilities.argmax(1)).all()


def test_the_temperature_does_not_influence_the_rank_of_an_epoch() -> None:
    """Epochs are ranked by the loss at temperature 1 and by accuracy, in the order that the settings ask for."""
    scores, labels = calibrated_scores()
    predictions = predictions_of_scores(scores * 3, labels)
    loss, accuracy = negative_log_likelihood(predictions), predictions.correct.mean()
    assert class_validation(predictions, "accuracy").rank == (-accuracy, loss)
    validation = class_validation(predictions, "loss")
    assert validation.rank == (loss, -accuracy)
    assert validation.fit_temperature() == fit_temperature(predictions)


def test_without_a_mistake_nothing_is_rescaled() -> None:
    """If all validation videos are right, the temperature stays 1 instead of falling to its bound."""
    scores, _ = calibrated_scores()
    assert fit_temperature(predictions_of_scores(scores, scores.argmax(axis=1))) == 1


def test_the_temperature_is_bounded() -> None:
    """Labels that contradict the scores end at the upper bound, and probabilities of exactly 0 are accepted."""
    scores, labels = calibrated_scores()
    wrong = predictions_of_scores(scores, (scores.argmax(axis=1) + 1) % NUM_CLASSES)
    assert fit_temperature(wrong) == pytest.approx(TEMPERATURES[1], rel=0.01)
    certain = dataclasses.replace(wrong, clip_probabilities=np.eye(NUM_CLASSES)[labels])
    assert TEMPERATURES[0] <= fit_temperature(certain) <= TEMPERATURES[1]
