"""Videos that ``--exclude`` names: no run is trained or validated on them, and each is tested with and without them."""

import dataclasses
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from data.errors import did_you_mean
from data.records import DatasetError, Split, VideoDataset

_MAX_HINTED = 20_000  # videos among which the nearest name is found in a second


def exclude_text(video_ids: Iterable[str], about: str) -> str:
    """The content of a file for ``--exclude``: ``about`` as a comment, and one id per line.

    An id that a line could not contain as it is (it begins with # or a quote, or contains a line break) is written as
    JSON text.
    """
    lines = [f"# {line}" for line in about.splitlines()]
    for name in video_ids:
        is_plain = name == name.strip() and name[:1] not in ("#", '"') and len(name.splitlines()) == 1
        lines.append(name if is_plain else json.dumps(name))
    return "".join(f"{line}\n" for line in lines)


def read_excluded(path: Path, dataset: VideoDataset) -> frozenset[str]:
    """The video ids in a file for ``--exclude``; empty lines and those that begin with # are skipped.

    Raises ``DatasetError`` if the file can't be read, or names a video that the dataset does not have.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"--exclude {path} can't be read ({error}). It is a text file of video ids.") from error
    known = {video.video_id for video in dataset.videos}
    found = set()
    for number, line in enumerate(text.split("\n"), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name.startswith('"'):
            try:
                name = str(json.loads(name))
            except ValueError as error:
                raise DatasetError(f"{path}, line {number}: {name} is not JSON text ({error}).") from error
        if name not in known:
            hint = did_you_mean(name, known) if len(known) < _MAX_HINTED else ""
            raise DatasetError(f"{path}, line {number}: {dataset.name} has no video {name!r}.{hint}")
        found.add(name)
    return frozenset(found)


def without_excluded(split: Split, excluded: Collection[str]) -> Split:
    """The split without the excluded videos in training and validation. Its test videos stay: they are all scored.

    Raises ``DatasetError`` if no training video is left.
    """
    train, validation = (
        tuple(video for video in part if video.video_id not in excluded) for part in (split.train, split.validation)
    )
    if split.train and not train:
        raise DatasetError(f"--exclude names all {len(split.train)} training videos of split {split.name}.")
    return dataclasses.replace(split, train=train, validation=validation)


def describe_exclusion(path: Path, whole: Split, excluded: Collection[str]) -> str:
    """One line on what the file at ``path`` leaves out of a split."""
    num_train, num_validation, num_test = (
        sum(video.video_id in excluded for video in part) for part in (whole.train, whole.validation, whole.test)
    )
    return (
        f"{path}: {num_train} training and {num_validation} validation videos are left out, and the test is scored "
        f"with and without {num_test} of its videos"
    )
