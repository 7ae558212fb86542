"""Configs from YAML files and flags, and back: defaults < configs/<dataset>.yaml < --config FILE < flags.

Keys are the same in YAML and on the command line (``hidden_size: 256``, ``--hidden-size 256``) and are all on one
level. The command line's parser checks both.
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro
import yaml

from data.catalog import SEQUENCE_TASKS, VIDEO_DATASETS, DataConfig
from data.errors import did_you_mean
from pipeline.settings.config import Config, ConfigError

T = TypeVar("T")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class _Files:
    """What must be known before the other settings' defaults are."""

    config: Path | None = None
    dataset: str | None = None


def to_flat(config: Any) -> dict[str, Any]:
    """All settings of a (nested) config dataclass on one level, as plain YAML values; not ``--config`` itself."""
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        if item.name == "config":
            continue
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= to_flat(value)
        else:
            flat[item.name] = (
                str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            )
    return flat


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings of a YAML file; ``ConfigError`` where it is missing, no mapping, or has an unknown key."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"--config {path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a mapping of settings, like 'hidden_size: 256'")
    known = list(to_flat(Config()))
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}.{did_you_mean(str(key), known)}")
    return values


def flags_of(config: Any) -> list[str]:
    """Flags of the command line that set the same; what is ``None`` or false by default is left out."""
    return _flags({key: value for key, value in to_flat(config).items() if value is not None and value is not False})


def _flags(values: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        else:
            flags.append(f"--{name}={value}")
    return flags


def from_flat(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A config from flat settings, checked by the command line's parser; ``where`` names them in errors.

    Settings that ``kind`` does not have are left out. Raises ``ConfigError`` for a value that can't be used.
    """
    known = to_flat(kind())
    chosen = {key: value for key, value in values.items() if key in known}
    try:
        return _parse_quietly(kind, chosen)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    except SystemExit:  # how the parser refuses a value; its own words are about flags
        for key, value in chosen.items():
            if not _is_readable(kind, key, value):
                wanted = _types(kind())[key].removeprefix("typing.")
                raise ConfigError(f"{where}: {key} can't be {value!r}: it is {wanted}") from None
        raise ConfigError(f"{where}: its settings can't be read: {chosen}") from None


def _parse_quietly(kind: type[T], values: Mapping[str, Any]) -> T:
    with contextlib.redirect_stderr(io.StringIO()):
        return tyro.cli(kind, args=_flags(values), add_help=False)


def _is_readable(kind: type[Any], key: str, value: Any) -> bool:
    try:
        _parse_quietly(kind, {key: value})
    except SystemExit:
        return False
    except ValueError:  # it reads well, but alone it does not fit the other defaults
        pass
    return True


def _types(config: Any) -> dict[str, str]:
    """The types of all settings of a (nested) config dataclass on one level, as they are written."""
    types: dict[str, str] = {}
    for name, annotation in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            types |= _types(value)
        else:
            types[name] = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return types


def parse_command_line(kind: type[T], arguments: Sequence[str], prog: str | None = None) -> T:
    """A config from the dataset's YAML, the one named by ``--config``, and flags, the later over the earlier.

    Ends the process with exit code 2 and the nearest name on a flag that is not known. ``prog``: the command, as help
    calls it.
    """

    files, _ = tyro.cli(_Files, args=list(arguments), return_unknown_args=True, add_help=False)
    values = read_yaml(files.config) if files.config else {}
    dataset = files.dataset or values.get("dataset") or DataConfig().dataset
    own = CONFIGS / f"{dataset}.yaml"
    if own.exists() and dataset not in (*VIDEO_DATASETS, *SEQUENCE_TASKS):
        raise ConfigError(f"{dataset} is no dataset but a file of settings for one: --config {os.path.relpath(own)}")
    defaults = (read_yaml(own) if own.exists() else {}) | values
    return tyro.cli(kind, prog=prog, args=list(arguments), default=from_flat(kind, defaults, str(files.config or own)))
