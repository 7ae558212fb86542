"""The feature store: one entry per video, complete or absent, in a folder named after the recipe.

<cache>/<fingerprint>/recipe.json                         everything that can change a number, as readable JSON
<cache>/<fingerprint>/<dataset>/<video_id>.safetensors    the features of one video
<cache>/<fingerprint>/<dataset>/.archives/...             the features of many videos per file (``archives.py``)
<cache>/<fingerprint>/<dataset>@<view>/...                the same for its mirrored or cropped views
<cache>/<fingerprint>/<dataset>/errors.jsonl              videos that failed, with the reason
<cache>/<fingerprint>/<dataset>/.unfinished-import        while files are imported, or if that was interrupted
<cache>/<fingerprint>/packed/...                          copies for training (``packed.py``)
<cache>/onnx/...                                          exported networks

In an object store the entries have the same names. Objects can't be appended to or locked: each failure is an object,
``<fingerprint>/.failures/<dataset>/<video_id>.json``, and what must be local is in the user's cache folder
(``data.objects.local_folder``).
"""

import errno
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from data.atomic import remove_abandoned
from data.errors import UserError
from data.objects import (
    ObjectNameError,
    ObjectPath,
    ObjectStatus,
    ObjectStoreError,
    Place,
    local_folder,
    subfolders,
    write_place,
)
from models.cnn.preprocessing import CENTER, VIEWS
from pipeline.features.recipe import FeatureRecipe, Origin, VideoFeatures
from pipeline.settings.config import ConfigError
from pipeline.store import entry
from pipeline.store.archives import ENTRY_SUFFIX, Archives, Member
from pipeline.store.listing import DatasetFolder, Entry, list_entries, video_id_of

NETWORKS = "onnx"
PACKED = "packed"
RECIPE = "recipe.json"
_ERRORS = "errors.jsonl"
_FAILURES = ".failures"
_FAILURE_SUFFIX = ".json"
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"


Result = TypeVar("Result")


class StoreError(UserError):
    """The store can't be used. The message says which folder and what to do."""


class NameTooLongError(StoreError):
    """The video's id is too long for a file name; other videos can be stored."""


class DamagedEntry(Exception):
    """An entry's content is not what was written. Its features must be extracted again."""


