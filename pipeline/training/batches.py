"""Batches of clips from stored features."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.errors import UserError
from data.records import VideoRecord
from models.features import zero_padding
from pipeline.store.packed import PackedFeatures
from pipeline.training.clips import ClipSampling

IndexArray = npt.NDArray[np.integer]

MAX_BATCH_FRAMES = 2**15  # in a training batch; with 1,280 features, 168 MB for each copy of it
_MAX_STEPS = 2**16  # in a block, over all clips: bounds the memory for long videos
_ROWS_AT_A_TIME = 1024  # fit a CPU cache as float64, which makes the sums several times faster


class UnusableFeaturesError(UserError):
    """Some features are infinite or NaN. The message names the videos."""


@dataclass(frozen=True)
class Batch:
    """A batch of sequences, time first.

    Attributes:
        inputs: float32 ``[T, B, D]``; zero after a sequence's end.
        targets: ``[B]``: int64 labels, or float32 numbers; or ``[T, B]``: int64 labels at every step.
        lengths: int64 ``[B]``, from 1 to T; ``None``: all have T steps.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        lengths = None if self.lengths is None else self.lengths.to(device)
        return Batch(self.inputs.to(device), self.targets.to(device), lengths)


class FeatureTable:
    """The features and labels of a list of videos. The packed features are not copied."""

    def __init__(self, records: Sequence[VideoRecord], packed: PackedFeatures) -> None:
        """``packed`` must contain all ``records``, and may contain other videos."""
        videos = [packed.videos[record.video_id] for record in records]
        self.records, self.packed = tuple(records), packed
        self.num_views = len(packed.views)
        self.num_frames = np.array([video.num_frames for video in videos], dtype=np.int64)
        self.starts = np.array([video.start for video in videos], dtype=np.int64)
        self.features = torch.from_numpy(packed.features)
        self.labels = torch.tensor([record.label for record in records], dtype=torch.int64)

    @classmethod
    def from_available(cls, records: Sequence[VideoRecord], packed: PackedFeatures) -> Self | None:
        """A table of those ``records`` that have features; ``None`` if there are none."""
        available = [record for record in records if record.video_id in packed.videos]
        return cls(available, packed) if available else None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def feature_dim(self) -> int:
        return self.features.shape[1]

    def video(self, number: int) -> Tensor:
        """All stored frames of a video, one view after another: float16 ``[num_views * num_frames, D]``."""
        start = self.starts[number]
        return self.features[start : start + self.num_views * self.num_frames[number]]

    def statistics(
        self, transform: Callable[[Tensor], Tensor] = lambda frames: frames, stride: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation, and root mean square change, float32 ``[D]`` each, summed in float64.

        They are over all frames in all views. A change is that of a feature between two frames of a video that are
        ``stride`` apart; without such frames it is 0. ``transform`` is applied to the frames first, ``[N, D]`` ->
        ``[N, D]``.

        Raises ``UnusableFeaturesError`` where a feature is infinite or NaN.
        """
        total, squares, changes = torch.zeros(3, self.feature_dim, dtype=torch.float64)
        num_frames = num_changes = 0
        for views in self._groups_of_views():
            for first in range(0, views.shape[1], _ROWS_AT_A_TIME):  # more than once for long videos only
                rows = views[:, first : first + _ROWS_AT_A_TIME + stride]
                frames = transform(self.features[rows].double())
                change = frames[:, stride:] - frames[:, :-stride]
                frames = frames[:, :_ROWS_AT_A_TIME]
                total += frames.sum((0, 1))
                squares += frames.square().sum((0, 1))
                changes += change.square().sum((0, 1))
                num_frames += frames.shape[0] * frames.shape[1]
                num_changes += change.shape[0] * change.shape[1]
        if not total.isfinite().all():
            bad = [
                record.video_id for number, record in enumerate(self.records) if not self.video(number).isfinite().all()
            ]
            raise UnusableFeaturesError(
                f"the features of {len(bad)} videos are not finite: {', '.join(bad[:3])}{' ...' if bad[3:] else ''}. "
                "They exceed float16's largest number, 65504: choose another backbone."
            )
        mean = total / num_frames
        variance = (squares / num_frames - mean.square()).clamp_min(0)
        return mean.float(), variance.sqrt().float(), (changes / max(1, num_changes)).sqrt().float()

    def _groups_of_views(self) -> Iterator[Tensor]:
        """The rows of every view of every video, int64 ``[N, T]``, in groups of views of equal length."""
        for length in np.unique(self.num_frames):
            starts = self.starts[self.num_frames == length, None] + length * np.arange(self.num_views)
            views = torch.from_numpy(starts.reshape(-1, 1) + np.arange(length))
            yield from views.split(max(1, _ROWS_AT_A_TIME // int(length)))

    def frames(self, rows: IndexArray) -> Tensor:
        """Frames by their rows in ``features``: int64 ``[T, B]`` -> float32 ``[T, B, D]``."""
        # index_select copies whole rows: several times faster than indexing.
        return self.features.index_select(0, torch.from_numpy(rows.ravel())).float().view(*rows.shape, -1)

    def batch(self, videos: IndexArray, clips: Sequence[IndexArray], views: IndexArray | None = None) -> Batch:
        """Clip ``clips[i]`` (indices of stored frames) of video ``videos[i]`` in view ``views[i]``, as one batch.

        The default is the first view, which the backbone's weights were evaluated with.
        """
        lengths = np.array([len(clip) for clip in clips])
        starts = self.starts[videos] if views is None else self.starts[videos] + views * self.num_frames[videos]
        steps = np.minimum(np.arange(lengths.max())[:, None], lengths - 1)  # padding: the clip's last frame
        rows = starts + np.concatenate(clips)[np.cumsum(lengths) - lengths + steps]
        features = self.frames(rows)
        labels = self.labels[torch.from_numpy(np.asarray(videos, dtype=np.int64))]
        if (lengths == len(rows)).all():
            return Batch(features, labels)
        return Batch(zero_padding(features, torch.from_numpy(lengths)), labels, torch.from_numpy(lengths))


def training_batches(
    table: FeatureTable, clips: ClipSampling, batch_size: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """One epoch: one random clip of each video, in a random view; the videos are in random order.

    A batch has at most ``MAX_BATCH_FRAMES`` frames, padding included, and so has a clip.
    """
    clips = replace(clips, frames=min(clips.frames or MAX_BATCH_FRAMES, MAX_BATCH_FRAMES))
    for videos in batches_of_videos(clips.lengths(table.num_frames), batch_size, rng):
        chosen = [clips.draw(int(table.num_frames[video]), rng) for video in videos]
        views = rng.integers(table.num_views, size=len(videos)) if table.num_views > 1 else None
        yield table.batch(videos, chosen, views)


def num_training_batches(table: FeatureTable, clips: ClipSampling, batch_size: int) -> int:
    """The number of batches in each epoch of ``training_batches``."""
    return len(batches_of_videos(clips.lengths(table.num_frames), batch_size, np.random.default_rng(0)))


def batches_of_videos(lengths: IndexArray, batch_size: int, rng: np.random.Generator) -> list[IndexArray]:
    """Deal videos into random batches, given the length of each one's clip.

    Clips that are too long for a whole batch get smaller batches with clips of similar length. The number of batches
    depends on the lengths alone.
    """
    order = rng.permutation(len(lengths))
    is_long = lengths[order] > MAX_BATCH_FRAMES // batch_size
    usual, long = order[~is_long], order[is_long]
    batches: list[IndexArray] = [usual[start : start + batch_size] for start in range(0, len(usual), batch_size)]
    if not len(long):
        return batches
    long = long[np.argsort(-lengths[long], kind="stable")]
    while len(long):
        size = max(1, MAX_BATCH_FRAMES // int(lengths[long[0]]))
        batches.append(long[:size])
        long = long[size:]
    return [batches[number] for number in rng.permutation(len(batches))]


@dataclass(frozen=True)
class ClipBlock:
    """Several clips and their frames. A frame that several clips share is listed once.

    Attributes:
        features: float16 ``[M, D]``, those of the table: its videos may be too long to be copied.
        frames: int64 ``[N]``, the rows of ``features`` that the clips read.
        rows: int64 ``[T, B]``: the frame of each clip at each step; after a clip's end, its last frame.
        lengths: int64 ``[B]``, from 1 to T, the longest first.
        videos: int64 ``[B]``: index into the table of each clip's video.
    """

    features: Tensor
    frames: Tensor
    rows: Tensor
    lengths: Tensor
    videos: Tensor


def evaluation_blocks(
    table: FeatureTable, clips: ClipSampling, max_clips: int, num_views: int | None = None
) -> Iterator[ClipBlock]:
    """The evaluation clips of all videos, each in all views (or in the first ``num_views``), in a fixed order.

    A clip counts once per view: clip-level metrics count it several times, and a video's probabilities are the mean
    over all clips in all views. Clips of similar length share a block, the longest first. The clips of one video in one
    view share a block if they fit: a block has at most ``max_clips`` clips, and fewer if clips are long.
    """
    videos, views, first_rows, lengths = _all_clips(table, clips, num_views or table.num_views)
    ends = np.flatnonzero(np.diff(views, append=-1)) + 1
    start = 0
    while start < len(videos):
        furthest = min(start + max(1, min(max_clips, _MAX_STEPS // lengths[start])), len(videos))
        stop = max(ends[(start < ends) & (ends <= furthest)], default=furthest)
        steps = np.minimum(np.arange(lengths[start])[:, None], lengths[start:stop] - 1)
        unique_rows, rows = np.unique(first_rows[start:stop] + clips.stride * steps, return_inverse=True)
        yield ClipBlock(
            table.features,
            torch.from_numpy(unique_rows),
            torch.from_numpy(rows.reshape(steps.shape)),
            torch.from_numpy(lengths[start:stop]),
            torch.from_numpy(videos[start:stop]),
        )
        start = stop


def _all_clips(
    table: FeatureTable, clips: ClipSampling, num_views: int
) -> tuple[IndexArray, IndexArray, IndexArray, IndexArray]:
    """For each clip in these views: its video, the view's first row, the clip's first row and its length.

    The longest come first. Clips of one video in one view are adjacent.
    """
    parts = []
    for num_frames in np.unique(table.num_frames):
        videos = np.flatnonzero(table.num_frames == num_frames)
        chosen = clips.all(int(num_frames))  # all of the same length
        views = table.starts[videos, None] + num_frames * np.arange(num_views)
        rows = views[..., None] + np.array([clip[0] for clip in chosen])
        parts.append(
            np.stack(np.broadcast_arrays(videos[:, None, None], views[..., None], rows, len(chosen[0]))).reshape(4, -1)
        )
    columns = np.concatenate(parts, axis=1)
    columns = columns[:, np.argsort(-columns[3], kind="stable")]
    return columns[0], columns[1], columns[2], columns[3]
