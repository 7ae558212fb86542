"""How well the motion of two videos agrees, at the best alignment in time."""

import numpy as np
import numpy.typing as npt

from pipeline.audit.signatures import Signatures

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

MIN_OVERLAP = 0.6  # of the shorter video: a copy may lack as much as the rest at its start or end
NUM_OFFSETS = 41
_PAIRS_AT_ONCE = 1000
_MIN_ROWS = 4  # common to both videos; fewer agree by chance
_LEAST_ENERGY = 1e-3  # of the motion: below, the picture stands still


def motion_similarity(signatures: Signatures, pairs: Indices) -> Array:
    """The correlation of the motion of each pair ``[num_pairs, 2]``, in [-1, 1]: float32 ``[num_pairs]``.

    The best of ``NUM_OFFSETS`` shifts in time, and of stretching one video to the length of the other (a copy with
    another frame rate). With the mirrored view, also of one video mirrored.
    """
    found = [
        np.max(
            [
                _best_correlation(mirrored[chunk[:, 0]], signatures.motion[0, chunk[:, 1]], signatures, chunk)
                for mirrored in signatures.motion
            ],
            axis=0,
        )
        for chunk in (pairs[start : start + _PAIRS_AT_ONCE] for start in range(0, len(pairs), _PAIRS_AT_ONCE))
    ]
    return np.concatenate([np.empty(0, np.float32), *found])


def _best_correlation(
    first: npt.NDArray[np.float16], second: npt.NDArray[np.float16], signatures: Signatures, pairs: Indices
) -> Array:
    """``first`` and ``second``: the motion ``[num_pairs, max_rows, dim]`` of both videos of the pairs."""
    a, b = first.astype(np.float32), second.astype(np.float32)
    products = a @ b.transpose(0, 2, 1)
    energy_a, energy_b = np.square(a).sum(axis=2), np.square(b).sum(axis=2)
    neighbours_b = np.zeros_like(energy_b)
    neighbours_b[:, :-1] = (b[:, :-1] * b[:, 1:]).sum(axis=2)
    rows, steps = signatures.num_rows[pairs], signatures.step[pairs]
    row = np.arange(a.shape[1])[None]
    best = np.full(len(pairs), -1.0, dtype=np.float32)
    for position in _positions(rows, steps, row):
        # Row r of the first video is shown at a position between two rows of the second.
        inside = (position >= -1e-4) & (position <= rows[:, 1:] - 1 + 1e-4) & (row < rows[:, :1])
        position = position.clip(0, rows[:, 1:] - 1)
        before = np.minimum(position.astype(np.int64), np.maximum(rows[:, 1:] - 2, 0))
        after = np.minimum(before + 1, a.shape[1] - 1)
        weight = (position - before).astype(np.float32)
        product = (
            np.take_along_axis(products, before[..., None], 2)[..., 0] * (1 - weight)
            + np.take_along_axis(products, after[..., None], 2)[..., 0] * weight
        )
        energy = (
            np.take_along_axis(energy_b, before, 1) * (1 - weight) ** 2
            + np.take_along_axis(energy_b, after, 1) * weight**2
            + np.take_along_axis(neighbours_b, before, 1) * 2 * weight * (1 - weight)
        )
        sums = [(values * inside).sum(axis=1) for values in (product, energy_a, energy)]
        correlation = sums[0] / np.sqrt(np.maximum(sums[1] * sums[2], _LEAST_ENERGY**2))
        correlation[inside.sum(axis=1) < _MIN_ROWS] = -1
        best = np.maximum(best, correlation)
    return best


def _positions(rows: Indices, steps: npt.NDArray[np.float64], row: Indices) -> list[npt.NDArray[np.float64]]:
    """For each alignment the position ``[num_pairs, max_rows]`` in the second video of every row of the first."""
    length = (rows - 1) * steps
    overlap = MIN_OVERLAP * length.min(axis=1)
    starts = np.linspace(overlap - length[:, 1], length[:, 0] - overlap, NUM_OFFSETS)
    shifted = [(row * steps[:, :1] - start[:, None]) / steps[:, 1:] for start in starts]
    return [*shifted, row * ((rows[:, 1:] - 1) / np.maximum(rows[:, :1] - 1, 1))]
