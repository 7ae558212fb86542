"""What is printed about a split before training, and about an evaluation after it."""

from collections.abc import Mapping, Sequence
from typing import Any

from data.records import Split, VideoRecord
from pipeline.training.batches import MAX_BATCH_FRAMES, FeatureTable
from pipeline.training.clips import ClipSampling


def summary(metrics: Mapping[str, Any]) -> str:
    """The main numbers of an evaluation on one line."""
    low, high = metrics["intervals"]["video_top1"]
    scored = f" ({metrics['evaluated_on']})" if metrics.get("evaluated_on") else ""
    return (
        f"{metrics['run']}{scored}: video top-1 {metrics['video_top1']:.3f} [{low:.3f}, {high:.3f}], clip top-1 "
        f"{metrics['clip_top1']:.3f}, mean-class {metrics['mean_class_accuracy']:.3f}, "
        f"{metrics['num_videos']} videos{_without_excluded(metrics)}"
    )


def _without_excluded(metrics: Mapping[str, Any]) -> str:
    if not (others := metrics.get("without_excluded")):
        return ""
    low, high = others["intervals"]["video_top1"]
    return (
        f"; without {metrics['num_excluded']} excluded ones {others['video_top1']:.3f} [{low:.3f}, {high:.3f}], "
        f"{others['num_videos']} videos"
    )


def split_parts(split: Split) -> dict[str, dict[str, int]]:
    """Number of videos, groups and classes in each part of a split."""
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return {
        name: {
            "videos": len(videos),
            "groups": len({video.group for video in videos}),
            "classes": len({video.label for video in videos}),
        }
        for name, videos in parts.items()
    }


def split_table(split: Split) -> str:
    """``split_parts`` as a plain-text table."""
    title = f"split {split.name}"
    width = max(len(title), len("validation"))
    lines = [f"{title:<{width}} {'videos':>7} {'groups':>7} {'classes':>7}"]
    for name, counts in split_parts(split).items():
        lines.append(f"{name:<{width}} {counts['videos']:>7} {counts['groups']:>7} {counts['classes']:>7}")
    return "\n".join(lines)


def group_warning(videos: Sequence[VideoRecord]) -> str | None:
    """A warning if the videos have no groups."""
    # What data/folder.py does with videos whose group is unknown.
    if any(video.group != video.video_id for video in videos):
        return None
    return (
        "warning: the videos have no groups, so each is its own group. If test videos show the people or places of "
        "training videos, the accuracy will be too high. Name the groups with --group-pattern or in the CSV's column "
        "group."
    )


def long_clip_warning(table: FeatureTable, clips: ClipSampling) -> str | None:
    """A warning if a clip is longer than a training batch can be."""
    lengths = clips.lengths(table.num_frames)
    longest = int(lengths.argmax())
    if lengths[longest] <= MAX_BATCH_FRAMES:
        return None
    return (
        f"warning: the video {table.records[longest].video_id} has {lengths[longest]:,} frames, and a clip is a whole "
        f"video. A training batch can contain {MAX_BATCH_FRAMES:,}: training draws a random part of longer videos. To "
        "train on shorter clips, set --clip-frames."
    )
