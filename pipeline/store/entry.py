"""One entry of the feature store: a safetensors file, or an object with the same content."""

import json
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import load, save

from data.objects import Place
from pipeline.features.recipe import VideoFeatures
from pipeline.store.archives import Member

Content = tuple[dict[str, str], npt.NDArray[np.float16], npt.NDArray[np.int32]]
"""Metadata, features and frame indices."""

_HEAD_BYTES = 4096  # contains the header, unless names are very long
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit


def encode(video: VideoFeatures, fingerprint: str, video_id: str, view: str) -> bytes:
    """The content of an entry: the features, what they are of, and a checksum of both."""
    metadata = {
        "fingerprint": fingerprint,
        "video_id": video_id,
        "view": view,
        "origin": json.dumps(asdict(video.origin)),
    }
    metadata["crc32"] = str(checksum(metadata, video.features, video.frame_indices))
    # Not save_file: its temporary file doesn't name this process, and only its owner could read the result.
    return save({"features": video.features, "frame_indices": video.frame_indices}, metadata)


def checksum(metadata: dict[str, str], features: npt.NDArray[np.float16], frame_indices: npt.NDArray[np.int32]) -> int:
    """Checksum of an entry: its metadata, and the arrays with their types and shapes."""
    arrays: list[npt.NDArray[Any]] = [np.ascontiguousarray(features), np.ascontiguousarray(frame_indices)]
    described = json.dumps([metadata, *([array.dtype.str, array.shape] for array in arrays)], sort_keys=True)
    crc32 = zlib.crc32(described.encode())
    for array in arrays:
        crc32 = zlib.crc32(array.data, crc32)
    return crc32


def read_metadata(path: Place | Member) -> dict[str, str]:
    """The metadata alone: of an object or a member of an archive, one request for its beginning.

    Raises ``OSError``, ``SafetensorError``, ``KeyError``, ``TypeError`` or ``ValueError`` if it can't be read.
    """
    if isinstance(path, Path):
        with safe_open(path, framework="numpy") as file:
            return file.metadata()
    head = path.read_bytes(_HEAD_BYTES)
    end = _header_end(head)
    return _metadata(head if end <= len(head) else path.read_bytes(end))


def read(path: Place | Member) -> Content:
    """Metadata, features and frame indices, not checked yet. Raises as ``read_metadata`` does."""
    if isinstance(path, Path):
        with safe_open(path, framework="numpy") as file:
            return file.metadata(), file.get_tensor("features"), file.get_tensor("frame_indices")
    return decode(path.read_bytes())


def decode(content: bytes) -> Content:
    """What ``read`` returns. Raises as it does, but no ``OSError``."""
    tensors = load(content)
    return _metadata(content), tensors["features"], tensors["frame_indices"]


def _header_end(content: bytes) -> int:
    """Where the header of a safetensors file ends: 8 bytes with its length, then JSON."""
    end = 8 + int.from_bytes(content[:8], "little")
    if end > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {end} bytes")
    return end


def _metadata(content: bytes) -> dict[str, str]:
    return json.loads(content[8 : _header_end(content)])["__metadata__"]
