"""A tiny run that reads every frame, and a program that serves video."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.clips import render_moving_squares
from tests.helpers.commands import run

CLIP_FRAMES = 40


@pytest.fixture(scope="session")
def stream_run(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: tuple[str, Path]) -> Path:
    """A run on videos of 8 frames, trained on every frame of clips of up to 40."""
    folder = tmp_path_factory.mktemp("stream")
    render_moving_squares(folder / "videos")
    name, weights = tiny_backbone
    done = run(
        *("train.py", "--dataset", "folder", "--root", folder / "videos", "--group-pattern", r"_(g\d+)_"),
        *("--holdout-group", "g8", "--backbone", name, "--weights", weights, "--sampling", "every:1"),
        *("--clip-frames", CLIP_FRAMES, "--cache", folder / "cache", "--runs", folder, "--name", "run"),
        *("--workers", 1, "--epochs", 3, "--batch-size", 4, "--hidden-size", 8, "--strips", 0),
    )
    assert done.returncode == 0, done.stderr
    return folder / "videos" / "run"


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
