"""Features are found again after a dataset was moved, copied or changed, and never taken for another dataset's."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from data.catalog import DataConfig, load_dataset
from data.folder import name_by_path
from data.identity import identify
from data.records import VideoDataset
from models.cnn.preprocessing import VIEWS
from pipeline.cache.garbage import find_garbage
from pipeline.cache.manage import status_rows
from pipeline.cache.relink import locate, relink, relink_command
from pipeline.features.recipe import imported_recipe
from pipeline.store.store import FeatureStore, StoreError
from tests.helpers.clips import make_clip
from tests.helpers.commands import call
from tests.helpers.synthetic import RECIPE, make_features

FLIPPED = VIEWS[1]


def make_videos(root: Path, numbers: range = range(20), seed: int = 0) -> VideoDataset:
    """A dataset of files of equal size and, for another seed, of other content."""
    for number in numbers:
        path = root / ("run", "walk")[number % 2] / f"{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number, seed]) * 1000)
    return load_dataset(DataConfig("folder", root))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "cache", RECIPE)


def fill(store: FeatureStore, dataset: VideoDataset, folder: str = "", value: float = 1.0, old: bool = False) -> str:
    """Store features of all videos; ``old``: as an earlier version did, which recorded the size of a video only."""
    folder = folder or (name_by_path(dataset.videos[0].path.parents[1]) if old else locate(store, dataset))
    for number, video in enumerate(dataset.videos):
        features = make_features([[value, number]])
        origin = features.origin.of_file(identify(video.path))
        if old:
            origin = dataclasses.replace(origin, source_digest="", source_stamp="")
        store.write(folder, video.video_id, dataclasses.replace(features, origin=origin))
    return folder


def num_usable(store: FeatureStore, dataset: VideoDataset) -> int:
    """How many videos have features that a job would not extract again."""
    folder = locate(store, dataset)
    origins = [(video.path, store.origin(folder, video.video_id)) for video in dataset.videos]
    return sum(origin is not None and origin.match(path).name != "OTHER" for path, origin in origins)


def test_a_moved_or_copied_dataset_is_found(store: FeatureStore, tmp_path: Path) -> None:
    """Neither the path nor the name of the folder matters, nor do the times of a copy's files."""
    folder = fill(store, make_videos(tmp_path / "videos"))
    copied = load_dataset(DataConfig("folder", shutil.copytree(tmp_path / "videos", tmp_path / "copy")))
    (tmp_path / "videos").rename(tmp_path / "elsewhere")
    moved = load_dataset(DataConfig("folder", tmp_path / "elsewhere"))
    for dataset in (copied, moved):
        assert locate(store, dataset) == folder and num_usable(store, dataset) == 20


def test_a_changed_dataset_is_found(store: FeatureStore, tmp_path: Path) -> None:
    """After videos were added, removed or replaced, at another place too, the features of the others are found."""
    root = tmp_path / "videos"
    folder = fill(store, make_videos(root))
    more = make_videos(root, range(20, 60))
    assert more.store_name != folder
    assert locate(store, more) == folder and num_usable(store, more) == 20
    fill(store, more)
    for number in range(20, 60, 2):
        (root / "run" / f"{number}.avi").unlink()
    make_videos(root, range(1, 8, 2), seed=1)
    root.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "walk" / "1.avi").rename(tmp_path / "elsewhere" / "walk" / "renamed.avi")
    (tmp_path / "elsewhere" / "run" / "new.avi").touch()
    less = load_dataset(DataConfig("folder", tmp_path / "elsewhere"))
    assert locate(store, less) == folder and num_usable(store, less) == 10 + 30 - 4


def test_another_dataset_of_the_same_names_and_sizes(store: FeatureStore, tmp_path: Path) -> None:
    """It gets a folder of its own, so that neither is taken for the other."""
    one, other = make_videos(tmp_path / "x" / "videos"), make_videos(tmp_path / "y" / "videos", seed=1)
    assert one.name == other.name
    folder = fill(store, one)
    assert num_usable(store, other) == 0 and locate(store, other) != folder
    fill(store, other)
    assert num_usable(store, one) == num_usable(store, other) == 20


