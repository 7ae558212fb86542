"""Decode every video of a dataset once, on all cores, and report which are missing, unreadable or short."""

import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pebble import ProcessExpired, ProcessPool

from data.processes import available_cores
from data.progress import Progress
from data.records import DatasetError

TASKS_PER_WORKER = 500  # decoders leak memory: a worker is replaced before that matters


@dataclass(frozen=True)
class ExpectedVideo:
    """A video that the lists name. ``path`` is ``None`` if no file was found for it."""

    video_id: str
    class_name: str
    path: Path | None


@dataclass(frozen=True)
class Problem:
    video: ExpectedVideo
    reason: str


def verify_videos(videos: Sequence[ExpectedVideo], workers: int, timeout_s: float, get_again: str) -> int:
    """Decode ``videos``, print the report, and return the exit code: 1 if any video is bad, else 0.

    ``get_again`` is the command that brings missing videos. Other arguments and errors: see ``find_problems``.
    """
    problems = find_problems(videos, workers, timeout_s)
    print(report_of(videos, problems))
    if problems:
        print(f"Delete the files that are unreadable or short, then get everything that is missing: {get_again}")
    return 1 if problems else 0


def fault_of_video(path: Path) -> str:
    """Decode a whole video file and return what is wrong with it; empty if nothing is.

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
    workers: int = available_cores(),
    timeout_s: float = 60.0,
    fault_of: Callable[[Path], str] = fault_of_video,
) -> list[Problem]:
    """Check ``videos`` in a pool of processes and return those with a problem, in the order given.

    A process that hangs in native code is killed, and one that dies is replaced; either costs only that video.

    Args:
        videos: the videos to check.
        workers: number of processes.
        timeout_s: seconds allowed for one video.
        fault_of: a module-level function that returns what is wrong with one file, empty if nothing is.

    Raises:
        DatasetError: ``workers`` or ``timeout_s`` is not positive.
    """
    if workers < 1 or timeout_s <= 0:
        raise DatasetError(f"workers ({workers}) and timeout ({timeout_s:g} s) must be positive.")
    problems: list[Problem] = []
    # Spawn, never fork: a decoder that was loaded before a fork may deadlock after it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(max_workers=workers, max_tasks=TASKS_PER_WORKER, context=context)
    with pool, closing(Progress(len(videos), "video", what="verifying")) as progress:
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
                progress.advance(bad=len(problems))
        except BaseException:
            pool.stop()
            raise
    return problems


def report_of(videos: Sequence[ExpectedVideo], problems: Sequence[Problem]) -> str:
    """Format the problems class by class, with a last line that counts them."""
    by_class: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_class[problem.video.class_name].append(problem)
    lines = []
    for class_name in sorted(by_class):
        num_videos = sum(video.class_name == class_name for video in videos)
        lines.append(f"{class_name}: {len(by_class[class_name])} of {num_videos} videos")
        lines.extend(f"  {problem.video.video_id}  {problem.reason}" for problem in by_class[class_name])
    kinds = [problem.reason.partition(":")[0] for problem in problems]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("missing", "unreadable", "short"))
    lines.append(f"{len(videos)} videos, {len(videos) - len(problems)} good, {counts}")
    return "\n".join(lines)
