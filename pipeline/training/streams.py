"""Windows of made streams, for training.

A stream has what a clip has not: it is met in mid-action, one action follows another, and between actions nothing
happens. So a window is cut out of videos one after another, in random order, whose first and last frames are held
still for a while. It begins at a random moment, and has a target at every step.
"""

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.training.batches import MAX_BATCH_FRAMES, Batch, FeatureTable, IndexArray, batches_of_videos

NO_CLASS = -1
"""The label of a step of a pause."""


def stream_batches(
    table: FeatureTable, num_frames: int, pause: int, batch_size: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """One epoch: for each video, in random order, a window that begins in it.

    Args:
        num_frames: length of a window.
        pause: most stored frames that a video's first frame is held, and its last one.

    Yields:
        batches with a label at every step, ``NO_CLASS`` in pauses: targets int64 ``[T, B]``.
    """
    num_frames = min(num_frames, MAX_BATCH_FRAMES)
    for videos in _batches(table, num_frames, batch_size, rng):
        rows, labels = np.stack([_window(table, video, num_frames, pause, rng) for video in videos], axis=2)
        yield Batch(table.frames(rows), torch.from_numpy(labels))


def num_stream_batches(table: FeatureTable, num_frames: int, batch_size: int) -> int:
    """The number of batches in each epoch of ``stream_batches``."""
    return len(_batches(table, min(num_frames, MAX_BATCH_FRAMES), batch_size, np.random.default_rng(0)))


def _batches(table: FeatureTable, num_frames: int, batch_size: int, rng: np.random.Generator) -> list[IndexArray]:
    return batches_of_videos(np.full(len(table), num_frames), batch_size, rng)


def _window(table: FeatureTable, video: int, num_frames: int, pause: int, rng: np.random.Generator) -> IndexArray:
    """Row in the table and label of each frame of a window that begins in ``video``: int64 ``[2, num_frames]``."""
    pause = min(pause, num_frames)
    part = _held(table, video, pause, rng)
    parts = [part[:, rng.integers(part.shape[1]) :]]
    missing = num_frames - parts[0].shape[1]
    while missing > 0:
        part = _held(table, int(rng.integers(len(table))), pause, rng)
        parts.append(part)
        missing -= part.shape[1]
    return np.concatenate(parts, axis=1)[:, :num_frames]


def _held(table: FeatureTable, video: int, pause: int, rng: np.random.Generator) -> IndexArray:
    """The same of one video, in a random view, with its first and its last frame held."""
    held, num_frames = rng.integers(pause + 1, size=2), table.num_frames[video]
    rows = table.starts[video] + rng.integers(table.num_views) * num_frames + np.arange(num_frames)
    labels = np.full(num_frames, int(table.labels[video]))
    return np.stack([np.pad(rows, held, "edge"), np.pad(labels, held, constant_values=NO_CLASS)])
