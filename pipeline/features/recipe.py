"""The features of one video, and the recipe that made them."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.video import FrameCount
from pipeline.settings.config import ConfigError

FORMAT_VERSION = 1


IMPORTED = "imported:"
"""Prefix of the backbone's name if another tool made the features."""


@dataclass(frozen=True)
class FeatureRecipe:
    """Everything that can change a number in the features; never a label, a split or a path."""

    backbone: str
    weights_sha256: str
    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    keep_aspect_ratio: bool
    sampling: str
    layer: str = "pooled penultimate"
    channel_order: str = "RGB"
    dtype: str = "float16"
    format_version: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON, 64 hexadecimal digits."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """Name of the store's folder: the first 16 digits of the fingerprint."""
        return self.fingerprint[:16]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "FeatureRecipe":
        values: dict[str, Any] = json.loads(text)
        return cls(**(values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])}))

    @classmethod
    def read(cls, path: Path) -> "FeatureRecipe":
        """Read a ``recipe.json``. Raises ``ConfigError`` if it is missing or damaged."""
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path} can't be read ({error})") from error

    def differences(self, other: "FeatureRecipe") -> list[str]:
        """The fields in which two recipes differ, as ``name: ours / theirs``."""
        return [
            f"{field.name}: {getattr(self, field.name)} / {getattr(other, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


def imported_recipe(name: str) -> FeatureRecipe:
    """The recipe of features that were imported under ``name``, which alone identifies them.

    Raises ``ConfigError`` if the name is empty.
    """
    if not name.strip():
        raise ConfigError("imported features need a name: import them with --name NAME, train with imported:NAME.")
    return FeatureRecipe(
        backbone=f"{IMPORTED}{name}",
        weights_sha256="",
        resize=0,
        crop=0,
        interpolation="",
        mean=(),
        std=(),
        keep_aspect_ratio=True,
        sampling="imported",
        layer="imported",
        channel_order="imported",
    )


@dataclass(frozen=True)
class Origin:
    """The video file that features were extracted from, and the programs that did it.

    Attributes:
        fps: the video's frame rate, frames per second.
        header_frames: number of frames according to the file's header.
        decoded_frames: number of frames that decode; fewer if the file is cut off.
        source_bytes: size of the video file. Another size means that the file was replaced.
        decoder: the library that decoded it.
        runtime: the library that ran the backbone.
    """

    fps: float
    header_frames: int
    decoded_frames: int
    source_bytes: int
    decoder: str
    runtime: str

    @property
    def is_short(self) -> bool:
        return FrameCount(self.header_frames, self.decoded_frames, self.decoder).is_short


@dataclass(frozen=True, eq=False)
class VideoFeatures:
    """The features of one video.

    Attributes:
        features: float16 ``[num_frames, feature_dim]``.
        frame_indices: int32 ``[num_frames]``, ascending; the frame of the video that each row belongs to.
    """

    features: npt.NDArray[np.float16]
    frame_indices: npt.NDArray[np.int32]
    origin: Origin
