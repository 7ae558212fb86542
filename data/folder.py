"""Your own videos: a folder with one folder per class, a CSV that lists them, or videos without labels.

    root/<class>/**/<video>                        every video below a class folder belongs to the class
    root/videos.csv: path,label[,group][,split]    paths are relative to the CSV's folder; the files need not exist if
                                                   their features are cached or imported

Videos of one person, place or recording belong in one *group*; no split divides a group. If nothing names the groups,
every video is a group of its own.
"""

import csv
import hashlib
import io
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import did_you_mean, nearest_name
from data.group_pattern import find_groups
from data.groups import check_disjoint, draw_fraction, draw_validation
from data.identity import name_by_content
from data.records import DatasetError, Split, VideoDataset, VideoRecord, require_usable_paths

if TYPE_CHECKING:
    from data.catalog import DataConfig

VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)
REQUIRED_COLUMNS = ("path", "label")
OPTIONAL_COLUMNS = ("group", "split")
SPLIT_VALUES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
# Similarity from which a column name counts as a misspelt one. Stricter than for other hints: it is an error.
MISSPELT_COLUMN = 0.7
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.2


@dataclass(frozen=True)
class Entry:
    """A video as the folder or the CSV names it.

    ``group`` and the ``part`` of the split are ``None`` if not given.
    """

    video_id: str
    path: Path
    class_name: str
    group: str | None = None
    part: str | None = None


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
            there are fewer than two classes, a group is unknown, or there are too few groups to split.
    """
    root = config.root_or("folder")
    require_usable_paths([Path(os.path.realpath(root))])
    csv_path = find_csv(root)
    entries = read_csv(csv_path) if csv_path else list(walk_class_folders(root))
    require_usable_paths(entry.path for entry in entries)
    classes = tuple(sorted({entry.class_name for entry in entries}))
    if len(classes) < 2:
        raise DatasetError(
            f"{csv_path or root} contains only one class, {classes[0]!r}; a classifier needs at least two. "
            "Name a folder with one folder per class, or a CSV with more than one label."
        )
    label_of = {class_name: label for label, class_name in enumerate(classes)}
    if config.group_pattern is not None:
        groups = find_groups(config.group_pattern, [entry.path for entry in entries])
    else:
        groups = [entry.video_id if entry.group is None else entry.group for entry in entries]
    videos = tuple(
        VideoRecord(entry.video_id, entry.path, label_of[entry.class_name], group)
        for entry, group in zip(entries, groups, strict=True)
    )
    if config.holdout_group is not None:
        split = hold_out(videos, config.holdout_group, config)
    elif entries[0].part is not None:
        split = split_as_listed(videos, [entry.part or "" for entry in entries], config)
    else:
        split = split_by_seed(videos, config)
    check_disjoint(split)
    _warn_of_look_alikes("classes", classes)
    _warn_of_look_alikes("groups", {video.group for video in videos if video.group != video.video_id})
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
        {split.name: split},
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
    paths = _videos_below(root)
    if not paths:
        raise DatasetError(f"no video in {root}. Looked for the endings {' '.join(sorted(VIDEO_EXTENSIONS))}.")
    videos = tuple(VideoRecord(path.relative_to(root).as_posix(), path, label=0, group="") for path in paths)
    name = config.dataset_name or root.resolve().name or "unlabelled"
    return VideoDataset(
        name,
        config.dataset_name or name_by_content(name, videos),
        ("unlabelled",),
        videos,
        {},
        former_store_name="" if config.dataset_name else name_by_path(root),
    )


def name_by_path(folder: Path) -> str:
    """The name that earlier versions gave the features of a folder's videos."""
    resolved = folder.resolve()
    return f"{resolved.name or 'folder'}-{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"


def find_csv(root: Path) -> Path | None:
    """Find the CSV that describes the dataset: ``root`` itself, its ``videos.csv``, or its only CSV; else ``None``.

    Raises:
        DatasetError: ``root`` does not exist, is another kind of file, or contains several CSVs.
    """
    if root.is_file() and root.suffix.lower() == ".csv":
        return root
    if not root.is_dir():
        what = "is neither a folder nor a .csv file" if root.exists() else "does not exist"
        raise DatasetError(
            f"looked for your videos at {root}, which {what}. Name a folder with one folder of videos per class, or a "
            "CSV with the columns path,label[,group][,split], with --root."
        )
    found = sorted(path for path in root.iterdir() if path.suffix.lower() == ".csv" and path.name[0] != ".")
    for path in found:
        if path.name == "videos.csv":
            return path
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DatasetError(f"{root} contains {len(found)} CSV files ({names}). Name the right one with --root.")
    return found[0] if found else None


