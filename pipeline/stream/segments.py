"""Segments as a file: ActivityNet's JSON, a table, or subtitles."""

import json
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from data.atomic import write_atomically
from pipeline.reports.pages import csv_bytes
from pipeline.settings.config import ConfigError
from pipeline.stream.events import Segment


def write_segments(path: Path, segments: Sequence[Segment], labels: Sequence[str], video: str) -> None:
    """Write all segments, in the format that the file's extension names.

    Args:
        path: the file, with an extension that ``require_format`` accepts.
        labels: the class names.
        video: name of the video, in ActivityNet's JSON.
    """
    content = _FORMATS[path.suffix.lower()](segments, labels, video)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def require_format(path: Path) -> None:
    """Raise ``ConfigError`` if the extension names no format."""
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"--segments {path} must end with {', '.join(_FORMATS)}: that is its format")


def _activitynet(segments: Sequence[Segment], labels: Sequence[str], video: str) -> bytes:
    found = [
        {
            "label": labels[segment.label],
            "score": round(segment.score, 4),
            "segment": [round(segment.start, 3), round(segment.end, 3)],
        }
        for segment in segments
    ]
    content = {"version": "VERSION 1.3", "results": {video: found}, "external_data": {"used": False, "details": ""}}
    return json.dumps(content, indent=1).encode() + b"\n"


def _table(segments: Sequence[Segment], labels: Sequence[str], video: str) -> bytes:
    rows = [
        (labels[segment.label], f"{segment.start:.3f}", f"{segment.end:.3f}", f"{segment.score:.4f}")
        for segment in segments
    ]
    return csv_bytes([("label", "start", "end", "score"), *rows])


def _webvtt(segments: Sequence[Segment], labels: Sequence[str], video: str) -> bytes:
    cues = [
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{escape(_one_line(labels[segment.label]))}"
        for segment in segments
    ]
    return ("\n\n".join(["WEBVTT", *cues]) + "\n").encode(errors="replace")


def _subrip(segments: Sequence[Segment], labels: Sequence[str], video: str) -> bytes:
    cues = [
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{_one_line(labels[segment.label])}\n"
        for number, segment in enumerate(segments, 1)
    ]
    return "\n".join(cues).encode(errors="replace")


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _one_line(label: str) -> str:
    # An empty line would end a subtitle.
    return re.sub(r"\s+", " ", label).strip() or "?"


_FORMATS: dict[str, Callable[[Sequence[Segment], Sequence[str], str], bytes]] = {
    ".json": _activitynet,
    ".csv": _table,
    ".vtt": _webvtt,
    ".srt": _subrip,
}
