"""Feature extraction: decode videos and run the backbone on their frames.

Reader processes decode while the backbone computes. A batch contains the frames that are ready, of one video or of
several, so short videos cause no half-empty batches.
"""

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from models.backbones import Backbone
from models.cnn.preprocessing import VIEWS, Preprocessing
from pipeline.features.encoders import Encoder, Pixels
from pipeline.features.readers import Event, Failed, Finished, Frames, read_videos
from pipeline.features.recipe import FeatureRecipe, Origin, VideoFeatures
from pipeline.features.sampling import FrameSampling

_EVENTS_AHEAD = 8

Item = TypeVar("Item")


@dataclass(frozen=True)
class ExtractionFailure:
    """The reason why a video has no features."""

    reason: str


def make_recipe(backbone: Backbone, sampling: FrameSampling) -> FeatureRecipe:
    """The recipe of the features that a backbone makes with a sampling."""
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
    paths: Iterable[Path],
    preprocessing: Preprocessing,
    sampling: FrameSampling,
    encoder: Encoder,
    *,
    views: Sequence[str] = VIEWS[:1],
    workers: int,
    timeout: float,
    on_short: Literal["keep", "fail"] = "keep",
) -> Generator[tuple[int, tuple[VideoFeatures, ...] | ExtractionFailure], None, None]:
    """Extract the features of videos, and yield each as soon as it is complete, not necessarily in order.

    Args:
        paths: the videos; read lazily, in another thread, a few videos ahead.
        preprocessing: that of the backbone.
        encoder: the backbone, made ready to run for the same views.
        views: the views to extract, of ``models.cnn.preprocessing.VIEWS``.
        workers: number of processes that decode; see ``read_videos`` for 0.
        timeout: seconds without a new frame after which a video is given up.
        on_short: keep or fail a video with fewer frames than its header says.

    Yields:
        a video's position in ``paths``, with its features (one item per view) or the reason why it has none.
    """
    videos: dict[int, _Video] = {}
    pending = _PendingPixels()
    stop = threading.Event()
    read = read_videos(
        paths,
        sampling,
        None if encoder.takes_whole_frames else preprocessing,
        views=views,
        workers=workers,
        timeout=timeout,
        stop=stop,
    )

    def staged() -> Generator[tuple[Event, Pixels | None], None, None]:
        with closing(read):
            for event in read:
                yield event, encoder.stage(event.pixels) if isinstance(event, Frames) else None

    def encode(num_rows: int) -> None:
        blocks = pending.take(num_rows)
        features = encoder.encode(_concatenate([pixels for _, pixels in blocks]))
        start = 0
        for job, pixels in blocks:
            videos[job].features.append(features[start : start + len(pixels)])
            start += len(pixels)

    with closing(_prefetch(staged(), stop)) as events:
        for event, pixels in events:
            if isinstance(event, Failed):
                videos.pop(event.job, None)
                pending.drop(event.job)
                yield event.job, ExtractionFailure(event.reason)
                continue
            video = videos.setdefault(event.job, _Video())
            if isinstance(event, Finished):
                video.finished = event
            else:
                assert pixels is not None
                video.indices.append(event.indices)
                pending.add(event.job, pixels)
            while pending.num_rows >= encoder.batch_frames:
                encode(encoder.batch_frames)
            for job in [job for job, video in videos.items() if video.finished and not pending.contains(job)]:
                yield job, _result(videos.pop(job), len(views), encoder.runtime, on_short)
    if pending.num_rows:
        encode(pending.num_rows)
    for job, video in videos.items():
        yield job, _result(video, len(views), encoder.runtime, on_short)


@dataclass
class _Video:
    """A video in progress: the indices and features of its blocks so far, in order."""

    indices: list[NDArray[np.int32]] = field(default_factory=list)
    features: list[NDArray[np.float16]] = field(default_factory=list)
    finished: Finished | None = None


class _PendingPixels:
    """The rows that the backbone has not encoded yet, of all videos, first in first out."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[int, Pixels]] = deque()

    @property
    def num_rows(self) -> int:
        return sum(len(pixels) for _, pixels in self._blocks)

    def add(self, job: int, pixels: Pixels) -> None:
        self._blocks.append((job, pixels))

    def drop(self, job: int) -> None:
        self._blocks = deque(block for block in self._blocks if block[0] != job)

    def contains(self, job: int) -> bool:
        return any(block[0] == job for block in self._blocks)

    def take(self, num_rows: int) -> list[tuple[int, Pixels]]:
        """Remove and return the first rows, as (job, pixels)."""
        taken = []
        while num_rows:
            job, pixels = self._blocks.popleft()
            if len(pixels) > num_rows:
                self._blocks.appendleft((job, pixels[num_rows:]))
                pixels = pixels[:num_rows]
            taken.append((job, pixels))
            num_rows -= len(pixels)
        return taken


def _concatenate(blocks: list[Pixels]) -> Pixels:
    if isinstance(blocks[0], torch.Tensor):
        return torch.cat(cast(list[torch.Tensor], blocks))
    return np.concatenate(cast(list[NDArray[np.uint8]], blocks))


def _result(
    video: _Video, num_views: int, runtime: str, on_short: Literal["keep", "fail"]
) -> tuple[VideoFeatures, ...] | ExtractionFailure:
    assert video.finished is not None
    path, count = video.finished.path, video.finished.count
    if (count.is_short and on_short == "fail") or not video.features:
        reason = "is short" if video.features else "ends before the first sampled frame"
        return ExtractionFailure(f"{path} {reason}: {count.decoded_frames} of {count.header_frames} frames decode")
    features = np.concatenate(video.features)
    if not np.isfinite(features).all():
        return ExtractionFailure(
            f"the features of {path} are not finite: this backbone exceeds the range of float16 (65504). Choose "
            "another --backbone or other --weights"
        )
    frame_indices = np.concatenate(video.indices)
    origin = Origin(
        fps=video.finished.fps,
        header_frames=count.header_frames,
        decoded_frames=count.decoded_frames,
        source_bytes=video.finished.source.num_bytes,
        decoder=count.decoder,
        runtime=runtime,
        source_digest=video.finished.source.digest,
        source_stamp=video.finished.source.stamp,
    )
    return tuple(
        VideoFeatures(np.ascontiguousarray(features[view::num_views]), frame_indices, origin)
        for view in range(num_views)
    )


def _prefetch(events: Generator[Item, None, None], stop: threading.Event) -> Generator[Item, None, None]:
    """Yield the same items, fetched by a thread, at most ``_EVENTS_AHEAD`` ahead.

    Closing this generator sets ``stop``, which must end ``events``.
    """
    ready: queue.Queue[Item | BaseException | None] = queue.Queue(_EVENTS_AHEAD)

    def put(item: Item | BaseException | None) -> None:
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
        except BaseException as error:  # re-raised in the caller's thread
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
