"""Where a model is right and where not: accuracy against a video's length, against how much of it was seen, and which
classes are confused with which. Pure functions; nothing here reads or writes a file.

Intervals of a share are Wilson's: a handful of videos that are all right or all wrong still leave it a width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import binomtest

from pipeline.evaluation.predictions import IntArray, Predictions, video_predictions

TENTHS = range(1, 11)
MOST_BINS, VIDEOS_PER_BIN = 8, 10


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers and its 95 % interval, all in [0, 1]."""

    share: float
    low: float
    high: float
    num_videos: int


def accuracy(right: Sequence[bool] | NDArray[np.bool_]) -> Accuracy:
    """Of answers that are right or not; at least one.

    >>> accuracy([True, True, False, True])
    Accuracy(share=0.75, low=0.3006418423413859, high=0.9544127391902995, num_videos=4)
    """
    num_right, number = int(np.sum(right)), len(right)
    interval = binomtest(num_right, number).proportion_ci(method="wilson")
    return Accuracy(num_right / number, float(interval.low), float(interval.high), number)


@dataclass(frozen=True)
class LengthBin:
    """The videos that are ``shortest`` to ``longest`` long, and how many of them are right."""

    shortest: float
    longest: float
    accuracy: Accuracy


def accuracy_against_length(predictions: Predictions, lengths: Mapping[str, float]) -> list[LengthBin]:
    """Videos by length, in bins of about equally many.

    ``lengths`` are by video id, in any unit; videos that are not in it are left out. Videos of one length are never
    divided. No bins where all are equally long.
    """
    known = np.array([video_id in lengths for video_id in predictions.video_ids])
    length = np.array([lengths[video_id] for video_id in predictions.video_ids if video_id in lengths])
    right = (video_predictions(predictions) == predictions.labels)[known]
    num_bins = int(np.clip(len(length) // VIDEOS_PER_BIN, 2, MOST_BINS))
    if len(np.unique(length)) < 2:
        return []
    # Each bin begins at a video's length, so none is empty.
    starts = np.unique(np.quantile(length, np.arange(num_bins) / num_bins, method="lower"))
    bins = np.searchsorted(starts, length, side="right") - 1
    parts = [bins == place for place in range(len(starts))]
    return [LengthBin(float(length[part].min()), float(length[part].max()), accuracy(right[part])) for part in parts]


def accuracy_against_share_seen(
    predictions: Predictions, beliefs: Mapping[str, NDArray[np.floating]]
) -> list[Accuracy]:
    """How early the answer is right: after a tenth of each video's frames, two tenths, ... all of them.

    ``beliefs`` has, by video id, the probabilities ``[num_frames, num_classes]`` after each frame. A video that is not
    in it is wrong, as everywhere. Returns one accuracy per tenth.
    """

    def is_right(video_id: str, label: int, tenths: int) -> bool:
        if video_id not in beliefs:
            return False
        belief = beliefs[video_id]
        last_seen = -(-len(belief) * tenths // 10) - 1  # rounded up: at least one frame is seen
        return int(belief[last_seen].argmax()) == label

    videos = list(zip(predictions.video_ids, predictions.labels.tolist(), strict=True))
    return [accuracy([is_right(video_id, label, tenths) for video_id, label in videos]) for tenths in TENTHS]


def confusion_order(counts: IntArray) -> list[int]:
    """The classes in an order in which those that are confused with each other stand together.

    ``counts`` as from ``confusion_matrix``. Hierarchical clustering (average linkage) of the classes by the share of
    videos confused in either direction, leaves in the optimal order of Bar-Joseph et al. (2001).
    """
    num_classes = len(counts)
    if num_classes < 3:
        return list(range(num_classes))
    share = counts[:, :num_classes] / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    distance = 1 - (share + share.T) / 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), method="average", optimal_ordering=True)
    return [int(leaf) for leaf in leaves_list(tree)]
