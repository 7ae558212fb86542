"""Decode every video of a dataset once, on all cores, and say which are missing, unreadable or short."""

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from data.download import progress_bar
from data.records import DatasetError

TASKS_PER_WORKER = 500  # decoders leak memory: a worker is replaced before that matters


@dataclass(frozen=True)
class ExpectedVideo:
    """A video that the lists name. ``path`` is ``None`` where no file was found for it."""

    video_id: str
    class_name: str
    path: Path | None


@dataclass(frozen=True)
class Problem:
    video: ExpectedVideo
    reason: str


def fault_of_video(path: Path) -> str:
    """What is wrong with a video file, found by decoding all of it; empty where nothing is.

    A frame or two fewer than the header promises is not a fault: many encoders count too many.
    """
    from data.video import VideoError, count_frames

    try:
        frames = count_frames(path)
    except VideoError as error:
        return f"unreadable: {error}"
    if frames.is_short:
        return f"short: {frames.decoded_frames} of {frames.header_frames} frames"
    return ""


def find_problems(
    videos: Sequence[ExpectedVideo],
    workers: int | None = None,
    timeout_s: float = 60.0,
    fault_of: Callable[[Path], str] = fault_of_video,
) -> list[Problem]:
    """The videos with something wrong, in the order given.

    Each is decoded in a process of its own pool, which is killed when it hangs in native code, and replaced when it
    dies; either costs that one video.

    Args:
        workers: number of processes; ``None``: one for each core.
        timeout_s: seconds for one video.
        fault_of: a module-level function; what is wrong with one file, empty where nothing is.

    Raises:
        DatasetError: ``workers`` or ``timeout_s`` is not positive.
    """
    if (workers is not None and workers < 1) or timeout_s <= 0:
        raise DatasetError(f"workers ({workers}) and timeout ({timeout_s:g} s) must be positive.")
    problems: list[Problem] = []
    # Spawn, never fork: a decoder that was loaded before a fork may deadlock after it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=workers or os.cpu_count() or 1, max_tasks=TASKS_PER_WORKER, context=context)
    with pool, progress_bar(len(videos), "video", "verifying") as bar:
        try:
            tasks = [
                (video, pool.schedule(fault_of, args=[video.path], timeout=timeout_s) if video.path else None)
                for video in videos
            ]
            for video, task in tasks:
                reason = "missing"
                if task is not None:
                    try:
                        reason = task.result()
                    except FutureTimeoutError:
                        reason = f"unreadable: the decoder hung for {timeout_s:g} s and was stopped"
                    except ProcessExpired as error:
                        reason = f"unreadable: the decoder died (exit code {error.exitcode})"
                    except Exception as error:
                        reason = f"unreadable: {type(error).__name__}: {error}"
                if reason:
                    problems.append(Problem(video, reason))
                bar.update()
        except BaseException:
            pool.stop()
            raise
    return problems


def report_of(videos: Sequence[ExpectedVideo], problems: Sequence[Problem]) -> str:
    """The problems class by class, and a last line that counts them."""
    in_class: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        in_class[problem.video.class_name].append(problem)
    lines = []
    for class_name in sorted(in_class):
        num_videos = sum(video.class_name == class_name for video in videos)
        lines.append(f"{class_name}: {len(in_class[class_name])} of {num_videos} videos")
        lines.extend(f"  {problem.video.video_id}  {problem.reason}" for problem in in_class[class_name])
    kinds = [problem.reason.partition(":")[0] for problem in problems]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("missing", "unreadable", "short"))
    lines.append(f"{len(videos)} videos, {len(videos) - len(problems)} good, {counts}")
    return "\n".join(lines)
