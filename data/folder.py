"""Your own videos, which ``data/listing.py`` finds, as a dataset with one split, or without labels.

Videos of one person, place or recording belong in one *group*; no split divides a group. If nothing names the groups,
every video is a group of its own.
"""

import hashlib
import os
import sys
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import did_you_mean
from data.group_pattern import find_groups
from data.groups import check_disjoint, draw_fraction, draw_validation
from data.identity import name_by_content
from data.listing import find_csv, names_below, no_video, read_csv, walk_class_folders
from data.records import DatasetError, Split, VideoDataset, VideoRecord, require_usable_paths
from data.texts import Texts
from data.video_list import Column, VideoList

if TYPE_CHECKING:
    from data.catalog import DataConfig

TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.2


def load(config: "DataConfig") -> VideoDataset:
    """Load the labelled videos at ``config.root`` (a folder, or a CSV file) with one split.

    The split is the first of these that applies: ``holdout-<group>`` if ``config.holdout_group`` is set; ``listed`` if
    the CSV has a column ``split``; else ``seed<k>``, about 60/20/20 % of every class as far as groups allow. Validation
    groups that are not listed are drawn from the training groups with ``config.split_seed``:
    ``config.validation_groups`` of them, or about one video in five. A class never loses its last training group.

    ``config.group_pattern`` is searched in each file's stem, and its first (...) is the video's group; it overrides
    the CSV's column.

    Raises:
        DatasetError: there are no videos, the CSV is invalid (the message gives file and line), a path is not UTF-8,
            or there are fewer than two classes. Looking up the split raises it if a group is unknown, or if there are
            too few groups to split.
    """
    root = config.root_or("folder")
    require_usable_paths([Path(os.path.realpath(root))])
    csv_path = find_csv(root)
    video_ids, folders, groups = Texts(), Column[Path](), Texts()
    class_names, parts = Column[str](), Column[str]()
    for entry in read_csv(csv_path) if csv_path else walk_class_folders(root):
        video_ids.append(entry.video_id)
        folders.append(entry.folder)
        class_names.append(entry.class_name)
        if entry.group is not None:
            groups.append(entry.group)
        if entry.part is not None:
            parts.append(entry.part)
    classes = tuple(sorted(class_names.distinct))
    if len(classes) < 2:
        raise DatasetError(
            f"{csv_path or root} contains only one class, {classes[0]!r}; a classifier needs at least two. "
            "Name a folder with one folder per class, or a CSV with more than one label."
        )
    label_of = {class_name: label for label, class_name in enumerate(classes)}
    labels = array("I", (label_of[class_name] for class_name in class_names))
    videos = VideoList(video_ids, folders, labels, groups or video_ids)
    require_usable_paths(map(os.path.join, folders, video_ids))
    if config.group_pattern is not None:
        groups = Texts()
        for group in find_groups(config.group_pattern, [video.path for video in videos]):
            groups.append(group)
        videos = VideoList(video_ids, folders, labels, groups)
    if config.holdout_group is not None:
        splits = _DrawnWhenUsed(f"holdout-{config.holdout_group}", partial(hold_out, config=config), videos)
    elif parts:
        splits = _DrawnWhenUsed("listed", partial(split_as_listed, parts=parts, config=config), videos)
    else:
        splits = _DrawnWhenUsed(f"seed{config.split_seed}", partial(split_by_seed, config=config), videos)
    _warn_of_look_alikes("classes", classes)
    # Neighbouring CSVs are different datasets.
    own_name = root.stem.strip(".") if csv_path == root else root.resolve().name
    name = config.dataset_name or own_name or "folder"
    folder = csv_path.parent if csv_path else root
    remedy = f"Fix the column path of {csv_path}: its paths are relative to {folder}" if csv_path else ""
    return VideoDataset(
        name,
        config.dataset_name or name_by_content(name, videos),
        classes,
        videos,
        splits,
        remedy,
        former_store_name="" if config.dataset_name else name_by_path(folder),
    )


def load_unlabelled(config: "DataConfig") -> VideoDataset:
    """Load every video below ``config.root``, without labels or a split: enough to cache features.

    Hidden files and folders are left out. The features are found again once the videos have labels, by ``--dataset
    folder`` with the same root.

    Raises:
        DatasetError: there is no such folder, its path is not UTF-8, or no video is in it.
    """
    root = config.root_or("unlabelled")
    require_usable_paths([Path(os.path.realpath(root))])
    if not root.is_dir():
        raise DatasetError(f"looked for videos in {root}, which is not a folder. Name one with --root.")
    video_ids, folders, groups = Texts(), Column[Path](), Column[str]()
    for video_id in names_below(root):
        video_ids.append(video_id)
        folders.append(root)
        groups.append("")
    if not video_ids:
        raise no_video(root)
    videos = VideoList(video_ids, folders, array("I", bytes(4 * len(video_ids))), groups)
    name = config.dataset_name or root.resolve().name or "unlabelled"
    return VideoDataset(
        name,
        config.dataset_name or name_by_content(name, videos),
        ("unlabelled",),
        videos,
        {},
        former_store_name="" if config.dataset_name else name_by_path(root),
    )


