"""Which labels are probably wrong, by cleanlab, from probabilities of models that did not see the video's group.

Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels" (2021), estimates how many labels are
wrong. That many videos, those with the lowest probability of their label, are the suspects.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import UserError
from pipeline.evaluation.predictions import FloatArray, IntArray


class LabelsError(UserError):
    """Labels can't be judged. The message says why, and what to do."""


@dataclass(frozen=True)
class Suspect:
    """A video whose label is probably wrong.

    Attributes:
        video: its index.
        label, suggested: classes; the latter is the most probable one.
        label_probability, suggested_probability: in [0, 1].
    """

    video: int
    label: int
    suggested: int
    label_probability: float
    suggested_probability: float


def require_cleanlab() -> None:
    """Raise ``LabelsError`` if cleanlab is not installed."""
    try:
        import cleanlab  # noqa: F401
    except ImportError as missing:
        raise LabelsError(
            "pipeline.labels needs cleanlab, which is not installed: pip install -e '.[labels]'"
        ) from missing


def find_suspects(probabilities: FloatArray, labels: IntArray) -> list[Suspect]:
    """The videos whose label is probably wrong, the least plausible label first.

    Args:
        probabilities: float64 ``[num_videos, num_classes]``; rows of NaN are videos that can't be judged.
        labels: int64 ``[num_videos]``.

    Raises ``LabelsError`` if cleanlab is not installed.
    """
    require_cleanlab()
    from cleanlab.filter import find_label_issues

    judged = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    classes, given = np.unique(labels[judged], return_inverse=True)
    if len(classes) < 2:
        return []
    # cleanlab wants classes 0, 1, ... that all have a video, and rows that sum to 1.
    known = probabilities[np.ix_(judged, classes)]
    known = known / known.sum(axis=1, keepdims=True)
    found = find_label_issues(
        given, known, filter_by="low_self_confidence", return_indices_ranked_by="normalized_margin", n_jobs=1
    )
    suspects = []
    for row in found:
        suggested = int(known[row].argmax())
        if suggested != given[row]:
            confidence = float(known[row, given[row]]), float(known[row, suggested])
            suspects.append(Suspect(int(judged[row]), int(classes[given[row]]), int(classes[suggested]), *confidence))
    return suspects


def by_plausibility(probabilities: FloatArray, labels: IntArray) -> IntArray:
    """The indices of the videos that can be judged, int64, the least plausible label first.

    The plausibility is the margin: the probability of the label minus the highest probability of another class.
    """
    judged = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    others = probabilities[judged].copy()
    rows = np.arange(len(judged))
    others[rows, labels[judged]] = -1
    margin = probabilities[judged, labels[judged]] - others.max(axis=1)
    return judged[np.argsort(margin, kind="stable")]
