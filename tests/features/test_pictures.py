"""Frames as pictures: the sampled frames, complete folders, and bad videos named."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data.records import VideoRecord
from models.cnn.preprocessing import Preprocessing, resize_and_crop
from pipeline.features.pictures import write_pictures
from pipeline.features.readers import Event, Finished, read_videos
from pipeline.settings.config import FeatureConfig
from tests.helpers.clips import board_means, decode_board, make_clip
from tests.helpers.commands import call


def test_command_writes_the_sampled_frames(tmp_path: Path) -> None:
    """Each video's sampled frames are written by number in their original size; a bad video gives exit code 1."""
    for number in range(3):
        make_clip(tmp_path / "videos" / ("run", "walk")[number % 2] / f"{number}.avi", 20, number)
    (tmp_path / "videos" / "walk" / "bad.avi").write_bytes(b"no video")
    command = ["-m", "pipeline.cache", "--dataset", "folder", "--root", tmp_path / "videos"]
    command += ["--sampling", "uniform:4", "--frames", tmp_path / "frames", "--workers", 2]
    done = call(*command)
    assert done.returncode == 1 and "failed: walk/bad.avi" in done.stderr, done.stderr
    for name, number in [("run/0.avi", 0), ("walk/1.avi", 1), ("run/2.avi", 2)]:
        pictures = sorted((tmp_path / "frames" / name).iterdir())
        assert [picture.name for picture in pictures] == ["000002.jpg", "000007.jpg", "000012.jpg", "000017.jpg"]
        frames = [cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB) for picture in pictures]
        assert frames[0].shape == (64, 64, 3)
        small = Preprocessing(16, 16, "bilinear", (0, 0, 0), (1, 1, 1))
        boards = np.concatenate([resize_and_crop(frame, small) for frame in frames])
        assert decode_board(board_means(boards)) == [(number, index) for index in (2, 7, 12, 17)]
    assert not (tmp_path / "frames" / "walk" / "bad.avi").exists()
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / "cache").exists()
    again = call(*command)
    assert json.loads(again.stdout) == {"num_videos": 4, "num_written_before": 3, "num_written": 0, "num_failed": 1}


def test_two_jobs_write_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another job finishes a video's pictures first, they are kept, and no other file is left."""
    record = VideoRecord("a.avi", make_clip(tmp_path / "a.avi"), 0, "g")
    folder = tmp_path / "frames"

    def read_while_another_job_finishes(*args: Any, **kwargs: Any) -> Iterator[Event]:
        for event in read_videos(*args, **kwargs):
            if isinstance(event, Finished):
                (folder / "a.avi").mkdir()
                (folder / "a.avi" / "000000.jpg").write_text("theirs")
            yield event

    monkeypatch.setattr("pipeline.features.pictures.read_videos", read_while_another_job_finishes)
    assert write_pictures([record], FeatureConfig(workers=1), folder) == 0
    assert [path.name for path in folder.iterdir()] == ["a.avi"]
    assert (folder / "a.avi" / "000000.jpg").read_text() == "theirs"


def test_partial_folder_is_replaced(tmp_path: Path) -> None:
    """The partial folder of a killed job is removed, and the video is written again."""
    record = VideoRecord("a.avi", make_clip(tmp_path / "a.avi"), 0, "g")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    leftover = tmp_path / "frames" / f".a.avi.{socket.gethostname()}.{process.pid}.tmp"
    leftover.mkdir(parents=True)
    (leftover / "000001.jpg").touch()
    config = FeatureConfig(sampling="uniform:2", workers=1)
    assert write_pictures([record], config, tmp_path / "frames") == 0
    assert sorted(path.name for path in (tmp_path / "frames" / "a.avi").iterdir()) == ["000005.jpg", "000015.jpg"]
    assert not leftover.exists()
