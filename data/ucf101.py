"""UCF101: 13,320 videos of 101 actions, three official splits (Soomro, Zamir and Shah, CRCV-TR-12-01).

Two layouts are read: the authors' ``UCF-101/<Class>/v_*.avi`` and a flat folder of ``v_*.avi``, either beside a folder
with the seven list files.

    python -m data.ucf101 download --root datasets/ucf101    # about 7 GB, resumes where it stopped
    python -m data.ucf101 verify   --root datasets/ucf101    # decodes every video; exit code 1 if one is bad
"""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from data.command import run_command
from data.download import RemoteFile, fetch, unpack
from data.errors import did_you_mean
from data.groups import check_disjoint
from data.processes import available_cores
from data.records import DatasetError, Split, VideoDataset, VideoRecord, require_usable_paths
from data.verify import ExpectedVideo, verify_videos

if TYPE_CHECKING:
    from data.catalog import DataConfig

VIDEOS = RemoteFile(
    url="https://storage.googleapis.com/thumos14_files/UCF101_videos.zip",
    size=6_960_400_115,
    sha256="dabf56f573cd19c79e096563529fec8126a2a34e18e10c72eb621dd687532b0d",
)
LISTS = RemoteFile(
    url="https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
    size=113_943,
    sha256="5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
)
DEFAULT_ROOT = Path("datasets/ucf101")
VALIDATION_GROUPS = frozenset({22, 23, 24, 25})  # the only groups that are in no official test list
GROUP_NUMBER = re.compile(r"_g(\d{1,9})_c\d+$")


@dataclass(frozen=True)
class ListedVideo:
    """A line of a list. ``stem`` is spelt as in the list; files on disk are matched to it ignoring case."""

    stem: str
    label: int
    group_number: int


@dataclass(frozen=True)
class Lists:
    """The content of the list files: class names in label order, and the training and test videos of each split."""

    classes: tuple[str, ...]
    splits: dict[str, tuple[tuple[ListedVideo, ...], tuple[ListedVideo, ...]]]

    def videos(self) -> list[ListedVideo]:
        """Return every listed video once, sorted by class and name."""
        unique = {video for train, test in self.splits.values() for video in train + test}
        return sorted(unique, key=lambda video: (video.label, video.stem))


def load(config: "DataConfig") -> VideoDataset:
    """Load UCF101 with the splits "1", "2" and "3"; groups 22 to 25 of the training lists are for validation.

    Raises:
        DatasetError: lists are missing or incomplete, or contradict each other.
    """
    root = config.root_or("ucf101")
    return load_layout(root, "ucf101", f"python -m data.ucf101 download --root {root}")


def load_layout(
    root: Path, name: str, remedy: str, validation_groups: frozenset[int] = VALIDATION_GROUPS
) -> VideoDataset:
    """Load a dataset in UCF101's layout, with lists in UCF101's format.

    The videos are those in the lists. Their files need not exist.

    Args:
        root: folder with the videos and lists.
        name: name of the dataset, and of its folder in the feature store.
        remedy: the command that brings missing files, for error messages.
        validation_groups: numbers of the groups to validate on, in every class.

    Raises:
        DatasetError: lists are missing or incomplete, or contradict each other.
    """
    lists = read_lists(root, remedy)
    paths = find_videos(root)
    listed = lists.videos()

    def record_of(video: ListedVideo) -> VideoRecord:
        group = f"{lists.classes[video.label]}_g{video.group_number:02d}"
        path = paths.get(video.stem.lower(), root / f"{video.stem}.avi")
        return VideoRecord(video.stem, path, video.label, group)

    records = {video: record_of(video) for video in listed}
    require_usable_paths(record.path for record in records.values())
    splits = {}
    for split_name, (train, test) in lists.splits.items():
        splits[split_name] = Split(
            name=split_name,
            train=tuple(records[video] for video in train if video.group_number not in validation_groups),
            validation=tuple(records[video] for video in train if video.group_number in validation_groups),
            test=tuple(records[video] for video in test),
        )
        check_disjoint(splits[split_name])
    advice = (
        f"Looked in {root} and two levels down. Get them: {remedy}. To list all that are missing: "
        f"python -m data.ucf101 verify --root {root}"
    )
    return VideoDataset(name, name, lists.classes, tuple(records.values()), splits, advice)


