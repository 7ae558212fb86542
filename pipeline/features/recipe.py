"""What one video's features are, and the recipe that made them."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from data.video import FrameCount
from pipeline.settings.config import ConfigError

FORMAT_VERSION = 1


IMPORTED = "imported:"
"""What the backbone's name begins with where other tools made the features."""


@dataclass(frozen=True)
class FeatureRecipe:
    """All that can change a number in the features; never a label, a split or a path."""

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

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "FeatureRecipe":
        values: dict[str, Any] = json.loads(text)
        return cls(**(values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])}))

    def differences(self, other: "FeatureRecipe") -> list[str]:
        """The fields in which two recipes differ, as ``name: ours / theirs``."""
        return [
            f"{field.name}: {getattr(self, field.name)} / {getattr(other, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


def imported_recipe(name: str) -> FeatureRecipe:
    """What stands for the making of features that were imported as ``name``: they are told apart by that alone.

    Raises ``ConfigError`` for an empty name.
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
    """Where the features of a video come from.

    Attributes:
        fps: of the video, frames per second.
        header_frames: how many frames the file's header promised.
        decoded_frames: how many there were; fewer than promised where the file is short.
        source_bytes: size of the video file; another size means another video under the same name.
        decoder: what read it.
        runtime: what ran the CNN.
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
    """Features of one video: float16 ``[num_frames, feature_dim]``, of the frames int32 ``[num_frames]``, ascending."""

    features: npt.NDArray[np.float16]
    frame_indices: npt.NDArray[np.int32]
    origin: Origin
