"""Strips of frames: a preview of each video for the report."""

import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.atomic import write_atomically
from data.progress import Progress
from data.records import VideoRecord
from pipeline.features.readers import Failed, Finished, Frames, read_videos
from pipeline.features.sampling import FrameSampling

FRAMES = FrameSampling("uniform", 8)
HEIGHT = 96  # pixels
MAX_WIDTH = 2 * HEIGHT  # of one frame, so that very wide videos do not make very wide strips
JPEG_QUALITY = 80


def make_strips(
    records: Sequence[VideoRecord], folder: Path, limit: int, *, workers: int = 1, timeout: float = 60.0
) -> dict[str, Path]:
    """Write one JPEG per video with eight evenly spaced frames side by side; of a shorter video, some twice or more.

    Args:
        records: the most interesting first; only the first ``limit`` get a strip.
        folder: the evaluation folder; strips are written to its ``strips/``. Existing strips are kept.
        workers: number of decoding processes.
        timeout: seconds without a newly decoded frame after which a video fails.

    Returns:
        The strip of each video that has one, by video id. A video that can't be read has none; the reason is printed to
        standard error. Missing files are counted in one line.

    Raises:
        OSError: a strip can't be written.
    """
    paths = {record.video_id: strip_path(folder, record.video_id) for record in records[:limit]}
    without = [record for record in records[:limit] if not paths[record.video_id].exists()]
    # Not Path.exists, which raises OSError where a name is too long.
    lacking = [record for record in without if os.path.exists(record.path)]
    if len(lacking) < len(without):
        missing = next(record.path for record in without if not os.path.exists(record.path))
        print(
            f"no strips of frames of {len(without) - len(lacking)} videos: their files do not exist, e.g. {missing}",
            file=sys.stderr,
        )
    progress = Progress(total=len(lacking), unit="video", what="strips of frames")
    events = read_videos(
        [record.path for record in lacking], FRAMES, None, workers=max(1, min(workers, len(lacking))), timeout=timeout
    )
    thumbnails: dict[int, list[NDArray[np.uint8]]] = {}
    with closing(events), closing(progress):
        for event in events:
            if isinstance(event, Frames):
                thumbnails.setdefault(event.job, []).extend(_thumbnail(frame) for frame in event.pixels)
                continue
            video_id, frames = lacking[event.job].video_id, thumbnails.pop(event.job, [])
            if isinstance(event, Finished):
                _write_strip(paths[video_id], frames)
            elif isinstance(event, Failed):
                progress.note(f"no strip of {video_id}: {event.reason}")
            progress.advance()
    return {video_id: path for video_id, path in paths.items() if path.exists()}


def strip_path(folder: Path, video_id: str) -> Path:
    """Path of a video's strip: a name that is valid on any disk and in any URL, whatever the video id is."""
    digest = hashlib.sha256(video_id.encode(errors="surrogateescape")).hexdigest()[:20]
    return folder / "strips" / f"{digest}.jpg"


def _thumbnail(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width, _ = frame.shape
    size = (int(np.clip(round(width * HEIGHT / height), 1, MAX_WIDTH)), HEIGHT)
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _write_strip(path: Path, frames: Sequence[NDArray[np.uint8]]) -> None:
    num_frames = int(FRAMES.value)  # always as many, so that the page can cut a strip into its frames
    shown = [frames[number * len(frames) // num_frames] for number in range(num_frames)]
    strip = np.concatenate(shown, axis=1)[..., ::-1]  # OpenCV writes BGR
    _, jpeg = cv2.imencode(".jpg", strip, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    write_atomically(path, lambda temporary: temporary.write_bytes(jpeg.tobytes()))
