"""The folder of a run: what was asked for, how far it came, what came out.

runs/<dataset>/<name>/
    config.yaml                       all settings, usable as --config
    recipe.json                       what made the features (not for a task without video)
    metrics.jsonl                     one line per epoch
    checkpoints/last.pt, best.pt      whole or not there
    tensorboard/                      the same curves for TensorBoard
    evaluation/                       metrics.json, predictions.csv, report.html ...
    evaluation-<what differs>/        the same with other settings than the run's own
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

# Settings that say where and how fast, not what: they may differ when a run goes on.
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


# What a run's metrics tell by themselves, next to the text of its settings.
TOLD_ELSEWHERE = {"dataset", "model", "backbone", "splits", "seeds", "split_seed", "holdout_group", "name", "length"}


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

    @property
    def has_features(self) -> bool:
        """False for a task without video. Raises ``RunError`` where it is not known."""
        return (self.folder / "recipe.json").exists() or self.config().data.has_video

    def check(self, config: Config, recipe: FeatureRecipe | None) -> None:
        """Whether ``begin`` may be called; changes nothing. ``recipe`` is ``None`` for a task without video.

        Raises ``RunError`` where the run exists and neither ``resume`` nor ``overwrite`` is set, or where it is
        resumed with other settings.
        """
        if not self._exists() or config.run.overwrite:
            return
        if not config.run.resume:
            raise RunError(
                f"{self.folder} exists. Go on with it (--resume), begin it anew (--overwrite), or --name another."
            )
        saved, wanted = to_flat(self.config()), to_flat(config)
        differing = [key for key in saved if key not in NOT_PART_OF_A_RUN and saved[key] != wanted[key]]
        if differing:
            listed = "; ".join(f"{key}: {saved[key]} there, {wanted[key]} now" for key in differing)
            raise RunError(
                f"{self.folder} was made with other settings ({listed}). Resume it with --config "
                f"{self.folder / 'config.yaml'} --resume, or --name another run."
            )
        if recipe is not None and self.recipe() != recipe:
            listed = "; ".join(self.recipe().differences(recipe))
            raise RunError(f"{self.folder} was made with other features ({listed}): --name another run.")

    def begin(self, config: Config, recipe: FeatureRecipe | None) -> None:
        """Make the folder for a new run, or open it again; raises as ``check`` does."""
        self.check(config, recipe)
        if self._exists() and not config.run.overwrite:
            remove_abandoned(self.folder)
            return
        # Checkpoints go first: were this killed half-way, a run begun here later must not take them for its own.
        if self.checkpoints.exists():
            shutil.rmtree(self.checkpoints)
        if self._exists():
            shutil.rmtree(self.folder)
        # A run does not ask to be overwritten whenever its settings are used again.
        asked = dataclasses.replace(config, run=dataclasses.replace(config.run, resume=False, overwrite=False))
        if recipe is not None:
            write_text_atomically(self.folder / "recipe.json", recipe.to_json())
        write_text_atomically(self.folder / "config.yaml", yaml.safe_dump(to_flat(asked), sort_keys=False))

    def _exists(self) -> bool:
        return (self.folder / "config.yaml").exists()

    def config(self) -> Config:
        path = self.folder / "config.yaml"
        if not path.exists():
            raise RunError(f"{self.folder} is not a run: there is no {path.name} in it. Runs are made by train.py.")
        try:
            return from_flat(Config, read_yaml(path), str(path))
        except ConfigError as error:
            raise RunError(f"{self.folder} can't be read: {error}") from error

    def recipe(self) -> FeatureRecipe:
        """What made the run's features. Raises ``RunError`` where ``recipe.json`` is missing or damaged."""
        path = self.folder / "recipe.json"
        try:
            return FeatureRecipe.read(path)
        except ConfigError as error:
            raise RunError(f"{error}. Train the run again with --overwrite.") from error

    def save_checkpoint(self, name: str, state: dict[str, Any]) -> None:
        """Publish a checkpoint, whole or not at all. Raises ``OSError`` (full disk)."""
        content = io.BytesIO()  # writing to disk itself, PyTorch would call a full one a RuntimeError
        torch.save(state, content)
        write_atomically(self.checkpoints / f"{name}.pt", lambda path: path.write_bytes(content.getbuffer()))

    def load_checkpoint(self, name: str) -> dict[str, Any] | None:
        """The checkpoint ``last`` or ``best``, tensors on the CPU; ``None`` where there is none yet."""
        path = self.checkpoints / f"{name}.pt"
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # PyTorch's reader fails in whatever way damaged bytes lead it to
            raise RunError(
                f"{path} is damaged or no checkpoint ({type(error).__name__}). Train the run again with --overwrite."
            ) from error
        if not isinstance(state, dict):
            raise RunError(f"{path} is no checkpoint. Train the run again with --overwrite.")
        return state

    def history(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``. Raises ``RunError`` where one can't be read."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}). Train the run again with --overwrite.") from error

    def write_history(self, history: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in history)
        write_text_atomically(self.folder / "metrics.jsonl", text)


def settings_text(config: Config) -> str:
    """The settings that are not the default's, but for those that tell repeats of one experiment apart."""
    default = to_flat(Config())
    return " ".join(
        f"{key}={value}"
        for key, value in to_flat(config).items()
        if key not in TOLD_ELSEWHERE | NOT_PART_OF_A_RUN and value != default[key]
    )


def find_runs(paths: list[Path]) -> list[Run]:
    """The runs named by ``paths``: each is a run's folder, or a folder with runs somewhere in it."""
    if not paths:
        raise RunError("name at least one run, or a folder of runs, such as runs/ucf101.")
    runs: dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise RunError(f"{path} is not a folder. Give a run, or a folder of runs, such as runs/ucf101.")
        found = [path] if (path / "config.yaml").exists() else sorted(c.parent for c in path.rglob("config.yaml"))
        if not found:
            raise RunError(f"there is no run in {path} (a run is a folder with config.yaml, made by train.py).")
        runs |= {folder.resolve(): Run(folder) for folder in found}
    return list(runs.values())
