"""pipeline/reports/strips.py: strips of frames."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.records import VideoRecord
from pipeline.reports.strips import make_strips, strip_path
from tests.helpers.clips import make_clip


def record(path: Path, video_id: str | None = None) -> VideoRecord:
    return VideoRecord(video_id or path.name, path, 0, "g")


def test_a_strip_has_eight_frames_from_start_to_end(tmp_path: Path) -> None:
    """The strip shows evenly spaced frames in order, and each is the right frame of the video."""
    path = tmp_path / "brighter.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (128, 96))
    for step in range(80):
        writer.write(np.full((96, 128, 3), 3 * step, dtype=np.uint8))
    writer.release()
    strips = make_strips([record(path)], tmp_path / "evaluation", limit=1)
    image = Image.open(strips["brighter.avi"])
    assert image.size == (8 * 128, 96)
    brightness = np.asarray(image.convert("L"), dtype=float).reshape(96, 8, 128).mean(axis=(0, 2))
    assert brightness == pytest.approx([3 * (5 + 10 * part) for part in range(8)], abs=4)


def test_colours_are_preserved(tmp_path: Path) -> None:
    """Red stays red: the order of the colour channels is not reversed."""
    path = tmp_path / "red.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for _ in range(8):
        writer.write(np.broadcast_to(np.array([0, 0, 220], dtype=np.uint8), (48, 64, 3)))  # OpenCV: blue, green, red
    writer.release()
    (strip,) = make_strips([record(path)], tmp_path, limit=1).values()
    red, green, blue = np.asarray(Image.open(strip), dtype=float).mean(axis=(0, 1))
    assert red > 180 > 60 > max(green, blue)


def test_the_first_videos_get_strips_and_existing_strips_are_kept(tmp_path: Path) -> None:
    """Only the first ``limit`` videos get a strip; an existing strip is kept even if its video no longer exists."""
    records = [record(make_clip(tmp_path / f"{number}.avi", number=number)) for number in range(3)]
    first = make_strips(records, tmp_path, limit=2)
    assert list(first) == ["0.avi", "1.avi"]
    made = {path: path.stat().st_mtime_ns for path in first.values()}
    records[0].path.unlink()
    again = make_strips(records, tmp_path, limit=3)
    assert list(again) == ["0.avi", "1.avi", "2.avi"]
    assert {path: path.stat().st_mtime_ns for path in first.values()} == made
    assert make_strips(records, tmp_path / "other", limit=0) == {}


def test_a_video_that_cannot_be_read_costs_only_its_own_strip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty file is reported with the reason, missing ones in one line, even if a name is too long for any file; the
    valid one has its strip."""
    (tmp_path / "empty.avi").touch()
    records = [record(tmp_path / name) for name in ("empty.avi", "missing.avi", f"missing-{'x' * 300}.avi")]
    records.append(record(make_clip(tmp_path / "good.avi")))
    assert list(make_strips(records, tmp_path, limit=10)) == ["good.avi"]
    errors = capsys.readouterr().err
    assert "no strip of empty.avi: " in errors and "is empty (0 bytes)" in errors
    (line,) = (line for line in errors.splitlines() if "missing" in line)
    assert "2 videos" in line and str(tmp_path / "missing.avi") in line


@pytest.mark.parametrize("video_id", ["../../etc/passwd", "a/b.avi", "x" * 300, "häß #?%20\udc80.avi", "CON.avi"])
def test_any_video_id_is_safe_on_disk_and_in_a_page(video_id: str, tmp_path: Path) -> None:
    """Whatever the video id, its strip is in the folder under a short name of ASCII letters and digits."""
    path = strip_path(tmp_path, video_id)
    assert path.parent == tmp_path / "strips"
    assert path.name.removesuffix(".jpg").isalnum()
    assert path.name.isascii()
    assert len(path.name) < 40
    assert path != strip_path(tmp_path, video_id + "x")


def test_a_very_wide_video_has_a_strip_of_limited_width(tmp_path: Path) -> None:
    """Frames in a strip are at most twice as wide as high."""
    path = tmp_path / "banner.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (960, 64))
    for _ in range(8):
        writer.write(np.zeros((64, 960, 3), dtype=np.uint8))
    writer.release()
    (strip,) = make_strips([record(path)], tmp_path, limit=1).values()
    assert Image.open(strip).size == (8 * 192, 96)


def test_a_short_video_has_a_strip_of_eight_frames(tmp_path: Path) -> None:
    """The page cuts every strip into eight frames: the three of this video are in it in order, each several times."""
    path = tmp_path / "short.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (128, 96))
    for step in range(3):
        writer.write(np.full((96, 128, 3), 100 * step, dtype=np.uint8))
    writer.release()
    (strip,) = make_strips([record(path)], tmp_path, limit=1).values()
    frames = np.asarray(Image.open(strip).convert("L"), dtype=float).reshape(96, 8, 128).mean(axis=(0, 2))
    assert frames == pytest.approx([0, 0, 0, 100, 100, 100, 200, 200], abs=4)
