"""data/folder.py: class folders, CSV, drawn and listed splits, invalid ones, and videos without labels."""

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from data.catalog import DataConfig, load_dataset
from data.listing import find_videos
from data.records import DatasetError, Split, VideoDataset, require_files
from tests.helpers.clips import make_clip
from tests.helpers.commands import call
from tests.helpers.commands import message as message_of


def load(root: Path, **options: object) -> VideoDataset:
    return load_dataset(DataConfig("folder", root=root, **options))  # type: ignore[arg-type]


def only_split(dataset: VideoDataset) -> Split:
    (split,) = dataset.splits.values()
    return split


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_csv(root: Path, text: str) -> Path:
    """Write a CSV and create every file that its first column names."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "videos.csv").write_text(text)
    touch(root, *(line.split(",")[0] for line in text.splitlines()[1:] if line.split(",")[0]))
    return root


def assert_complete_and_disjoint(dataset: VideoDataset) -> None:
    split = only_split(dataset)
    parts = (split.train, split.validation, split.test)
    groups = [{video.group for video in part} for part in parts]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert sorted(video.video_id for part in parts for video in part) == sorted(v.video_id for v in dataset.videos)


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two classes, ten people, one video of each."""
    return touch(tmp_path / "people", *(f"{act}/p{n}_{act}.avi" for act in ("run", "sit") for n in range(10)))


def test_weizmann_by_person(action_data: Path) -> None:
    """In real class folders the pattern finds nine people; one is held out and no person is in two parts."""
    dataset = load(action_data / "weizmann", group_pattern=r"^([^_]+)_", holdout_group="daria", validation_groups=2)
    split = dataset.split("holdout-daria")
    assert (len(dataset.classes), len(dataset.videos)) == (10, 90)
    assert {video.group for video in split.test} == {"daria"}
    assert len({video.group for video in split.validation}) == 2
    assert len({video.group for video in split.train}) == 6
    assert_complete_and_disjoint(dataset)


def test_ut_interaction_from_its_csv(action_data: Path) -> None:
    """A real CSV gives 120 videos of 20 groups, split about 60/20/20 by whole groups, with all classes in each part."""
    dataset = load(action_data / "ut_interaction", split_seed=1)
    split = dataset.split("seed1")
    assert (len(dataset.classes), len(dataset.videos)) == (6, 120)
    for part, expected in ((split.train, 72), (split.validation, 24), (split.test, 24)):
        assert abs(len(part) - expected) <= 2
        assert {video.label for video in part} == set(range(6))
    assert_complete_and_disjoint(dataset)


def test_class_folders_of_any_depth(tmp_path: Path) -> None:
    """Nested videos belong to the first folder, other and hidden files are left out, and ids keep the ending."""
    touch(
        tmp_path, "run/a.avi", "run/day2/a.MP4", "run/a.mp4", "sit/b.mkv", "run/notes.txt", "run/._a.avi", ".git/x.avi"
    )
    dataset = load(tmp_path)
    assert [(v.video_id, v.label) for v in dataset.videos] == [
        ("run/a.avi", 0),
        ("run/a.mp4", 0),
        ("run/day2/a.MP4", 0),
        ("sit/b.mkv", 1),
    ]
    assert len({video.group for video in dataset.videos}) == 4


def test_linked_class_folders_are_followed_once(tmp_path: Path) -> None:
    """A class folder may be a link to another disk, and a link to a parent does not loop forever."""
    elsewhere = touch(tmp_path / "disk", "a.avi", "b.avi")
    root = touch(tmp_path / "root", "sit/c.avi")
    (root / "run").symlink_to(elsewhere)
    (root / "sit" / "up").symlink_to(root)
    assert [video.video_id for video in load(root).videos] == ["run/a.avi", "run/b.avi", "sit/c.avi"]


def test_the_split_depends_only_on_the_seed(people: Path) -> None:
    """The same seed gives the same split, another seed another one, with the same 60/20/20."""
    options = {"group_pattern": "^(p[0-9])"}
    splits = [load(people, split_seed=seed, **options).split(f"seed{seed}") for seed in (0, 1)]
    assert load(people, split_seed=0, **options).split("seed0") == splits[0]
    assert {video.group for video in splits[0].test} != {video.group for video in splits[1].test}
    for split in splits:
        assert [len(part) for part in (split.train, split.validation, split.test)] == [12, 4, 4]


