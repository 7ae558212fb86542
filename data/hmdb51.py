"""HMDB51: 6,766 videos of 51 actions, three official splits (Kuehne et al., ICCV 2011).

The videos are in folders ``<class>/<video>.avi``, in the root or one level down, beside a folder with the split files
``<class>_test_split<k>.txt``. The authors publish RAR archives, so there is no download command:

    python -m data.hmdb51 unpack --zip FILE --root datasets/hmdb51    # a zip, or a folder of zips
    python -m data.hmdb51 verify --root datasets/hmdb51               # decodes every video; exit code 1 if one is bad
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from data.command import run_command
from data.download import ArchiveError
from data.download import unpack as unpack_zip
from data.groups import check_disjoint, draw_validation
from data.processes import available_cores
from data.records import DatasetError, Split, VideoDataset, VideoRecord, require_usable_paths
from data.verify import ExpectedVideo, verify_videos

if TYPE_CHECKING:
    from data.catalog import DataConfig

DEFAULT_ROOT = Path("datasets/hmdb51")
VALIDATION_FRACTION = 0.15
VALIDATION_SEED = 0
SPLIT_FILE = re.compile(r"(?P<class_name>.+)_test_split(?P<split>\d+)\.txt")
# Visible body part, camera motion, number of people, view point, quality, counter: the end of every video's name.
VIDEO_PROPERTIES = r"_[fhulz]_(?:cm|nm)_np\d+_(?:fr|ba|le|ri)_(?:bad|med|goo)_\d+$"
UNUSED, TRAIN, TEST = "0", "1", "2"


@dataclass(frozen=True)
class ListedVideo:
    """A video that the split files name. ``source`` is the film or recording it was cut from."""

    class_name: str
    stem: str
    source: str

    @property
    def video_id(self) -> str:
        return f"{self.class_name}/{self.stem}"


@dataclass(frozen=True)
class Lists:
    """The content of the split files: sorted class names, and for each split the role of every video."""

    classes: tuple[str, ...]
    roles: dict[str, dict[ListedVideo, str]]

    def used(self) -> list[ListedVideo]:
        """Return the videos that some split trains or tests on, sorted."""
        used = {video for roles in self.roles.values() for video, role in roles.items() if role != UNUSED}
        return sorted(used, key=lambda video: video.video_id)


def load(config: "DataConfig") -> VideoDataset:
    """Load HMDB51 with the splits "1", "2" and "3".

    The official lists keep the videos of one source *and class* in one part, so that is the group. Validation takes
    whole sources, with all their classes, out of the training list: about 15 % of each class, the same in every run.
    The videos are those in the split files. Their own files need not exist.

    Raises:
        DatasetError: split files are missing or incomplete, or contradict each other.
    """
    root = config.root_or("hmdb51")
    lists = read_lists(root)
    paths = find_videos(root)
    used = lists.used()
    label_of = {class_name: label for label, class_name in enumerate(lists.classes)}
    records = {
        video: VideoRecord(
            video.video_id,
            paths.get((video.class_name, video.stem), root / f"{video.video_id}.avi"),
            label_of[video.class_name],
            group=f"{video.class_name}/{video.source}",
        )
        for video in used
    }
    require_usable_paths(record.path for record in records.values())
    splits = {}
    for name, roles in lists.roles.items():
        train = [video for video, role in roles.items() if role == TRAIN]
        members = [(video.source, label_of[video.class_name]) for video in train]
        sources = draw_validation(members, config.validation_groups, VALIDATION_FRACTION, VALIDATION_SEED)
        splits[name] = Split(
            name=name,
            train=tuple(records[video] for video in train if video.source not in sources),
            validation=tuple(records[video] for video in train if video.source in sources),
            test=tuple(records[video] for video, role in roles.items() if role == TEST),
        )
        check_disjoint(splits[name])
    advice = (
        f"Looked in {root} and one level down. To unpack a zip: {_unpack_command(root)}. To list all that are missing: "
        f"python -m data.hmdb51 verify --root {root}"
    )
    return VideoDataset("hmdb51", "hmdb51", lists.classes, tuple(records.values()), splits, advice)


def read_lists(root: Path) -> Lists:
    """Read all split files in ``root`` or in one folder just below it.

    Raises:
        DatasetError: there are none, or two of one name; a class lacks a split; a line is invalid (the message gives
            file and line).
    """
    files: dict[str, dict[str, Path]] = defaultdict(dict)
    for pattern in ("*_test_split*.txt", "*/*_test_split*.txt"):
        for path in sorted(root.glob(pattern)):
            if match := SPLIT_FILE.fullmatch(path.name):
                other = files[match["split"]].setdefault(match["class_name"], path)
                if other is not path:
                    raise DatasetError(f"two split files have the same name: {other} and {path}. Remove one.")
    if not files:
        state = "" if root.is_dir() else " (there is no such folder)"
        raise DatasetError(
            f"looked for the split files <class>_test_split1.txt in {root} and the folders just below it, and found "
            f"none{state}. Unpack the authors' test_train_splits.rar there, or a zip: {_unpack_command(root)}"
        )
    classes = tuple(sorted({class_name for by_class in files.values() for class_name in by_class}))
    for split, by_class in sorted(files.items()):
        absent = [class_name for class_name in classes if class_name not in by_class]
        if absent:
            raise DatasetError(
                f"{root} has no {absent[0]}_test_split{split}.txt, but files of other splits of that class. "
                "Get the split files again."
            )
    roles: dict[str, dict[ListedVideo, str]] = {}
    for split, by_class in sorted(files.items()):
        roles[split] = {}
        for class_name in classes:
            roles[split].update(_read_split_file(by_class[class_name], class_name))
    return Lists(classes, roles)


def find_videos(root: Path) -> dict[tuple[str, str], Path]:
    """Find the files ``<class>/<video>.avi`` in ``root`` and one level down, by class folder and stem.

    Raises:
        DatasetError: there are two files for one video.
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
    """Unpack a zip of class folders, of one class, or of the split files. Files that are already there are skipped.

    The exit code is 1 if some of several zips can't be unpacked.

    Args:
        zip: zip file, or a folder of them. Files at the top level of a zip go to a folder with the zip's name.
        root: folder to unpack to.
    """
    archives = sorted(zip.glob("*.zip")) if zip.is_dir() else [zip]
    if not archives or not archives[0].is_file():
        raise DatasetError(f"no zip file at {zip}. Name a .zip file, or a folder of them, with --zip.")
    num_failed = 0
    for archive in archives:
        try:
            unpack_zip(archive, root, partial(_in_a_folder, archive.stem))
        except ArchiveError as error:
            if len(archives) == 1:
                raise
            num_failed += 1
            print(f"failed: {error}", file=sys.stderr)
    if num_failed:
        print(f"{num_failed} of {len(archives)} archives in {zip} are not unpacked completely", file=sys.stderr)
        return 1
    print(f"Unpacked to {root}. To check that nothing is missing: python -m data.hmdb51 verify --root {root}")
    return 0