def read_lists(root: Path, remedy: str) -> Lists:
    """Read ``classInd.txt`` and all ``trainlist0k.txt``/``testlist0k.txt`` in ``root`` or a folder just below it.

    Raises:
        DatasetError: there are no lists, or more than one set; a line is invalid (the message gives file and line).
    """
    folder = find_list_folder(root)
    if folder is None:
        state = "" if root.is_dir() else " (there is no such folder)"
        raise DatasetError(
            f"looked for classInd.txt with trainlist01.txt and testlist01.txt in {root} and the folders just below it, "
            f"and found none{state}. Get them: {remedy}"
        )
    labels = _read_classes(folder / "classInd.txt")
    splits = {}
    for train_list in sorted(folder.glob("trainlist[0-9][0-9].txt")):
        number = train_list.stem.removeprefix("trainlist")
        test_list = folder / f"testlist{number}.txt"
        if not test_list.is_file():
            raise DatasetError(f"{train_list} has no {test_list.name} beside it. Get the lists again: {remedy}")
        splits[str(int(number))] = (_read_list(train_list, labels), _read_list(test_list, labels))
    if not splits:
        raise DatasetError(f"{folder} contains classInd.txt, but no trainlist01.txt. Get the lists again: {remedy}")
    lists = Lists(tuple(labels), splits)
    _require_unique_stems(lists, folder)
    return lists


def find_list_folder(root: Path) -> Path | None:
    """Find the folder with ``classInd.txt``: ``root`` or one just below it; ``None`` if there is none."""
    found = sorted(path.parent for pattern in ("classInd.txt", "*/classInd.txt") for path in root.glob(pattern))
    if len(found) > 1:
        raise DatasetError(f"{root} contains two sets of lists: {found[0]} and {found[1]}. Keep one.")
    return found[0] if found else None


def find_videos(root: Path) -> dict[str, Path]:
    """Find the AVI files in ``root`` and up to two levels down, by lower-case stem.

    Raises:
        DatasetError: two files share a stem, so that a line of a list could mean either.
    """
    found: dict[str, Path] = {}
    for pattern in ("*", "*/*", "*/*/*"):
        for path in sorted(root.glob(pattern)):
            if path.suffix.lower() == ".avi" and path.is_file():
                other = found.setdefault(path.stem.lower(), path)
                if other is not path:
                    raise DatasetError(f"two files for the one video {path.stem}: {other} and {path}. Remove one.")
    return found


def download(
    root: Path = DEFAULT_ROOT, mirror: Annotated[str | None, arg(metavar="URL", help_behavior_hint="")] = None
) -> int:
    """Download UCF101 and unpack it. An interrupted download resumes.

    Args:
        root: folder to download to. It needs about 14 GB; the archives in ROOT/downloads may be deleted afterwards.
        mirror: address to fetch both zip files from, instead of the official ones. They must be the same files.
    """
    return fetch_and_unpack(root, *(file.at_mirror(mirror) if mirror else file for file in (LISTS, VIDEOS)))


def fetch_and_unpack(root: Path, lists_zip: RemoteFile, videos_zip: RemoteFile) -> int:
    """Download the lists, then the listed videos that are missing. Returns 0, the exit code.

    Raises:
        DatasetError: a download fails, an archive is wrong, or a listed video is still missing at the end.
    """
    downloads = root / "downloads"
    if find_list_folder(root) is None:
        unpack(fetch(lists_zip, downloads), root)
    listed = read_lists(root, remedy=f"remove the list files in {root} and run this command again").videos()
    missing = _missing(listed, root)
    if missing:
        # Unpack only what is missing: videos the user already has, in either layout, must not be there twice.
        archive = fetch(videos_zip, downloads)
        unpack(archive, root, lambda path: path if _is_one_of(path, missing) else None)
        missing = _missing(listed, root)
    if missing:
        raise DatasetError(f"{videos_zip.url} lacks {len(missing)} listed videos: {', '.join(sorted(missing)[:3])} ...")
    print(f"UCF101 is at {root}: {len(listed)} videos.")
    if downloads.is_dir():
        print(f"The archives in {downloads} are no longer needed.")
    return 0


