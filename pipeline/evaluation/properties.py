"""Numbers that describe videos, by which an evaluation looks for slices where a run fails.

Length and frame rate were recorded with the features, and motion is read off the features: they need no video file.
Size and brightness are those of the first frame, the only one that is decoded.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.progress import Progress
from data.records import VideoRecord
from pipeline.evaluation.slices import Property
from pipeline.features.recipe import Match, Origin
from pipeline.training.batches import FeatureTable


@dataclass(frozen=True)
class Look:
    """Number of pixels of a video's first frame, and its mean brightness, from 0 (black) to 255."""

    num_pixels: int
    brightness: float


def look_at(records: Sequence[VideoRecord], origins: Mapping[str, Origin]) -> dict[str, Look | None]:
    """The first frames of videos, by video id; ``None`` where there is no file that can be read.

    Only files that the features were extracted from are opened. They were decoded then, so no decoder hangs on one.
    """
    from data.video import VideoError, read_first_frame  # here, because the decoders take half a second

    found: dict[str, Look | None] = dict.fromkeys(record.video_id for record in records)
    decoded = [record for record in records if origins[record.video_id].decoder != "imported"]
    with closing(Progress(len(decoded), "video", what="first frames")) as progress:
        for record in decoded:
            # If it can't be read, its size and brightness remain unknown.
            with suppress(VideoError):
                if origins[record.video_id].match(record.path) in (Match.SAME, Match.SAME_SIZE):
                    frame = read_first_frame(record.path)
                    found[record.video_id] = Look(frame.shape[0] * frame.shape[1], float(frame.mean()))
            progress.advance()
    return found


def video_properties(
    origins: Mapping[str, Origin], motion: Mapping[str, float | None], looks: Mapping[str, Look | None]
) -> list[Property]:
    """Length, frame rate, size, brightness and motion, as far as they are known, of videos by their ids."""
    timed = {name: origin for name, origin in origins.items() if origin.fps > 0}
    seen = {name: look for name, look in looks.items() if look is not None}
    return [
        Property("length", "s", {name: origin.decoded_frames / origin.fps for name, origin in timed.items()}),
        Property("frame rate", "frames/s", {name: origin.fps for name, origin in timed.items()}),
        Property("size", "pixels", {name: float(look.num_pixels) for name, look in seen.items()}),
        Property("brightness", "of 255", {name: look.brightness for name, look in seen.items()}),
        Property("motion", "", {name: value for name, value in motion.items() if value is not None}),
    ]


def motion_in(table: FeatureTable) -> dict[str, float | None]:
    """``motion_of`` each video of a table in its first view, by video id."""
    lengths = table.num_frames.tolist()
    return {
        record.video_id: motion_of(table.video(number)[: lengths[number]].numpy())
        for number, record in enumerate(table.records)
    }


def motion_of(features: NDArray[np.float16]) -> float | None:
    """The root mean square change between consecutive stored frames, as a share of the root mean square of the frames.

    ``features`` is ``[num_frames, D]``. ``None`` for a single frame, or where all features are 0.
    """
    frames = features.astype(np.float32)
    size = float(np.square(frames).mean())
    return None if len(frames) < 2 or size == 0 else float(np.sqrt(np.square(np.diff(frames, axis=0)).mean() / size))
