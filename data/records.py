"""The types that describe a dataset: its videos and its splits."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError, printable


class DatasetError(UserError):
    """The data on disk is not what was requested. The message says what was looked for, where, and what to do."""


@dataclass(frozen=True)
class VideoRecord:
    """One labelled video.

    Attributes:
        video_id: unique in its dataset; a relative posix path without ``..``. It names the video's features in the
            store and its row in ``predictions.csv``, so it must not depend on where the dataset is.
        path: the video file. It need not exist if the video's features are cached or imported.
        label: index into ``VideoDataset.classes``.
        group: videos that share a scene, a person or a source recording; a split never divides a group.
    """

    video_id: str
    path: Path
    label: int
    group: str


@dataclass(frozen=True)
class Split:
    """The videos to train on, to choose the model by, and to test on. The three parts share no group."""

    name: str
    train: tuple[VideoRecord, ...]
    validation: tuple[VideoRecord, ...]
    test: tuple[VideoRecord, ...]


@dataclass(frozen=True)
class VideoDataset:
    """A dataset and its splits.

    Attributes:
        name: names the folder of its runs.
        store_name: names its folder in the feature store; differs between datasets whose ``video_id`` may collide.
        classes: class names; their order gives the labels.
        videos: every video, each once, in a stable order.
        splits: by name, e.g. ``{"1": ..., "2": ..., "3": ...}``. Looking one up may draw it, and raise
            ``DatasetError``.
        remedy: what to do if video files are missing; ends the error message.
        former_store_name: if ``store_name`` depends on the videos: the name that earlier versions gave the folder.
            Features of these videos are then found in folders of other names too (``pipeline.cache.relink.locate``).
    """

    name: str
    store_name: str
    classes: tuple[str, ...]
    videos: Sequence[VideoRecord]
    splits: Mapping[str, Split]
    remedy: str = ""
    former_store_name: str = ""

    def split(self, name: str) -> Split:
        """Return the split called ``name``. Raises ``DatasetError``; for an unknown name, it lists the known ones."""
        if name not in self.splits:
            raise DatasetError(f"{self.name} has no split {name!r}. Splits: {', '.join(self.splits)}")
        return self.splits[name]


def require_files(videos: Sequence[VideoRecord], remedy: str = "") -> None:
    """Raise ``DatasetError`` if files of these videos, which are to be decoded, are missing.

    The one message counts them, names the first three, and ends with ``remedy``.
    """
    # Path.exists raises if a name is too long.
    missing = [str(video.path) for video in videos if not os.path.exists(video.path)]
    if missing:
        examples = ", ".join(missing[:3])
        raise DatasetError(f"{len(missing)} of {len(videos)} videos to decode do not exist, e.g. {examples}. {remedy}")


def require_usable_paths(paths: Iterable[Path | str]) -> None:
    """Raise ``DatasetError`` if paths are not UTF-8 or contain NUL: no decoder can open them, no report can name them.

    The one message counts them and names the first three.
    """
    bad = [printable(path) for path in paths if printable(path) != str(path) or "\0" in str(path)]
    if bad:
        raise DatasetError(
            f"{len(bad)} paths are not UTF-8, or contain NUL, e.g. {', '.join(bad[:3])}. Rename them, for example with "
            "convmv -r -f latin1 -t utf8 --notest FOLDER."
        )
