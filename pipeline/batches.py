"""Stored features -> padded, masked batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.records import VideoRecord
from pipeline.sampling import Indices, dense_clips, even_clips, random_clip
from pipeline.store import VideoFeatures

IndexArray = npt.NDArray[np.integer]


class UnusableFeaturesError(ValueError):
    """Features hold values that nothing can be learnt from. The message names the videos."""


@dataclass(frozen=True)
class Batch:
    """Some sequences, time first.

    Attributes:
        features: float32 ``[T, B, D]``; zero behind a sequence's end.
        lengths: int64 ``[B]``, from 1 to T.
        labels: int64 ``[B]``.
        videos: int64 ``[B]``, which video of the table each sequence comes from.
    """

    features: Tensor
    lengths: Tensor
    labels: Tensor
    videos: Tensor

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        return Batch(self.features.to(device), self.lengths.to(device), self.labels.to(device), self.videos)


class FeatureTable:
    """Features of many videos in one block of memory, one video behind the other."""

    def __init__(self, records: Sequence[VideoRecord], videos: Sequence[VideoFeatures]) -> None:
        """``videos[i]`` are the features of ``records[i]``; every one has at least a frame."""
        assert len(records) == len(videos)
        self.records = tuple(records)
        self.num_frames = np.array([len(video.features) for video in videos], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.num_frames)[:-1]]).astype(np.int64)
        self.features = torch.from_numpy(np.concatenate([video.features for video in videos]))
        self.labels = torch.tensor([record.label for record in records], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def feature_dim(self) -> int:
        return self.features.shape[1]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over all frames, float32 ``[D]`` each, summed in float64 block by block.

        Raises ``UnusableFeaturesError`` where a feature is infinite or NaN.
        """
        total = torch.zeros(self.feature_dim, dtype=torch.float64)
        squares = torch.zeros(self.feature_dim, dtype=torch.float64)
        for block in self.features.split(65536):
            values = block.double()
            total += values.sum(0)
            squares += values.square().sum(0)
        if not total.isfinite().all():
            bad = [
                record.video_id
                for record, start, count in zip(self.records, self.starts, self.num_frames, strict=True)
                if not self.features[start : start + count].isfinite().all()
            ]
            raise UnusableFeaturesError(
                f"the features of {len(bad)} videos are not finite: {', '.join(bad[:3])}{' ...' if bad[3:] else ''}. "
                "float16 ends at 65504 and this backbone goes beyond: choose another."
            )
        mean = total / len(self.features)
        variance = (squares / len(self.features) - mean.square()).clamp_min(0)
        return mean.float(), variance.sqrt().float()

    def batch(self, videos: IndexArray, clips: Sequence[IndexArray]) -> Batch:
        """One batch: clip ``clips[i]`` (indices into the stored frames) of video ``videos[i]``."""
        lengths = torch.tensor([len(clip) for clip in clips])
        rows = np.zeros((int(lengths.max()), len(clips)), dtype=np.int64)
        for column, (video, clip) in enumerate(zip(videos, clips, strict=True)):
            rows[: len(clip), column] = self.starts[video] + clip
        features = self.features[torch.from_numpy(rows)].float()
        features[torch.arange(len(rows))[:, None] >= lengths] = 0
        chosen = torch.from_numpy(np.asarray(videos, dtype=np.int64))
        return Batch(features, lengths, self.labels[chosen], chosen)


@dataclass(frozen=True)
class ClipSampling:
    """Which of a video's stored frames one forward pass sees.

    Attributes:
        frames: of a clip; ``None``: all of them, the video is its one clip.
        stride: distance between neighbouring frames of a clip.
        per_video: clips of each video in evaluation, evenly spread.
        step: where set, evaluation looks at dense clips instead, one every ``step`` frames.
    """

    frames: int | None = None
    stride: int = 1
    per_video: int = 10
    step: int | None = None

    def draw(self, num_frames: int, rng: np.random.Generator) -> Indices:
        """One random clip, for training."""
        return random_clip(num_frames, self.frames, rng, self.stride)

    def all(self, num_frames: int) -> list[Indices]:
        """The clips that a video is evaluated on."""
        if self.frames is not None and self.step is not None:
            return dense_clips(num_frames, self.frames, self.stride, self.step)
        return even_clips(num_frames, self.frames, self.per_video, self.stride)


def training_batches(
    table: FeatureTable, clips: ClipSampling, batch_size: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """One epoch: every video once, in random order, one random clip of each."""
    order = rng.permutation(len(table))
    for start in range(0, len(order), batch_size):
        videos = order[start : start + batch_size]
        chosen = [clips.draw(int(table.num_frames[video]), rng) for video in videos]
        yield table.batch(videos, chosen)


def evaluation_batches(table: FeatureTable, clips: ClipSampling, batch_size: int) -> Iterator[Batch]:
    """The clips that every video is evaluated on; nothing is drawn at random.

    Clips of like length share a batch, so that little is padded.
    """
    pairs = [(video, clip) for video in range(len(table)) for clip in clips.all(int(table.num_frames[video]))]
    pairs.sort(key=lambda pair: len(pair[1]))
    for start in range(0, len(pairs), batch_size):
        part = pairs[start : start + batch_size]
        yield table.batch(np.array([video for video, _ in part]), [clip for _, clip in part])
