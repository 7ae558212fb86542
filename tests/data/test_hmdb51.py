"""data/hmdb51.py: the official split files, undivided sources, and its two commands."""

import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from data.catalog import DataConfig, load_dataset
from data.hmdb51 import main
from data.records import DatasetError, VideoDataset, require_files

ROWS = {
    "wave": {"Film_wave_f_nm_np1_fr_goo_0": 1, "Other_Film_wave_u_cm_np2_le_med_1": 2, "Odd_wave_f_nm_np1_fr_bad_2": 0},
    "brush_hair": {
        "Film_brush_hair_h_cm_np1_fr_goo_0": 1,
        "Two_brush_hair_h_cm_np1_fr_goo_0": 1,
        "Three_brush_hair_h_cm_np1_ri_goo_0": 2,
    },
}


def write_split_files(folder: Path) -> None:
    folder.mkdir(parents=True)
    for class_name, rows in ROWS.items():
        text = "".join(f"{stem}.avi {role} \n" for stem, role in rows.items())
        (folder / f"{class_name}_test_split1.txt").write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes with empty videos, in class folders."""
    write_split_files(tmp_path / "splits")
    for class_name, rows in ROWS.items():
        for stem in rows:
            path = tmp_path / "hmdb51_org" / class_name / f"{stem}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path


def load(root: Path, validation_groups: int | None = None) -> VideoDataset:
    return load_dataset(DataConfig("hmdb51", root=root, validation_groups=validation_groups))


@pytest.fixture(scope="module")
def official(action_data: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    """The whole dataset from the official split files; the videos are empty files."""
    root = tmp_path_factory.mktemp("hmdb51")
    shutil.copytree(action_data / "hmdb51_splits", root / "splits")
    for split_file in (root / "splits").glob("*_test_split1.txt"):
        folder = root / split_file.name.removesuffix("_test_split1.txt")
        folder.mkdir()
        for line in split_file.read_text().splitlines():
            (folder / line.rsplit(maxsplit=1)[0]).touch()
    return load(root)


def test_the_official_files_give_the_official_counts(official: VideoDataset) -> None:
    """There are 51 classes with 70 training and 30 test videos each, in all three splits."""
    assert len(official.classes) == 51
    assert list(official.splits) == ["1", "2", "3"]
    for split in official.splits.values():
        assert set(Counter(video.label for video in split.train + split.validation).values()) == {70}
        assert set(Counter(video.label for video in split.test).values()) == {30}


def test_no_source_is_in_training_and_validation(official: VideoDataset) -> None:
    """Videos from one film are never in both, whatever their class, and no test group is in training or validation."""
    for split in official.splits.values():
        sources = [{video.group.partition("/")[2] for video in part} for part in (split.train, split.validation)]
        assert not sources[0] & sources[1]
        groups = [{video.group for video in part} for part in (split.train + split.validation, split.test)]
        assert not groups[0] & groups[1]


def test_about_15_percent_of_every_class_are_for_validation(official: VideoDataset) -> None:
    """Every class is in validation, and none loses much of its training set."""
    for split in official.splits.values():
        counts = Counter(video.label for video in split.validation)
        assert len(counts) == 51
        assert min(counts.values()) >= 7
        assert max(counts.values()) <= 21
        assert 0.13 <= len(split.validation) / 3570 <= 0.19


def test_roles_ids_and_sources(root: Path) -> None:
    """Role 1 is training, 2 test, 0 unused; the id contains the class; the source is the name before the action."""
    dataset = load(root, validation_groups=0)
    assert dataset.classes == ("brush_hair", "wave")
    split = dataset.split("1")
    assert [video.video_id for video in split.test] == [
        "brush_hair/Three_brush_hair_h_cm_np1_ri_goo_0",
        "wave/Other_Film_wave_u_cm_np2_le_med_1",
    ]
    assert [video.group for video in split.train] == ["brush_hair/Film", "brush_hair/Two", "wave/Film"]
    assert len(dataset.videos) == 5
    assert split.validation == ()


def test_missing_videos_are_counted_and_named(root: Path) -> None:
    """A listed video without a file stays in the dataset; decoding is refused with its name if a split uses it."""
    (root / "hmdb51_org/wave/Odd_wave_f_nm_np1_fr_bad_2.avi").unlink()
    require_files(load(root, validation_groups=0).videos)
    (root / "hmdb51_org/wave/Other_Film_wave_u_cm_np2_le_med_1.avi").unlink()
    dataset = load(root)
    assert len(dataset.videos) == 5
    with pytest.raises(DatasetError, match=r"1 of 5 videos .*wave/Other_Film_wave.*data.hmdb51 verify --root"):
        require_files(dataset.videos, dataset.remedy)


def test_a_wrong_root_is_an_error_with_the_command(tmp_path: Path) -> None:
    """A wrong root is an error that says what was looked for, where, and how to get it."""
    with pytest.raises(DatasetError, match=r"_test_split1.txt in .*no such folder.*data.hmdb51 unpack --zip FILE"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_0.avi 1", "_0.avi 3", r"wave_test_split1.txt, line 1: expected '<video>.avi 0', 1 or 2, found"),
        ("Film_wave_f", "Film_waive_f", r"line 1: 'Film_waive_f_nm_np1_fr_goo_0' is not named <source>_wave_"),
        ("Other_Film_wave_u_cm_np2_le_med_1", "Film_wave_f_nm_np1_fr_goo_0", "line 2: .* listed twice"),
    ],
)
def test_an_invalid_line_is_refused(root: Path, old: str, new: str, message: str) -> None:
    """An unknown role, a video of another class and a video listed twice are errors with file and line."""
    path = root / "splits/wave_test_split1.txt"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DatasetError, match=message):
        load(root)


def test_a_class_without_one_of_the_splits_is_refused(root: Path) -> None:
    """A lost split file does not silently remove a class from a split."""
    (root / "splits/wave_test_split2.txt").write_text((root / "splits/wave_test_split1.txt").read_text())
    with pytest.raises(DatasetError, match="has no brush_hair_test_split2.txt"):
        load(root)


def test_two_files_for_one_video_are_refused(root: Path) -> None:
    """A video with two files is an error; neither file is chosen silently."""
    shutil.copytree(root / "hmdb51_org/wave", root / "wave")
    with pytest.raises(DatasetError, match="two files for the one video"):
        load(root)


def test_unpack_reads_one_zip_or_a_folder_of_class_zips(
    tmp_path: Path, exit_code_of: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Class zips without folders, and a zip with a folder of split files, together give a root that loads."""
    zips = tmp_path / "zips"
    write_split_files(tmp_path / "splits")
    zips.mkdir()
    for class_name, rows in ROWS.items():
        with zipfile.ZipFile(zips / f"{class_name}.zip", "w") as archive:
            for stem in rows:
                archive.writestr(f"{stem}.avi", b"video")
    with zipfile.ZipFile(tmp_path / "lists.zip", "w") as archive:
        for path in (tmp_path / "splits").iterdir():
            archive.write(path, f"testTrainMulti_7030_splits/{path.name}")
    root = tmp_path / "root"
    for source in (zips, tmp_path / "lists.zip"):
        assert exit_code_of(main, "unpack", f"--zip={source}", f"--root={root}") == 0
    assert len(load(root).videos) == 5
    assert exit_code_of(main, "unpack", f"--zip={tmp_path / 'none.zip'}", f"--root={root}") == 2
    assert "no zip file at" in capsys.readouterr().err


