"""Fixtures that several tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

# Many small computations on all cores: one thread each is several times faster than many that wait for one another. The
# programs that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _denormal_numbers_count() -> Iterator[None]:
    """A program called in the tests' own process may flush them for all that come after; hypothesis refuses that."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def action_data() -> Path:
    """The folder with real clips, official lists and MNIST; the test is skipped where it is absent."""
    folder = Path(os.environ.get("ACTION_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set ACTION_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Name and weight file (random) of a real backbone that loads and runs in no time: 96 features of 160 px frames."""
    from models.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    import timm
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.pt"
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return "timm:test_resnet", path
