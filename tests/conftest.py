"""Fixtures that several tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

# Tests run in parallel and compute little: one thread each is several times faster than threads that wait for each
# other. Commands that tests start inherit the setting.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _keep_denormal_numbers() -> Iterator[None]:
    """A command that a test calls in process makes PyTorch flush denormal numbers; hypothesis refuses to run then."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def action_data() -> Path:
    """The folder with real videos, official lists and MNIST; without it the test is skipped."""
    folder = Path(os.environ.get("ACTION_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set ACTION_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name and random weights of a small timm backbone that loads and runs fast: 160 px frames, 96 features."""
    from models.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    import timm
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.pt"
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return "timm:test_resnet", path
