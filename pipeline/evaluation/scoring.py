"""A classifier's probabilities: for every clip of a list of videos, and after each frame of whole videos."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from data.records import VideoRecord
from models.classifier import SequenceClassifier
from pipeline.evaluation.predictions import Predictions
from pipeline.training.batches import FeatureTable, evaluation_blocks
from pipeline.training.clips import ClipSampling

# On a CPU the states of so many clips fit the second-level cache; a GPU wants more to do at a time.
CPU_CLIPS, GPU_CLIPS = 256, 4096
_VIDEOS_AT_A_TIME = 64


@torch.inference_mode()
def predict(
    model: SequenceClassifier,
    table: FeatureTable,
    clips: ClipSampling,
    classes: tuple[str, ...],
    device: torch.device,
    missing: Sequence[VideoRecord] = (),
    batch_size: int | None = None,
) -> Predictions:
    """Score the evenly spread clips of every video, in all its views.

    Args:
        missing: videos of the list that have no features; they are counted as wrong answers.
        batch_size: clips at a time.

    Returns:
        Predictions over the table's videos followed by ``missing``; clips in no particular order.
    """
    model.eval()
    probabilities, videos = [], []
    for block in evaluation_blocks(table, clips, batch_size or (CPU_CLIPS if device.type == "cpu" else GPU_CLIPS)):
        frames, rows = block.frames.to(device).float(), block.rows.to(device)
        if model.can_share_frames:
            scores = model.score_projected(model.project(frames), rows, block.lengths)
        else:
            scores = model(frames[rows], block.lengths.to(device))
        probabilities.append(scores.double().softmax(1).cpu().numpy())
        videos.append(block.videos.numpy())
    records = (*table.records, *missing)
    return Predictions(
        classes=classes,
        video_ids=tuple(record.video_id for record in records),
        labels=np.array([record.label for record in records], dtype=np.int64),
        clip_probabilities=np.concatenate(probabilities),
        clip_videos=np.concatenate(videos),
    )


@dataclass(frozen=True, eq=False)
class Beliefs:
    """What a model would have answered after each stored frame of whole videos.

    Attributes:
        video_ids: the videos that have features.
        probabilities: of each, float32 ``[num_frames, num_classes]``: row ``t`` after frames ``0 .. t``.
    """

    video_ids: tuple[str, ...]
    probabilities: list[npt.NDArray[np.float32]]


@torch.inference_mode()
def beliefs(model: SequenceClassifier, table: FeatureTable, classes: tuple[str, ...], device: torch.device) -> Beliefs:
    """Read every video from its first frame to its last as one sequence, in its first view, and answer at each."""
    model.eval()
    found: list[npt.NDArray[np.float32]] = [np.empty((0, len(classes)), np.float32)] * len(table)
    for block in evaluation_blocks(table, ClipSampling(), _VIDEOS_AT_A_TIME, num_views=1):
        features = block.frames.to(device).float()[block.rows.to(device)]
        probabilities = model.scores_over_time(features).softmax(2).cpu().numpy()
        for place, (video, num_frames) in enumerate(zip(block.videos.tolist(), block.lengths.tolist(), strict=True)):
            found[video] = probabilities[:num_frames, place].copy()  # without the padding of longer neighbours
    return Beliefs(tuple(record.video_id for record in table.records), found)
