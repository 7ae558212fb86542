"""Measure the audit: on copies that it is given to find, and on made features of UCF101's size.

    python -m benchmarks.leaks                                               # the demo's videos
    python -m benchmarks.leaks --dataset folder --root WEIZMANN --group-pattern "^([^_]+)_"
    python -m benchmarks.leaks --made 13320                                  # time and memory

Every video (with --every N, one in N) gets one copy, in turn encoded again (x264 at quality 28), cropped (90 % of width
and height), mirrored, or trimmed (a fifth is cut off at the start or the end). Each copy is in a group of its own, so
that it must not be paired with the other videos of its original's group, which show the same person and background. A
pair counts as right only if it is a copy and its original.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tabulate import tabulate

from data.catalog import DataConfig, load_dataset
from data.command import parse_arguments, run_command
from data.errors import UserError
from data.progress import Progress
from data.records import VideoDataset, VideoRecord
from data.video import read_frames
from pipeline.audit.pairs import SPREADS, Found, find_pairs
from pipeline.cache.job import FeatureCache
from pipeline.features.recipe import Origin
from pipeline.settings.config import FeatureConfig
from pipeline.store.packed import PackedFeatures
from pipeline.store.packed_videos import PackedVideo

KINDS = ("encoded again", "cropped", "mirrored", "trimmed")
MADE_SHAPE = (25, 1280)


@dataclass(frozen=True)
class Arguments:
    """What to measure, on which videos."""

    data: DataConfig = field(default_factory=lambda: DataConfig("demo"))
    features: FeatureConfig = field(default_factory=FeatureConfig)
    copies: Path | None = None
    """folder to keep the copies in (default: a temporary one)"""
    spreads: tuple[float, ...] = (SPREADS,)
    """thresholds to try, as in pipeline/audit/pairs.py"""
    every: int = 1
    """copy every EVERY-th video only"""
    made: int | None = None
    """measure time and memory on this many videos with random features instead"""


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(Arguments, arguments, prog="python -m benchmarks.leaks", description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        if options.made is not None:
            print(measure(options.made, Path(folder)))
            return 0
        dataset = load_dataset(options.data)
        copies, kind_of = plant(dataset.videos[:: options.every], options.copies or Path(folder))
        # Cached here, while the files of the copies exist.
        videos = (*dataset.videos, *copies)
        planted = VideoDataset(f"{dataset.name}-copies", f"{dataset.store_name}-copies", dataset.classes, videos, {})
        packed = FeatureCache(options.features).load_once(planted.store_name, videos)
    for spreads in options.spreads:
        found = find_pairs(packed, videos, {}, spreads)
        print(f"{dataset.name}: {len(copies)} copies among {len(videos)} videos, {options.features.views} views")
        print(f"spreads {spreads:g}, threshold {found.across_groups:.3f}\n{table(found, videos, kind_of)}\n")
    return 0


def plant(videos: Sequence[VideoRecord], folder: Path) -> tuple[list[VideoRecord], dict[str, str]]:
    """Write one copy of every video, unless it is there; the copies, and the kind of each by its id."""
    copies, kind_of = [], {}
    with closing(Progress(total=len(videos), unit="video", what="copying")) as progress:
        for number, video in enumerate(videos):
            kind = KINDS[number % len(KINDS)]
            path = folder / kind / Path(video.video_id).with_suffix(".mp4")
            if not path.exists():
                write_copy(video.path, path, kind, at_start=number // len(KINDS) % 2 == 0)
            copy = VideoRecord(f"copies/{kind}/{video.video_id}", path, video.label, f"copy of {video.video_id}")
            copies.append(copy)
            kind_of[copy.video_id] = kind
            progress.advance()
    return copies, kind_of


def write_copy(source: Path, target: Path, kind: str, at_start: bool) -> None:
    """Write a changed copy of a video. ``at_start``: trim the start, not the end."""
    import imageio_ffmpeg

    change, quality = "null", 20
    if kind == "encoded again":
        quality = 28
    elif kind == "cropped":
        change = "crop=trunc(iw*0.9/2)*2:trunc(ih*0.9/2)*2"
    elif kind == "mirrored":
        change = "hflip"
    else:
        num_frames = sum(1 for _ in read_frames(source, range(10**6)))
        cut = round(0.2 * num_frames)
        change = f"trim=start_frame={cut}" if at_start else f"trim=end_frame={num_frames - cut}"
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-i", source]
    command += ["-vf", f"{change},setpts=N/FRAME_RATE/TB", "-an", "-pix_fmt", "yuv420p", "-fps_mode", "passthrough"]
    done = subprocess.run(
        [*command, "-c:v", "libx264", "-crf", str(quality), unfinished], capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(f"FFmpeg can't copy {source}: {done.stderr.strip()}")
    unfinished.rename(target)


def table(found: Found, videos: Sequence[VideoRecord], kind_of: dict[str, str]) -> str:
    """Recall and precision per kind of copy. A wrong pair counts for the kind of each copy in it."""
    right, wrong, num_wrong = Counter[str](), Counter[str](), 0
    for pair in found.pairs:
        one, other = videos[pair.first], videos[pair.second]
        kinds = {kind_of[video.video_id] for video in (one, other) if video.video_id in kind_of}
        if other.group == f"copy of {one.video_id}":
            right.update(kinds)
        else:
            num_wrong += 1
            wrong.update(kinds or {"no copy"})
    planted = Counter(kind_of.values())
    rows = [_row(kind, planted[kind], right[kind], wrong[kind]) for kind in KINDS if planted[kind]]
    rows.append(_row("all", planted.total(), right.total(), num_wrong))
    return tabulate(rows, ("copies", "planted", "found", "recall", "wrong pairs", "precision"), disable_numparse=True)


def _row(kind: str, planted: int, right: int, wrong: int) -> tuple[str, ...]:
    precision = f"{right / (right + wrong):.3f}" if right + wrong else "-"
    return kind, str(planted), str(right), f"{right / planted:.3f}", str(wrong), precision


def measure(num_videos: int, folder: Path) -> str:
    """Time and memory of the search among random features, one in a hundred videos of which is there twice."""
    num_frames, dim = MADE_SHAPE
    rng = np.random.default_rng(0)
    features = np.lib.format.open_memmap(folder / "made.npy", "w+", np.float16, (num_videos * num_frames, dim))
    videos, rows = [], {}
    for number in range(num_videos):
        start = number * num_frames
        if number % 100 == 1:
            features[start : start + num_frames] = features[start - num_frames : start]
        else:
            # Videos of one group share a scene, and all change slowly.
            scene = np.random.default_rng(number // 5).standard_normal(dim)
            moves = rng.standard_normal((num_frames, dim), dtype=np.float32).cumsum(axis=0) / num_frames
            features[start : start + num_frames] = scene + moves
        videos.append(VideoRecord(f"v{number}", Path("none"), 0, f"g{number // 5}"))
        rows[f"v{number}"] = PackedVideo(start, num_frames, Origin(25.0, 100, 100, 0, "none", "none"))
    features.flush()
    indices = np.tile(np.arange(0, 4 * num_frames, 4, dtype=np.int32), num_videos)
    packed = PackedFeatures(np.load(folder / "made.npy", mmap_mode="r"), indices, ("center",), rows)
    started, cpu = time.perf_counter(), time.process_time()
    found = find_pairs(packed, videos, {})
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return (
        f"{num_videos:,} videos x {num_frames} frames x {dim}: {seconds:.0f} s ({cpu:.0f} s of CPU), "
        f"{found.num_compared:,} pairs compared, {len(found.pairs)} found, {len(range(1, num_videos, 100))} made; "
        f"peak memory {peak:.1f} GB, {features.nbytes / 2**30:.1f} GB of which are the mapped features"
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