def test_a_class_with_one_group_is_trained_on(tmp_path: Path) -> None:
    """A class that can't be divided is in training, not in a test set that no classifier could pass."""
    touch(tmp_path, "rare/only.avi", *(f"run/{n}.avi" for n in range(10)))
    dataset = load(tmp_path)
    assert 0 in {video.label for video in only_split(dataset).train}
    assert_complete_and_disjoint(dataset)


def test_hold_out_one_group_without_validation(people: Path) -> None:
    """validation_groups=0 keeps every other group for training."""
    split = only_split(load(people, group_pattern="^(p[0-9])", holdout_group="p3", validation_groups=0))
    assert (split.name, len(split.train), len(split.validation), len(split.test)) == ("holdout-p3", 18, 0, 2)


def test_an_unknown_group_names_the_nearest_or_all(people: Path) -> None:
    """A typo in the held-out group is answered with the nearest group, any other name with a list of the groups."""
    for name, hint in (("p33", r"Did you mean 'p3'\?"), ("daria", "There are: p0, p1, .* p9")):
        with pytest.raises(DatasetError, match=rf"no group '{name}' .*{hint}"):
            only_split(load(people, group_pattern="^(p[0-9])", holdout_group=name))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("^(p[0-9]", "is not a regular expression"),
        ("^p[0-9]", "has no parentheses"),
        ("^(p[0-4])_", "finds no group in 'p5_run'"),
    ],
)
def test_an_unsuitable_group_pattern(people: Path, pattern: str, message: str) -> None:
    """A pattern that does not match every file is an error: a video without a group could leak into the test set."""
    with pytest.raises(DatasetError, match=message):
        load(people, group_pattern=pattern)


def test_the_store_name_is_that_of_the_videos(tmp_path: Path) -> None:
    """Two folders share features if their videos are the same, wherever they are, and not if only their names are."""
    names = ("a/1.avi", "a/2.avi", "b/1.avi", "b/2.avi")
    one, other = touch(tmp_path / "x" / "mine", *names), touch(tmp_path / "y" / "mine", *names)
    (other / names[3]).write_text("another video")
    assert load(one).name == load(other).name == "mine"
    assert load(one).store_name != load(other).store_name
    (one / names[3]).write_text("ANOTHER video")
    assert load(one).store_name != load(other).store_name
    (one / names[3]).write_text("another video")
    assert load(one).store_name == load(other).store_name == load(other / ".." / "mine").store_name
    assert load(one).store_name.startswith("mine-")


def test_a_dataset_can_be_named(tmp_path: Path) -> None:
    """--dataset-name names the runs and the features, with or without labels; a path is not a name."""
    touch(tmp_path, "a/1.avi", "a/2.avi", "b/1.avi", "b/2.avi")
    for kind in ("folder", "unlabelled"):
        dataset = load_dataset(DataConfig(kind, tmp_path, dataset_name="sports 2.0"))
        assert (dataset.name, dataset.store_name, dataset.former_store_name) == ("sports 2.0", "sports 2.0", "")
    for name in ("", "../x", "a/b", ".hidden", "set@mirrored", "packed"):
        with pytest.raises(DatasetError, match="dataset_name names folders"):
            DataConfig("folder", tmp_path, dataset_name=name)
    with pytest.raises(DatasetError, match="dataset_name is for folder and unlabelled; demo has no use"):
        DataConfig("demo", dataset_name="mine")


CSV = "path,label,group,split\na.avi,run,g1,train\nb.avi,sit,g2,train\nc.avi,run,g3,test\nd.avi,sit,g4,test\n"


def test_a_listed_split_is_used_as_it_is(tmp_path: Path) -> None:
    """The column split decides; val and validation mean the same; order and ids are the CSV's."""
    root = write_csv(tmp_path, CSV.replace("b.avi,sit,g2,train", "b.avi,sit,g2,val\ne.avi,sit,g5,Validation"))
    split = load(root).split("listed")
    assert [v.video_id for part in (split.train, split.validation, split.test) for v in part] == [
        *("a.avi", "b.avi", "e.avi", "c.avi", "d.avi")
    ]


def test_validation_is_drawn_from_a_listed_training_set(tmp_path: Path) -> None:
    """Without validation rows, about one in five training groups is for validation, never a test group."""
    rows = "".join(
        f"{act}{n}.avi,{act},p{n},{'test' if n > 9 else 'train'}\n" for act in ("run", "sit") for n in range(12)
    )
    dataset = load(write_csv(tmp_path, "path,label,group,split\n" + rows))
    split = dataset.split("listed")
    assert Counter(video.label for video in split.validation) == {0: 2, 1: 2}
    assert {video.group for video in split.test} == {"p10", "p11"}
    assert_complete_and_disjoint(dataset)


