"""What all reports share: the frame of an HTML page, titles, number formats, CSV, and writing files.

A page is a Jinja template in this folder that extends ``page.html.j2`` and fills its blocks ``title`` and ``content``.
Style and scripts are inlined, so a page is one file that opens from disk and offline. Its Content-Security-Policy
blocks everything from the network.
"""

import base64
import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from data.atomic import write_atomically

VIDEO_TITLES = {"video_top1": "Top-1", "video_top5": "Top-5", "mean_class_accuracy": "Mean-class accuracy"}
CLIP_AND_VIDEO_TITLES = {
    "video_top1": "Video top-1",
    "video_top5": "Video top-5",
    "mean_class_accuracy": "Mean-class accuracy",
    "clip_top1": "Clip top-1",
    "clip_top5": "Clip top-5",
}

_TOP = 5


def shown_titles(titles: Mapping[str, str], num_classes: Iterable[int | None]) -> dict[str, str]:
    """The titles without those of top-5 if no run has more than five classes: the true class is then always among them.

    ``num_classes`` are those of the runs; ``None``: unknown.
    """
    if any(number is None or number > _TOP for number in num_classes):
        return dict(titles)
    return {name: title for name, title in titles.items() if not name.endswith("top5")}


_FOLDER = Path(__file__).parent
# Apostrophes first, so that text which has one already is told from text that was given one. Spreadsheets skip white
# space, and some take full-width signs for the plain ones.
_FORMULA = re.compile(r"'*\s*[=+\-@\t\r＝＋－＠]")


def render_page(template: str, scripts: Sequence[str] = (), **values: object) -> str:
    """Render a template with ``values``.

    All text is escaped. Data for a script goes through ``{{ value | tojson }}`` into a ``<script
    type="application/json">``, where even a class named ``</script>`` stays text. Further filters: ``percent``,
    ``points`` (signed), ``p_value``, ``readable`` (any value), ``data_uri`` (the bytes of a picture and its media
    type), and the function ``drawn``.

    Args:
        template: file name of the template.
        scripts: file names of scripts. The page allows only these to run, by their hashes.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, points=partial(points, plus=True), p_value=_p_value, readable=_readable, data_uri=_data_uri
    )
    environment.globals["drawn"] = drawn
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    texts = [(_FOLDER / name).read_text(encoding="utf-8") for name in ("theme.js", *scripts)]
    return environment.get_template(template).render(
        script_hashes=" ".join(_content_hash(text) for text in texts),
        scripts=[Markup(text) for text in texts],
        **values,
    )


def _content_hash(text: str) -> str:
    """The name of an inline script in a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def percent(share: float | None) -> str:
    """A share in percent with one decimal: 0.5 -> "50.0"; a dash for ``None``."""
    return "–" if share is None else points(share)


def points(share: float, *, plus: bool = False) -> str:
    """A difference in percentage points: 0.031 -> "3.1". ``plus`` adds a plus sign to positive values."""
    value = round(100 * share, 1) or 0.0  # never -0.0
    sign = "+" if plus and value > 0 else ""
    return f"{sign}{value:.1f}".replace("-", "−")


def drawn(num_groups: int | None, num_videos: int, unit: str = "video") -> str:
    """What a bootstrap drew: "25 groups", or "40 videos" where each is its own group or the groups are unknown."""
    number, name = (num_groups, "group") if num_groups and num_groups < num_videos else (num_videos, unit)
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def p_text(p_value: float) -> str:
    """A p-value for a sentence, never as 0: "p = 0.031", "p < 0.001"."""
    if p_value < 0.001:
        return "p < 0.001"
    return "p = 1" if p_value >= 0.995 else f"p = {p_value:.2g}"


def markdown_line(cells: Iterable[object]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def markdown_text(text: object) -> str:
    """Text that Markdown shows verbatim on one line: an unescaped pipe would end a cell, a tag would be HTML."""
    return "" if text is None else re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(str(text).split()))


def _p_value(p_value: float) -> str:
    """For a table: "0.031", "< 0.001"."""
    return p_text(p_value).removeprefix("p = ").removeprefix("p ")


def _readable(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_readable, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def relative_url(path: Path, folder: Path) -> str:
    """The link from a page in ``folder`` to ``path``; it stays valid when both move together."""
    return quote(os.fsencode(os.path.relpath(path.resolve(), folder.resolve())))


def csv_bytes(rows: Iterable[Iterable[object]]) -> bytes:
    """Comma-separated values in UTF-8; ``None`` becomes an empty cell.

    A spreadsheet would run text that begins with ``= + - @`` as a formula, so an apostrophe is put before it. Numbers
    stay as they are. ``csv_rows`` takes the apostrophe away.
    """
    text = io.StringIO()
    # The csv module quotes a carriage return only if the line terminator contains one.
    csv.writer(text, lineterminator="\r\n").writerows(map(_without_formula, row) for row in rows)
    return text.getvalue().encode(errors="surrogateescape")


def csv_rows(content: bytes) -> list[list[str]]:
    """The cells that ``csv_bytes`` wrote, as text."""
    rows = csv.reader(io.StringIO(content.decode(errors="surrogateescape"), newline=""))
    return [[cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell for cell in row] for row in rows]


def _without_formula(cell: object) -> object:
    # Most cells are numbers, as text: the first test is the fast one.
    return f"'{cell}" if isinstance(cell, str) and not cell[:1].isalnum() and _FORMULA.match(cell) else cell


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write each file atomically, in the order given. Names may contain subfolders."""
    for name, content in files.items():
        write_atomically(folder / name, partial(Path.write_bytes, data=content))