class FeatureStore:
    """The features that one recipe makes, by dataset and video."""

    def __init__(self, cache: Place, recipe: FeatureRecipe) -> None:
        """Open ``<cache>/<fingerprint>``, or create it.

        Raises ``StoreError`` if the folder contains another recipe's features, or can't be read or created.
        """
        self.recipe = recipe
        self.folder = cache / recipe.folder_name
        self._archives: dict[tuple[str, str], Archives] = {}
        path = self.folder / RECIPE
        if not path.exists():
            try:
                # Another process may write it, too: the same content, because the folder's name is its hash.
                write_place(path, recipe.to_json().encode())
            except OSError as error:
                raise _not_writable(error) from error
            return
        found = _read_recipe(self.folder)
        if found != recipe:
            differences = "; ".join(recipe.differences(found))
            raise StoreError(
                f"{self.folder} contains features of another recipe. Differences (expected / found): {differences}. "
                "Move the folder away, or choose another --cache."
            )

    @property
    def packed(self) -> Path:
        """The folder of the copies for training."""
        return local_folder(self.folder) / PACKED

    def path(self, dataset: str, video_id: str, view: str = CENTER) -> Place:
        """The file or object of an entry that is not in an archive."""
        return self.archives(dataset, view).parent / f"{video_id}{ENTRY_SUFFIX}"

    def archives(self, dataset: str, view: str = CENTER) -> Archives:
        if (dataset, view) not in self._archives:
            folder = self.folder / (dataset if view == CENTER else f"{dataset}@{view}")
            self._archives[dataset, view] = Archives(folder)
        return self._archives[dataset, view]

    def _read(self, dataset: str, video_id: str, view: str, read: Callable[[Place | Member], Result]) -> Result:
        """``read`` of the entry, wherever it is. Raises ``FileNotFoundError`` if there is none."""
        try:
            return read(self.path(dataset, video_id, view))
        except FileNotFoundError:
            return self.archives(dataset, view).read(video_id, read)

    def listed(self, dataset: str, video_ids: Container[str], view: str = CENTER) -> dict[str, Entry]:
        """The entries of these videos, from the names alone: they may be damaged, or of another video file."""
        folder = DatasetFolder(dataset, view, self.archives(dataset, view).parent)
        return {found.video_id: found for found in list_entries(folder) if found.video_id in video_ids}

    def version(self, dataset: str, video_id: str, view: str = CENTER) -> tuple[int, int] | None:
        """Size and version of an entry, which show whether it was written again; ``None`` if there is none."""
        try:
            return version_of(self.path(dataset, video_id, view))
        except OSError:
            member = self.archives(dataset, view).find(video_id)
            return None if member is None else (member.num_bytes, member.version)

    def _place(self, dataset: str, video_id: str, view: str) -> Place:
        """What names the entry in messages."""
        path = self.path(dataset, video_id, view)
        member = None if path.exists() else self.archives(dataset, view).find(video_id)
        return path if member is None else member.path

    def remove_abandoned(self) -> None:
        """Remove what killed jobs left on disk. Objects are whole or not there."""
        remove_abandoned(local_folder(self.folder))

    def write(self, dataset: str, video_id: str, video: VideoFeatures, view: str = CENTER) -> None:
        """Publish the features of one video, atomically.

        Raises ``StoreError`` (full disk, read-only store); its subclass ``NameTooLongError`` concerns this video only.
        """
        path = self.path(dataset, video_id, view)
        content = entry.encode(video, self.recipe.fingerprint, video_id, view)
        try:
            write_place(path, content)
        except ObjectNameError as error:
            raise NameTooLongError(str(error)) from error
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise NameTooLongError(
                    f"the name of {video_id} is too long: a file name has at most 255 bytes, including "
                    f"{ENTRY_SUFFIX}. Rename the video."
                ) from error
            raise _not_writable(error) from error

    def origin(self, dataset: str, video_id: str, view: str = CENTER) -> Origin | None:
        """The origin of a video's features, from the header alone.

        ``None`` if there are no features, the file is cut off, or it belongs to another recipe or video.
        """
        try:
            header = self._read(dataset, video_id, view, entry.read_metadata)
            return Origin(**json.loads(header["origin"])) if self._matches(video_id, view, header) else None
        except ObjectNameError:
            return None
        except ObjectStoreError:  # a ValueError, too; an entry that can't be asked for is not a missing one
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def read(self, dataset: str, video_id: str, view: str = CENTER) -> VideoFeatures | None:
        """The features of one video; ``None`` if there are none.

        Raises ``DamagedEntry`` if the length, the checksum, the recipe or the video is not the expected one.
        """
        return self._checked(dataset, video_id, view, lambda place: self._intact(entry.read(place), video_id, view))

    def read_content(self, dataset: str, video_id: str, view: str = CENTER) -> bytes | None:
        """The content of a video's entry, checked as by ``read``."""

        def read(place: Place | Member) -> bytes:
            content = place.read_bytes()
            self._intact(entry.decode(content), video_id, view)
            return content

        return self._checked(dataset, video_id, view, read)

    def _checked(
        self, dataset: str, video_id: str, view: str, read: Callable[[Place | Member], Result]
    ) -> Result | None:
        try:
            return self._read(dataset, video_id, view, read)
        except (FileNotFoundError, ObjectNameError):
            return None
        except ObjectStoreError:  # a ValueError, too; an entry that can't be asked for is not a damaged one
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DamagedEntry(f"{self._place(dataset, video_id, view)}: {error}") from error

    def _intact(self, found: entry.Content, video_id: str, view: str) -> VideoFeatures:
        header, features, frame_indices = found
        origin = Origin(**json.loads(header["origin"]))
        intact = header.pop("crc32") == str(entry.checksum(header, features, frame_indices))
        if not intact or not self._matches(video_id, view, header):
            raise ValueError("the content is not what was written for this video")
        return VideoFeatures(features, frame_indices, origin)

    def _matches(self, video_id: str, view: str, header: dict[str, str]) -> bool:
        expected = (self.recipe.fingerprint, video_id, view)
        return (header.get("fingerprint"), header.get("video_id"), header.get("view", CENTER)) == expected

    def remove(self, dataset: str, video_id: str, view: str = CENTER) -> None:
        self.path(dataset, video_id, view).unlink(missing_ok=True)
        self.archives(dataset, view).remove(video_id)

    def note_failure(self, dataset: str, video_id: str, path: Path, reason: str) -> None:
        """Append a line to the dataset's ``errors.jsonl``. Raises ``StoreError``."""
        line = {"time": time.strftime(_TIME_FORMAT), "video_id": video_id, "path": str(path), "reason": reason}
        log = self.errors_path(dataset)
        if isinstance(log, ObjectPath):
            with suppress(ObjectNameError):  # the job prints the reason, too
                (log / f"{video_id}{_FAILURE_SUFFIX}").write_bytes(json.dumps(line).encode() + b"\n")
            return
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a+b") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # a full disk cut off the last line; keep this one readable
                        file.write(b"\n")
                file.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            error.filename = str(log)
            raise _not_writable(error) from error

    def errors_path(self, dataset: str) -> Place:
        return errors_path(self.folder, dataset)

    @contextmanager
    def importing(self, dataset: str) -> Iterator[None]:
        """Mark the dataset's features as incomplete until the block ends without an exception.

        Raises ``StoreError`` if another process imports under the same name, ``OSError`` if it can't be marked.
        """
        marker = self._unfinished_import(dataset)
        if isinstance(marker, ObjectPath):
            with self._importing_objects(marker):
                yield
            return
        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(local_folder(self.folder) / ".import.lock", timeout=0):
                marker.touch()
                yield
                marker.unlink()
        except Timeout as error:
            raise StoreError(
                f"another process is importing into {self.folder} ({self.recipe.backbone}). Wait for it, or choose "
                "another --name."
            ) from error

    @contextmanager
    def _importing_objects(self, marker: ObjectPath) -> Iterator[None]:
        """There is no lock. Of two imports at a time, at least the one that ends last fails, and nothing is read."""
        mine = uuid.uuid4().hex.encode()
        marker.write_bytes(mine)
        yield
        if not marker.exists() or marker.read_bytes() != mine:
            marker.write_bytes(mine)  # nothing is read, and the other one fails if it has not ended
            raise StoreError(
                f"another process imported into {self.folder} ({self.recipe.backbone}) at the same time, so that the "
                "features of both are mixed. Import again, one after the other."
            )
        marker.unlink()

    def check_import(self, dataset: str) -> None:
        """Raise ``StoreError`` if an import of the dataset has not ended, so that old and new features are mixed."""
        if self._unfinished_import(dataset).exists():
            raise StoreError(
                f"the import of {dataset} as {self.recipe.backbone} is still running or was interrupted, so that "
                "earlier features would be mixed with new ones. Import the same files again, to the end."
            )

    def _unfinished_import(self, dataset: str) -> Place:
        return self.folder / dataset / ".unfinished-import"


