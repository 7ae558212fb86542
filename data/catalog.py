"""The datasets by name, and their settings. A new video dataset is a module with ``load(config)`` and one line here."""

import importlib
from dataclasses import dataclass, field, fields
from pathlib import Path

from data.errors import did_you_mean
from data.records import DatasetError, VideoDataset

VIDEO_DATASETS = {
    "ucf101": "data.ucf101",
    "hmdb51": "data.hmdb51",
    "folder": "data.folder",
    "unlabelled": "data.unlabelled",
    "demo": "data.demo.dataset",
}
SEQUENCE_TASKS = ("addition", "multiplication", "pixel_mnist")
"""The tasks without video, in ``data.sequences``."""


@dataclass(frozen=True)
class DataConfig:
    """Which dataset, where it is, and how it is split."""

    dataset: str = "ucf101"
    """ucf101, hmdb51, demo, folder (your own videos: --root), unlabelled (videos to cache features of); without video:
    addition, multiplication, pixel_mnist"""
    root: Path | None = None
    """folder of the dataset (default: datasets/NAME). folder: class folders or a CSV. pixel_mnist: MNIST's four files
    (default: downloaded to datasets/mnist)"""
    holdout_group: str | None = field(default=None, metadata={"datasets": ("folder",)})
    """folder: test on this group and train on the others"""
    group_pattern: str | None = field(default=None, metadata={"datasets": ("folder",)})
    """folder: regular expression; its first (...) in the name of a file is the video's group"""
    validation_groups: int | None = None
    """folder, hmdb51: number of training groups to validate on (default: one in five; 0: none, the last epoch is
    used)"""
    split_seed: int = 0
    """folder: random seed of the split"""
    length: int = field(default=100, metadata={"datasets": ("addition", "multiplication")})
    """addition, multiplication: steps per sequence"""
    permuted: bool = field(default=False, metadata={"datasets": ("pixel_mnist",)})
    """pixel_mnist: show the pixels in one fixed random order"""

    def __post_init__(self) -> None:
        known = [*VIDEO_DATASETS, *SEQUENCE_TASKS]
        if self.dataset not in known:
            raise DatasetError(f"unknown dataset {self.dataset!r}.{did_you_mean(self.dataset, known)}")
        for option in fields(self):
            datasets = option.metadata.get("datasets", (self.dataset,))
            if self.dataset not in datasets and getattr(self, option.name) != option.default:
                raise DatasetError(f"{option.name} is for {' and '.join(datasets)}; {self.dataset} has no use for it")
        if self.length < 2:
            raise DatasetError(f"length is at least 2, not {self.length}: two steps of a sequence are marked")

    @property
    def has_video(self) -> bool:
        return self.dataset not in SEQUENCE_TASKS

    def root_or(self, default: str) -> Path:
        return self.root if self.root is not None else Path("datasets") / default


def load_dataset(config: DataConfig) -> VideoDataset:
    """The dataset that ``config`` names. Raises ``DatasetError`` where its files are missing or incomplete."""
    if config.dataset not in VIDEO_DATASETS:
        raise DatasetError(f"{config.dataset} has no video.{did_you_mean(config.dataset, VIDEO_DATASETS)}")
    dataset: VideoDataset = importlib.import_module(VIDEO_DATASETS[config.dataset]).load(config)
    return dataset
