"""The datasets by name, and their settings. To add a video dataset, write ``load(config)`` and name it below."""

import pkgutil
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from data.errors import did_you_mean
from data.records import DatasetError, VideoDataset

VIDEO_DATASETS = {
    "ucf101": "data.ucf101:load",
    "hmdb51": "data.hmdb51:load",
    "folder": "data.folder:load",
    "unlabelled": "data.folder:load_unlabelled",
    "demo": "data.demo.dataset:load",
}
"""Name -> ``"module:function"``. Loaders are imported when used, so that a command imports only what it needs."""
MAX_LENGTH = 10_000
SEQUENCE_TASKS = ("addition", "multiplication", "pixel_mnist")
"""The tasks without video, in ``data.sequences``."""


@dataclass(frozen=True)
class DataConfig:
    """Which dataset, where it is, and how it is split."""

    dataset: str = "ucf101"
    """ucf101, hmdb51, demo, folder (your own videos: --root), unlabelled (videos without labels, to cache features
    only); tasks without video: addition, multiplication, pixel_mnist"""
    root: Path | None = None
    """folder of the dataset (default: datasets/NAME). folder: class folders, or a CSV file. pixel_mnist: the folder
    with MNIST's four files (default: downloaded to datasets/mnist)"""
    holdout_group: str | None = field(default=None, metadata={"datasets": ("folder",)})
    """folder: test on this group and train on all others"""
    group_pattern: str | None = field(default=None, metadata={"datasets": ("folder",)})
    """folder: regular expression searched in each file name; its first (...) is the video's group"""
    validation_groups: int | None = None
    """folder, hmdb51: number of training groups to validate on (default: about one in five; 0: none, and the
    last epoch is used)"""
    split_seed: int = 0
    """folder: random seed of the split"""
    length: int = field(default=100, metadata={"datasets": ("addition", "multiplication")})
    """addition, multiplication: steps per sequence"""
    permuted: bool = field(default=False, metadata={"datasets": ("pixel_mnist",)})
    """pixel_mnist: show the pixels in one fixed random order"""
    dataset_name: str | None = field(default=None, metadata={"datasets": ("folder", "unlabelled")})
    """folder, unlabelled: name of the dataset, for its features in the store and for its runs (default: features are
    found by what the videos are, and runs are named after the folder)"""

    def __post_init__(self) -> None:
        known = [*VIDEO_DATASETS, *SEQUENCE_TASKS]
        if self.dataset not in known:
            raise DatasetError(f"unknown dataset {self.dataset!r}.{did_you_mean(self.dataset, known)}")
        for option in fields(self):
            datasets = option.metadata.get("datasets", (self.dataset,))
            if self.dataset not in datasets and getattr(self, option.name) != option.default:
                raise DatasetError(f"{option.name} is for {' and '.join(datasets)}; {self.dataset} has no use for it")
        if self.dataset_name is not None and not re.fullmatch(r"(?!packed$)\w[\w .-]*", self.dataset_name):
            raise DatasetError(
                "dataset_name names folders: it consists of letters, digits and _, after the first also of spaces, . "
                f"and -, and is not 'packed', unlike {self.dataset_name!r}"
            )
        if self.length < 2:
            raise DatasetError(f"length is at least 2, not {self.length}: two steps of a sequence are marked")
        if self.length > MAX_LENGTH:
            raise DatasetError(f"length is at most {MAX_LENGTH:,}, not {self.length}")
        if self.split_seed < 0 or (self.validation_groups or 0) < 0:
            raise DatasetError(
                f"split_seed ({self.split_seed}) and validation_groups ({self.validation_groups}) must be at least 0"
            )

    @property
    def has_video(self) -> bool:
        """Whether the dataset consists of videos, so that there are features to cache."""
        return self.dataset not in SEQUENCE_TASKS

    def root_or(self, default: str) -> Path:
        """Return ``root``, or ``datasets/<default>`` if none is set."""
        return self.root if self.root is not None else Path("datasets") / default


def load_data(config: DataConfig) -> Any:
    """Load the ``VideoDataset`` or the task of ``data.sequences`` that ``config`` names.

    Raises ``DatasetError`` if the files that describe it are missing or invalid. Video files that a list or a CSV names
    need not exist: only decoding needs them.
    """
    return pkgutil.resolve_name(VIDEO_DATASETS.get(config.dataset, "data.sequences:load_task"))(config)


def load_dataset(config: DataConfig) -> VideoDataset:
    """``load_data`` for datasets of videos. Raises ``DatasetError`` for a task without video, too."""
    if not config.has_video:
        raise DatasetError(f"{config.dataset} has no video.{did_you_mean(config.dataset, VIDEO_DATASETS)}")
    dataset: VideoDataset = load_data(config)
    return dataset
