"""Settings from YAML files and command lines.

Keys are the same in both (``hidden_size: 256``, ``--hidden-size 256``) and are all on one level. Later sources override
earlier ones: defaults, configs/<dataset>.yaml, --config FILE, flags.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from data.catalog import SEQUENCE_TASKS, VIDEO_DATASETS, DataConfig
from data.errors import UserError, did_you_mean
from pipeline.settings.config import Config, ConfigError, EvaluationOverrides

T = TypeVar("T")

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def to_flat(config: Any) -> dict[str, Any]:
    """All settings of a (nested) config dataclass on one level, as plain YAML values, except ``config``."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        if field.name == "config":
            continue
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            flat |= to_flat(value)
        elif isinstance(value, tuple):
            flat[field.name] = list(value)
        elif isinstance(value, Path):
            flat[field.name] = str(value)
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
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            arguments[name] = _build(hint, values)
        elif name in values:
            arguments[name] = _convert(name, hint, values[name])
    return kind(**arguments)


def _convert(name: str, hint: Any, value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
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
    """The settings in a YAML file, by key. Raises ``ConfigError`` if it is unreadable or has an unknown key."""
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


def parse_arguments(
    kind: type[T],
    arguments: Sequence[str],
    prog: str | None = None,
    description: str | None = None,
    default: T | None = None,
) -> T:
    """Parse a command line into a dataclass.

    Flags of nested dataclasses have no prefix; each nested dataclass is one group in the help. Exits with code 0 after
    ``--help``, and with code 2 and the nearest name if a flag is unknown or its value unusable.

    Args:
        kind: the dataclass. Its attribute docstrings are the help texts.
        arguments: the command line, without the program.
        prog: the program as the user types it, such as ``python -m pipeline.cache``. ``None``: the name of the script.
        description: the head of the help text. ``None``: the docstring of ``kind``.
        default: a ``kind`` with the defaults. ``None``: those of ``kind``.
    """
    return tyro.cli(
        kind,
        prog=prog,
        args=list(arguments),
        description=description,
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalMetavarFromFieldName),
        registry=_HELP,
    )


_HELP = ConstructorRegistry()
_FORMATTED = "formatted by _format_help"


@_HELP.struct_rule
def _format_help(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Apply tyro's own rule for dataclasses, then ``_format_field`` to its fields."""
    if not dataclasses.is_dataclass(info.type) or _FORMATTED in info.markers:
        return None
    # The marker keeps this rule from being applied again, so tyro's own is.
    spec = ConstructorRegistry.get_struct_spec(dataclasses.replace(info, markers=(*info.markers, _FORMATTED)))
    if not isinstance(spec, StructConstructorSpec):
        return None
    return dataclasses.replace(spec, fields=tuple(map(_format_field, spec.fields)))


def _format_field(field: StructFieldSpec) -> StructFieldSpec:
    """Join the lines of the help text, and drop ``None`` and empty values from the type and the default shown."""
    metavar = None
    if type(None) in get_args(field.type):
        spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(field.type, {tyro.conf.DisallowNone}))
        metavar = spec.metavar if isinstance(spec, PrimitiveConstructorSpec) else None

    def helptext() -> str | None:
        text = field.helptext() if callable(field.helptext) else field.helptext
        return text and " ".join(text.split())

    def default_hint(default: str) -> str:
        return "" if default in ("", "''", "None") else f"(default: {default})"

    annotated: Any = Annotated[field.type, tyro.conf.arg(metavar=metavar, help_behavior_hint=default_hint)]
    return dataclasses.replace(field, type=annotated, helptext=helptext)
