"""The videos of a folder: those in its class folders, those that a CSV lists, or all of them.

root/<class>/**/<video>                        every video below a class folder belongs to the class
root/videos.csv: path,label[,group][,split]    paths are relative to the CSV's folder; the files need not exist if
                                               their features are cached or imported
"""

import csv
import glob
import os
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import nearest_name
from data.records import DatasetError

VIDEO_EXTENSIONS = frozenset(
    {".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
)
REQUIRED_COLUMNS = ("path", "label")
OPTIONAL_COLUMNS = ("group", "split")
SPLIT_VALUES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
# Similarity from which a column name counts as a misspelt one. Stricter than for other hints: it is an error.
MISSPELT_COLUMN = 0.7


@dataclass(frozen=True)
class Entry:
    """A video as the folder or the CSV names it.

    ``video_id`` is relative to ``folder``. ``group`` and the ``part`` of the split are ``None`` if not given.
    """

    video_id: str
    folder: Path
    class_name: str
    group: str | None = None
    part: str | None = None


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
    loose: list[str] = []
    class_names: set[str] = set()
    for video_id in names_below(root):
        class_name, separator, _ = video_id.partition("/")
        if separator:
            class_names.add(class_name)
            yield Entry(video_id, root, class_name)
        else:
            loose.append(video_id)
    if not loose and not class_names:
        raise DatasetError(
            f"no video in {root}. Looked for {root}/<class>/<video> with the endings "
            f"{' '.join(sorted(VIDEO_EXTENSIONS))}, and for a CSV with the columns path,label."
        )
    if loose:
        raise DatasetError(
            f"{len(loose)} videos are in {root} itself, outside any class folder, e.g. {', '.join(loose[:3])}. "
            "Move each into the folder of its class, or list all in a CSV with the columns path,label."
        )
    if {name.lower() for name in class_names} <= SPLIT_VALUES.keys():
        raise DatasetError(
            f"the folders {', '.join(sorted(class_names))} in {root} look like splits, not classes. List the videos in "
            f"{root / 'videos.csv'} with the columns path,label,split."
        )


def read_csv(path: Path) -> Iterator[Entry]:
    """Yield the videos that a CSV with the columns ``path,label[,group][,split]`` lists, in its order.

    Their ids are relative to the CSV's folder; those of videos outside it, to the common parent of these.

    Raises:
        DatasetError: the file is damaged; a column is missing, misspelt or there twice; a cell is empty; a split is
            unknown; a video is listed twice (raised at the end). The message gives file and line.
    """
    hashes = array("q")  # instead of the ids, which take ten times the memory
    for line, row, video_id, folder in _located_rows(path):
        where = f"{path}, line {line}"
        for column, value in row.items():
            if not value:
                raise DatasetError(f"{where}: {column} is empty. Fill it in.")
        part = row.get("split")
        if part is not None and part.lower() not in SPLIT_VALUES:
            raise DatasetError(f"{where}: unknown split {part!r}. Write train, validation (or val), or test.")
        hashes.append(hash(video_id))
        yield Entry(
            video_id=video_id,
            folder=folder,
            class_name=row["label"],
            group=row.get("group"),
            part=SPLIT_VALUES[part.lower()] if part is not None else None,
        )
    if not hashes:
        raise DatasetError(f"{path} lists no video. Add lines with path,label.")
    if len(np.unique(hashes)) < len(hashes):
        _require_unique(path)


def _require_unique(path: Path) -> None:
    line_of: dict[str, int] = {}
    for line, row, video_id, _ in _located_rows(path):
        if video_id in line_of:
            raise DatasetError(
                f"{path}, line {line}: {row['path']} is also in line {line_of[video_id]}, as {video_id}. Remove one. "
                "If they are two files, move the CSV to a folder that contains both."
            )
        line_of[video_id] = line


def videos_below(root: Path) -> list[Path]:
    """Return all video files below ``root``, sorted, without hidden ones."""
    return [root / name for name in names_below(root)]


def names_below(root: Path) -> Iterator[str]:
    """Yield the videos below ``root`` as ``videos_below`` returns them, relative to ``root``."""
    return _walk(str(root), "", set())


def find_videos(names: Iterable[str]) -> list[Path]:
    """The videos that a user names, each once, in the order in which they are named.

    Args:
        names: files, whatever their ending and whether they exist; folders, which stand for all videos below them
            (hidden ones are left out); and patterns such as ``clips/*.mp4`` or ``clips/**/*.mp4``.

    Raises:
        DatasetError: a folder contains no video, or a pattern matches nothing.
    """
    found: dict[Path, None] = {}
    for name in names:
        matches = [name]
        if glob.has_magic(name) and not os.path.lexists(name):
            matches = sorted(glob.glob(name, recursive=True))
            if not matches:
                raise DatasetError(f"the pattern {name!r} matches no file. Check it, or name files or a folder.")
        for path in map(Path, matches):
            videos = videos_below(path) if path.is_dir() else [path]
            if not videos:
                raise no_video(path)
            found.update(dict.fromkeys(videos))
    return list(found)


def no_video(root: Path) -> DatasetError:
    """The error of a folder without a video."""
    return DatasetError(f"no video in {root}. Looked for the endings {' '.join(sorted(VIDEO_EXTENSIONS))}.")


def _walk(folder: str, prefix: str, seen: set[str]) -> Iterator[str]:
    # Class folders are often links to another disk, so links are followed; each real folder is visited once.
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    found: list[tuple[str, bool]] = []
    with suppress(OSError), os.scandir(folder) as entries:  # a folder that can't be read is left out
        found = sorted((entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith("."))
    for name, is_folder in found:
        if is_folder:
            yield from _walk(os.path.join(folder, name), f"{prefix}{name}/", seen)
        elif os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS:
            yield prefix + name


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the known columns of every row, stripped."""
    rows = _csv_rows(path)
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


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line on which each row begins, and its cells."""
    line = 1
    try:
        with path.open(encoding="utf-8-sig") as file:
            reader = csv.reader(_lines(path, file), strict=True)
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} is not UTF-8 text (after line {line}: {error.reason}). Save it as UTF-8."
        ) from error
    except csv.Error as error:
        raise DatasetError(f"{path}, line {line}: {error}. Is a quote not closed?") from error


def _lines(path: Path, lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise DatasetError(
                f"{path}, line {number}: a NUL character. The file is damaged or UTF-16: save it as UTF-8."
            )
        yield line


def _located_rows(path: Path) -> Iterator[tuple[int, dict[str, str], str, Path]]:
    """Yield the line number and the columns of every row, the id of its video, and the folder it is relative to.

    That is the CSV's folder, or for videos outside it the common parent of these.
    """
    folder = Path(os.path.normpath(path.parent))
    home_prefix = os.path.join(os.path.abspath(folder), "")
    common: str | None = None
    for _, row in _rows(path):
        video = _absolute(folder, row["path"])
        if not video.startswith(home_prefix):
            parent = os.path.dirname(video)
            common = parent if common is None else os.path.commonpath([common, parent])
    outside = Path(common or folder)
    outside_prefix = os.path.join(outside, "")
    for line, row in _rows(path):
        video = _absolute(folder, row["path"])
        if video.startswith(home_prefix):
            yield line, row, video[len(home_prefix) :], folder
        else:
            yield line, row, video[len(outside_prefix) :], outside


def _absolute(folder: Path, path: str) -> str:
    # POSIX lets a path begin with two slashes.
    return os.path.abspath(os.path.join(folder, path)).replace("//", "/")
