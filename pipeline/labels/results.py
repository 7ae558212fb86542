"""The files of the result: labels.csv, which a person corrects and ``data/listing.py`` reads, and the page."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data.records import Split, VideoRecord
from pipeline.evaluation.predictions import FloatArray, IntArray
from pipeline.labels.suspects import Suspect
from pipeline.reports.pages import csv_bytes, percent, render_page, write_files

CSV_NAME, PAGE_NAME = "labels.csv", "labels.html"
_NUM_LISTED = 500  # suspects on the page: it stays small, and all are in labels.csv


def csv_table(
    videos: Sequence[VideoRecord],
    classes: Sequence[str],
    suspects: Sequence[Suspect],
    probabilities: FloatArray,
    listed: Split | None,
) -> Iterator[list[object]]:
    """The rows of labels.csv: every video, suspects first.

    Its columns path, label, group and split are those of a dataset's CSV, and a dataset ignores the others. ``given``
    is the label as it was, so that corrections can be told. Videos that were not judged have no probability.

    Args:
        probabilities: float64 ``[num_videos, num_classes]``; NaN where not judged.
        listed: the split to keep; ``None``: the dataset has none of its own.
    """
    has_groups = any(video.group != video.video_id for video in videos)
    parts: dict[str, str] = {}
    if listed is not None:
        for part in ("train", "validation", "test"):
            parts |= {video.video_id: part for video in getattr(listed, part)}
    yield [
        *("path", "label"),
        *(["group"] if has_groups else []),
        *(["split"] if parts else []),
        *("given", "suspect", "suggested", "probability", "suggested_probability"),
    ]
    found = {suspect.video: suspect for suspect in suspects}
    for index in [*found, *(index for index in range(len(videos)) if index not in found)]:
        video, suspect = videos[index], found.get(index)
        label, probability = classes[video.label], probabilities[index, video.label]
        yield [
            *(os.path.abspath(video.path), label),
            *([video.group] if has_groups else []),
            *([parts[video.video_id]] if parts else []),
            *(label, int(suspect is not None), "" if suspect is None else classes[suspect.suggested]),
            f"{probability:.4f}" if probability == probability else "",
            "" if suspect is None else f"{suspect.suggested_probability:.4f}",
        ]


def agreement_note(probabilities: FloatArray, labels: IntArray) -> str:
    """How far the suspects can be trusted: how many of the labels, int64 ``[num_judged]``, the models agree with."""
    agreement = float((probabilities.argmax(axis=1) == labels).mean()) if len(labels) else 0.0
    note = f"The models agree with {percent(agreement)} % of the labels."
    return note if agreement > 0.5 else f"{note} With so little agreement, suspects say little about the labels."


def place_of(videos: Sequence[VideoRecord]) -> Path | None:
    """The folder that labels.csv must be in to name the videos as the dataset does; ``None``: any folder will do.

    In any other folder, a CSV names videos relative to their common parent, which is lower if all are in one subfolder.
    """
    first = videos[0]
    path = os.path.abspath(first.path)
    if not path.endswith(f"/{first.video_id}"):
        return None  # of a dataset with names of its own
    root = path.removesuffix(f"/{first.video_id}")
    parents = {os.path.dirname(os.path.abspath(video.path)) for video in videos}
    return None if os.path.commonpath(parents) == root else Path(root)


def write_results(
    folder: Path,
    title: str,
    rows: Iterator[list[object]],
    videos: Sequence[VideoRecord],
    classes: Sequence[str],
    suspects: Sequence[Suspect],
    strips: Mapping[str, Path],
    notes: Sequence[str],
) -> Path:
    """Write labels.csv and the page to ``folder``, and return the path of the page.

    Args:
        title: the dataset, and how many videos were judged.
        rows: the result of ``csv_table``.
        strips: the strip of frames of each suspect that has one, by video id: files inside ``folder``.
        notes: sentences for the head of the page.
    """
    page = render_page(
        "labels.html.j2",
        title=title,
        notes=notes,
        suspects=[(videos[suspect.video], suspect) for suspect in suspects[:_NUM_LISTED]],
        num_suspects=len(suspects),
        classes=classes,
        csv_name=CSV_NAME,
        strips={video_id: path.relative_to(folder).as_posix() for video_id, path in strips.items()},
    )
    write_files(folder, {CSV_NAME: csv_bytes(rows), PAGE_NAME: page.encode(errors="replace")})
    return folder / PAGE_NAME
