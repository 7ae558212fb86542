"""What every HTML page of this project shares: its frame, its style, and a policy that lets nothing in from a network.

A page is a template beside this file that begins with ``{% extends "page.html.j2" %}`` and fills the blocks ``title``
and ``content``. It is one file: style and scripts stand in it, so that it opens from disk and without a network.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

_FOLDER = Path(__file__).parent


def render_page(template: str, scripts: Sequence[str] = (), **values: object) -> str:
    """The page that a template makes of ``values``.

    Text is escaped wherever it stands; data for a script goes through ``{{ value | tojson }}`` in a ``<script
    type="application/json">``, where a class called ``</script>`` stays text. Other filters: ``percent`` (0.5 ->
    "50.0"), ``readable`` (any value), ``data_uri`` (the bytes of a picture, and its type).

    Args:
        template: file name of the template.
        scripts: file names of scripts. Only these run, by their hash: none that some text could smuggle in.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, readable=_readable, data_uri=_data_uri)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    texts = [(_FOLDER / name).read_text(encoding="utf-8") for name in ("theme.js", *scripts)]
    return environment.get_template(template).render(
        script_hashes=" ".join(_content_hash(text) for text in texts),
        scripts=[Markup(text) for text in texts],
        **values,
    )


def _content_hash(text: str) -> str:
    """How a Content-Security-Policy names an inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _readable(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_readable, value))
    return str(value)


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