def version_of(path: Place) -> tuple[int, int]:
    """Size and version of a file or object. Raises ``OSError`` or ``ObjectStoreError``."""
    status = path.stat()
    return status.st_size, status.version if isinstance(status, ObjectStatus) else status.st_mtime_ns


def _not_writable(error: OSError) -> StoreError:
    return StoreError(
        f"the feature store can't be written: {error}. Finished work is kept: make room or fix the permissions (or "
        "choose another --cache), then run the same command again."
    )


@dataclass(frozen=True)
class Failure:
    """One line of an ``errors.jsonl``; ``time`` in seconds since the epoch."""

    video_id: str
    time: float
    line: str


def find_stores(cache: Place) -> tuple[list[Place], list[Place]]:
    """The folders of a cache that are stores, and the other folders, both sorted by name.

    Raises ``StoreError`` if ``cache`` is not a folder.
    """
    if not cache.is_dir():
        raise StoreError(f"{cache} is not a folder. Pass the folder with the cached features as --cache.")
    stores: list[Place] = []
    others: list[Place] = []
    for folder in sorted((path for path in subfolders(cache) if path.name != NETWORKS), key=str):
        # The name counts too: a run's folder also contains a recipe.json, and must not be deleted as a store.
        is_store = re.fullmatch("[0-9a-f]{16}", folder.name) and (folder / RECIPE).exists()
        (stores if is_store else others).append(folder)
    return stores, others


