"""A tiny run that reads every frame, and a program that serves video."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.runs import copy_run

CLIP_FRAMES = 40


@pytest.fixture(scope="session")
def stream_run(tmp_path_factory: pytest.TempPathFactory, squares_run: Path) -> Path:
    """A run that reads every frame, in clips of up to 40; how well it does so is tested nowhere."""
    copy = tmp_path_factory.mktemp("stream") / "run"
    return copy_run(squares_run, copy, {"sampling": "every:1"}, sampling="every:1", clip_frames=CLIP_FRAMES)


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    """An FFmpeg program, of the system or of the wheel; without one the test is skipped."""
    found = shutil.which("ffmpeg")
    if found is None:
        imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="no ffmpeg: pip install -e .[dev]")
        try:
            found = imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError as error:
            pytest.skip(f"no ffmpeg: {error}")
    return str(found)
