"""A classifier's probabilities for every clip of a list of videos."""

from collections.abc import Sequence

import numpy as np
import torch

from data.records import VideoRecord
from models.recurrent import SequenceClassifier
from pipeline.batches import ClipSampling, FeatureTable, evaluation_batches
from pipeline.evaluation import Predictions


@torch.inference_mode()
def predict(
    model: SequenceClassifier,
    table: FeatureTable,
    clips: ClipSampling,
    classes: tuple[str, ...],
    device: torch.device,
    missing: Sequence[VideoRecord] = (),
    batch_size: int = 256,
) -> Predictions:
    """Score the evenly spread clips of every video, in all its views.

    Args:
        missing: videos of the list that have no features; they are counted as wrong answers.

    Returns:
        Predictions over the table's videos followed by ``missing``; clips in no particular order.
    """
    model.eval()
    probabilities, videos = [], []
    for batch in evaluation_batches(table, clips, batch_size):
        on_device = batch.to(device)
        scores = model(on_device.features, on_device.lengths)
        probabilities.append(scores.double().softmax(1).cpu().numpy())
        videos.append(batch.videos.numpy())
    records = (*table.records, *missing)
    return Predictions(
        classes=classes,
        video_ids=tuple(record.video_id for record in records),
        labels=np.array([record.label for record in records], dtype=np.int64),
        clip_probabilities=np.concatenate(probabilities),
        clip_videos=np.concatenate(videos),
    )