class _DrawnWhenUsed(Mapping[str, Split]):
    """One split, drawn when it is first looked up: a caching job needs none, and drawing takes time and memory."""

    def __init__(
        self, name: str, draw: Callable[[Sequence[VideoRecord]], Split], videos: Sequence[VideoRecord]
    ) -> None:
        self._name, self._draw, self._videos = name, draw, videos

    def __iter__(self) -> Iterator[str]:
        return iter((self._name,))

    def __len__(self) -> int:
        return 1

    def __getitem__(self, name: str) -> Split:
        if name != self._name:
            raise KeyError(name)
        return self._split

    @cached_property
    def _split(self) -> Split:
        videos = tuple(self._videos)
        _warn_of_look_alikes("groups", {video.group for video in videos if video.group != video.video_id})
        split = self._draw(videos)
        check_disjoint(split)
        return split


def name_by_path(folder: Path) -> str:
    """The name that earlier versions gave the features of a folder's videos."""
    resolved = folder.resolve()
    return f"{resolved.name or 'folder'}-{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"


def split_by_seed(videos: Sequence[VideoRecord], config: "DataConfig") -> Split:
    """Split into about 60/20/20 % of every class, whole groups only, the same for the same seed and videos."""
    test_groups = draw_fraction([(video.group, video.label) for video in videos], TEST_FRACTION, config.split_seed)
    if not test_groups:
        groups = {video.group for video in videos}
        raise DatasetError(
            f"{len(videos)} videos in {len(groups)} groups are too few for a test set: every group has the last videos "
            "of some class. Add videos, or check the groups (--group-pattern, or the CSV's column group)."
        )
    others = [video for video in videos if video.group not in test_groups]
    train, validation = _set_aside(others, config, VALIDATION_FRACTION / (1 - TEST_FRACTION))
    test = tuple(video for video in videos if video.group in test_groups)
    return Split(f"seed{config.split_seed}", train, validation, test)


def split_as_listed(videos: Sequence[VideoRecord], parts: Iterable[str], config: "DataConfig") -> Split:
    """Return the split that the CSV lists; if it has no validation videos, some training groups are drawn."""
    by_part = {
        name: tuple(video for video, part in zip(videos, parts, strict=True) if part == name)
        for name in ("train", "validation", "test")
    }
    for name in ("train", "test"):
        if not by_part[name]:
            raise DatasetError(f"no video has the split {name!r}. Add some, or drop the column to draw a split.")
    train, validation = by_part["train"], by_part["validation"]
    if not validation:
        # A group in both train and test must be reported as the list's fault, before part of it moves to validation.
        check_disjoint(Split("listed", train, (), by_part["test"]))
        train, validation = _set_aside(train, config, VALIDATION_FRACTION)
    return Split("listed", train, validation, by_part["test"])


def hold_out(videos: Sequence[VideoRecord], config: "DataConfig") -> Split:
    """Test on one group, train on the others; validation groups are drawn from the others."""
    group = config.holdout_group
    assert group is not None
    groups = {video.group for video in videos}
    if group not in groups:
        raise DatasetError(f"no group {group!r} to hold out.{did_you_mean(group, groups)}")
    others = [video for video in videos if video.group != group]
    if not others:
        raise DatasetError(f"{group!r} is the only group: without it nothing is left to train on. Add other groups.")
    train, validation = _set_aside(others, config, VALIDATION_FRACTION)
    return Split(f"holdout-{group}", train, validation, tuple(video for video in videos if video.group == group))


def _set_aside(
    videos: Sequence[VideoRecord], config: "DataConfig", fraction: float
) -> tuple[tuple[VideoRecord, ...], tuple[VideoRecord, ...]]:
    """Divide videos into training and validation."""
    members = [(video.group, video.label) for video in videos]
    drawn = draw_validation(members, config.validation_groups, fraction, config.split_seed)
    train = tuple(video for video in videos if video.group not in drawn)
    return train, tuple(video for video in videos if video.group in drawn)


def _warn_of_look_alikes(what: str, names: Iterable[str]) -> None:
    """Warn of names that differ only in case or Unicode form: they may mean the same, but count as two."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        other = seen.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            print(
                f"warning: the {what} {ascii(other)} and {ascii(name)} differ only in case or Unicode form. If they "
                "are the same, give them the same name.",
                file=sys.stderr,
            )
