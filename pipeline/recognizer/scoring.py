"""Class probabilities of a video's clips, from any head."""

import numpy as np
import numpy.typing as npt

from pipeline.evaluation.scoring import Order, shuffled_steps
from pipeline.recognizer.head import Array, Head
from pipeline.training.clips import ClipSampling

_CLIPS_AT_A_TIME = 256  # their states fit into a CPU's second-level cache


def clip_probabilities(
    head: Head, features: npt.NDArray[np.floating], clips: ClipSampling, order: Order = "forward", video_id: str = ""
) -> Array:
    """Score the evaluation clips of one video in one view, frame by frame.

    Args:
        features: ``[num_frames, feature_dim]``, at least one frame.
        clips: how its clips are chosen.
        order: the order in which the frames of each clip are read.
        video_id: what ``"shuffled"`` depends on.

    Returns:
        float32 ``[num_clips, num_classes]``; for a ``ClassifierHead`` those of ``pipeline.evaluation.scoring.predict``.
    """
    rows = np.stack(clips.all(len(features)))  # a video's clips all have the same length
    if order != "forward":
        num_steps = rows.shape[1]
        rows = rows[:, shuffled_steps(video_id, num_steps) if order == "shuffled" else np.arange(num_steps)[::-1]]
    scored = []
    for part in (rows[start : start + _CLIPS_AT_A_TIME] for start in range(0, len(rows), _CLIPS_AT_A_TIME)):
        state = head.initial_state(len(part))
        for step in part.T:
            probabilities, state = head.step(features[step].astype(np.float32), state)
        scored.append(probabilities)
    return np.concatenate(scored)
