"""A small run on real video files, and its bundle."""

from pathlib import Path

import pytest

from tests.helpers.clips import render_moving_squares
from tests.helpers.commands import run


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: tuple[str, Path]) -> Path:
    """A run on 16 videos in two views, which was evaluated on two."""
    folder = tmp_path_factory.mktemp("export")
    render_moving_squares(folder / "videos")
    name, weights = tiny_backbone
    done = run(
        *("train.py", "--dataset", "folder", "--root", folder / "videos", "--group-pattern", r"_(g\d+)_"),
        *("--holdout-group", "g8", "--backbone", name, "--weights", weights, "--sampling", "every:2"),
        *("--views", 2, "--clip-frames", 3, "--cache", folder / "cache", "--runs", folder, "--name", "run"),
        *("--workers", 1, "--epochs", 3, "--batch-size", 4, "--hidden-size", 8),
    )
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*/run")
    return found


@pytest.fixture(scope="package")
def bundle(trained: Path) -> Path:
    """The run's bundle."""
    path = trained.parent.parent / "model.zip"
    done = run("-m", "pipeline.export", trained, "--to", path)
    assert done.returncode == 0, done.stderr
    assert "16 frames of 2 test videos" in done.stdout, done.stdout
    return path
