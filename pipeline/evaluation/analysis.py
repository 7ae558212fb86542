"""Where a model is right and wrong: accuracy by video length, accuracy by share of the video seen, an order of the
classes that places confused ones side by side, and a map of the videos. Pure functions.

Intervals of accuracies are Wilson's: they keep a width even where a few videos are all right or all wrong. Where videos
have groups, they are those of as many independent videos as the groups are worth (the effective sample size: Korn &
Graubard, "Confidence Intervals for Proportions With Small Expected Number of Positive Counts", 1998).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.predictions import FloatArray, IntArray, Predictions

TENTHS = range(1, 11)
MAX_BINS, VIDEOS_PER_BIN = 8, 10


@dataclass(frozen=True)
class Accuracy:
    """A share of correct answers with its 95 % interval, all in [0, 1]."""

    share: float
    low: float
    high: float
    num_videos: int


def accuracy(correct: Sequence[bool] | NDArray[np.bool_], groups: IntArray | None = None) -> Accuracy:
    """The share of correct answers among at least one.

    ``groups`` is the group of each video, int64 ``[num_videos]``; ``None``: each is its own.

    >>> result = accuracy([True, True, False, True])
    >>> result.share, round(result.low, 3), round(result.high, 3)
    (0.75, 0.301, 0.954)
    """
    share, number = float(np.mean(correct)), len(correct)
    effective = number if groups is None else _effective_number(np.asarray(correct), groups)
    z = 1.959964  # of a normal distribution, 95 % is within z standard deviations
    center = (share + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * np.sqrt(share * (1 - share) / effective + (z / (2 * effective)) ** 2)
    return Accuracy(share, float(max(0.0, center - half)), float(min(1.0, center + half)), number)


def _effective_number(correct: NDArray[np.bool_], groups: IntArray) -> float:
    """The number of independent videos with the same variance of their accuracy as these; at most their number."""
    number = len(correct)
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    share, num_groups = correct.mean(), len(sizes)
    if num_groups == number or num_groups == 1:
        return num_groups
    if share in (0, 1):  # no variance to estimate: the videos of a group count as one
        return num_groups
    excess = np.bincount(group_of, correct) - share * sizes
    variance = num_groups / (num_groups - 1) * np.square(excess).sum() / number**2
    return float(np.clip(share * (1 - share) / max(variance, 1e-12), 1, number))


@dataclass(frozen=True)
class LengthBin:
    """The videos whose length is between ``shortest`` and ``longest``, and their accuracy."""

    shortest: float
    longest: float
    accuracy: Accuracy


def accuracy_against_length(predictions: Predictions, lengths: Mapping[str, float]) -> list[LengthBin]:
    """Accuracy of videos binned by length, with about equally many videos per bin.

    ``lengths`` maps video ids to lengths in any unit; videos that are not in it are left out. Videos of equal length
    share a bin. The list is empty where all videos are equally long.
    """
    known = np.array([video_id in lengths for video_id in predictions.video_ids])
    length = np.array([lengths[video_id] for video_id in predictions.video_ids if video_id in lengths])
    correct, groups = predictions.correct[known], predictions.group_indices[known]
    num_bins = int(np.clip(len(length) // VIDEOS_PER_BIN, 2, MAX_BINS))
    if len(np.unique(length)) < 2:
        return []
    # Each bin starts at the length of a video, so none is empty.
    starts = np.unique(np.quantile(length, np.arange(num_bins) / num_bins, method="lower"))
    bins = np.searchsorted(starts, length, side="right") - 1
    members = [bins == index for index in range(len(starts))]
    return [
        LengthBin(float(length[part].min()), float(length[part].max()), accuracy(correct[part], groups[part]))
        for part in members
    ]


def accuracy_against_share_seen(
    predictions: Predictions, probabilities_over_time: Mapping[str, NDArray[np.floating]]
) -> list[Accuracy]:
    """Accuracy after a tenth of each video's frames, two tenths, ... all of them.

    ``probabilities_over_time`` maps video ids to class probabilities after each frame, ``[num_frames, num_classes]``.
    A video that is not in it counts as wrong. Returns one accuracy per tenth.
    """

    def is_correct(video_id: str, label: int, tenths: int) -> bool:
        if video_id not in probabilities_over_time:
            return False
        probabilities = probabilities_over_time[video_id]
        last_seen = -(-len(probabilities) * tenths // 10) - 1  # rounded up: at least one frame is seen
        return int(probabilities[last_seen].argmax()) == label

    videos = list(zip(predictions.video_ids, predictions.labels.tolist(), strict=True))
    return [
        accuracy([is_correct(video_id, label, tenths) for video_id, label in videos], predictions.group_indices)
        for tenths in TENTHS
    ]


def confusion_order(counts: IntArray) -> list[int]:
    """An order of the classes that places classes side by side if they are confused with each other.

    ``counts`` is the result of ``confusion_matrix``. The order is that of the leaves of a hierarchical clustering
    (average linkage) by the share of videos confused in either direction, optimised as in Bar-Joseph et al., "Fast
    optimal leaf ordering for hierarchical clustering" (2001).
    """
    num_classes = len(counts)
    if num_classes < 3:
        return list(range(num_classes))
    share = counts[:, :num_classes] / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    distance = 1 - (share + share.T) / 2
    np.fill_diagonal(distance, 0)
    from scipy.cluster.hierarchy import leaves_list, linkage  # here, because a training imports this module too
    from scipy.spatial.distance import squareform

    tree = linkage(squareform(distance, checks=False), method="average", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)]


def map_positions(representations: FloatArray) -> FloatArray | None:
    """The videos on a map: their first two principal components.

    Args:
        representations: ``[num_videos, width]``. A row that is not finite is not on the map.

    Returns:
        float64 ``[num_videos, 2]``, NaN for videos that are not on the map. The variance of an axis over the videos is
        the share of all variance that it shows. ``None`` if there are fewer than three, or all are the same.
    """
    from sklearn.decomposition import PCA  # here, because it takes a second

    known = np.isfinite(representations).all(axis=1)
    values = representations[known].astype(np.float64)
    if len(values) < 3 or not (variance := values.var(axis=0).sum()):
        return None
    found = PCA(min(2, values.shape[1]), random_state=0).fit_transform(values / np.sqrt(variance))
    positions = np.full((len(representations), 2), np.nan)
    positions[known] = 0
    positions[known, : found.shape[1]] = found
    return positions
