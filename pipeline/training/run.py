"""The folder of a run: its settings, its progress and its results.

runs/<dataset>/<name>/
    config.yaml                       all settings, usable as --config
    recipe.json                       how the features were made (absent for a task without video)
    metrics.jsonl                     one line per epoch
    checkpoints/last.pt, best.pt      never partial
    tensorboard/                      the same curves for TensorBoard
    evaluation/                       metrics.json, predictions.csv, report.html ...
    evaluation-<overrides>/           the same, scored with other settings than the run's
"""

import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml

from data.atomic import remove_abandoned, write_atomically, write_text_atomically
from data.errors import UserError
from pipeline.features.recipe import FeatureRecipe
from pipeline.settings.config import Config, ConfigError
from pipeline.settings.parsing import from_flat, read_yaml, to_flat
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
_BEFORE = {"inputs": "frames", "skip_connection": False, "power_norm": False, "base_fan_in": 10**9}
# Settings with their own entry in metrics.json, which the text of the other settings leaves out.
LISTED_SEPARATELY = {"dataset", "model", "backbone", "splits", "seeds", "split_seed", "holdout_group", "name", "length"}


class RunError(UserError):
    """A run folder is not what was expected. The message says which and what to do."""


class Run:
    """One run's folder and its files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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

    def check(self, config: Config, recipe: FeatureRecipe | None) -> None:
        """Check that the run may begin or resume; changes nothing. ``recipe`` is ``None`` for a task without video.

        Raises ``RunError`` if the run exists and neither ``resume`` nor ``overwrite`` is set, or if it would be resumed
        with other settings or features.
        """
        if not self._exists() or config.run.overwrite:
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
        if recipe is not None:
            self.check_recipe(recipe)

    def check_recipe(self, recipe: FeatureRecipe) -> None:
        """Raise ``RunError`` if the run was trained on features that ``recipe`` does not make."""
        trained_on = self.recipe()
        if trained_on != recipe:
            differences = "; ".join(trained_on.differences(recipe))
            raise RunError(
                f"{self.folder} was trained on other features ({differences}). Restore the backbone, its weights and "
                "the sampling, or train a new run (--name)."
            )

    def begin(self, config: Config, recipe: FeatureRecipe | None) -> None:
        """Create the folder of a new run, or reopen an existing one. Raises as ``check`` does."""
        self.check(config, recipe)
        if self._exists() and not config.run.overwrite:
            remove_abandoned(self.folder)
            return
        # Checkpoints go first: if this process is killed half-way, a later run must not resume from them.
        if self.checkpoints.exists():
            shutil.rmtree(self.checkpoints)
        if self._exists():
            shutil.rmtree(self.folder)
        # If the saved settings are reused, they must not overwrite or resume a run.
        saved = dataclasses.replace(config, run=dataclasses.replace(config.run, resume=False, overwrite=False))
        if recipe is not None:
            write_text_atomically(self.folder / "recipe.json", recipe.to_json())
        write_text_atomically(self.folder / "config.yaml", yaml.safe_dump(to_flat(saved), sort_keys=False))

    def _exists(self) -> bool:
        return (self.folder / "config.yaml").exists()

    def config(self) -> Config:
        """The run's settings. Everything else is read after them, so that ``check_received`` has checked the folder.

        Raises ``RunError`` if ``config.yaml`` is missing or damaged, or as ``check_received`` does.
        """
        path = self.folder / "config.yaml"
        if not path.exists():
            raise RunError(f"{self.folder} is not a run: it has no {path.name}. train.py makes runs.")
        check_received(self.folder)
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

    def recipe(self) -> FeatureRecipe:
        """How the run's features were made. Raises ``RunError`` if ``recipe.json`` is missing or damaged."""
        path = self.folder / "recipe.json"
        try:
            return FeatureRecipe.read(path)
        except ConfigError as error:
            raise RunError(f"{error}. Train the run again with --overwrite.") from error

    def save_checkpoint(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint atomically. Raises ``OSError`` if the disk is full."""
        content = io.BytesIO()  # if PyTorch wrote to the disk itself, a full disk would be a RuntimeError
        torch.save(state, content)
        write_atomically(self.checkpoints / f"{name}.pt", lambda path: path.write_bytes(content.getbuffer()))

    def load_checkpoint(self, name: str) -> dict[str, Any] | None:
        """The checkpoint ``last`` or ``best``, with tensors on the CPU; ``None`` if there is none yet."""
        path = self.checkpoints / f"{name}.pt"
        try:
            check_archive(path)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # PyTorch raises many types for damaged files
            raise RunError(
                f"{path} is damaged or not a checkpoint ({type(error).__name__}). Train the run again with --overwrite."
            ) from error
        if not isinstance(state, dict):
            raise RunError(f"{path} is not a checkpoint. Train the run again with --overwrite.")
        return state

    def history(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``. Raises ``RunError`` if the file is damaged."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            for line in history:
                if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
                    raise ValueError("a line is not that of an epoch")
                if not all(isinstance(value, int | float) for value in line.values()):
                    raise ValueError("an epoch has a value that is not a number")
            return history
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path} is damaged ({error}). Train the run again with --overwrite.") from error

    def write_history(self, history: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in history)
        write_text_atomically(self.folder / "metrics.jsonl", text)


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
