"""Training loss, validation and calibration that all classifiers share."""

import math
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.evaluation.metrics import negative_log_likelihood
from pipeline.evaluation.predictions import Predictions
from pipeline.training.batches import Batch
from pipeline.training.objective import Outcome, Validation

# With few validation videos, nearly all right, the likelihood hardly limits how far T falls. If the probabilities say
# nothing about the classes, it rises without end. The bounds prevent certainty and uniform probabilities.
TEMPERATURES = (0.25, 4.0)
_SMALLEST = np.finfo(np.float64).tiny  # keeps logarithms finite


def cross_entropy(model: nn.Module, batch: Batch, label_smoothing: float) -> Outcome:
    """Cross-entropy and number of correct answers of one batch."""
    scores = model(batch.inputs, batch.lengths)
    loss = F.cross_entropy(scores, batch.targets, label_smoothing=label_smoothing)
    return Outcome(loss, len(batch.targets), int((scores.argmax(1) == batch.targets).sum()))


def class_validation(predictions: Predictions, best_by: Literal["loss", "accuracy"]) -> Validation:
    """Video-level top-1 and negative log-likelihood, both at temperature 1, and the rank that ``best_by`` gives."""
    accuracy, loss = float(predictions.correct.mean()), negative_log_likelihood(predictions)
    assert loss is not None, "validation tables contain no missing videos"
    metrics = {"validation_accuracy": accuracy, "validation_loss": loss}
    rank = (loss, -accuracy) if best_by == "loss" else (-accuracy, loss)
    return Validation(metrics, rank, partial(fit_temperature, predictions))


def fit_temperature(predictions: Predictions) -> float:
    """The temperature, within ``TEMPERATURES``, that minimises the negative log-likelihood of the videos.

    Clip scores are divided by it before the softmax, and a video's probabilities are the mean over its clips, as in
    evaluation. Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2.

    If all videos are right, the result is 1: without a mistake, the likelihood would only ask for more confidence.

    Args:
        predictions: at temperature 1. No video may be missing.
    """
    if predictions.correct.all():
        return 1.0
    scores = torch.from_numpy(predictions.clip_probabilities).float().clamp_min_(torch.finfo(torch.float32).tiny).log_()
    scores -= scores.amax(1, keepdim=True)  # so that no sum of exponentials is zero
    exponentials = torch.empty_like(scores)
    videos = predictions.clip_videos
    rows, labels = np.arange(len(videos)), predictions.labels[videos]
    num_clips = np.bincount(videos)

    def loss(log_temperature: float) -> float:
        torch.mul(scores, math.exp(-log_temperature), out=exponentials).exp_()
        of_videos = np.bincount(videos, exponentials[rows, labels] / exponentials.sum(1)) / num_clips
        # The reported loss is clipped at 1e-12. Its flat parts could stop the search early.
        return float(-np.log(of_videos.clip(_SMALLEST)).mean())

    from scipy.optimize import minimize_scalar  # here, because it takes half a second

    low, high = TEMPERATURES
    found = minimize_scalar(loss, bounds=(math.log(low), math.log(high)), method="bounded", options={"xatol": 1e-3})
    return math.exp(found.x)
