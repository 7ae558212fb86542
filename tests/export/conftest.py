"""The bundle of a small run."""

from pathlib import Path

import pytest

from tests.helpers.commands import call


@pytest.fixture(scope="session")
def bundle(squares_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's bundle."""
    path = tmp_path_factory.mktemp("export") / "model.zip"
    done = call("-m", "pipeline.export", squares_run, "--to", path)
    assert done.returncode == 0, done.stderr
    assert "16 frames of 2 test videos" in done.stdout, done.stdout
    return path