def test_a_listed_group_in_two_parts_is_refused(tmp_path: Path) -> None:
    """A list that trains and tests on the same person is an error, not a good score."""
    with pytest.raises(DatasetError, match="split listed: train and test share 1 groups, e.g. g1"):
        only_split(load(write_csv(tmp_path, CSV.replace("c.avi,run,g3", "c.avi,run,g1"))))


def test_videos_outside_the_folder_have_unique_ids(tmp_path: Path) -> None:
    """Two videos of the same name in other folders get different ids without '..', relative to their common parent."""
    touch(tmp_path, "one/a.avi", "two/a.avi")
    root = write_csv(tmp_path / "root", "path,label\n")
    (root / "videos.csv").write_text(f"path,label\n../one/a.avi,run\n{tmp_path}/two/a.avi,sit\nin/../b.avi,sit\n")
    touch(root, "b.avi")
    assert [video.video_id for video in load(root).videos] == ["one/a.avi", "two/a.avi", "b.avi"]


def test_absolute_paths_give_the_ids_of_their_folder(tmp_path: Path) -> None:
    """A CSV elsewhere that lists a folder's videos shares their ids, and the digest that finds their features."""
    folder = touch(tmp_path / "videos", *(f"{('run', 'sit')[number % 2]}/{number}.avi" for number in range(6)))
    rows = "".join(f"{folder}/{('run', 'sit')[number % 2]}/{number}.avi,{number % 2}\n" for number in range(6))
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "mine.csv").write_text("path,label\n" + rows)
    listed, walked = load(tmp_path / "lists" / "mine.csv"), load(folder)
    assert {video.video_id for video in listed.videos} == {video.video_id for video in walked.videos}
    assert listed.store_name.rpartition("-")[2] == walked.store_name.rpartition("-")[2]


def test_equal_ids_in_two_folders_do_not_share_features(tmp_path: Path) -> None:
    """Two CSVs beside each other, whose absolute paths give the same ids, have different folders in the store."""
    rows = ("run/1.avi,run", "run/2.avi,run", "sit/3.avi,sit", "sit/4.avi,sit")
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text("path,label\n" + "".join(f"/{name}/{row}\n" for row in rows))
        inside = "a.avi,run\n" + "".join(f"/{name}/{row}\n" for row in rows)
        (tmp_path / f"{name}-mixed.csv").write_text("path,label\n" + inside)
    datasets = [load(tmp_path / name) for name in ("one.csv", "two.csv", "one-mixed.csv", "two-mixed.csv")]
    assert datasets[0].videos[0].video_id == datasets[1].videos[0].video_id
    assert len({dataset.store_name for dataset in datasets}) == 4
    mixed = (tmp_path / "one-mixed.csv").read_text()
    (tmp_path / "one-mixed.csv").write_text(mixed.replace("a.avi", "run/1.avi"))
    with pytest.raises(
        DatasetError, match=r"line 3: /one/run/1.avi is also in line 2, as run/1.avi.*folder that contains both"
    ):
        load(tmp_path / "one-mixed.csv")


def test_a_csv_is_named_by_its_stem(tmp_path: Path) -> None:
    """Neighbouring CSVs have runs of their own; a folder with one CSV is named after the folder."""
    rows = "".join(f"{number}.avi,{number % 2}\n" for number in range(6))
    for name in ("hands", "feet"):
        (tmp_path / f"{name}.csv").write_text("path,label\n" + rows)
    hands, feet = load(tmp_path / "hands.csv"), load(tmp_path / "feet.csv")
    assert (hands.name, feet.name) == ("hands", "feet")
    (tmp_path / "feet.csv").unlink()
    assert load(tmp_path).name == tmp_path.name


@pytest.mark.parametrize(
    ("column", "one", "other"),
    [("label", "Walk", "walk"), ("label", "caf\u00e9", "cafe\u0301"), ("group", "Ann", "ann")],
)
def test_names_that_look_alike_are_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, one: str, other: str
) -> None:
    """Classes or groups that differ only in case or Unicode form may be one: both are named, with escapes."""
    rows = [{"path": f"{number}.avi", "label": "ab"[number % 2], "group": f"g{number}"} for number in range(6)]
    only_split(load(write_csv(tmp_path, "path,label,group\n" + "".join(",".join(row.values()) + "\n" for row in rows))))
    assert capsys.readouterr().err == ""
    rows[0][column], rows[1][column] = one, other
    only_split(load(write_csv(tmp_path, "path,label,group\n" + "".join(",".join(row.values()) + "\n" for row in rows))))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the ") and ascii(one) in line and ascii(other) in line


