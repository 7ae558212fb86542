"""The features of one video, and the recipe that made them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.checksum import JSON
from data.identity import FileIdentity, identify, stamp_of
from data.objects import ObjectStoreError, Place
from data.video import FrameCount
from pipeline.settings.config import ConfigError

FORMAT_VERSION = 1


IMPORTED = "imported:"
"""Prefix of the backbone's name if another tool made the features."""


@dataclass(frozen=True)
class FeatureRecipe:
    """Everything that can change a number in the features; never a label, a split or a path.

    Attributes:
        contents: only for imported features, which nothing else tells apart if files are imported again under the same
            name: ``PackedFeatures.digests`` of the videos of a run. Empty in a store, and in runs of earlier versions.
    """

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
    contents: Mapping[str, str] = field(default_factory=dict, compare=False)

    @cached_property  # it is compared with every entry's
    def fingerprint(self) -> str:
        """sha256 of the canonical JSON, 64 hexadecimal digits."""
        canonical = json.dumps(self._as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """Name of the store's folder: the first 16 digits of the fingerprint without ``contents``."""
        return replace(self, contents={}).fingerprint[:16]

    @property
    def is_imported(self) -> bool:
        return self.backbone.startswith(IMPORTED)

    def to_json(self) -> str:
        return json.dumps(self._as_dict(), indent=2, sort_keys=True) + "\n"

    def _as_dict(self) -> dict[str, Any]:
        values = asdict(self)
        if not self.contents:  # as in files of earlier versions, whose fingerprints stay the same
            del values["contents"]
        return values

    @classmethod
    def from_json(cls, text: str) -> "FeatureRecipe":
        """Read the content of a ``recipe.json``, with or without a checksum.

        Raises ``KeyError``, ``TypeError`` or ``ValueError`` if the text is not a recipe's.
        """
        values: dict[str, Any] = json.loads(text)
        if values.pop("crc32", None) is not None:  # a run's; any other unknown key is an error below
            JSON.check(text.encode())
        contents = {str(video_id): str(digest) for video_id, digest in dict(values.get("contents", {})).items()}
        texts = {"backbone": str(values["backbone"]), "sampling": str(values["sampling"])}
        numbers = {"mean": tuple(values["mean"]), "std": tuple(values["std"])}
        return cls(**(values | texts | numbers | {"contents": contents}))

    @classmethod
    def read(cls, path: Place) -> "FeatureRecipe":
        """Read a ``recipe.json``. Raises ``ConfigError`` if it is missing or damaged."""
        try:
            return cls.from_json(path.read_bytes().decode())
        except ObjectStoreError:
            raise
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(f"{path} can't be read ({error})") from error

    def differences(self, other: "FeatureRecipe") -> list[str]:
        """The fields in which two recipes differ, as ``name: ours / theirs``; of ``contents``, the common videos."""
        found = [
            f"{field.name}: {getattr(self, field.name)} / {getattr(other, field.name)}"
            for field in fields(self)
            if field.compare and getattr(self, field.name) != getattr(other, field.name)
        ]
        common = self.contents.keys() & other.contents.keys()
        if changed := sorted(video_id for video_id in common if self.contents[video_id] != other.contents[video_id]):
            found.append(f"{self.backbone}: {len(changed)} videos were imported again, such as {changed[0]}")
        return found


def imported_recipe(name: str) -> FeatureRecipe:
    """The recipe of features that were imported under ``name``, without their ``contents``.

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


class Match(Enum):
    """How well a file agrees with the video file that features were extracted from."""

    SAME = "the same content"
    SAME_SIZE = "the same size, and the content was not recorded"
    UNKNOWN = "there is no file, or none was recorded"
    OTHER = "another file"


@dataclass(frozen=True)
class Origin:
    """The video file that features were extracted from, and the programs that did it.

    Attributes:
        fps: the video's frame rate, frames per second.
        header_frames: number of frames according to the file's header.
        decoded_frames: number of frames that decode; fewer if the file is cut off.
        source_bytes: size of the video file; 0 if there was none.
        decoder: the library that decoded it.
        runtime: the library that ran the backbone.
        source_digest, source_stamp: the file's ``FileIdentity``; empty in stores of earlier versions.
    """

    fps: float
    header_frames: int
    decoded_frames: int
    source_bytes: int
    decoder: str
    runtime: str
    source_digest: str = ""
    source_stamp: str = ""

    def of_file(self, source: FileIdentity) -> "Origin":
        """The same for another or the same file."""
        return replace(self, source_bytes=source.num_bytes, source_digest=source.digest, source_stamp=source.stamp)

    def match(self, path: Path) -> Match:
        """Whether ``path`` is the video file. It is read only if neither its size nor its stamp decides."""
        try:
            status = path.stat()
            if not self.source_bytes:
                return Match.UNKNOWN
            if status.st_size != self.source_bytes:
                return Match.OTHER
            if not self.source_digest:
                return Match.SAME_SIZE
            if stamp_of(status) == self.source_stamp or identify(path).digest == self.source_digest:
                return Match.SAME
            return Match.OTHER
        except OSError:
            return Match.UNKNOWN

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
