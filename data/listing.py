"""The videos of a folder: those in its class folders, those that a CSV lists, or all of them.

root/<class>/**/<video>                        every video below a class folder belongs to the class
root/videos.csv: path,label[,group][,split]    paths are relative to the CSV's folder; the files need not exist if
                                               their features are cached or imported
"""

import csv
import glob
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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

    ``group`` and the ``part`` of the split are ``None`` if not given.
    """

    video_id: str
    path: Path
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
    paths = videos_below(root)
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


def videos_below(root: Path) -> list[Path]:
    """Return all video files below ``root``, sorted, without hidden ones."""
    return sorted(path for path in _walk(root) if path.suffix.lower() in VIDEO_EXTENSIONS)


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
