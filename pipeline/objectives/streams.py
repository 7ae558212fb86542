"""Loss and validation on windows of streams, which have a target at every step."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch.nn import functional as F

from models.classifier import SequenceClassifier
from pipeline.training.batches import Batch
from pipeline.training.objective import Outcome, Validation
from pipeline.training.streams import NO_CLASS


def stepwise_cross_entropy(model: SequenceClassifier, batch: Batch, label_smoothing: float = 0.0) -> Outcome:
    """Cross-entropy over all steps of one batch, and the number of correct answers outside pauses.

    In a pause no class is right: all of them have the same target probability.
    """
    scores, _ = model.scores_over_time(batch.inputs)
    num_classes = scores.shape[-1]
    is_action = batch.targets != NO_CLASS
    targets = F.one_hot(batch.targets.clamp(min=0), num_classes).to(scores.dtype)
    targets = torch.where(is_action.unsqueeze(-1), targets, 1 / num_classes)
    loss = F.cross_entropy(scores.flatten(0, 1), targets.flatten(0, 1), label_smoothing=label_smoothing)
    return Outcome(loss, max(1, int(is_action.sum())), int((scores.argmax(-1) == batch.targets).sum()))


@torch.inference_mode()
def stream_validation(
    model: SequenceClassifier, batches: Iterable[Batch], device: torch.device, best_by: Literal["loss", "accuracy"]
) -> Validation:
    """Loss over all steps, accuracy outside pauses, and the rank that ``best_by`` gives.

    No temperature is fitted: the loss at every step, pauses included, is what calibrates the probabilities.
    """
    model.eval()
    loss, num_steps, num_correct, num_labelled = 0.0, 0, 0, 0
    for batch in batches:
        outcome, size = stepwise_cross_entropy(model, batch.to(device)), batch.targets.numel()
        loss += float(outcome.loss) * size
        num_steps += size
        num_correct += outcome.num_correct or 0
        num_labelled += outcome.size
    loss, accuracy = loss / num_steps, num_correct / num_labelled
    rank = (loss, -accuracy) if best_by == "loss" else (-accuracy, loss)
    return Validation({"validation_accuracy": accuracy, "validation_loss": loss}, rank)
