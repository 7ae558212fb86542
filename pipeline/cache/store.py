"""The feature store: one file per video, complete or not there, in a folder named by what made the numbers.

<cache>/<fingerprint>/recipe.json                         everything that can change a number, in clear
<cache>/<fingerprint>/<dataset>/<video_id>.safetensors    the features of one video
<cache>/<fingerprint>/<dataset>@<view>/...                the same of its mirrored or cropped views, where asked for
<cache>/<fingerprint>/<dataset>/errors.jsonl              videos that failed, with the reason
"""

import errno
import json
import os
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data.atomic import write_atomically, write_text_atomically
from data.errors import UserError
from models.preprocessing import CENTER
from pipeline.features.recipe import FeatureRecipe, Origin, VideoFeatures


class StoreError(UserError):
    """The store can't be used as asked. The message says which folder and what to do."""


class NameTooLongError(StoreError):
    """No file can be named after this video; the store itself is well."""


class DamagedEntry(Exception):
    """An entry is there but is not what was written: to be made again."""


class FeatureStore:
    """The features that one recipe makes, by dataset and video."""

    def __init__(self, cache: Path, recipe: FeatureRecipe) -> None:
        """Open ``<cache>/<fingerprint>`` or make it.

        Raises ``StoreError`` where it holds another recipe's features or can't be read or made.
        """
        self.recipe = recipe
        self.folder = cache / recipe.fingerprint[:16]
        description = self.folder / "recipe.json"
        try:
            found = FeatureRecipe.from_json(description.read_text(encoding="utf-8"))
        except FileNotFoundError:
            try:
                write_text_atomically(description, recipe.to_json())
            except OSError as error:
                raise _not_written(error) from error
            return
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{description} can't be read ({error}): move {self.folder} away, run again.") from error
        if found != recipe:
            differing = "; ".join(recipe.differences(found))
            raise StoreError(
                f"{self.folder} holds features of another recipe. Differing (wanted / found): {differing}. "
                "Move the folder away, or give another --cache."
            )

    def path(self, dataset: str, video_id: str, view: str = CENTER) -> Path:
        return self.folder / (dataset if view == CENTER else f"{dataset}@{view}") / f"{video_id}.safetensors"

    def write(self, dataset: str, video_id: str, video: VideoFeatures, view: str = CENTER) -> None:
        """Publish the features of one video, atomically.

        Raises ``StoreError`` (full disk, read-only store), of which ``NameTooLongError`` concerns this video only.
        """
        tensors = {"features": video.features, "frame_indices": video.frame_indices}
        metadata = {
            "fingerprint": self.recipe.fingerprint,
            "video_id": video_id,
            "view": view,
            "origin": json.dumps(asdict(video.origin)),
        }
        path = self.path(dataset, video_id, view)
        metadata["crc32"] = str(_checksum(metadata, video.features, video.frame_indices))

        # Not save_file: that makes a temporary file of its own, whose name says nothing, readable by its owner alone.
        content = save(tensors, metadata)
        try:
            write_atomically(path, lambda temporary: temporary.write_bytes(content))
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise NameTooLongError(
                    f"the name of {video_id} is too long: a file name ends at 255 bytes, and .safetensors has to fit "
                    "behind it. Rename the video."
                ) from error
            raise _not_written(error) from error

    def origin(self, dataset: str, video_id: str, view: str = CENTER) -> Origin | None:
        """Where a video's features come from, without reading them.

        ``None`` where there are none, the file is cut off, or it is another recipe's or another video's.
        """
        try:
            with safe_open(self.path(dataset, video_id, view), framework="numpy") as file:
                header = file.metadata()
            return Origin(**json.loads(header["origin"])) if self._is_of(video_id, view, header) else None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def read(self, dataset: str, video_id: str, view: str = CENTER) -> VideoFeatures | None:
        """The features of one video; ``None`` where there are none.

        Raises:
            DamagedEntry: the entry is not what was written for this video (checked by length and checksum).
        """
        path = self.path(dataset, video_id, view)
        try:
            with safe_open(path, framework="numpy") as file:
                features, frame_indices = file.get_tensor("features"), file.get_tensor("frame_indices")
                header = file.metadata()
            origin = Origin(**json.loads(header["origin"]))
            intact = header.pop("crc32") == str(_checksum(header, features, frame_indices))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DamagedEntry(f"{path}: {error}") from error
        if not intact or not self._is_of(video_id, view, header):
            raise DamagedEntry(f"{path}: what is in the file is not what was written for this video")
        return VideoFeatures(features, frame_indices, origin)

    def _is_of(self, video_id: str, view: str, header: dict[str, str]) -> bool:
        wanted = (self.recipe.fingerprint, video_id, view)
        return (header.get("fingerprint"), header.get("video_id"), header.get("view", CENTER)) == wanted

    def remove(self, dataset: str, video_id: str, view: str = CENTER) -> None:
        self.path(dataset, video_id, view).unlink(missing_ok=True)

    def note_failure(self, dataset: str, video_id: str, path: Path, reason: str) -> None:
        """Add a line to the dataset's ``errors.jsonl``. Raises ``StoreError``."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "video_id": video_id, "path": str(path), "reason": reason}
        log = self.errors_path(dataset)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a full disk tore the last line, which is not to take this one with it
                        file.write(b"\n")
                file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            error.filename = str(log)
            raise _not_written(error) from error

    def errors_path(self, dataset: str) -> Path:
        return self.folder / dataset / "errors.jsonl"


def _checksum(metadata: dict[str, str], features: npt.NDArray[np.float16], frame_indices: npt.NDArray[np.int32]) -> int:
    """Of all that an entry says: what and whose it is, and the arrays with their types and shapes."""
    arrays: list[npt.NDArray[Any]] = [np.ascontiguousarray(features), np.ascontiguousarray(frame_indices)]
    described = json.dumps([metadata, *([array.dtype.str, array.shape] for array in arrays)], sort_keys=True)
    checksum = zlib.crc32(described.encode())
    for array in arrays:
        checksum = zlib.crc32(array.data, checksum)
    return checksum


def _not_written(error: OSError) -> StoreError:
    return StoreError(
        f"the feature store can't be written: {error}. What was finished is kept: make room or mend the permissions "
        "(or give another --cache), then run the same command again."
    )