def walk_class_folders(root: Path) -> Iterator[Entry]:
    """Yield every video below ``root``; its class is the first folder on the way. Hidden files are left out.

    Raises:
        DatasetError: there is no video; one is outside the class folders; the folders are splits, not classes.
    """
    paths = _videos_below(root)
    if not paths:
        raise DatasetError(
            f"no video in {root}. Looked for {root}/<class>/<video> with the endings "
            f"{' '.join(sorted(VIDEO_EXTENSIONS))}, and for a CSV with the columns path,label."
        )
    loose = [path.name for path in paths if path.parent == root]
    if loose:
        raise DatasetError(
            f"{len(loose)} videos are in {root} itself, outside any class folder, e.g. {', '.join(loose[:3])}. "
            "Move each into the folder of its class, or list all in a CSV with the columns path,label."
        )
    class_names = {path.relative_to(root).parts[0] for path in paths}
    if {name.lower() for name in class_names} <= SPLIT_VALUES.keys():
        raise DatasetError(
            f"the folders {', '.join(sorted(class_names))} in {root} look like splits, not classes. List the videos in "
            f"{root / 'videos.csv'} with the columns path,label,split."
        )
    for path in paths:
        relative = path.relative_to(root)
        yield Entry(relative.as_posix(), path, relative.parts[0])


def read_csv(path: Path) -> list[Entry]:
    """Read the videos that a CSV with the columns ``path,label[,group][,split]`` lists, in its order.

    Their ids are relative to the CSV's folder; those of videos outside it, to the common parent of these.

    Raises:
        DatasetError: the file is damaged; a column is missing, misspelt or there twice; a cell is empty; a split is
            unknown; a video is listed twice. The message gives file and line.
    """
    rows = list(_rows(path))
    paths = [Path(os.path.normpath(path.parent / row["path"])) for _, row in rows]
    bases = _bases(paths, path.parent)
    entries: list[Entry] = []
    line_of: dict[str, int] = {}
    for (line, row), video_path, base in zip(rows, paths, bases, strict=True):
        where = f"{path}, line {line}"
        video_id = Path(os.path.relpath(video_path, base)).as_posix()
        for column, value in row.items():
            if not value:
                raise DatasetError(f"{where}: {column} is empty. Fill it in.")
        part = row.get("split")
        if part is not None and part.lower() not in SPLIT_VALUES:
            raise DatasetError(f"{where}: unknown split {part!r}. Write train, validation (or val), or test.")
        if video_id in line_of:
            raise DatasetError(
                f"{where}: {row['path']} is also in line {line_of[video_id]}, as {video_id}. Remove one. If they are "
                "two files, move the CSV to a folder that contains both."
            )
        line_of[video_id] = line
        entries.append(
            Entry(
                video_id=video_id,
                path=video_path,
                class_name=row["label"],
                group=row.get("group"),
                part=SPLIT_VALUES[part.lower()] if part is not None else None,
            )
        )
    if not entries:
        raise DatasetError(f"{path} lists no video. Add lines with path,label.")
    return entries


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


def split_as_listed(videos: Sequence[VideoRecord], parts: Sequence[str], config: "DataConfig") -> Split:
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


def hold_out(videos: Sequence[VideoRecord], group: str, config: "DataConfig") -> Split:
    """Test on one group, train on the others; validation groups are drawn from the others."""
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


def _videos_below(root: Path) -> list[Path]:
    """Return all video files below ``root``, sorted, without hidden ones."""
    return sorted(path for path in _walk(root) if path.suffix.lower() in VIDEO_EXTENSIONS)


def _walk(root: Path) -> Iterator[Path]:
    # Class folders are often links to another disk, so links are followed; each real folder is visited once.
    seen: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder) / name for name in names if not name.startswith("."))


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the known columns of every row, stripped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DatasetError(f"{path}, line {line}: a NUL character. The file is damaged or UTF-16: save it as UTF-8.")
    rows = _csv_rows(path, text)
    _, cells = next(rows, (1, []))
    header = [name.strip() for name in cells]
    for required in REQUIRED_COLUMNS:
        if required not in header:
            raise DatasetError(
                f"{path}, line 1: no column {required!r}; found {', '.join(header) or 'nothing'}. "
                "The first line must be path,label[,group][,split]."
            )
    for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS):
        if header.count(name) > 1:
            raise DatasetError(f"{path}, line 1: {header.count(name)} columns {name!r}. Remove or rename all but one.")
    for name in header:
        # Other columns are the user's own, but ignoring a misspelt "group" would leak test groups into training.
        meant = nearest_name(name.lower(), OPTIONAL_COLUMNS, MISSPELT_COLUMN)
        if meant is not None and name not in OPTIONAL_COLUMNS and meant not in header:
            raise DatasetError(f"{path}, line 1: unknown column {name!r}. Did you mean {meant!r}?")
    for line, cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise DatasetError(
                f"{path}, line {line}: {len(cells)} values for {len(header)} columns. Put a value that contains a "
                "comma in double quotes."
            )
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        yield line, {name: row[name] for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if name in row}


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line on which each row begins, and its cells."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(f"{path}, line {line}: {error}. Is a quote not closed?") from error


def _bases(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Return for each path the folder that its id is relative to: ``folder``, or the common parent of those outside."""
    parents = [os.path.dirname(os.path.abspath(path)) for path in paths]
    home = os.path.abspath(folder)
    inside = [os.path.commonpath([home, parent]) == home for parent in parents]
    outside = [parent for parent, is_inside in zip(parents, inside, strict=True) if not is_inside]
    common = Path(os.path.commonpath(outside)) if outside else folder
    return [folder if is_inside else common for is_inside in inside]


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
