"""Decode -> CNN: videos in, the features of each out, in one pass over all of them.

Reader processes decode while the CNN computes. A batch for the CNN is filled from whatever frames are there, of one
video or of several, so short videos cost no half-empty batches.
"""

import queue
import threading
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.backbones import Backbone
from pipeline.encoders import Encoder
from pipeline.readers import Event, Failed, Finished, Frames, read_videos
from pipeline.sampling import FrameSampling
from pipeline.store import FeatureRecipe, Origin, VideoFeatures

_EVENTS_AHEAD = 8


@dataclass(frozen=True)
class ExtractionFailure:
    """A video that gave no features, and why."""

    reason: str


def make_recipe(backbone: Backbone, sampling: FrameSampling) -> FeatureRecipe:
    """What makes the features, for their fingerprint."""
    preprocessing = backbone.preprocessing
    return FeatureRecipe(
        backbone=backbone.name,
        weights_sha256=backbone.weights_sha256,
        resize=preprocessing.resize,
        crop=preprocessing.crop,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        keep_aspect_ratio=preprocessing.keep_aspect_ratio,
        sampling=str(sampling),
    )


def extract(
    paths: Sequence[Path],
    backbone: Backbone,
    sampling: FrameSampling,
    encoder: Encoder,
    *,
    workers: int,
    timeout: float,
    on_short: Literal["keep", "fail"] = "keep",
) -> Generator[tuple[int, VideoFeatures | ExtractionFailure], None, None]:
    """Features of videos, each as soon as it is whole; videos may overtake one another.

    Args:
        paths: of the videos.
        encoder: the backbone, ready to run.
        workers: processes that decode.
        timeout: seconds without a new frame after which a video is given up.
        on_short: what becomes of a file that holds fewer frames than its header promises.

    Yields:
        a video's position in ``paths`` with its features, or with why there are none.
    """
    videos: dict[int, _Video] = {}
    waiting = _WaitingFrames()
    stop = threading.Event()
    read = read_videos(paths, sampling, backbone.preprocessing, workers=workers, timeout=timeout, stop=stop)
    with closing(_ahead(read, stop)) as events:
        for event in events:
            if isinstance(event, Failed):
                videos.pop(event.job, None)
                waiting.drop(event.job)
                yield event.job, ExtractionFailure(event.reason)
                continue
            video = videos.setdefault(event.job, _Video())
            if isinstance(event, Finished):
                video.finished = event
            else:
                video.indices.append(event.indices)
                video.num_read += len(event.indices)
                waiting.add(event)
            while waiting.num_frames >= encoder.batch_frames:
                _encode_batch(waiting.take(encoder.batch_frames), videos, encoder)
            for job in [job for job, video in videos.items() if video.is_whole]:
                yield job, _result(paths[job], videos.pop(job), encoder.runtime, on_short)
    if waiting.num_frames:
        _encode_batch(waiting.take(waiting.num_frames), videos, encoder)
    for job, video in videos.items():
        yield job, _result(paths[job], video, encoder.runtime, on_short)


@dataclass
class _Video:
    """A video whose features are coming in, in order."""

    indices: list[NDArray[np.int32]] = field(default_factory=list)
    features: list[NDArray[np.float16]] = field(default_factory=list)
    num_read: int = 0
    num_encoded: int = 0
    finished: Finished | None = None

    @property
    def is_whole(self) -> bool:
        return self.finished is not None and self.num_encoded == self.num_read


class _WaitingFrames:
    """Frames of any videos, first in first out."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, NDArray[np.uint8]]] = []

    @property
    def num_frames(self) -> int:
        return sum(len(pixels) for _, pixels in self._blocks)

    def add(self, frames: Frames) -> None:
        self._blocks.append((frames.job, frames.pixels))

    def drop(self, job: int) -> None:
        self._blocks = [block for block in self._blocks if block[0] != job]

    def take(self, count: int) -> list[tuple[int, NDArray[np.uint8]]]:
        """The first ``count`` frames, as (job, pixels)."""
        taken = []
        while count:
            job, pixels = self._blocks.pop(0)
            if len(pixels) > count:
                self._blocks.insert(0, (job, pixels[count:]))
            taken.append((job, pixels[:count]))
            count -= len(taken[-1][1])
        return taken


def _encode_batch(blocks: list[tuple[int, NDArray[np.uint8]]], videos: dict[int, _Video], encoder: Encoder) -> None:
    features = encoder.encode(np.concatenate([pixels for _, pixels in blocks]))
    start = 0
    for job, pixels in blocks:
        videos[job].features.append(features[start : start + len(pixels)])
        videos[job].num_encoded += len(pixels)
        start += len(pixels)


def _result(
    path: Path, video: _Video, runtime: str, on_short: Literal["keep", "fail"]
) -> VideoFeatures | ExtractionFailure:
    assert video.finished is not None
    count = video.finished.count
    if (count.is_short and on_short == "fail") or not video.features:
        reason = "is short" if video.features else "ends before the first frame wanted"
        return ExtractionFailure(f"{path} {reason}: {count.decoded_frames} of {count.header_frames} frames decode")
    features = np.concatenate(video.features)
    if not np.isfinite(features).all():
        return ExtractionFailure(
            f"the features of {path} are not finite: float16 ends at 65504 and this backbone goes beyond. "
            "Choose another --backbone or other --weights"
        )
    return VideoFeatures(
        features=features,
        frame_indices=np.concatenate(video.indices),
        origin=Origin(
            fps=video.finished.fps,
            header_frames=count.header_frames,
            decoded_frames=count.decoded_frames,
            source_bytes=video.finished.source_bytes,
            decoder=count.decoder,
            runtime=runtime,
        ),
    )


def _ahead(events: Generator[Event, None, None], stop: threading.Event) -> Generator[Event, None, None]:
    """The same events, fetched by a thread of its own while the caller computes; at most ``_EVENTS_AHEAD`` in store.

    Closing it sets ``stop``, which ends ``events`` too.
    """
    ready: queue.Queue[Event | BaseException | None] = queue.Queue(_EVENTS_AHEAD)

    def put(item: Event | BaseException | None) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def fetch() -> None:
        try:
            with closing(events):
                for event in events:
                    put(event)
            put(None)
        except BaseException as error:  # raised again in the caller's thread
            put(error)

    thread = threading.Thread(target=fetch, name="readers", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
