"""Fixtures that several tests share."""

import os
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.processes import available_cores
from tests.helpers import REPOSITORY
from tests.helpers.clips import render_moving_squares
from tests.helpers.commands import call
from tests.helpers.object_server import ObjectServer, serve_objects

# Tests run in parallel and compute little: one thread each is several times faster than threads that wait for each
# other. Commands that tests start inherit the setting.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: many tests wait, for a process or a browser."""
    return available_cores() + 1


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
    from models.cnn.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    import timm
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.pt"
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), path)
    return "timm:test_resnet", path


@pytest.fixture(scope="session")
def squares_run(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: tuple[str, Path]) -> Path:
    """A run on 16 videos in two views, which was evaluated on two. Don't change it: many tests share it.

    The videos are in ``parents[2] / "videos"``. Four frames of each are read, and each has two clips of three.
    """
    folder = tmp_path_factory.mktemp("squares")
    render_moving_squares(folder / "videos")
    name, weights = tiny_backbone
    done = call(
        *("train.py", "--dataset", "folder", "--root", folder / "videos", "--group-pattern", r"_(g\d+)_"),
        *("--holdout-group", "g8", "--backbone", name, "--weights", weights, "--sampling", "every:2"),
        *("--views", 2, "--clip-frames", 3, "--cache", folder / "cache", "--runs", folder / "runs", "--name", "run"),
        *("--workers", 1, "--epochs", 3, "--batch-size", 4, "--hidden-size", 8),
    )
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "videos" / "run"


@pytest.fixture(scope="session")
def _object_server() -> Iterator[ObjectServer]:
    pytest.importorskip("moto.server", reason="no S3 server: moto is not installed (pip install -e '.[dev]')")
    pytest.importorskip("obstore", reason="obstore is not installed (pip install -e '.[objects]')")
    with serve_objects() as server:
        yield server


@pytest.fixture
def object_server(
    _object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ObjectServer]:
    """An S3 server without faults, which this process and its children use; the user's cache folder is the test's."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{_object_server.port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    _object_server.fault = None
    _object_server.requests.clear()
    yield _object_server
    _object_server.fault = None


@pytest.fixture
def bucket(object_server: ObjectServer) -> str:
    """The address of a new bucket."""
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    url = f"http://127.0.0.1:{object_server.port}/{name}"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
    object_server.requests.clear()
    return f"s3://{name}"
