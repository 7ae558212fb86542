"""data/ucf101.py: official lists, both layouts, invalid lists, and the download and verify commands."""

import functools
import hashlib
import http.server
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.catalog import DataConfig, load_dataset
from data.download import DownloadError, RemoteFile
from data.records import DatasetError, VideoDataset, require_files
from data.ucf101 import fetch_and_unpack, main, read_lists
from tests.helpers import REPOSITORY

# Folder and file names of the second class differ in case, as in the real lists.
CLASSES = {"Biking": "v_Biking", "HandstandPushups": "v_HandStandPushups"}
TRAIN_GROUPS, TEST_GROUPS = (8, 9, 22, 25), (1, 2)


def stems(groups: tuple[int, ...] = TRAIN_GROUPS + TEST_GROUPS) -> list[tuple[str, str]]:
    """Return class and stem of every video of the small set."""
    return [(name, f"{prefix}_g{group:02d}_c01") for name, prefix in CLASSES.items() for group in groups]


def write_lists(folder: Path, end: str = "\r\n") -> None:
    """Write the list files of the small set in the official format, split 1 only."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {name: number for number, name in enumerate(CLASSES, start=1)}
    texts = {
        "classInd.txt": [f"{number} {name}" for name, number in ids.items()],
        "trainlist01.txt": [f"{name}/{stem}.avi {ids[name]}" for name, stem in stems(TRAIN_GROUPS)],
        "testlist01.txt": [f"{name}/{stem}.avi" for name, stem in stems(TEST_GROUPS)],
    }
    for file_name, lines in texts.items():
        (folder / file_name).write_bytes("".join(line + end for line in lines).encode())


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


def load(root: Path) -> VideoDataset:
    return load_dataset(DataConfig("ucf101", root=root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The small set in the authors' layout; the videos are empty files."""
    write_lists(tmp_path / "ucfTrainTestlist")
    for name, stem in stems():
        path = tmp_path / "UCF-101" / name / f"{stem}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def official_dataset(action_data: Path, root: Path, flat: bool) -> VideoDataset:
    """The whole dataset from the official lists, in either layout; the videos are empty files."""
    lists = root / "ucfTrainTestlist"
    shutil.copytree(action_data / "ucf101" / "ucfTrainTestlist", lists)
    lines = [line for name in ("trainlist01.txt", "testlist01.txt") for line in (lists / name).read_text().splitlines()]
    names = [line.split()[0] for line in lines]
    if flat:
        paths = [root / "UCF101" / name.split("/")[1].replace("HandStand", "Handstand") for name in names]
    else:
        paths = [root / "UCF-101" / name for name in names]
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True)
    for path in paths:
        path.touch()
    return load(root)


