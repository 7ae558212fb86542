"""The backbone as a function from frames to features: ONNX Runtime on a CPU, PyTorch on a GPU or on request.

On a CPU the two agree to 1e-3 relative (tested). So the runtime is recorded with the features, but is not part of their
fingerprint. How closely a GPU in float16 agrees is not measured yet.

A GPU receives whole frames and resizes them itself, so that the CPU cores only decode. A thread uploads and resizes the
next frames on a separate CUDA stream while the network computes.
"""

import hashlib
import os
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.atomic import write_atomically
from data.processes import available_cores
from models.backbones import Backbone, normalize
from models.cnn.preprocessing import VIEWS, Preprocessing
from models.cnn.tensor_preprocessing import resize_and_crop_tensor
from pipeline.settings.config import ConfigError

Runtime = Literal["auto", "onnx", "torch"]

# Small batches keep the activations in the CPU's caches. With 64 frames, page faults of mmap halved the speed.
CPU_BATCH_FRAMES = 8
GPU_BATCH_FRAMES = 256


Pixels = NDArray[np.uint8] | NDArray[np.float32] | Tensor
"""RGB uint8 ``[N, crop, crop, 3]``, on the network's device; or whatever rows ``Encoder.stage`` makes of frames."""


_GRAPH_VERSION = "fixed padding"
"""Names what the exported graph looks like, so that a graph of an earlier version is not used."""


def _unchanged(pixels: NDArray[np.uint8]) -> Pixels:
    return pixels


@dataclass(frozen=True)
class Encoder:
    """A backbone, ready to run.

    Attributes:
        encode: ``Pixels`` of N frames -> float16 ``[N, feature_dim]``; any N, fastest at ``batch_frames``.
        batch_frames: recommended number of frames per call.
        runtime: name and version of the library that runs it, for the record.
        takes_whole_frames: whether ``stage`` needs whole frames, as decoded, and cuts the views itself.
        stage: turns the readers' frames into ``Pixels``. Runs in another thread than ``encode``.
    """

    encode: Callable[[Pixels], NDArray[np.float16]]
    batch_frames: int
    runtime: str
    takes_whole_frames: bool = False
    stage: Callable[[NDArray[np.uint8]], Pixels] = _unchanged


def make_encoder(
    backbone: Backbone, device: torch.device, runtime: Runtime, folder: Path, views: Sequence[str] = VIEWS[:1]
) -> Encoder:
    """Make a backbone ready to run.

    Args:
        runtime: ``auto`` is ``torch`` on a GPU, and ``onnx`` on a CPU unless the network can't be exported.
        folder: where to keep the exported network, so that it is exported only once.
        views: the views to cut from each frame.

    Raises ``ConfigError`` if ``runtime`` is ``onnx`` and the network can't be exported.
    """
    if runtime == "torch" or (runtime == "auto" and device.type == "cuda"):
        if device.type == "cuda":
            return whole_frames_encoder(backbone, device, views)
        return _torch_encoder(backbone, device)
    try:
        return _onnx_encoder(_exported(backbone, folder))
    except OSError:
        raise
    except Exception as error:  # depending on the model's operators, the exporter can raise anything
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
    """A PyTorch encoder that also resizes on the device. Meant for GPUs; works on a CPU, but slowly."""
    on_gpu = device.type == "cuda"
    stream = torch.cuda.Stream(device) if on_gpu else None

    @torch.inference_mode()
    def stage(frames: NDArray[np.uint8]) -> Pixels:
        with torch.cuda.stream(stream):  # no effect if None
            whole = torch.from_numpy(frames)
            if on_gpu:
                whole = whole.pin_memory().to(device, non_blocking=True)
            pixels = resize_and_crop_tensor(whole, backbone.preprocessing, views)
        if stream is not None:
            stream.synchronize()  # blocks this thread only; afterwards the network's stream may use the pixels
        return pixels

    return replace(_torch_encoder(backbone, device), takes_whole_frames=True, stage=stage)


class FromPixels(nn.Module):
    """The network with normalisation as its first layer: uint8 frames in, features out."""

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
    """Path of the network as an ONNX file, for any batch size. Exported if the file is missing or damaged.

    The file's name ends with its checksum: a flipped bit in a weight would change features unnoticed.
    """
    contents = f"{backbone.weights_sha256} {backbone.preprocessing} torch {torch.__version__} {_GRAPH_VERSION}"
    digest = hashlib.sha256(contents.encode()).hexdigest()[:16]
    name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', backbone.name)}-{digest}"
    for path in folder.glob(f"{name}-*.onnx"):
        with suppress(FileNotFoundError):  # removed by another job that found it damaged
            if path.name == _network_name(name, path.read_bytes()):
                return path
            path.unlink()
    module = FromPixels(backbone.network, backbone.preprocessing)
    crop = backbone.preprocessing.crop
    example = torch.zeros(2, crop, crop, 3, dtype=torch.uint8)
    content = to_onnx(module, {"frames": example}, {"frames": ["num_frames"], "features": ["num_frames"]})
    path = folder / _network_name(name, content)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return path


def to_onnx(module: nn.Module, inputs: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> bytes:
    """A module as an ONNX file.

    Args:
        inputs: the module's arguments by name, as an example.
        names: for each input, then for each output, in order: the names of its first axes, which may have any length.

    Can raise anything, depending on the module's operators.
    """
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's hints are for authors of models
        exported = Path(scratch) / "network.onnx"
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            exported,
            input_names=list(inputs),
            output_names=[name for name in names if name not in inputs],
            dynamic_axes={name: dict(enumerate(axes)) for name, axes in names.items()},
            dynamo=False,  # the newer exporter needs onnxscript and minutes where this needs a second
        )
        return exported.read_bytes()


def _network_name(name: str, content: bytes) -> str:
    return f"{name}-{zlib.crc32(content):08x}.onnx"


def open_network(content: bytes) -> onnxruntime.InferenceSession:
    """Make an ONNX file ready to run on the CPU. ONNX Runtime raises many types if it can't."""
    options = onnxruntime.SessionOptions()
    # On a cluster, OMP_NUM_THREADS limits a worker to its share of the machine's cores.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else available_cores()
    options.log_severity_level = 4  # what fails is raised, too
    # A spinning thread would take a core from the readers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _onnx_encoder(path: Path) -> Encoder:
    session = open_network(path.read_bytes())

    def encode(pixels: Pixels) -> NDArray[np.float16]:
        (features,) = session.run(None, {"frames": pixels})
        return np.asarray(features, dtype=np.float16)

    return Encoder(encode, CPU_BATCH_FRAMES, f"onnxruntime-{onnxruntime.__version__}")
