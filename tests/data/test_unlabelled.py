"""Videos without labels: cached like others, trained on never."""

import json
from pathlib import Path

import pytest

from data import folder, unlabelled
from data.catalog import DataConfig
from data.records import DatasetError
from tests.helpers.clips import make_clip
from tests.helpers.commands import message, run


def test_every_video_below_the_root_is_there(tmp_path: Path) -> None:
    """Loose videos, deep ones and one alone in its folder; hidden files and other files are left out."""
    for name in ("a.avi", "deep/er/b.mp4", ".hidden/c.avi", "d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    dataset = unlabelled.load(DataConfig("unlabelled", root=tmp_path))
    assert [video.video_id for video in dataset.videos] == ["a.avi", "deep/er/b.mp4"]
    assert not dataset.splits


def test_features_serve_when_labels_come(tmp_path: Path) -> None:
    """The store's name and the videos' ids are those of ``--dataset folder``, so nothing is cached twice."""
    for number in range(6):
        make_clip(tmp_path / ("run", "walk")[number % 2] / f"{number}.avi", 3)
    plain = unlabelled.load(DataConfig("unlabelled", root=tmp_path))
    labelled = folder.load(DataConfig("folder", root=tmp_path))
    assert plain.store_name == labelled.store_name
    assert {video.video_id for video in plain.videos} == {video.video_id for video in labelled.videos}


def test_nothing_there_is_told(tmp_path: Path) -> None:
    """A folder without videos, or none at all, is an error that says what was looked for."""
    with pytest.raises(DatasetError, match=r"no video in .*\.avi"):
        unlabelled.load(DataConfig("unlabelled", root=tmp_path))
    with pytest.raises(DatasetError, match="is no folder"):
        unlabelled.load(DataConfig("unlabelled", root=tmp_path / "no"))


def test_commands(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """The caching job takes a folder with a single video; train.py says that there is nothing to train on."""
    make_clip(tmp_path / "videos" / "only.avi", 5)
    name, weights = tiny_backbone
    flags = ["--dataset", "unlabelled", "--root", tmp_path / "videos", "--cache", tmp_path / "cache"]
    flags += ["--backbone", name, "--weights", weights]
    done = run("-m", "pipeline.cache", *flags)
    assert done.returncode == 0 and json.loads(done.stdout)["num_extracted"] == 1, done.stderr
    refused = run("train.py", *flags)
    assert refused.returncode == 2 and "nothing to train on" in message(refused)
