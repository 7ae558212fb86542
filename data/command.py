"""How a command begins and ends: its arguments and help, its exit code, and messages instead of tracebacks."""

import dataclasses
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, TypeVar, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from data.errors import UserError

T = TypeVar("T")


def run_command(main: Callable[[Sequence[str]], int]) -> int:
    """Run ``main`` on the process's arguments and return the exit code.

    A ``UserError`` or an ``OSError`` (a full disk, for example) prints its message and returns 2, and so does a working
    folder that was deleted. Ctrl-C returns 130. Any other exception is a defect and keeps its traceback.
    """
    _repair_streams()
    # Spinning OpenMP threads starve the reader processes. PyTorch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        _require_working_folder()
        code = main(sys.argv[1:])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print(
            "\ninterrupted; finished work is kept. Run the same command again to continue (training: add --resume)",
            file=sys.stderr,
        )
        return 130
    except (OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            return 2
        # Python would write the rest once more when it ends, and return 120.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 2


def _repair_streams() -> None:
    """Open the standard streams that are closed, and escape what the others can't encode.

    What can't be written to standard error is dropped: a full disk with a log on it must not end the work.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # It gets the lowest free descriptor, the closed one. Otherwise, a file or a pipe that is opened later would
            # get it, and receive what libraries print.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  open until the process ends
    stderr = sys.__stderr__
    if stderr is not None and sys.stderr is stderr:  # else it is that of a test, or was opened above
        raw = _Dropping(stderr.fileno(), "w", closefd=False)
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw), stderr.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Dropping(io.FileIO):
    """A file that drops what can't be written."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def _require_working_folder() -> None:
    # PyTorch can't be imported without one.
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise UserError("the working folder was deleted. Change to another one, and run the command again.") from error


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