def test_a_csv_written_by_excel_is_read(tmp_path: Path) -> None:
    """BOM, CRLF, quotes around a comma and the user's own columns are accepted; the CSV itself may be the root."""
    touch(tmp_path, "a, b.avi", "c.avi", "d.avi")
    text = 'label,path,camera\r\nrun,"a, b.avi",1\r\nsit,c.avi,1\r\nsit,d.avi,2\r\n\r\n'
    (tmp_path / "list.csv").write_text(text, encoding="utf-8-sig", newline="")
    for root in (tmp_path, tmp_path / "list.csv"):
        assert [video.video_id for video in load(root).videos] == ["a, b.avi", "c.avi", "d.avi"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("label", "lable", "line 1: no column 'label'; found path, lable, group, split"),
        ("group", "gruop", "line 1: unknown column 'gruop'. Did you mean 'group'"),
        ("g2,train", "g2,trian", "line 3: unknown split 'trian'"),
        ("g2,train", "g2,", "line 3: split is empty"),
        ("b.avi,sit", "b.avi, ", "line 3: label is empty"),
        ("sit,g2", "sit,", "line 3: group is empty"),
        ("b.avi,sit", "./a.avi,sit", "line 3: ./a.avi is also in line 2"),
        ("b.avi,sit,g2", "b.avi,sit", "line 3: 3 values for 4 columns"),
        ("b.avi,sit", 'b.avi,"sit', "line 3: unexpected end of data. Is a quote not closed"),
        ("b.avi,sit", '"b.avi,"sit', "line 3: ',' expected after"),
        ("b.avi", "b" * 200_000, "line 3: field larger than field limit"),
        ("b.avi", "b\0.avi", "line 3: a NUL character"),
        ("group", "label", "line 1: 2 columns 'label'"),
        ("g3,test", "g3,train", None),
    ],
)
def test_csv_errors_name_file_and_line(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    """Every mistake in a CSV is reported with its line before anything is computed; a valid CSV passes."""
    (tmp_path / "videos.csv").write_text(CSV.replace(old, new, 1))
    if message is None:
        assert len(load(tmp_path).videos) == 4
        return
    with pytest.raises(DatasetError, match=f"videos.csv, {message}"):
        load(tmp_path)


def test_missing_files_are_reported_at_once(tmp_path: Path) -> None:
    """Missing files that a CSV names stay in the dataset; decoding is refused with all of them in one message."""
    root = write_csv(tmp_path, CSV)
    (root / "b.avi").unlink()
    (root / "d.avi").unlink()
    dataset = load(root)
    assert [video.video_id for video in dataset.videos] == ["a.avi", "b.avi", "c.avi", "d.avi"]
    with pytest.raises(DatasetError, match="2 of 4 videos .*/b.avi, .*/d.avi.*videos.csv.* relative to"):
        require_files(dataset.videos, dataset.remedy)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no video in .*Looked for .*/<class>/<video>"),
        (["run/a.txt"], "no video in"),
        (["run/a.avi", "run/b.avi"], "only one class, 'run'"),
        (["run/a.avi", "sit/b.avi", "c.avi"], "1 videos are in .* outside any class folder, e.g. c.avi"),
        (["train/run/a.avi", "test/run/b.avi"], "look like splits, not classes"),
        (["run/a.avi", "sit/b.avi"], "too few for a test set"),
        (["one.csv", "two.csv"], r"2 CSV files \(one.csv, two.csv\)"),
    ],
)
def test_folders_that_are_not_a_dataset(tmp_path: Path, names: list[str], message: str) -> None:
    """An empty folder, one class, loose videos, split folders and too few videos each have their own clear error."""
    with pytest.raises(DatasetError, match=message):
        only_split(load(touch(tmp_path, *names)))


def test_many_videos_take_little_memory(tmp_path: Path) -> None:
    """A caching job of millions of videos fits into memory: from a CSV or a folder, none of them stays as a record."""
    count = 4000
    (tmp_path / "videos.csv").write_text("path,label\n" + "".join(f"run/{n:07d}.avi,{n % 2}\n" for n in range(count)))
    touch(tmp_path, *(f"run/{number:07d}.avi" for number in range(count)))
    for kind in ("folder", "unlabelled"):
        load_dataset(DataConfig(kind, tmp_path))  # what is imported does not count
        tracemalloc.start()
        try:
            dataset = load_dataset(DataConfig(kind, tmp_path))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(dataset.videos) == count and peak / count < 250, (kind, peak / count)


