"""Write the sampled frames of videos as pictures: DIR/<video_id>/000012.jpg is frame 12 of the video."""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import cv2

from data.atomic import remove_abandoned, temporary_name
from data.progress import Progress
from data.records import VideoRecord
from pipeline.features.readers import Failed, Frames, read_videos
from pipeline.features.sampling import FrameSampling
from pipeline.settings.config import FeatureConfig


def write_pictures(videos: Sequence[VideoRecord], config: FeatureConfig, folder: Path) -> int:
    """Write the sampled frames as JPEGs, upright and in their original size.

    A video's folder gets its final name when it is complete. Videos that have such a folder are skipped.

    Returns:
        the exit code: 1 if videos failed. Each is named on standard error with its reason.
    """
    remove_abandoned(folder)
    missing = [video for video in videos if not os.path.isdir(folder / video.video_id)]
    progress = Progress(total=len(missing), unit="video", what="writing frames")
    num_failed = 0
    events = read_videos(
        [video.path for video in missing],
        FrameSampling.parse(config.sampling),
        None,
        workers=config.workers,
        timeout=config.video_timeout,
    )
    with closing(events), closing(progress):
        for event in events:
            video = missing[event.job]
            target = folder / video.video_id
            unfinished = temporary_name(target)
            unfinished.mkdir(parents=True, exist_ok=True)
            if isinstance(event, Frames):
                for index, frame in zip(event.indices, event.pixels, strict=True):
                    picture = unfinished / f"{index:06d}.jpg"
                    # Not cv2.imwrite, which crashes on a path that is not UTF-8.
                    _, jpeg = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
                    picture.write_bytes(jpeg.tobytes())
                continue
            reason = None
            if isinstance(event, Failed):
                reason = event.reason
            elif event.count.is_short and config.on_short == "fail":
                reason = f"is short: {event.count.decoded_frames} of {event.count.header_frames} frames decode"
            if reason is None:
                _publish(unfinished, target)
            else:
                shutil.rmtree(unfinished)
                num_failed += 1
                progress.note(f"failed: {video.video_id}: {reason}")
            progress.advance(failed=num_failed)
    summary = {
        "num_videos": len(videos),
        "num_written_before": len(videos) - len(missing),
        "num_written": len(missing) - num_failed,
        "num_failed": num_failed,
    }
    print(json.dumps(summary))
    return 1 if num_failed else 0


def _publish(unfinished: Path, target: Path) -> None:
    try:
        os.replace(unfinished, target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(unfinished)  # another job has published the same pictures meanwhile
