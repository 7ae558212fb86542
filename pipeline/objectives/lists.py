"""The lists of videos that a run is trained, chosen and tested on: kept in its ``split.json``, and used ever after."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.groups import check_disjoint
from data.records import DatasetError, Split, VideoDataset, VideoRecord
from pipeline.settings.config import VALIDATION

_PARTS = ("train", "validation", "test")
_MAX_NAMED = 3


def to_json(split: Split, classes: Sequence[str], excluded: Collection[str] = ()) -> dict[str, Any]:
    """The content of ``split.json``: the classes, and the id, class and group of every video.

    ``excluded`` are the ids of videos that the split is tested with and without, if any; others are left out.
    """
    lists = {
        part: [[video.video_id, classes[video.label], video.group] for video in getattr(split, part)] for part in _PARTS
    }
    tested = [video.video_id for video in split.test if video.video_id in excluded]
    return {"split": split.name, "classes": list(classes), **lists} | ({"excluded": tested} if tested else {})


def excluded_in(saved: Mapping[str, Any] | None) -> frozenset[str]:
    """The excluded videos that ``to_json`` listed. Raises ``DatasetError`` if they are not a list of test videos."""
    listed = (saved or {}).get("excluded", [])
    tested = {str(video[0]) for video in (saved or {}).get("test", []) if video}
    if not isinstance(listed, list) or not all(isinstance(name, str) and name in tested for name in listed):
        raise DatasetError("excluded in split.json is not a list of the run's test videos. Restore the file.")
    return frozenset(listed)


def from_json(saved: Mapping[str, Any], dataset: VideoDataset) -> Split:
    """The split that ``to_json`` described, with the files of ``dataset``. A video that is gone keeps its place.

    Raises:
        DatasetError: a class was added, removed or renamed since; a video has another class now; the lists overlap, or
            are none of ``to_json``'s.
    """
    try:
        name, classes = str(saved["split"]), tuple(map(str, saved["classes"]))
        label_of = {class_name: label for label, class_name in enumerate(classes)}
        lists = {
            part: tuple(
                VideoRecord(str(video_id), Path(str(video_id)), label_of[class_name], str(group))
                for video_id, class_name, group in saved[part]
            )
            for part in _PARTS
        }
        for record in (record for records in lists.values() for record in records):
            f"{record.video_id}{record.group}".encode(errors="surrogateescape")  # half a character is a ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"split.json does not contain the lists of a run ({error!r}). Restore it.") from error
    if classes != dataset.classes:
        raise DatasetError(
            f"the run was trained on {_listed(classes)}; {dataset.name} now has {_listed(dataset.classes)}"
            f"{_changes(classes, dataset.classes)}. Restore the classes, or train a new run."
        )
    now = {record.video_id: record for record in dataset.videos}
    listed = [record for part in _PARTS for record in lists[part]]
    if len({record.video_id for record in listed}) < len(listed):
        raise DatasetError("split.json lists a video twice. Restore it, or train the run again with --overwrite.")
    moved = [record.video_id for record in listed if now.get(record.video_id, record).label != record.label]
    if moved:
        raise DatasetError(
            f"{len(moved)} of the run's videos have another class now ({_first(moved)}). Restore their classes, or "
            "train a new run."
        )
    split = Split(name, **{part: tuple(_found(record, now) for record in lists[part]) for part in _PARTS})
    check_disjoint(split)
    return split


def _found(record: VideoRecord, now: Mapping[str, VideoRecord]) -> VideoRecord:
    """The listed video with the path that it has now."""
    found = now.get(record.video_id, record)
    return VideoRecord(record.video_id, found.path, record.label, record.group)


def _listed(classes: Sequence[str]) -> str:
    return f"{len(classes)} classes ({_first(classes)})"


def _changes(before: Sequence[str], now: Sequence[str]) -> str:
    removed, added = sorted(set(before) - set(now)), sorted(set(now) - set(before))
    parts = [f"{what}: {_first(names)}" for what, names in (("gone", removed), ("new", added)) if names]
    return f". {'; '.join(parts)}" if parts else " in another order"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_MAX_NAMED]) + (" ..." if len(names) > _MAX_NAMED else "")


def require_all(what: str, records: Sequence[VideoRecord], available: Collection[str], remedy: str) -> None:
    """Raise ``DatasetError`` if videos of a run's list are not ``available``. The message names the first three."""
    gone = [record.video_id for record in records if record.video_id not in available]
    if gone:
        raise DatasetError(f"{len(gone)} of the run's {len(records)} {what} are gone ({_first(gone)}). {remedy}")


def videos_to_score(
    dataset: VideoDataset, split: Split, override: str | None
) -> tuple[tuple[VideoRecord, ...], str | None]:
    """The videos to score a run on, and what they are if not the test videos of its own ``split``.

    ``override`` is another split's name, or ``VALIDATION``. Raises ``DatasetError`` if there are no such videos, or if
    another split's test videos, or others of their groups, were used to train the run or to choose its best epoch.
    """
    if override in (None, split.name):
        videos, evaluated_on = split.test, None
    elif override == VALIDATION:
        videos, evaluated_on = split.validation, "validation videos, which chose the best epoch and the temperature"
    else:
        videos, evaluated_on = dataset.split(override).test, f"test videos of split {override}"
        seen = (*split.train, *split.validation)
        video_ids, groups = {record.video_id for record in seen}, {record.group for record in seen}
        if overlap := sum(record.video_id in video_ids or record.group in groups for record in videos):
            raise DatasetError(
                f"a run on split {split.name} was trained on or chosen by {overlap} of the {len(videos)} test videos "
                f"of split {override}, or others of their groups. Evaluate a run that was trained on split {override}."
            )
    if not videos:
        raise DatasetError(f"split {split.name} of {dataset.name} has no {override or 'test'} videos.")
    return videos, evaluated_on
