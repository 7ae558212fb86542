"""pipeline/evaluation/properties.py: the numbers that slices are made by."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data.identity import identify
from data.records import VideoRecord
from pipeline.evaluation.properties import look_at, motion_in, motion_of, video_properties
from pipeline.features.recipe import Origin
from tests.helpers.synthetic import make_table_of_views


def _write(path: Path, level: int) -> Origin:
    """Three frames of 64 x 48 pixels, and the origin of their features."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for _ in range(3):
        writer.write(np.full((48, 64, 3), level, dtype=np.uint8))
    writer.release()
    return Origin(25.0, 3, 3, 0, "decord", "none").of_file(identify(path))


def test_size_and_brightness_are_those_of_the_file_that_the_features_came_from(tmp_path: Path) -> None:
    """A video is described by its first frame. A missing file, one that was replaced, and one that was never decoded
    here leave size and brightness unknown, and length and frame rate known."""
    names = ("dark", "bright", "gone", "replaced", "imported")
    records = [VideoRecord(name, tmp_path / f"{name}.avi", 0, name) for name in names]
    levels = {"dark": 20, "bright": 200, "gone": 90, "replaced": 90, "imported": 90}
    origins = {name: _write(tmp_path / f"{name}.avi", level) for name, level in levels.items()}
    origins["imported"] = Origin(0.0, 3, 3, 0, "imported", "imported")
    (tmp_path / "gone.avi").unlink()
    (tmp_path / "replaced.avi").write_bytes(b"RIFF")
    looks = look_at(records, origins)
    length, rate, size, brightness, _ = video_properties(origins, {}, looks)
    assert set(length.values) == set(rate.values) == set(names) - {"imported"}
    assert length.values["gone"] == pytest.approx(3 / 25) and rate.values["gone"] == 25
    assert size.values == {"dark": 64 * 48, "bright": 64 * 48}
    assert brightness.values == {"dark": pytest.approx(20, abs=3), "bright": pytest.approx(200, abs=3)}


def test_motion_is_the_change_between_frames() -> None:
    """A still video has none, scaling the features changes nothing, and a single frame has no motion to speak of."""
    moving = np.array([[1, 0], [0, 1], [1, 0]], np.float16)
    assert motion_of(np.ones((3, 2), np.float16)) == 0
    assert motion_of(moving) == motion_of(4 * moving) == pytest.approx(2**0.5)
    assert motion_of(moving[:1]) is None and motion_of(np.zeros((3, 2), np.float16)) is None
    table = make_table_of_views([[moving, np.ones((3, 2))]])
    assert motion_in(table) == {"v0": pytest.approx(2**0.5)}  # of the first view
