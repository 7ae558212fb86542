"""What is compared of each video: its scene, and how its frames differ from it over time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh

from pipeline.store.packed import PackedFeatures

Floats = npt.NDArray[np.float32]

MAX_ROWS = 32  # of a video: more are thinned out
SCENE_DIM, MOTION_DIM = 128, 256
_SAMPLED_VIDEOS = 1500  # that the whitening of the motion is measured on
_VIDEOS_AT_ONCE = 64
_ROWS_PER_DIM = 8  # fewer would make noise of the last whitened dimensions
_SMALLEST_VARIANCE = 1e-6  # as a share of the largest


@dataclass(frozen=True, eq=False)
class Signatures:
    """The signatures of all videos.

    The scene is the mean of the frames. The motion is what is left of each frame without the mean, so that a crop or
    another codec, which shift all frames alike, hardly change it. Both are whitened: what most videos share counts
    little, and what few show counts much.

    Attributes:
        scene: float32 ``[num_views, num_videos, scene_dim]``, of unit length.
        motion: float16 ``[num_views, num_videos, max_rows, motion_dim]``, rows evenly spaced in time, then zeros.
        num_rows: int64 ``[num_videos]``.
        step: float64 ``[num_videos]``: time between two rows, in seconds, or in frames if a frame rate is unknown.
    """

    scene: Floats
    motion: npt.NDArray[np.float16]
    num_rows: npt.NDArray[np.int64]
    step: npt.NDArray[np.float64]


def make_signatures(packed: PackedFeatures, video_ids: Sequence[str]) -> Signatures:
    """The signatures of videos, at least two, in the order of ``video_ids``.

    Only a few videos at a time are read, so the memory is that of the result: 0.2 GB for 13,320 videos with 25 frames
    in one view.
    """
    videos = [packed.videos[name] for name in video_ids]
    num_views = min(len(packed.views), 2)  # the second is the mirrored one, and no other is of use here

    def rows(number: int, view: int) -> Floats:
        start = videos[number].start + view * videos[number].num_frames
        return np.nan_to_num(packed.features[start : start + videos[number].num_frames].astype(np.float32))

    means = np.array([[rows(number, view).mean(axis=0) for number in range(len(videos))] for view in range(num_views)])
    centre = means[0].mean(axis=0)
    sampled = np.unique(np.linspace(0, len(videos) - 1, _SAMPLED_VIDEOS).astype(int))

    def moved_from(origins: Callable[[int], Floats]) -> Iterator[Floats]:
        for some in np.array_split(sampled, -(-len(sampled) // _VIDEOS_AT_ONCE)):
            yield np.concatenate([rows(number, 0) - origins(number) for number in some])

    motion_basis = _whitening(moved_from(lambda number: means[0, number]), MOTION_DIM)
    scene = (means - centre) @ _whitening(moved_from(lambda number: centre), SCENE_DIM)
    scene /= np.maximum(np.linalg.norm(scene, axis=2, keepdims=True), 1e-12)

    num_rows = np.array([min(video.num_frames, MAX_ROWS) for video in videos])
    motion = np.zeros((num_views, len(videos), num_rows.max(), motion_basis.shape[1]), dtype=np.float16)
    step = np.ones(len(videos))
    has_seconds = all(video.origin.fps > 0 for video in videos)
    for number, video in enumerate(videos):
        times = packed.frame_indices[video.start : video.start + video.num_frames].astype(np.float64)
        if has_seconds:
            times /= video.origin.fps
        if num_rows[number] > 1:
            step[number] = max((times[-1] - times[0]) / (num_rows[number] - 1), 1e-9)
        for view in range(num_views):
            moved = (rows(number, view) - means[view, number]) @ motion_basis
            motion[view, number, : num_rows[number]] = _evenly(moved, times, num_rows[number])
    return Signatures(scene.astype(np.float32), motion, num_rows, step)


def _whitening(blocks: Iterable[Floats], num_dims: int) -> Floats:
    """The matrix ``[feature_dim, num_dims or fewer]`` that makes the rows of all blocks uncorrelated."""
    total, num_rows = np.zeros(()), 0
    for block in blocks:
        total = total + block.T @ block
        num_rows += len(block)
    size = len(total)
    num_dims = max(1, min(num_dims, size, num_rows // _ROWS_PER_DIM))
    variance, directions = eigh(total / num_rows, subset_by_index=(size - num_dims, size - 1))
    smallest = max(variance[-1] * _SMALLEST_VARIANCE, 1e-12)
    return np.asarray(directions / np.sqrt(np.maximum(variance, smallest)), dtype=np.float32)


def _evenly(rows: Floats, times: npt.NDArray[np.float64], num_rows: int) -> Floats:
    """Rows ``[num_rows, dim]`` at evenly spaced times, linearly interpolated."""
    if num_rows < 2:
        return rows[:num_rows]
    wanted = np.linspace(times[0], times[-1], num_rows)
    before = np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 2)
    weight = (wanted - times[before]) / np.maximum(times[before + 1] - times[before], 1e-9)
    return np.asarray(rows[before] + weight[:, None] * (rows[before + 1] - rows[before]), dtype=np.float32)
