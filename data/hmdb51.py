"""HMDB51: 6,766 clips of 51 actions, three official splits (Kuehne et al., ICCV 2011).

The videos lie in folders ``<class>/<clip>.avi``, in the root or one level down, beside a folder with the split files
``<class>_test_split<k>.txt``. The authors hand it out as RAR archives, so there is no download here:

    python -m data.hmdb51 unpack --zip FILE --root datasets/hmdb51    # a zip, or a folder of zips
    python -m data.hmdb51 verify --root datasets/hmdb51               # decodes every video; exit code 1: bad ones
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from data.download import unpack as unpack_zip
from data.groups import check_disjoint, draw_validation
from data.records import DatasetError, Split, VideoDataset, VideoRecord
from data.verify import ExpectedVideo, find_problems, report_of

if TYPE_CHECKING:
    from data.catalog import DataConfig

DEFAULT_ROOT = Path("datasets/hmdb51")
VALIDATION_FRACTION = 0.15
VALIDATION_SEED = 0
SPLIT_FILE = re.compile(r"(?P<class_name>.+)_test_split(?P<split>\d+)\.txt")
# Visible body part, camera motion, number of people, view point, quality, counter: the tail of every clip's name.
CLIP_PROPERTIES = r"_[fhulz]_(?:cm|nm)_np\d+_(?:fr|ba|le|ri)_(?:bad|med|goo)_\d+$"
UNUSED, TRAIN, TEST = "0", "1", "2"


@dataclass(frozen=True)
class ListedClip:
    """A clip that the split files name. ``source`` is the film or video it was cut from."""

    class_name: str
    stem: str
    source: str

    @property
    def video_id(self) -> str:
        return f"{self.class_name}/{self.stem}"


@dataclass(frozen=True)
class Lists:
    """The split files: sorted class names, and by split the role ("0", "1" or "2") of every clip."""

    classes: tuple[str, ...]
    roles: dict[str, dict[ListedClip, str]]

    def used(self) -> list[ListedClip]:
        """The clips with a part in some split, sorted."""
        used = {clip for roles in self.roles.values() for clip, role in roles.items() if role != UNUSED}
        return sorted(used, key=lambda clip: clip.video_id)


def load(config: "DataConfig") -> VideoDataset:
    """HMDB51 with the splits "1", "2" and "3".

    The official lists keep the clips of one source *and class* on one side, so that is the group. For validation, whole
    sources leave the training list, with all their classes: about 15 % of each class, the same at every run.

    Raises:
        DatasetError: split files or videos are not there or not whole, or contradict themselves.
    """
    root = config.root_or("hmdb51")
    lists = read_lists(root)
    paths = find_videos(root)
    used = lists.used()
    missing = [clip.video_id for clip in used if (clip.class_name, clip.stem) not in paths]
    if missing:
        raise DatasetError(
            f"{len(missing)} of the {len(used)} videos in the split files are not at {root}, e.g. "
            f"{', '.join(missing[:3])} (looked for {root}/<class>/<clip>.avi and one level down). "
            f"To see which: python -m data.hmdb51 verify --root {root}. Out of a zip: {_unpack_command(root)}"
        )
    label_of = {class_name: label for label, class_name in enumerate(lists.classes)}
    records = {
        clip: VideoRecord(
            clip.video_id,
            paths[clip.class_name, clip.stem],
            label_of[clip.class_name],
            group=f"{clip.class_name}/{clip.source}",
        )
        for clip in used
    }
    splits = {}
    for name, roles in lists.roles.items():
        train = [clip for clip, role in roles.items() if role == TRAIN]
        members = [(clip.source, label_of[clip.class_name]) for clip in train]
        sources = draw_validation(members, config.validation_groups, VALIDATION_FRACTION, VALIDATION_SEED)
        splits[name] = Split(
            name=name,
            train=tuple(records[clip] for clip in train if clip.source not in sources),
            validation=tuple(records[clip] for clip in train if clip.source in sources),
            test=tuple(records[clip] for clip, role in roles.items() if role == TEST),
        )
        check_disjoint(splits[name])
    return VideoDataset("hmdb51", "hmdb51", lists.classes, tuple(records.values()), splits)


def read_lists(root: Path) -> Lists:
    """Read all split files in ``root`` or in one folder just below it.

    Raises:
        DatasetError: none there, or in two folders; a class lacks a split; a line that can't be right, with file and
            line number.
    """
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for pattern in ("*_test_split*.txt", "*/*_test_split*.txt"):
        for path in sorted(root.glob(pattern)):
            if match := SPLIT_FILE.fullmatch(path.name):
                other = files[match["split"]].setdefault(match["class_name"], path)
                if other is not path:
                    raise DatasetError(f"two split files of one name: {other} and {path}. Remove one.")
    if not files:
        state = "" if root.is_dir() else " (there is no such folder)"
        raise DatasetError(
            f"looked for the split files <class>_test_split1.txt in {root} and the folders just below it, and found "
            f"none{state}. Unpack the authors' test_train_splits.rar there, or out of a zip: {_unpack_command(root)}"
        )
    classes = tuple(sorted({class_name for by_class in files.values() for class_name in by_class}))
    for split, by_class in sorted(files.items()):
        absent = [class_name for class_name in classes if class_name not in by_class]
        if absent:
            raise DatasetError(f"{root} has no {absent[0]}_test_split{split}.txt, though other splits of that class.")
    roles: dict[str, dict[ListedClip, str]] = {}
    for split, by_class in sorted(files.items()):
        roles[split] = {}
        for class_name in classes:
            roles[split].update(_read_split_file(by_class[class_name], class_name))
    return Lists(classes, roles)


def find_videos(root: Path) -> dict[tuple[str, str], Path]:
    """The files ``<class>/<clip>.avi`` in ``root`` and one level down, by class folder and stem.

    Raises:
        DatasetError: two files for one clip.
    """
    found: dict[tuple[str, str], Path] = {}
    for pattern in ("*/*", "*/*/*"):
        for path in sorted(root.glob(pattern)):
            if path.suffix.lower() == ".avi" and path.is_file():
                other = found.setdefault((path.parent.name, path.stem), path)
                if other is not path:
                    raise DatasetError(f"two files for the one video {path.stem}: {other} and {path}. Remove one.")
    return found


def unpack(zip: Path, root: Path = DEFAULT_ROOT) -> int:
    """Unpack a zip with class folders, with one class, or with the split files; run again, it goes on where it stopped.

    Args:
        zip: the zip file, or a folder of them. Files that lie bare in a zip go to a folder of its name.
        root: where to.
    """
    archives = sorted(zip.glob("*.zip")) if zip.is_dir() else [zip]
    if not archives or not archives[0].is_file():
        raise DatasetError(f"no zip file at {zip}. Name a .zip, or a folder that holds some, with --zip.")
    for archive in archives:
        unpack_zip(archive, root, partial(_in_a_folder, archive.stem))
    print(f"Unpacked to {root}. To see whether all is there: python -m data.hmdb51 verify --root {root}")
    return 0


def verify(root: Path = DEFAULT_ROOT, workers: int | None = None, timeout: float = 60.0) -> int:
    """Decode every listed video and say which are missing, unreadable or short; exit code 1 where there are any.

    Args:
        root: holds class folders and split files.
        workers: number of processes; by default one for each core.
        timeout: seconds after which a decoder that hangs on one video is stopped.
    """
    lists = read_lists(root)
    paths = find_videos(root)
    expected = [
        ExpectedVideo(clip.video_id, clip.class_name, paths.get((clip.class_name, clip.stem))) for clip in lists.used()
    ]
    problems = find_problems(expected, workers, timeout)
    print(report_of(expected, problems))
    if problems:
        print(f"Delete the files that are unreadable or short and unpack them again: {_unpack_command(root)}")
    return 1 if problems else 0


def _read_split_file(path: Path, class_name: str) -> dict[ListedClip, str]:
    name_pattern = re.compile(f"(?P<source>.+)_{re.escape(class_name)}{CLIP_PROPERTIES}")
    rows: dict[ListedClip, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, role = line.strip().rpartition(" ")
        if not name or role not in (UNUSED, TRAIN, TEST):
            raise DatasetError(f"{path}, line {number}: expected '<clip>.avi 0', 1 or 2, found {line!r}.")
        stem = PurePosixPath(name.strip()).stem
        match = name_pattern.fullmatch(stem)
        if match is None:
            raise DatasetError(
                f"{path}, line {number}: {stem!r} is not named <source>_{class_name}_<properties>_<number>, so its "
                "source can't be told. Use the authors' split files and names."
            )
        clip = ListedClip(class_name, stem, match["source"])
        if clip in rows:
            raise DatasetError(f"{path}, line {number}: {stem!r} stands there twice.")
        rows[clip] = role
    return rows


def _in_a_folder(default: str, path: PurePosixPath) -> PurePosixPath:
    return path if path.parent.name else PurePosixPath(default) / path


def _unpack_command(root: Path) -> str:
    return f"python -m data.hmdb51 unpack --zip FILE --root {root}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit code: 0 all good, 1 bad videos or a disk that refuses, 2 usage."""
    import tyro

    commands: dict[str, Callable[..., int]] = {"unpack": unpack, "verify": verify}
    try:
        return tyro.extras.subcommand_cli_from_dict(commands, prog="python -m data.hmdb51", args=arguments)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