def test_a_damaged_zip_does_not_stop_the_others(
    tmp_path: Path, exit_code_of: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged zip in a folder of class zips is named, the others are unpacked, and the exit code is 1."""
    zips = tmp_path / "zips"
    zips.mkdir()
    for class_name in ROWS:
        with zipfile.ZipFile(zips / f"{class_name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.avi", b"video" * 100)
    damaged = bytearray((zips / "brush_hair.zip").read_bytes())
    damaged[36:40] = bytes(4)
    (zips / "brush_hair.zip").write_bytes(damaged)
    assert exit_code_of(main, "unpack", f"--zip={zips}", f"--root={tmp_path / 'root'}") == 1
    printed = capsys.readouterr().err
    assert f"failed: {zips / 'brush_hair.zip'}: 1 of 1 files are damaged" in printed and "1 of 2 archives" in printed
    assert (tmp_path / "root" / "wave" / "a.avi").is_file()
    assert exit_code_of(main, "unpack", f"--zip={zips / 'brush_hair.zip'}", f"--root={tmp_path / 'root'}") == 2


def test_verify_finds_missing_and_empty_videos(
    root: Path, exit_code_of: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Four empty videos and a missing one are named, and the exit code is 1."""
    (root / "hmdb51_org/wave/Film_wave_f_nm_np1_fr_goo_0.avi").unlink()
    assert exit_code_of(main, "verify", f"--root={root}", "--workers=1") == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  wave/Film_wave_f_nm_np1_fr_goo_0  missing" in lines
    assert "5 videos, 0 good, 1 missing, 4 unreadable, 0 short" in lines