def verify(root: Path = DEFAULT_ROOT, workers: int = available_cores(), timeout: float = 60.0) -> int:
    """Decode every listed video and report which are missing, unreadable or short. The exit code is 1 if any is.

    Args:
        root: folder with the videos and lists.
        workers: number of processes.
        timeout: seconds after which a decoder that hangs on a video is stopped.
    """
    command = f"python -m data.ucf101 download --root {root}"
    lists = read_lists(root, command)
    paths = find_videos(root)
    expected = [
        ExpectedVideo(video.stem, lists.classes[video.label], paths.get(video.stem.lower())) for video in lists.videos()
    ]
    return verify_videos(expected, workers, timeout, command)


def _read_classes(path: Path) -> dict[str, int]:
    """Read class name -> label, in label order. The file counts from 1, labels from 0."""
    labels: dict[str, int] = {}
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) != 2 or fields[0] != str(len(labels) + 1) or fields[1] in labels:
            raise DatasetError(f"{path}, line {number}: expected '{len(labels) + 1} <new class name>', found {line!r}.")
        labels[fields[1]] = len(labels)
    if not labels:
        raise DatasetError(f"{path} names no class. Get the lists again.")
    return labels


def _read_list(path: Path, labels: dict[str, int]) -> tuple[ListedVideo, ...]:
    """Read the videos of one list.

    The class is the folder in the line, not part of the file's name: class HandstandPushups contains files
    v_HandStandPushups_*.
    """
    videos = []
    for number, line in _lines(path):
        name, _, class_id = line.partition(" ")
        video_path = PurePosixPath(name)
        class_name = video_path.parent.name
        if class_name not in labels:
            hint = did_you_mean(class_name, labels)
            raise DatasetError(f"{path}, line {number}: class {class_name!r} is not in classInd.txt.{hint}")
        label = labels[class_name]
        if class_id.strip() not in ("", str(label + 1)):
            raise DatasetError(
                f"{path}, line {number}: class id {class_id.strip()!r} for {class_name}; classInd.txt says {label + 1}."
            )
        group = GROUP_NUMBER.search(video_path.stem)
        if group is None:
            raise DatasetError(f"{path}, line {number}: no group number (_g01_c01) in the name {video_path.name!r}.")
        videos.append(ListedVideo(video_path.stem, label, int(group[1])))
    if not videos:
        raise DatasetError(f"{path} names no video. Get the lists again.")
    return tuple(videos)


def _require_unique_stems(lists: Lists, folder: Path) -> None:
    """Raise if a list names a video twice, or if two listed videos would have the same file on disk."""
    for split_name, (train, test) in lists.splits.items():
        _require_unique((video.stem for video in train + test), f"the lists of split {split_name} in {folder}")
    _require_unique((video.stem for video in lists.videos()), f"the lists in {folder} (in two classes or spellings)")


def _require_unique(stems: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for stem in stems:
        if stem.lower() in seen:
            raise DatasetError(f"video {stem} is listed twice in {where}. Get the lists again.")
        seen.add(stem.lower())


def _lines(path: Path) -> list[tuple[int, str]]:
    """Read the non-blank lines with their numbers, stripped (the official files end lines with CRLF)."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not a text file ({error}). Get the lists again.") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _missing(listed: list[ListedVideo], root: Path) -> set[str]:
    """Return the lower-case stems of the listed videos that have no file."""
    return {video.stem.lower() for video in listed} - find_videos(root).keys()


def _is_one_of(path: PurePosixPath, stems: set[str]) -> bool:
    return path.suffix.lower() == ".avi" and path.stem.lower() in stems


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code: 1 if ``verify`` found bad videos, else 0."""
    import tyro

    commands: dict[str, Callable[..., int]] = {"download": download, "verify": verify}
    return tyro.extras.subcommand_cli_from_dict(commands, prog="python -m data.ucf101", args=arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
