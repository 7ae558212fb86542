"""Features of made-up videos, without video files or a CNN."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from data.records import Split, VideoDataset, VideoRecord
from models.cnn.preprocessing import VIEWS
from pipeline.features.recipe import FeatureRecipe, Origin, VideoFeatures
from pipeline.objectives.videos import VideoTask
from pipeline.store.packed import PackedFeatures
from pipeline.training.batches import FeatureTable

RECIPE = FeatureRecipe(
    backbone="none",
    weights_sha256="0" * 64,
    resize=256,
    crop=224,
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    keep_aspect_ratio=True,
    sampling="uniform:8",
)


class MemoryCache:
    """Replaces a ``FeatureCache``; its features are in memory."""

    views = VIEWS[:1]

    def __init__(self, packed: PackedFeatures) -> None:
        self.packed = packed
        self.store = SimpleNamespace(recipe=RECIPE, folder=Path("memory"))

    def load_once(self, dataset: str, records: Sequence[VideoRecord], remedy: str = "") -> PackedFeatures:
        return self.packed

    def advice(self, dataset: str) -> str:
        return "Fix them"


def make_task(dataset: VideoDataset, packed: PackedFeatures, allow_missing: bool = True) -> VideoTask:
    """A task whose features are in memory."""
    cache: Any = MemoryCache(packed)
    return VideoTask(dataset, lambda: cache, torch.device("cpu"), allow_missing)


def make_task_of_tables(classes: tuple[str, ...], **tables: FeatureTable | None) -> VideoTask:
    """A task with one split, "1"; the tables are its ``train``, ``validation`` and ``test`` lists, empty if unset."""
    records: dict[str, tuple[VideoRecord, ...]] = dict.fromkeys(("train", "validation", "test"), ())
    features = {}
    for part, table in tables.items():
        if table is None:
            continue
        renamed = [dataclasses.replace(record, video_id=f"{part}/{record.video_id}") for record in table.records]
        records[part] = tuple(renamed)
        features |= {record.video_id: [make_features(table.video(n))] for n, record in enumerate(renamed)}
    videos = tuple(record for part in records.values() for record in part)
    dataset = VideoDataset("made", "made", classes, videos, {"1": Split("1", **records)})
    return make_task(dataset, PackedFeatures.in_memory(features))


def make_record(video_id: str, label: int = 0, group: str = "g01") -> VideoRecord:
    return VideoRecord(video_id, Path(f"{video_id}.avi"), label, group)


def make_features(values: ArrayLike) -> VideoFeatures:
    """The features of one video with the values ``[num_frames, feature_dim]``."""
    features = np.asarray(values, dtype=np.float16)
    num_frames = len(features)
    return VideoFeatures(
        features, np.arange(num_frames, dtype=np.int32), Origin(25.0, num_frames, num_frames, 1, "none", "none")
    )


def make_table(videos: Sequence[ArrayLike], labels: Sequence[int] | None = None, name: str = "v") -> FeatureTable:
    """A table with one video per array ``[num_frames, feature_dim]``, named ``v0``, ``v1``, ..."""
    return make_table_of_views([[values] for values in videos], labels, name)


def make_table_of_views(
    videos: Sequence[Sequence[ArrayLike]], labels: Sequence[int] | None = None, name: str = "v"
) -> FeatureTable:
    """A table with one video per list of views; a view is an array ``[num_frames, feature_dim]``."""
    labels = labels or [0] * len(videos)
    records = [make_record(f"{name}{number}", label) for number, label in enumerate(labels)]
    features = {
        record.video_id: [make_features(values) for values in views]
        for record, views in zip(records, videos, strict=True)
    }
    return FeatureTable(records, PackedFeatures.in_memory(features, VIEWS[: len(videos[0])]))


def rising_and_falling(num_videos: int, seed: int) -> FeatureTable:
    """Videos of class 0 move from one point to another, those of class 1 back, so the average frame is no clue.

    Videos have 5 to 9 frames of 4 features; every second one is of class 1.
    """
    rng = np.random.default_rng(seed)
    labels = [number % 2 for number in range(num_videos)]
    videos = []
    for label in labels:
        time = np.linspace(-1, 1, rng.integers(5, 10))[:, None] * (1 - 2 * label)
        videos.append(time * np.array([2.0, -1.0, 0.0, 1.0]) + 3 + 0.3 * rng.standard_normal((len(time), 4)))
    return make_table(videos, labels, name=f"seed{seed}-")
