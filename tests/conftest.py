"""Fixtures that several tests share."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def action_data() -> Path:
    """The folder with real clips, official lists and MNIST; the test is skipped where it is absent."""
    folder = Path(os.environ.get("ACTION_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set ACTION_DATA)")
    return folder
