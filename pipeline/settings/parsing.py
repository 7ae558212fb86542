"""Settings from YAML files and command lines.

Keys are the same in both (``hidden_size: 256``, ``--hidden-size 256``) and are all on one level. Later sources override
earlier ones: defaults, configs/<dataset>.yaml, --config FILE, flags.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

import tyro
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from data.catalog import SEQUENCE_TASKS, VIDEO_DATASETS, DataConfig
from data.command import parse_arguments
from data.errors import UserError, did_you_mean
from data.objects import ObjectPath
from pipeline.settings.config import Config, ConfigError, EvaluationOverrides

T = TypeVar("T")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_MAX_BYTES = 2**16  # of a YAML file


def to_flat(config: Any) -> dict[str, Any]:
    """All settings of a (nested) config dataclass on one level, as plain YAML values, except ``config``."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        if field.name == "config":
            continue
        value = getattr(config, field.name)
        if isinstance(value, Path | ObjectPath):
            flat[field.name] = str(value)
        elif dataclasses.is_dataclass(value):
            flat |= to_flat(value)
        elif isinstance(value, tuple):
            flat[field.name] = list(value)
        else:
            flat[field.name] = value
    return flat


def from_flat(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a (nested) config dataclass from flat YAML values.

    Settings that ``kind`` does not have are ignored.

    Args:
        kind: the dataclass.
        values: the settings, on one level.
        where: the source of the settings, for error messages.

    Raises:
        ConfigError: a value has the wrong type, or is out of range.
    """
    try:
        return _build(kind, values)
    except UserError as error:
        raise ConfigError(f"{where}: {error}") from error


def _build(kind: type[T], values: Mapping[str, Any]) -> T:
    arguments: dict[str, Any] = {}
    annotated = get_type_hints(kind, include_extras=True)
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            arguments[name] = _build(hint, values)
        elif name in values:
            arguments[name] = _convert(name, annotated[name], values[name])
    return kind(**arguments)


def _convert(name: str, hint: Any, value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, str) and not _can_be_a_path(item) for item in items):
        raise ConfigError(f"{name} can't be {value!r}: it contains a character that no file name can have")
    # Unless strict, pydantic reads numbers written as text. YAML needs that: it takes 1e-3 for a string. But pydantic
    # would also take true for 1, and 1 for true.
    strict = hint is bool or any(isinstance(item, bool) for item in items)
    adapter = TypeAdapter(hint, config=ConfigDict(coerce_numbers_to_str=True))
    try:
        # `splits: 1` is short for `splits: [1]`.
        return adapter.validate_python(items if get_origin(hint) is tuple else value, strict=strict)
    except ValidationError as error:
        expected = error.errors()[0]["msg"].replace("Input should be", "it must be").split(", unable to")[0]
        raise ConfigError(f"{name} can't be {value!r}: {expected}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, by key.

    Raises ``ConfigError`` if it is unreadable, has an unknown key, or is not the simple YAML that settings need: an
    alias or deep nesting can take a small file exponential time and memory.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_BYTES} bytes, so it is not a file of settings")
        text = content.decode()
        _require_simple(path, text)
        values = yaml.safe_load(text) or {}
    except OSError as error:
        raise ConfigError(f"--config {path} can't be read: {error.strerror}") from error
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: no UTF-8, the 30th of February
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a mapping of settings, like 'hidden_size: 256'")
    known = list(to_flat(Config()))
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: unknown key {key!r}.{did_you_mean(str(key), known)}")
    return values


def _require_simple(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > 2 or isinstance(event, yaml.AliasEvent):
            what = "an alias" if isinstance(event, yaml.AliasEvent) else "a list or mapping within another"
            raise ConfigError(
                f"{path} contains {what}. Settings are on one level: a key, and a value or a list of values"
            )


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def flags_of(overrides: EvaluationOverrides) -> list[str]:
    """The flags of evaluate.py that set these overrides."""
    flags = []
    for key, value in to_flat(overrides).items():
        flag = f"--{key.replace('_', '-')}"
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            flags.append(f"{flag}={value}")
    return flags


@dataclass(frozen=True)
class _Sources:
    """The flags that decide what the defaults of all other flags are."""

    config: Path | None = None
    dataset: str | None = None


def parse_command_line(kind: type[T], arguments: Sequence[str], prog: str | None = None) -> T:
    """Parse flags on top of the dataset's YAML file and the file named by ``--config``.

    The later override the earlier. Exits as ``parse_arguments`` does. Raises ``ConfigError`` if a file can't be used.
    """
    sources, _ = tyro.cli(_Sources, args=list(arguments), return_unknown_args=True, add_help=False)
    values = read_yaml(sources.config) if sources.config else {}
    dataset = sources.dataset or values.get("dataset") or DataConfig().dataset
    dataset_file = CONFIGS / f"{dataset}.yaml"
    files = [os.path.relpath(dataset_file)] if dataset_file.exists() else []
    if files and dataset not in (*VIDEO_DATASETS, *SEQUENCE_TASKS):
        raise ConfigError(f"{dataset} is not a dataset but a settings file for one. Use --config {files[0]}.")
    defaults = (read_yaml(dataset_file) if files else {}) | values
    if sources.config:
        files.append(str(sources.config))
    if files:
        shown = f"The defaults shown include those in {' and '.join(files)}."
    else:
        shown = f"The defaults shown are built in; {dataset} has no file in configs/."
    description = f"{kind.__doc__}\n\n{shown}"
    default = from_flat(kind, defaults, str(sources.config or dataset_file))
    return parse_arguments(kind, arguments, prog, description, default)
