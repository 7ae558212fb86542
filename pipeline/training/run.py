"""The folder of a run: its settings, its progress and its results.

runs/<dataset>/<name>/
    config.yaml                       all settings, usable as --config
    recipe.json                       how the features were made (absent for a task without video)
    split.json                        what the run is trained, chosen and tested on (absent for arithmetic)
    metrics.jsonl                     one line per epoch
    checkpoints/last.pt, best.pt      never partial
    tensorboard/                      the same curves for TensorBoard
    evaluation/                       metrics.json, predictions.csv, report.html ...
    evaluation-<overrides>/           the same, scored with other settings than the run's
    .lock                             names the process that uses the run, or used it last

All files that are read back contain a checksum. Runs of older versions have no split.json and no checksums.
"""

import dataclasses
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from data.atomic import remove_abandoned, write_atomically
from data.checksum import JSON, YAML, ZIP
from data.errors import UserError
from data.records import require_usable_paths
from pipeline.features.recipe import FeatureRecipe
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.parsing import from_flat, read_yaml, to_flat
from pipeline.training.lock import LOCK, locked
from pipeline.training.received import check_archive, check_received, walk

# Settings that may change when a run is resumed: where files are and how fast things run, not what is computed.
NOT_PART_OF_A_RUN = {
    "resume",
    "overwrite",
    "workers",
    "cache",
    "root",
    "runs",
    "video_timeout",
    "device",
    "runtime",
    "strips",
}
# What older config.yaml files do not contain, as it was when they were written.
_BEFORE = {
    "inputs": "frames",
    "skip_connection": False,
    "power_norm": False,
    "base_fan_in": 10**9,
    "best_by": "accuracy",
}
# The record that ends a zip archive, as far as an archive without a comment: its first and last bytes, and its length.
_ZIP_END, _NO_COMMENT, _ZIP_END_BYTES = b"PK\x05\x06", b"\x00\x00", 22
# Settings with their own entry in metrics.json, which the text of the other settings leaves out.
LISTED_SEPARATELY = {"dataset", "model", "backbone", "splits", "seeds", "split_seed", "holdout_group", "name", "length"}


# How the names in a run's folder begin; temporary and hidden files begin with a dot.
_NAMES = (".", "config.yaml", "recipe.json", "split.json", "metrics.jsonl", "checkpoints", "tensorboard", "evaluation")


class RunError(UserError):
    """A run folder is not what was expected. The message says which and what to do."""