def test_videos_that_cannot_be_split_are_cached(tmp_path: Path) -> None:
    """A caching job needs no split, so only looking one up draws it, and says why that can't be done."""
    dataset = load(touch(tmp_path, "run/a.avi", "sit/b.avi"))
    assert (list(dataset.splits), len(dataset.videos)) == (["seed0"], 2)
    with pytest.raises(DatasetError, match="no split 'seed1'. Splits: seed0"):
        dataset.split("seed1")
    with pytest.raises(DatasetError, match="too few for a test set"):
        dataset.split("seed0")


def test_a_root_that_does_not_exist(tmp_path: Path) -> None:
    """A wrong path is an error that says it does not exist, and what it should be."""
    with pytest.raises(DatasetError, match="which does not exist. Name a folder with one folder of videos per class"):
        load(tmp_path / "nowhere")
    touch(tmp_path, "clip.avi")
    with pytest.raises(DatasetError, match="which is neither a folder nor a .csv file"):
        load(tmp_path / "clip.avi")


def load_unlabelled(root: Path) -> VideoDataset:
    return load_dataset(DataConfig("unlabelled", root=root))


def test_unlabelled_videos_may_be_anywhere(tmp_path: Path) -> None:
    """Loose, nested and single videos are found without labels; hidden and other files are left out."""
    touch(tmp_path, "a.avi", "deep/er/b.mp4", ".hidden/c.avi", "d.txt")
    dataset = load_unlabelled(tmp_path)
    assert [video.video_id for video in dataset.videos] == ["a.avi", "deep/er/b.mp4"]
    assert not dataset.splits


def test_unlabelled_features_are_found_once_there_are_labels(tmp_path: Path) -> None:
    """The store's name and the videos' ids are those of ``--dataset folder``, so nothing is cached twice."""
    touch(tmp_path, *(f"{('run', 'walk')[number % 2]}/{number}.avi" for number in range(6)))
    unlabelled, labelled = load_unlabelled(tmp_path), load(tmp_path)
    assert unlabelled.store_name == labelled.store_name
    assert {video.video_id for video in unlabelled.videos} == {video.video_id for video in labelled.videos}


def test_no_unlabelled_videos_is_an_error(tmp_path: Path) -> None:
    """A folder without videos, or a missing folder, is an error that says what was looked for."""
    with pytest.raises(DatasetError, match=r"no video in .*\.avi"):
        load_unlabelled(tmp_path)
    with pytest.raises(DatasetError, match=f"{tmp_path / 'no'}, which is not a folder.*--root"):
        load_unlabelled(tmp_path / "no")


def test_unlabelled_videos_are_cached_but_not_trained_on(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """The caching job accepts a folder with a single video; train.py says that there is nothing to train on."""
    make_clip(tmp_path / "videos" / "only.avi", 5)
    name, weights = tiny_backbone
    flags = ["--dataset", "unlabelled", "--root", tmp_path / "videos", "--cache", tmp_path / "cache"]
    flags += ["--backbone", name, "--weights", weights]
    done = call("-m", "pipeline.cache", *flags)
    assert done.returncode == 0 and json.loads(done.stdout)["num_extracted"] == 1, done.stderr
    refused = call("train.py", *flags)
    assert refused.returncode == 2 and "nothing to train on" in message_of(refused)


def test_a_user_names_videos_by_file_folder_and_pattern(tmp_path: Path) -> None:
    """Files stay as they are, folders and patterns are expanded in their place, and every video comes once."""
    for name in ("b/1.mp4", "b/2.AVI", "b/.hidden.mp4", "b/notes.txt", "a/3.mkv", "c[1].mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    named = ["b/notes.txt", "missing.mp4", "b/2.AVI", "b", "*/*.mkv", "c[1].mp4", "**/*.mp4"]
    found = [path.relative_to(tmp_path).as_posix() for path in find_videos(f"{tmp_path}/{name}" for name in named)]
    assert found == ["b/notes.txt", "missing.mp4", "b/2.AVI", "b/1.mp4", "a/3.mkv", "c[1].mp4"]
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "no video in"), ("*.webm", "matches no file")):
        with pytest.raises(DatasetError, match=message):
            find_videos([f"{tmp_path}/{name}"])
