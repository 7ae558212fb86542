"""The table of dataset names. A new video dataset is a module with ``load(options)`` and one line here."""

import importlib
from dataclasses import dataclass
from pathlib import Path

from data.records import DatasetError, VideoDataset

VIDEO_DATASETS = {
    "ucf101": "data.ucf101",
    "hmdb51": "data.hmdb51",
    "folder": "data.folder",
    "unlabelled": "data.unlabelled",
    "demo": "data.demo",
}


@dataclass(frozen=True)
class DatasetOptions:
    """Where a dataset lies and how it is to be split. A dataset uses what applies to it.

    Attributes:
        root: the dataset's folder; ``None`` means ``datasets/<name>``.
        seed: of the splits that are drawn (``folder``).
        holdout_group: test on this group, train on the others (``folder``).
        group_pattern: regular expression; its first (...) in the file's stem is the video's group (``folder``).
        validation_groups: how many training groups to set aside for validation where the dataset does not say;
            ``None``: about one in five; 0: none.
        length: steps of a sequence (the tasks of ``data/sequences.py``: addition, multiplication).
        permuted: the pixels in one fixed random order (pixel MNIST).
    """

    root: Path | None = None
    seed: int = 0
    holdout_group: str | None = None
    group_pattern: str | None = None
    validation_groups: int | None = None
    length: int = 100
    permuted: bool = False

    def root_or(self, default: str) -> Path:
        return Path(self.root if self.root is not None else Path("datasets") / default)


def load_dataset(name: str, options: DatasetOptions) -> VideoDataset:
    """The dataset called ``name``. Raises ``DatasetError`` where the data is not there or not whole."""
    if name not in VIDEO_DATASETS:
        raise DatasetError(f"unknown dataset {name!r}. Video datasets: {', '.join(VIDEO_DATASETS)}")
    dataset: VideoDataset = importlib.import_module(VIDEO_DATASETS[name]).load(options)
    return dataset