def open_store(folder: Place) -> FeatureStore:
    """The existing store in this folder.

    Raises ``StoreError`` if its recipe can't be read, or is not the one that the folder is named after.
    """
    recipe = _read_recipe(folder)
    if recipe.folder_name != folder.name:
        raise StoreError(
            f"{folder / RECIPE} is not the recipe that its folder is named after (that would be {recipe.folder_name}). "
            f"Move {folder} away and cache its videos again."
        )
    return FeatureStore(folder.parent, recipe)


def _read_recipe(folder: Place) -> FeatureRecipe:
    try:
        return FeatureRecipe.read(folder / RECIPE)
    except ConfigError as error:
        raise StoreError(f"{error}. Move {folder} away and cache its videos again.") from error


def select_stores(stores: Sequence[Place], prefixes: Sequence[str]) -> list[Place]:
    """The stores whose fingerprints start with one of ``prefixes``; all stores if there is no prefix.

    Raises ``StoreError`` if a prefix matches no store.
    """
    for prefix in prefixes:
        if not any(store.name.startswith(prefix[:16]) for store in stores):
            listed = ", ".join(store.name for store in stores) or "none"
            raise StoreError(f"no store's fingerprint starts with {prefix!r}. Existing stores: {listed}.")
    if not prefixes:
        return list(stores)
    return [store for store in stores if store.name.startswith(tuple(prefix[:16] for prefix in prefixes))]


def dataset_folders(store: Place) -> list[DatasetFolder]:
    """The store's folders by dataset and view, sorted by name."""
    found = []
    for path in sorted((child for child in subfolders(store) if child.name not in (PACKED, _FAILURES)), key=str):
        dataset, _, view = path.name.rpartition("@")
        if dataset and view in VIEWS and view != CENTER:
            found.append(DatasetFolder(dataset, view, path))
        else:
            found.append(DatasetFolder(path.name, CENTER, path))
    return found


def file_statuses(folder: Place) -> list[os.stat_result] | list[ObjectStatus]:
    """Sizes and times of all files under a folder; empty if there is no folder."""
    if isinstance(folder, ObjectPath):
        return list(folder.walk())
    files = []
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a running job publishes and removes files
                files.append(os.stat(os.path.join(path, name)))
    return files


def errors_path(store: Place, dataset: str) -> Place:
    """The ``errors.jsonl`` of a dataset; in an object store, the folder with an object for each failed video."""
    return store / _FAILURES / dataset if isinstance(store, ObjectPath) else store / dataset / _ERRORS


def read_failures(log: Place) -> list[Failure]:
    """The lines of an ``errors.jsonl``, oldest first, without damaged ones; empty if there is no file.

    Of objects, the last failure of each video, without reading them: ``line`` is the object's address.
    """
    if isinstance(log, ObjectPath):
        return [Failure(video_id_of(found, log), found.st_mtime, str(found.path)) for found in log.walk()]
    failures = []
    with suppress(FileNotFoundError):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(KeyError, TypeError, ValueError):
                values = json.loads(line)
                written = datetime.strptime(values["time"], _TIME_FORMAT)
                failures.append(Failure(str(values["video_id"]), written.timestamp(), line))
    return failures
