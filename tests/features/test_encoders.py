"""The backbone's runtimes: they agree, and the network is exported once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from data.video import read_frames
from models.backbones import Backbone, load_backbone
from models.cnn.preprocessing import VIEWS, resize_and_crop
from pipeline.features.encoders import make_encoder, whole_frames_encoder
from pipeline.settings.config import ConfigError
from pipeline.settings.device import choose_device
from tests.helpers.clips import make_clip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tiny_backbone: tuple[str, Path]) -> Backbone:
    return load_backbone(*tiny_backbone)


def frames_of(path: Path, backbone: Backbone, count: int) -> NDArray[np.uint8]:
    frames = [resize_and_crop(frame, backbone.preprocessing)[0] for _, frame in read_frames(path, range(count))]
    return np.stack(frames)


def relative_difference(a: NDArray[np.float16], b: NDArray[np.float16]) -> float:
    return float(np.abs(a.astype(np.float64) - b).max() / np.abs(b.astype(np.float64)).max())


def test_runtimes_agree_on_a_real_clip(action_data: Path, tmp_path: Path) -> None:
    """ONNX Runtime and PyTorch give the same features of the default backbone to 1e-3."""
    backbone = load_backbone()
    frames = frames_of(action_data / "clips" / "v_Punch_g03_c01.avi", backbone, 4)
    onnx, torch_ = (make_encoder(backbone, CPU, runtime, tmp_path) for runtime in ("onnx", "torch"))
    assert relative_difference(onnx.encode(frames), torch_.encode(frames)) < 1e-3
    assert onnx.runtime.startswith("onnxruntime-") and torch_.runtime.startswith("torch-")


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_features_do_not_depend_on_the_batch(tiny: Backbone, tmp_path: Path, runtime: str) -> None:
    """A frame has the same features alone and in a batch of any size."""
    frames = frames_of(make_clip(tmp_path / "a.avi", num_frames=5), tiny, 5)
    encoder = make_encoder(tiny, CPU, runtime, tmp_path)  # type: ignore[arg-type]
    together = encoder.encode(frames)
    alone = np.concatenate([encoder.encode(frames[i : i + 1]) for i in range(5)])
    assert together.dtype == np.float16 and together.shape == (5, tiny.feature_dim)
    assert relative_difference(together, alone) < 1e-3


def test_network_is_exported_once(tiny: Backbone, tmp_path: Path) -> None:
    """The second job uses the existing exported network, and no temporary file is left."""
    make_encoder(tiny, CPU, "auto", tmp_path)
    (exported,) = tmp_path.iterdir()
    before = exported.stat()
    make_encoder(tiny, CPU, "auto", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [exported.name]
    assert (exported.stat().st_ino, exported.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("size", [1000, None])
def test_damaged_network_is_exported_again(tiny: Backbone, tmp_path: Path, size: int | None) -> None:
    """An exported network with a flipped bit or a missing end is replaced before it is used."""
    make_encoder(tiny, CPU, "onnx", tmp_path)
    (exported,) = tmp_path.iterdir()
    whole = exported.read_bytes()
    damaged = bytearray(whole[:size])
    damaged[len(damaged) // 2] ^= 1
    exported.write_bytes(damaged)
    assert make_encoder(tiny, CPU, "auto", tmp_path).runtime.startswith("onnxruntime-")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [whole]


class _NotExportable(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = torch.fft.fft(torch.nested.nested_tensor(list(images.mean((2, 3)))).to_padded_tensor(0.0)).real
        return values


def test_network_that_cannot_be_exported_runs_on_pytorch(tiny: Backbone, tmp_path: Path) -> None:
    """``auto`` warns with the reason and uses PyTorch; an explicit ``onnx`` is an error with advice."""
    odd = Backbone("odd", _NotExportable(), 3, tiny.preprocessing, "none", "0" * 64)
    with pytest.warns(UserWarning, match="odd runs on PyTorch"):
        encoder = make_encoder(odd, CPU, "auto", tmp_path)
    crop = tiny.preprocessing.crop
    assert encoder.encode(np.zeros((2, crop, crop, 3), dtype=np.uint8)).shape == (2, 3)
    with pytest.raises(ConfigError, match="--runtime torch"):
        make_encoder(odd, CPU, "onnx", tmp_path)


def test_unknown_device_is_rejected() -> None:
    """A missing device is a clear error, never silently replaced by another one."""
    with pytest.raises(ConfigError, match="unknown --device 'tpu'"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="PyTorch sees no GPU"):
            choose_device("cuda")


def test_batch_that_does_not_fit_is_halved(tiny: Backbone) -> None:
    """If a batch exceeds the GPU's memory, its halves are tried; if one frame does, the error is raised."""

    class SmallMemory(nn.Module):
        num_fitting = 3

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(images) > self.num_fitting:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return images.mean((2, 3))

    network = SmallMemory()
    backbone = Backbone("small", network, 3, tiny.preprocessing, "none", "0" * 64)
    encoder = whole_frames_encoder(backbone, CPU, VIEWS[:1])
    crop = tiny.preprocessing.crop
    frames = np.random.default_rng(0).integers(256, size=(10, crop, crop, 3), dtype=np.uint8)
    halved = encoder.encode(frames)
    network.num_fitting = 10
    np.testing.assert_allclose(halved, encoder.encode(frames), atol=1e-3)
    network.num_fitting = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        encoder.encode(frames)