@pytest.fixture(scope="module")
def official(action_data: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    """UCF101 in the authors' layout."""
    return official_dataset(action_data, tmp_path_factory.mktemp("ucf101"), flat=False)


def test_the_official_lists_give_the_official_counts(official: VideoDataset) -> None:
    """There are 13,320 videos, the splits have their published sizes, 2,107 videos are for validation, and no group is
    in two parts."""
    assert len(official.classes) == 101
    assert len(official.videos) == len({video.video_id for video in official.videos}) == 13_320
    sizes = {name: (len(s.train) + len(s.validation), len(s.test)) for name, s in official.splits.items()}
    assert sizes == {"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696)}
    tested = {video.group for split in official.splits.values() for video in split.test}
    for split in official.splits.values():
        groups = [{video.group for video in part} for part in (split.train, split.validation, split.test)]
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
        assert len(split.validation) == 2107
        assert {group[-4:] for group in groups[1]} == {"_g22", "_g23", "_g24", "_g25"}
        assert not groups[1] & tested


def test_the_flat_layout_is_the_same_dataset(official: VideoDataset, action_data: Path, tmp_path: Path) -> None:
    """A folder with all videos gives the same ids, labels and splits as the class folders."""
    flat = official_dataset(action_data, tmp_path, flat=True)

    def facts(dataset: VideoDataset) -> list[object]:
        videos = [(video.video_id, video.label, video.group) for video in dataset.videos]
        splits = dataset.splits.values()
        parts = [[video.video_id for video in part] for s in splits for part in (s.train, s.validation, s.test)]
        return [videos, parts, dataset.classes]

    assert facts(flat) == facts(official)


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_line_ends_labels_and_the_class_of_a_video(tmp_path: Path, end: str) -> None:
    """CRLF is not part of a name, labels count from 0, and v_HandStandPushups has the class HandstandPushups."""
    write_lists(tmp_path, end)
    for _, stem in stems():
        (tmp_path / f"{stem}.avi").touch()
    dataset = load(tmp_path)
    assert dataset.classes == ("Biking", "HandstandPushups")
    (video,) = (video for video in dataset.videos if video.video_id == "v_HandStandPushups_g08_c01")
    assert (video.label, video.group) == (1, "HandstandPushups_g08")
    assert video.path == tmp_path / "v_HandStandPushups_g08_c01.avi"


def test_missing_videos_stay_in_their_lists(root: Path) -> None:
    """A listed video without a file is still in the test list; decoding is refused with its name and what to do."""
    complete = load(root)
    (root / "UCF-101/Biking/v_Biking_g01_c01.avi").unlink()
    dataset = load(root)
    for one, other in ((dataset.videos, complete.videos), (dataset.split("1").test, complete.split("1").test)):
        assert [video.video_id for video in one] == [video.video_id for video in other]
    with pytest.raises(DatasetError, match=r"1 of 12 videos .*v_Biking_g01_c01.avi.*data.ucf101 verify --root"):
        require_files(dataset.videos, dataset.remedy)
    require_files(complete.videos[:0])


def test_a_wrong_root_is_an_error_with_the_command(tmp_path: Path) -> None:
    """A wrong root is an error that says what was looked for, where, and how to get it."""
    missing = tmp_path / "nowhere"
    pattern = rf"classInd.txt .* {missing} .*no such folder.*python -m data.ucf101 download --root {missing}"
    with pytest.raises(DatasetError, match=pattern):
        load(missing)


def test_an_unknown_class_in_a_list_is_named_with_its_line(root: Path) -> None:
    """A misspelt class is an error with file, line and the nearest name."""
    replace_in(root / "ucfTrainTestlist/testlist01.txt", "HandstandPushups/", "HandStandPushups/")
    with pytest.raises(DatasetError, match=r"testlist01.txt, line 3: class 'HandStandPushups'.*'HandstandPushups'"):
        load(root)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("trainlist01.txt", "_c01.avi 1", "_c01.avi 2", "line 1: class id '2' for Biking; classInd.txt says 1"),
        (
            "trainlist01.txt",
            "_g08_c01",
            "_08_01",
            r"line 1: no group number \(_g01_c01\) in the name 'v_Biking_08_01.avi'",
        ),
        ("testlist01.txt", "v_Biking_g02", "v_Biking_g01", "v_Biking_g01_c01 is listed twice in the lists of split 1"),
        ("testlist01.txt", "v_Biking_g01", "v_Biking_g08", "v_Biking_g08_c01 is listed twice in the lists of split 1"),
        ("testlist01.txt", "v_Biking_g01_c01", "v_Biking_g08_c02", "train and test share 1 groups, e.g. Biking_g08"),
        ("classInd.txt", "2 Handstand", "3 Handstand", "line 2: expected '2 <new class name>'"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(root: Path, name: str, old: str, new: str, message: str) -> None:
    """A wrong id, a name without group, a video listed twice, and a divided group are errors, not scores."""
    replace_in(root / "ucfTrainTestlist" / name, old, new)
    (root / "UCF-101/Biking/v_Biking_g08_c02.avi").touch()
    with pytest.raises(DatasetError, match=message):
        load(root)


def test_two_files_with_the_same_stem_are_refused(root: Path) -> None:
    """If a root contains both layouts, neither copy of a video is chosen silently."""
    (root / "UCF101").mkdir()
    (root / "UCF101/v_handstandpushups_g01_c01.AVI").touch()
    with pytest.raises(DatasetError, match="two files for the one video v_HandStandPushups_g01_c01"):
        load(root)


def test_two_sets_of_lists_are_refused(root: Path) -> None:
    """The lists behind a score must not depend on alphabetical order."""
    shutil.copytree(root / "ucfTrainTestlist", root / "older")
    with pytest.raises(DatasetError, match="two sets of lists"):
        load(root)


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[tuple[Path, RemoteFile, RemoteFile]]:
    """A served folder with both zips of the small set, as on the official servers: the videos are in one folder."""
    served = tmp_path / "served"
    write_lists(served / "ucfTrainTestlist")
    with zipfile.ZipFile(served / "lists.zip", "w") as archive:
        for path in sorted((served / "ucfTrainTestlist").iterdir()):
            archive.write(path, f"ucfTrainTestlist/{path.name}")
    with zipfile.ZipFile(served / "videos.zip", "w") as archive:
        for _, stem in stems():
            archive.writestr(f"UCF101/{stem}.avi", stem * 100)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def remote(name: str) -> RemoteFile:
            content = (served / name).read_bytes()
            url = f"http://127.0.0.1:{server.server_port}/{name}"
            return RemoteFile(url, len(content), hashlib.sha256(content).hexdigest())

        yield served, remote("lists.zip"), remote("videos.zip")
        server.shutdown()


def test_a_downloaded_root_loads(archives: tuple[Path, RemoteFile, RemoteFile], tmp_path: Path) -> None:
    """The downloaded dataset loads, and a second download needs no server, even after the archives are deleted."""
    served, lists_zip, videos_zip = archives
    root = tmp_path / "datasets" / "ucf101"
    fetch_and_unpack(root, lists_zip, videos_zip)
    assert len(load(root).videos) == 12
    shutil.rmtree(root / "downloads")
    (served / "videos.zip").unlink()
    assert fetch_and_unpack(root, lists_zip, videos_zip) == 0


def test_download_completes_the_other_layout(archives: tuple[Path, RemoteFile, RemoteFile], root: Path) -> None:
    """Videos that are already in class folders are not unpacked again; only the missing one is."""
    (root / "UCF-101/Biking/v_Biking_g01_c01.avi").unlink()
    fetch_and_unpack(root, archives[1], archives[2])
    assert [path.name for path in (root / "UCF101").iterdir()] == ["v_Biking_g01_c01.avi"]
    assert len(load(root).videos) == 12


def test_nothing_is_unpacked_from_a_file_that_fails_its_checksum(
    archives: tuple[Path, RemoteFile, RemoteFile], tmp_path: Path
) -> None:
    """A modified archive of the right size leaves no video."""
    served, lists_zip, videos_zip = archives
    content = (served / "videos.zip").read_bytes()
    (served / "videos.zip").write_bytes(content.replace(b"v_Biking_g01_c01v", b"v_Biking_g01_cXXv", 1))
    with pytest.raises(DownloadError, match="not the file expected: sha256"):
        fetch_and_unpack(tmp_path / "root", lists_zip, videos_zip)
    assert list((tmp_path / "root").rglob("*.avi")) == []


def test_the_mirror_must_have_the_official_files(
    archives: tuple[Path, RemoteFile, RemoteFile],
    tmp_path: Path,
    exit_code_of: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--mirror changes where the files come from, not which files they are: others are refused with exit code 2."""
    served, lists_zip, _ = archives
    shutil.copy(served / "lists.zip", served / "UCF101TrainTestSplits-RecognitionTask.zip")
    mirror = lists_zip.url.removesuffix("/lists.zip")
    assert exit_code_of(main, "download", f"--root={tmp_path / 'root'}", f"--mirror={mirror}") == 2
    assert "'113943' was expected" in capsys.readouterr().err


def write_video(path: Path, num_frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"XVID"), 25.0, (64, 48))
    noise = np.random.default_rng(0).integers(0, 256, (num_frames, 48, 64, 3), np.uint8)
    for frame in noise:
        writer.write(frame)
    writer.release()


def verify(root: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "data.ucf101", "verify", f"--root={root}", "--workers=1", *more]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_verify_names_every_bad_video_class_by_class(root: Path) -> None:
    """Missing, empty, cut off and text files are named and the exit code is 1; with all videos good it is 0."""
    videos = [root / "UCF-101" / name / f"{stem}.avi" for name, stem in stems()]
    for path in videos:
        write_video(path, 20)
    good = videos[0].read_bytes()
    missing, empty, cut, text = videos[1], videos[2], videos[6], videos[7]
    missing.unlink()
    empty.write_bytes(b"")
    cut.write_bytes(good[: len(good) // 2])
    text.write_text("this is no video\n" * 100)
    done = verify(root)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Biking: 2 of 6 videos"
    assert lines[1].startswith(f"  {missing.stem}  missing")
    assert lines[2].startswith(f"  {empty.stem}  unreadable")
    assert lines[3] == "HandstandPushups: 2 of 6 videos"
    assert lines[4].startswith((f"  {cut.stem}  short", f"  {cut.stem}  unreadable"))
    assert lines[5].startswith(f"  {text.stem}  unreadable")
    assert lines[6].startswith("12 videos, 8 good, 1 missing,")
    for path in (missing, empty, cut, text):
        path.write_bytes(good)
    done = verify(root)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "12 videos, 12 good, 0 missing, 0 unreadable, 0 short",
    ), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["verify", "--rot", "x"], "--root"),
        (["verfy"], "verify"),
        (["verify", "--root=nowhere"], "error: looked for classInd.txt"),
    ],
)
def test_usage_errors_have_exit_code_2(
    arguments: list[str], message: str, exit_code_of: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A typo in a flag or command, or a missing root, has another exit code than bad videos, and a helpful message."""
    assert exit_code_of(main, *arguments) == 2
    assert message in capsys.readouterr().err


def test_workers_must_be_positive(root: Path) -> None:
    """--workers 0 is refused: it must not mean all cores, or none."""
    with pytest.raises(DatasetError, match=r"workers \(0\)"):
        main(["verify", f"--root={root}", "--workers=0"])


def test_a_training_list_needs_its_test_list(root: Path) -> None:
    """A training list without its test list is an error, not a split."""
    (root / "ucfTrainTestlist/testlist01.txt").unlink()
    with pytest.raises(DatasetError, match="trainlist01.txt has no testlist01.txt beside it"):
        read_lists(root, "get them")
