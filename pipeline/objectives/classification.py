"""Training loss and validation that all classifiers share."""

import numpy as np
from torch import nn
from torch.nn import functional as F

from pipeline.evaluation.predictions import Predictions
from pipeline.training.batches import Batch
from pipeline.training.objective import Outcome, Validation


def cross_entropy(model: nn.Module, batch: Batch, label_smoothing: float) -> Outcome:
    """Cross-entropy and number of correct answers of one batch."""
    scores = model(batch.inputs, batch.lengths)
    loss = F.cross_entropy(scores, batch.targets, label_smoothing=label_smoothing)
    return Outcome(loss, len(batch.targets), int((scores.argmax(1) == batch.targets).sum()))


def class_validation(predictions: Predictions) -> Validation:
    """Video-level top-1 and negative log-likelihood; the best epoch has the highest accuracy, then the lowest loss."""
    accuracy = float(predictions.correct.mean())
    loss = float(-np.log(predictions.true_probability.clip(1e-12)).mean())
    return Validation({"validation_accuracy": accuracy, "validation_loss": loss}, (-accuracy, loss))
