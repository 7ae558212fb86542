"""The class probabilities of every video, from a model that saw no video of its group.

The model is a logistic regression of what the backbone saw in the first, second and last third of the video. The thirds
tell actions apart that differ in the order of their movements, which the mean of all frames can't. Such a model is
trained in a fraction of a second, and finds as many wrong labels as the recurrent networks do
(docs/labels.md).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from data.records import DatasetError, VideoRecord
from pipeline.evaluation.predictions import FloatArray, IntArray
from pipeline.store.packed import PackedFeatures
from pipeline.tune.folds import deal_folds

NUM_PARTS = 3
_NUM_COMPONENTS = 256  # of all parts together; more change nothing, and cost time
_INVERSE_PENALTY = 30.0  # scikit-learn's C, for vectors whose mean square length is 1


def video_vectors(
    packed: PackedFeatures, videos: Sequence[VideoRecord], num_parts: int = NUM_PARTS
) -> npt.NDArray[np.float32]:
    """The means of each video's normalised frames over ``num_parts`` equal parts, one after another.

    Only the first view is read. All videos must have features. Returns float32 ``[num_videos, num_parts * D]``.
    """
    import torch  # here, so that the command's help starts fast

    from models.features import power_normalize

    vectors = np.empty((len(videos), num_parts, packed.features.shape[1]), np.float32)
    for number, record in enumerate(videos):
        video = packed.videos[record.video_id]
        stored = packed.features[video.start : video.start + video.num_frames]
        frames = power_normalize(torch.from_numpy(stored.astype(np.float32))).numpy()
        for part in range(num_parts):
            # Parts of a video with few frames share some, so that none is empty.
            start, stop = part * len(frames) // num_parts, -(-(part + 1) * len(frames) // num_parts)
            vectors[number, part] = frames[start:stop].mean(axis=0)
    return vectors.reshape(len(videos), -1)


def fold_numbers(videos: Sequence[VideoRecord], count: int) -> IntArray:
    """The fold of each video, int64 ``[num_videos]``: at most ``count`` folds of whole groups.

    Raises ``DatasetError`` if the groups can't be dealt into at least two.
    """
    labels = np.array([video.label for video in videos])
    num_groups, largest_class = len({video.group for video in videos}), int(np.bincount(labels).max())
    count = min(count, num_groups, largest_class)
    if count < 2:
        raise DatasetError(
            f"{len(videos)} videos in {num_groups} groups can't be judged by models of other groups. Add videos, or "
            "check the groups (--group-pattern, or the CSV's column group)."
        )
    fold_of = {video.video_id: number for number, fold in enumerate(deal_folds(videos, count)) for video in fold}
    return np.array([fold_of[video.video_id] for video in videos])


def probabilities_out_of_fold(
    vectors: npt.NDArray[np.float32], labels: IntArray, folds: IntArray, num_classes: int
) -> FloatArray:
    """The class probabilities of each video from a model of the videos in the other folds.

    A video whose label no other fold has can't be judged.

    Args:
        vectors: float32 ``[num_videos, D]``, of finite numbers.
        labels, folds: int64 ``[num_videos]``.

    Returns:
        float64 ``[num_videos, num_classes]``; NaN in the rows of videos that can't be judged.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    num_components = min(_NUM_COMPONENTS, len(vectors) - 1, vectors.shape[1])
    reduced = PCA(num_components, svd_solver="randomized", random_state=0).fit_transform(vectors)  # sees no label
    reduced /= max(1e-12, float(np.sqrt(np.square(reduced).sum(axis=1).mean())))
    probabilities = np.zeros((len(labels), num_classes))
    for fold in np.unique(folds):
        judged, others = folds == fold, folds != fold
        known = np.unique(labels[others])
        if len(known) > 1:
            model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=300).fit(reduced[others], labels[others])
            probabilities[np.ix_(judged, model.classes_)] = model.predict_proba(reduced[judged])
        probabilities[judged & ~np.isin(labels, known if len(known) > 1 else [])] = np.nan
    return probabilities
