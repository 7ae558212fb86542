"""The CNN as a function from frames to features: ONNX Runtime on a CPU, PyTorch on a GPU or where asked for.

On a CPU the two agree to 1e-3 relative (tested), so the runtime is noted with the features but is no part of their
fingerprint. How near a GPU comes, in float16, is not measured yet.

On a GPU the frames arrive whole and are resized there: the cores that decode have nothing else to do. A thread uploads
and resizes the next frames on a stream of its own while the network works on the last ones.
"""

import hashlib
import os
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.atomic import write_atomically
from models.backbones import Backbone, normalize
from models.gpu_preprocessing import resize_and_crop_tensor
from models.preprocessing import VIEWS, Preprocessing
from pipeline.settings.config import ConfigError

Runtime = Literal["auto", "onnx", "torch"]

# On a CPU small batches keep the activations in the caches (and off mmap, whose page faults halved the speed of 64).
CPU_BATCH_FRAMES = 8
GPU_BATCH_FRAMES = 256


Pixels = NDArray[np.uint8] | Tensor
"""uint8 ``[N, crop, crop, 3]``, RGB, where the network wants them."""


def _as_they_are(pixels: NDArray[np.uint8]) -> Pixels:
    return pixels


@dataclass(frozen=True)
class Encoder:
    """A backbone, ready to run.

    Attributes:
        encode: ``Pixels`` of N frames -> float16 ``[N, feature_dim]``; any N, quickest at ``batch_frames``.
        batch_frames: frames to give at once.
        runtime: what runs it, with its version; for the record.
        takes_whole_frames: whether ``stage`` wants frames as they were decoded, and makes the views itself.
        stage: turns what the readers hand out into ``Pixels``. Called by another thread than ``encode``, so that the
            two overlap.
    """

    encode: Callable[[Pixels], NDArray[np.float16]]
    batch_frames: int
    runtime: str
    takes_whole_frames: bool = False
    stage: Callable[[NDArray[np.uint8]], Pixels] = _as_they_are


def make_encoder(
    backbone: Backbone, device: torch.device, runtime: Runtime, folder: Path, views: Sequence[str] = VIEWS[:1]
) -> Encoder:
    """Make a backbone ready to run.

    Args:
        runtime: ``auto`` is ``torch`` on a GPU, and ``onnx`` on a CPU unless the network can't be exported.
        folder: where the exported network is kept, so that it is exported once.
        views: what is to be made of each frame.

    Raises ``ConfigError`` where ``onnx`` is asked for and the network can't be exported.
    """
    if runtime == "torch" or (runtime == "auto" and device.type == "cuda"):
        if device.type == "cuda":
            return whole_frames_encoder(backbone, device, views)
        return _torch_encoder(backbone, device)
    try:
        return _onnx_encoder(backbone, _exported(backbone, folder))
    except OSError:
        raise
    except Exception as error:  # an exporter meets any operator of any model: there is no list of what it can raise
        reason = " ".join(str(error).split())[:200]
        if runtime == "onnx":
            raise ConfigError(f"{backbone.name} can't run on ONNX Runtime ({reason}). Use --runtime torch.") from error
        warnings.warn(f"{backbone.name} runs on PyTorch: it can't be exported to ONNX ({reason})", stacklevel=2)
        return _torch_encoder(backbone, device)


def _torch_encoder(backbone: Backbone, device: torch.device) -> Encoder:
    network = backbone.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def encode(pixels: Pixels) -> NDArray[np.float16]:
        images = normalize(torch.as_tensor(pixels).to(device), backbone.preprocessing)
        try:
            with torch.autocast("cuda", torch.float16, enabled=device.type == "cuda"):
                features = network(images)
        except torch.cuda.OutOfMemoryError:
            half = len(pixels) // 2
            if not half:
                raise
            return np.concatenate([encode(pixels[:half]), encode(pixels[half:])])
        return np.asarray(features.half().cpu().numpy())

    batch_frames = GPU_BATCH_FRAMES if device.type == "cuda" else CPU_BATCH_FRAMES
    return Encoder(encode, batch_frames, f"torch-{torch.__version__}-{device.type}")


def whole_frames_encoder(backbone: Backbone, device: torch.device, views: Sequence[str]) -> Encoder:
    """PyTorch, with the resize on the device too. Made for a GPU; runs on a CPU as well, but slower than without."""
    on_gpu = device.type == "cuda"
    stream = torch.cuda.Stream(device) if on_gpu else None

    @torch.inference_mode()
    def stage(frames: NDArray[np.uint8]) -> Pixels:
        with torch.cuda.stream(stream):  # does nothing without one
            whole = torch.from_numpy(frames)
            if on_gpu:
                whole = whole.pin_memory().to(device, non_blocking=True)
            pixels = resize_and_crop_tensor(whole, backbone.preprocessing, views)
        if stream is not None:
            stream.synchronize()  # this thread alone waits; the network's stream may use the pixels from now on
        return pixels

    return replace(_torch_encoder(backbone, device), takes_whole_frames=True, stage=stage)


class _FromPixels(nn.Module):
    """uint8 frames in, features out: normalisation as the first layer of the network."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", 255 * torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1 / (255 * torch.tensor(preprocessing.std).view(1, 3, 1, 1)))
        self.train(False)

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.network((frames.permute(0, 3, 1, 2).float() - self.mean) * self.scale)
        return features


def _exported(backbone: Backbone, folder: Path) -> Path:
    """The network as an ONNX file: BatchNorm folded, any batch size. Exported where it is not there, or damaged.

    Its name ends with its checksum: a bit that flips in a weight would change features, and nobody would know.
    """
    made_of = f"{backbone.weights_sha256} {backbone.preprocessing} torch {torch.__version__}"
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', backbone.name)}-{digest}"
    for path in folder.glob(f"{name}-*.onnx"):
        with suppress(FileNotFoundError):  # removed by another job that found it damaged
            if path.name == _network_name(name, path.read_bytes()):
                return path
            path.unlink()
    module = _FromPixels(backbone.network, backbone.preprocessing)
    crop = backbone.preprocessing.crop
    example = torch.zeros(2, crop, crop, 3, dtype=torch.uint8)

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's hints are for those who write the model
        exported = Path(scratch) / "network.onnx"
        torch.onnx.export(
            module,
            (example,),
            exported,
            input_names=["frames"],
            output_names=["features"],
            dynamic_axes={"frames": {0: "num_frames"}, "features": {0: "num_frames"}},
            dynamo=False,  # the newer exporter needs onnxscript and minutes where this needs a second
        )
        content = exported.read_bytes()
    path = folder / _network_name(name, content)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return path


def _network_name(name: str, content: bytes) -> str:
    return f"{name}-{zlib.crc32(content):08x}.onnx"


def _onnx_encoder(backbone: Backbone, path: Path) -> Encoder:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # A cluster's worker may use some of the machine's cores only, and is told so as OpenMP is.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    # A thread that spins while it waits takes the core from the readers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def encode(pixels: Pixels) -> NDArray[np.float16]:
        (features,) = session.run(None, {"frames": pixels})
        return np.asarray(features, dtype=np.float16)

    return Encoder(encode, CPU_BATCH_FRAMES, f"onnxruntime-{onnxruntime.__version__}")
