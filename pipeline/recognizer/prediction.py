"""What a classifier says about one video."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.features.recipe import VideoFeatures
from pipeline.recognizer.head import Array, Head
from pipeline.recognizer.rolling import RollingProbabilities
from pipeline.recognizer.scoring import clip_probabilities
from pipeline.training.clips import ClipSampling


@dataclass(frozen=True, eq=False)
class Prediction:
    """The classes of one video.

    Attributes:
        label: the most probable class.
        probabilities: by class, the most probable first; the mean over the video's clips and views.
        times: float64 ``[num_steps]``: the seconds of the video at which the frames that were read begin; NaN if the
            file does not say its frame rate.
        over_time: float32 ``[num_steps, num_classes]``: the probabilities after each of these frames, as a stream of
            the video would give them. The columns are in the order of ``Recognizer.labels``.
    """

    label: str
    probabilities: dict[str, float]
    times: npt.NDArray[np.float64]
    over_time: Array


def ranked(labels: Sequence[str], probabilities: npt.NDArray[np.floating]) -> dict[str, float]:
    """Probabilities by class, the most probable first."""
    best = np.argsort(-probabilities, kind="stable")
    return {labels[number]: float(probabilities[number]) for number in best}


def video_probabilities(head: Head, clips: ClipSampling, views: Sequence[VideoFeatures]) -> npt.NDArray[np.float64]:
    """The mean of the probabilities of a video's clips in all its views, ``[num_classes]``: what an evaluation counts.

    ``views`` are the features of one video, one item per view.
    """
    scored = [clip_probabilities(head, view.features, clips) for view in views]
    return np.mean(scored, axis=(0, 1), dtype=np.float64)


def probabilities_over_time(
    head: Head, clips: ClipSampling, video: VideoFeatures
) -> tuple[npt.NDArray[np.float64], Array]:
    """``times`` and ``over_time`` of a ``Prediction``, from the features in one view."""
    features, indices = video.features[:: clips.stride], video.frame_indices[:: clips.stride]
    rolling = RollingProbabilities(head, max(2, clips.frames or len(features) + 1))
    fps = video.origin.fps or np.nan
    return indices / fps, np.stack([rolling.push(frame.astype(np.float32)) for frame in features])