class Run:
    """One run's folder and its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def exists(self) -> bool:
        return (self.folder / "config.yaml").exists()

    @contextmanager
    def lock(self, work: str, *, shared: bool = False) -> Iterator[None]:
        """Hold the run's lock while the context lasts. ``work``, ``shared`` and exceptions are those of ``locked``."""
        with locked(self.folder, work, shared=shared) as self._lock:
            try:
                yield
            finally:
                self._lock = None

    def check(self, config: Config) -> None:
        """Check that the run may begin or resume; changes nothing. Its lists and features are not checked.

        Raises ``RunError`` if the run exists and neither ``resume`` nor ``overwrite`` is set, if it would be resumed
        with other settings, or if the folder is not a run's and has files of its own.
        """
        foreign = sorted(path.name for path in self.folder.glob("*") if not path.name.startswith(_NAMES))
        if not self.exists and foreign:
            raise RunError(
                f"{self.folder} is not a run, and contains {foreign[0]}{' ...' if foreign[1:] else ''}, which a new "
                "run would delete. Choose another --name or --runs."
            )
        if not self.exists or config.run.overwrite:
            return
        if not config.run.resume:
            raise RunError(
                f"{self.folder} exists. Resume it (--resume), start over (--overwrite), or choose another --name."
            )
        saved, current = to_flat(self.config()), to_flat(config)
        differing = [key for key in saved if key not in NOT_PART_OF_A_RUN and saved[key] != current[key]]
        if differing:
            differences = "; ".join(f"{key}: {saved[key]} then, {current[key]} now" for key in differing)
            raise RunError(
                f"{self.folder} was trained with other settings ({differences}). Resume it with --config "
                f"{self.folder / 'config.yaml'} --resume, or choose another --name."
            )

    def check_recipe(self, recipe: FeatureRecipe) -> None:
        """Raise ``RunError`` if the run was trained on features that ``recipe`` does not make."""
        if differences := self.recipe().differences(recipe):
            raise RunError(
                f"{self.folder} was trained on other features ({'; '.join(differences)}). Restore the backbone, its "
                "weights and the sampling (imported features: the files), or train a new run (--name)."
            )

    def begin(self, config: Config, recipe: FeatureRecipe | None, split: Mapping[str, Any] | None = None) -> None:
        """Create the folder of a new run, or reopen an existing one.

        Raises as ``check`` and ``check_recipe`` do, and ``DatasetError`` if the folder's path is not UTF-8.

        Args:
            recipe: ``None`` for a task without video.
            split: the content of ``split.json``, which ``split`` returns. An existing run keeps its own.
        """
        self.check(config)
        require_usable_paths([self.folder.absolute()])  # TensorBoard can't write to others
        if self.exists and not config.run.overwrite:
            if recipe is not None:
                self.check_recipe(recipe)
            remove_abandoned(self.folder)
            return
        # Checkpoints go first: if this process is killed half-way, a later run must not resume from them.
        if self.checkpoints.exists():
            shutil.rmtree(self.checkpoints)
        for path in self.folder.glob("*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        # If the saved settings are reused, they must not overwrite or resume a run.
        saved = dataclasses.replace(config, run=dataclasses.replace(config.run, resume=False, overwrite=False))
        if recipe is not None:
            self._write("recipe.json", JSON.put(recipe.to_json().removesuffix("\n}\n").encode()))
        if split is not None:
            self._write("split.json", JSON.put(_one_entry_per_line(split).removesuffix("}").encode()))
        settings = yaml.safe_dump(to_flat(saved), sort_keys=False)
        self._write("config.yaml", YAML.put(settings.encode()))

    def _write(self, name: str, content: bytes) -> None:
        """Write a file atomically. Raises ``RunError`` if the locked folder is no longer this run's."""
        if self._lock is not None:
            try:
                is_ours = os.path.samestat(os.fstat(self._lock), os.stat(self.folder / LOCK))
            except FileNotFoundError:
                is_ours = False
            if not is_ours:
                raise RunError(
                    f"{self.folder} was moved, deleted or replaced while this process used it, so {name} is not "
                    "written. Move it back and resume the run (--resume), or start over."
                )
        write_atomically(self.folder / name, lambda path: path.write_bytes(content))

    def _read(self, name: str) -> bytes | None:
        """The content of a file; ``None`` if there is none. Raises ``RunError`` if it is a folder, pipe or device."""
        path = self.folder / name
        if not path.exists():
            return None
        if not path.is_file():
            raise RunError(f"{path} is not a file. Train the run again with --overwrite.")
        return path.read_bytes()

    def config(self) -> Config:
        """The run's settings. Everything else is read after them, so that ``check_received`` has checked the folder.

        Raises ``RunError`` if ``config.yaml`` is missing or damaged, or as ``check_received`` does.
        """
        check_received(self.folder)
        path = self.folder / "config.yaml"
        content = self._read("config.yaml")
        if content is None:
            raise RunError(f"{self.folder} is not a run: it has no {path.name}. train.py makes runs.")
        if content.rstrip().rpartition(b"\n")[2].startswith(b"#"):
            try:
                YAML.check(content)
            except ValueError as error:
                raise RunError(
                    f"{path} is damaged or was edited ({error}). Restore it. If the change is yours, remove the last "
                    "line, which is the checksum."
                ) from error
        try:
            config = from_flat(Config, _BEFORE | read_yaml(path), str(path))
        except ConfigError as error:
            raise RunError(f"{self.folder} can't be read: {error}") from error
        if len(config.run.seeds) != 1 or len(config.run.splits) != config.data.has_video:
            raise RunError(
                f"{path} is not that of a run, which has one seed and, with videos, one split: seeds "
                f"{config.run.seeds}, splits {config.run.splits}."
            )
        return config

    def split(self) -> dict[str, Any] | None:
        """The content of ``split.json``; ``None`` if there is none. Raises ``RunError`` if the file is damaged."""
        content = self._read("split.json")
        if content is None:
            return None
        try:
            JSON.check(content)
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{self.folder / 'split.json'} is damaged ({error}). Restore it.") from error
        del values["crc32"]
        return dict(values)

    def recipe(self) -> FeatureRecipe:
        """How the run's features were made. Raises ``RunError`` if ``recipe.json`` is missing or damaged."""
        try:
            return FeatureRecipe.read(self.folder / "recipe.json")
        except ConfigError as error:
            raise RunError(f"{error}. Train the run again with --overwrite.") from error

    def save_checkpoint(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint atomically, with a checksum. Raises ``OSError`` if the disk is full."""
        content = io.BytesIO()  # if PyTorch wrote to the disk itself, a full disk would be a RuntimeError
        torch.save(state, content)
        archive = content.getvalue()
        assert archive.endswith(_NO_COMMENT)
        self._write(f"checkpoints/{name}.pt", ZIP.put(archive.removesuffix(_NO_COMMENT)))

    def load_checkpoint(self, name: str) -> dict[str, Any] | None:
        """The checkpoint ``last`` or ``best``, with tensors on the CPU; ``None`` if there is none yet.

        Raises ``RunError`` if it is damaged.
        """
        path = self.checkpoints / f"{name}.pt"
        content = self._read(f"checkpoints/{name}.pt")
        if content is None:
            return None
        try:
            check_archive(path)
            end = content[-_ZIP_END_BYTES:]
            if not (end.startswith(_ZIP_END) and end.endswith(_NO_COMMENT)):  # else an older version wrote it
                ZIP.check(content)
            state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # PyTorch raises many types for damaged files
            raise RunError(
                f"{path} is damaged or not a checkpoint ({type(error).__name__}). Train the run again with --overwrite."
            ) from error
        if not isinstance(state, dict):
            raise RunError(f"{path} is not a checkpoint. Train the run again with --overwrite.")
        return state

    def history(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``. Raises ``RunError`` if the file is damaged."""
        content = self._read("metrics.jsonl") or b""
        try:
            return [_read_epoch(line) for line in content.splitlines(keepends=True)]
        except (ValueError, RecursionError) as error:
            path = self.folder / "metrics.jsonl"
            raise RunError(f"{path} is damaged ({error}). Train the run again with --overwrite.") from error

    def write_history(self, history: list[dict[str, Any]]) -> None:
        lines = (JSON.put(json.dumps(line).removesuffix("}").encode()) for line in history)
        self._write("metrics.jsonl", b"".join(lines))


def _read_epoch(line: bytes) -> dict[str, Any]:
    values = json.loads(line)
    if not isinstance(values, dict):
        raise ValueError("a line is not a JSON object")
    if "crc32" in values:
        JSON.check(line)
        del values["crc32"]
    # A line without a checksum is an older version's, or its key is damaged. Then the checksum, a text, is left.
    if not isinstance(values.get("epoch"), int) or not all(isinstance(value, int | float) for value in values.values()):
        raise ValueError("an epoch has a value that is not a number")
    return values


def _one_entry_per_line(values: Mapping[str, Any]) -> str:
    """JSON text of an object, with every entry of its lists on a line of its own."""

    def text(value: Any) -> str:
        if not isinstance(value, list):
            return json.dumps(value)
        return "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"

    return "{" + ",".join(f"\n {json.dumps(key)}: {text(value)}" for key, value in values.items()) + "}"


def settings_text(config: Config) -> str:
    """The settings that differ from the defaults, except those that ``metrics.json`` lists separately."""
    default = to_flat(Config())
    return " ".join(
        f"{key}={value}"
        for key, value in to_flat(config).items()
        if key not in LISTED_SEPARATELY | NOT_PART_OF_A_RUN and value != default[key]
    )


def find_runs(paths: list[Path]) -> list[Run]:
    """The runs in ``paths``. A path is a run, or a folder that contains runs at any depth."""
    if not paths:
        raise RunError("name at least one run, or a folder of runs, such as runs/ucf101.")
    runs: dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise RunError(f"{path} is not a folder. Name a run, or a folder of runs, such as runs/ucf101.")
        found = [path]
        if not (path / "config.yaml").exists():
            found = sorted(Path(entry.path).parent for entry in walk(path) if entry.name == "config.yaml")
        if not found:
            raise RunError(f"there is no run in {path} (a run is a folder with config.yaml, made by train.py).")
        runs |= {folder.resolve(): Run(folder) for folder in found}
    return list(runs.values())