def test_features_outlive_their_videos_elsewhere(
    store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without video files, the ids decide, which is said; if they fit two folders, neither is guessed."""
    one = make_videos(tmp_path / "x" / "videos")
    folder = fill(store, one)
    rows = "".join(f"{video.video_id},{one.classes[video.label]}\n" for video in one.videos)
    (tmp_path / "listed.csv").write_text("path,label\n" + rows)
    listed = load_dataset(DataConfig("folder", tmp_path / "listed.csv"))
    assert locate(store, listed) == folder and f"taken to be those in {folder}" in capsys.readouterr().err
    other = fill(store, make_videos(tmp_path / "y" / "videos", seed=1))
    with pytest.raises(StoreError, match=f"{min(folder, other)} and {max(folder, other)} have features"):
        locate(store, listed)
    named = load_dataset(DataConfig("folder", tmp_path / "listed.csv", dataset_name=other))
    assert locate(store, named) == other
    (tmp_path / "listed.csv").write_text("path,label\nrun/0.avi,run\n" + rows.replace("/", "/new"))
    assert locate(store, load_dataset(DataConfig("folder", tmp_path / "listed.csv"))).startswith("listed-")


def test_imported_features_are_found_when_the_videos_arrive(tmp_path: Path) -> None:
    """Features that were imported before the videos were there belong to them, by their ids."""
    store = FeatureStore(tmp_path / "cache", imported_recipe("mine"))
    root = tmp_path / "videos"
    dataset = make_videos(root)
    for video in dataset.videos:
        store.write("before", video.video_id, dataclasses.replace(make_features([[1.0]]), origin=UNSEEN))
    assert locate(store, dataset) == "before"


UNSEEN = dataclasses.replace(make_features([[1.0]]).origin, source_bytes=0)


def test_a_cache_of_an_earlier_version(store: FeatureStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is used where it was made. Elsewhere, sizes alone prove nothing: it is offered for relinking, which records
    the content, so that it is found after any further change. Copies are removed on request."""
    root = tmp_path / "videos"
    former = fill(store, make_videos(root), old=True)
    store.write(former, "run/0.avi", make_features([[5.0, 5.0]]), FLIPPED)
    dataset = load_dataset(DataConfig("folder", root))
    assert locate(store, dataset) == former and num_usable(store, dataset) == 20

    root.rename(tmp_path / "elsewhere")
    moved = load_dataset(DataConfig("folder", tmp_path / "elsewhere"))
    capsys.readouterr()
    assert num_usable(store, moved) == 0
    assert former in capsys.readouterr().err
    fill(store, moved, folder="copy-of-earlier", old=True)
    arguments = ["--dataset", "folder", "--root", str(tmp_path / "elsewhere"), "--cache", str(tmp_path / "cache")]
    assert relink_command([*arguments, "--source", former]) == 0
    assert json.loads(capsys.readouterr().out)["folders"][0]["num_copied"] == 20
    assert num_usable(store, moved) == 20 and store.path(former, "run/0.avi").exists()
    assert relink_command([*arguments, "--delete"]) == 0
    folders = {row["folder"].partition("/")[2]: row for row in json.loads(capsys.readouterr().out)["folders"]}
    assert folders["copy-of-earlier"]["removed"] and folders["copy-of-earlier"]["num_present"] == 20
    assert not (store.folder / "copy-of-earlier").exists()

    more = make_videos(tmp_path / "elsewhere", range(20, 60))
    assert locate(store, more) == moved.store_name and num_usable(store, more) == 20


def test_relinking_keeps_what_is_not_the_datasets(store: FeatureStore, tmp_path: Path) -> None:
    """Features of other content or of other videos are not copied, and a folder with more of them is not removed."""
    dataset = make_videos(tmp_path / "videos")
    fill(store, dataset, old=True, folder="more")
    store.write("more", "run/of another.avi", make_features([[1.0]]))
    fill(store, make_videos(tmp_path / "other", seed=1), folder="other")
    fill(store, dataset, old=True, folder="same size", value=2.0)
    found = {one.folder.partition("/")[2]: one for one in relink(store, dataset, None, delete=True)}
    assert set(found) == {"more", "same size"} and not any(one.removed for one in found.values())
    assert (found["more"].num_copied, found["more"].is_superseded) == (20, False)
    assert (found["same size"].num_different, found["same size"].is_superseded) == (20, False)
    features = store.read(dataset.store_name, "run/0.avi")
    assert features is not None and features.features[0, 0] == 1


def test_imported_features_are_relinked_but_not_removed(tmp_path: Path) -> None:
    """No job can make them again."""
    store = FeatureStore(tmp_path / "cache", imported_recipe("mine"))
    dataset = make_videos(tmp_path / "videos")
    fill(store, dataset, old=True, folder="before")
    (one,) = relink(store, dataset, None, delete=True)
    assert (one.num_copied, one.is_superseded, one.removed) == (20, True, False)
    assert num_usable(store, dataset) == 20 and store.origin("before", "run/0.avi") is not None


def test_commands_look_where_the_features_are(store: FeatureStore, tmp_path: Path) -> None:
    """status and gc of a dataset that was moved and lost a video count its features, and find the lost one's."""
    folder = fill(store, make_videos(tmp_path / "videos"))
    (tmp_path / "videos").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "run" / "0.avi").unlink()
    dataset = load_dataset(DataConfig("folder", tmp_path / "elsewhere"))
    (row,) = status_rows(store.folder, dataset)
    assert (row.dataset, row.done, row.missing) == (folder, 19, 0)
    (orphan,) = find_garbage(tmp_path / "cache", [tmp_path], 7.0, dataset).garbage
    assert orphan.path == store.path(folder, "run/0.avi")


def test_a_real_dataset_that_moved(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """On the command line: after mv nothing is extracted, and after a change only what changed."""
    name, weights = tiny_backbone
    root, moved = tmp_path / "videos", tmp_path / "videos2"
    for number in range(6):
        make_clip(root / ("run", "walk")[number % 2] / f"{number}.avi", 6, number)

    def num_extracted(folder: Path) -> int:
        job = ["-m", "pipeline.cache", "--dataset", "folder", "--root", folder, "--backbone", name]
        done = call(*job, "--weights", weights, "--cache", tmp_path / "cache", "--runtime", "torch", "--workers", 1)
        assert done.returncode == 0, done.stderr
        return int(json.loads(done.stdout)["num_extracted"])

    assert num_extracted(root) == 6
    root.rename(moved)
    assert num_extracted(moved) == 0
    make_clip(moved / "run" / "new.avi", 6, 9)
    replaced = moved / "run" / "0.avi"
    content, times = bytearray(replaced.read_bytes()), replaced.stat()
    content[len(content) // 2] ^= 1
    replaced.write_bytes(content)
    os.utime(replaced, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert num_extracted(moved) == 2
    assert len(list((tmp_path / "cache").glob("*/videos*"))) == 1