def verify(root: Path = DEFAULT_ROOT, workers: int = available_cores(), timeout: float = 60.0) -> int:
    """Decode every listed video and report which are missing, unreadable or short. The exit code is 1 if any is.

    Args:
        root: folder with the class folders and split files.
        workers: number of processes.
        timeout: seconds after which a decoder that hangs on a video is stopped.
    """
    lists = read_lists(root)
    paths = find_videos(root)
    expected = [
        ExpectedVideo(video.video_id, video.class_name, paths.get((video.class_name, video.stem)))
        for video in lists.used()
    ]
    return verify_videos(expected, workers, timeout, _unpack_command(root))


def _read_split_file(path: Path, class_name: str) -> dict[ListedVideo, str]:
    name_pattern = re.compile(f"(?P<source>.+)_{re.escape(class_name)}{VIDEO_PROPERTIES}")
    rows: dict[ListedVideo, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name, _, role = line.strip().rpartition(" ")
        if not name or role not in (UNUSED, TRAIN, TEST):
            raise DatasetError(f"{path}, line {number}: expected '<video>.avi 0', 1 or 2, found {line!r}.")
        stem = PurePosixPath(name.strip()).stem
        match = name_pattern.fullmatch(stem)
        if match is None:
            raise DatasetError(
                f"{path}, line {number}: {stem!r} is not named <source>_{class_name}_<properties>_<number>, so its "
                "source is unknown. Use the authors' split files and names."
            )
        video = ListedVideo(class_name, stem, match["source"])
        if video in rows:
            raise DatasetError(f"{path}, line {number}: {stem!r} is listed twice. Remove one of the lines.")
        rows[video] = role
    return rows


def _in_a_folder(default: str, path: PurePosixPath) -> PurePosixPath:
    return path if path.parent.name else PurePosixPath(default) / path


def _unpack_command(root: Path) -> str:
    return f"python -m data.hmdb51 unpack --zip FILE --root {root}"


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code: 1 if ``verify`` found bad videos or a zip failed, else 0."""
    import tyro

    commands: dict[str, Callable[..., int]] = {"unpack": unpack, "verify": verify}
    return tyro.extras.subcommand_cli_from_dict(commands, prog="python -m data.hmdb51", args=arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
