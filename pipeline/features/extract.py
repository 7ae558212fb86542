"""Decode -> CNN: videos in, the features of each out, in one pass over all of them.

Reader processes decode while the CNN computes. A batch for the CNN is filled from whatever frames are there, of one
video or of several, so short videos cost no half-empty batches.
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
from models.preprocessing import VIEWS
from pipeline.features.encoders import Encoder, Pixels
from pipeline.features.readers import Failed, Finished, Frames, read_videos
from pipeline.features.recipe import FeatureRecipe, Origin, VideoFeatures
from pipeline.features.sampling import FrameSampling

_EVENTS_AHEAD = 8

Item = TypeVar("Item")


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
    paths: Iterable[Path],
    backbone: Backbone,
    sampling: FrameSampling,
    encoder: Encoder,
    *,
    views: Sequence[str] = VIEWS[:1],
    workers: int,
    timeout: float,
    on_short: Literal["keep", "fail"] = "keep",
) -> Generator[tuple[int, tuple[VideoFeatures, ...] | ExtractionFailure], None, None]:
    """Features of videos, each as soon as it is whole; videos may overtake one another.

    Args:
        paths: of the videos; read lazily, by another thread, a few videos ahead.
        encoder: the backbone, ready to run, made for the same views.
        views: which of ``models.preprocessing.VIEWS`` are wanted of each video.
        workers: processes that decode.
        timeout: seconds without a new frame after which a video is given up.
        on_short: what becomes of a file that holds fewer frames than its header promises.

    Yields:
        a video's position in ``paths`` with its features, one for each view, or with why there are none.
    """
    videos: dict[int, _Video] = {}
    waiting = _WaitingPixels()
    stop = threading.Event()
    read = read_videos(
        paths,
        sampling,
        None if encoder.takes_whole_frames else backbone.preprocessing,
        views=views,
        workers=workers,
        timeout=timeout,
        stop=stop,
    )

    def staged() -> Generator[_Staged | Finished | Failed, None, None]:
        with closing(read):
            for event in read:
                if isinstance(event, Frames):
                    yield _Staged(event.job, event.indices, encoder.stage(event.pixels))
                else:
                    yield event

    def encode(count: int) -> None:
        blocks = waiting.take(count)
        features = encoder.encode(_joined([pixels for _, pixels in blocks]))
        start = 0
        for job, pixels in blocks:
            videos[job].features.append(features[start : start + len(pixels)])
            start += len(pixels)

    with closing(_ahead(staged(), stop)) as events:
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
                waiting.add(event.job, event.pixels)
            while waiting.num_rows >= encoder.batch_frames:
                encode(encoder.batch_frames)
            for job in [job for job, video in videos.items() if video.finished and not waiting.holds(job)]:
                yield job, _result(videos.pop(job), len(views), encoder.runtime, on_short)
    if waiting.num_rows:
        encode(waiting.num_rows)
    for job, video in videos.items():
        yield job, _result(video, len(views), encoder.runtime, on_short)


@dataclass(frozen=True)
class _Staged:
    """``Frames`` where the network wants them."""

    job: int
    indices: NDArray[np.int32]
    pixels: Pixels


@dataclass
class _Video:
    """A video whose features are coming in, in order."""

    indices: list[NDArray[np.int32]] = field(default_factory=list)
    features: list[NDArray[np.float16]] = field(default_factory=list)
    finished: Finished | None = None


class _WaitingPixels:
    """Rows for the network, of any videos, first in first out."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[int, Pixels]] = deque()

    @property
    def num_rows(self) -> int:
        return sum(len(pixels) for _, pixels in self._blocks)

    def add(self, job: int, pixels: Pixels) -> None:
        self._blocks.append((job, pixels))

    def drop(self, job: int) -> None:
        self._blocks = deque(block for block in self._blocks if block[0] != job)

    def holds(self, job: int) -> bool:
        return any(block[0] == job for block in self._blocks)

    def take(self, count: int) -> list[tuple[int, Pixels]]:
        """The first ``count`` rows, as (job, pixels)."""
        taken = []
        while count:
            job, pixels = self._blocks.popleft()
            if len(pixels) > count:
                self._blocks.appendleft((job, pixels[count:]))
            taken.append((job, pixels[:count]))
            count -= len(taken[-1][1])
        return taken


def _joined(blocks: list[Pixels]) -> Pixels:
    if isinstance(blocks[0], torch.Tensor):
        return torch.cat(cast(list[torch.Tensor], blocks))
    return np.concatenate(cast(list[NDArray[np.uint8]], blocks))


def _result(
    video: _Video, num_views: int, runtime: str, on_short: Literal["keep", "fail"]
) -> tuple[VideoFeatures, ...] | ExtractionFailure:
    assert video.finished is not None
    path, count = video.finished.path, video.finished.count
    if (count.is_short and on_short == "fail") or not video.features:
        reason = "is short" if video.features else "ends before the first frame wanted"
        return ExtractionFailure(f"{path} {reason}: {count.decoded_frames} of {count.header_frames} frames decode")
    features = np.concatenate(video.features)
    if not np.isfinite(features).all():
        return ExtractionFailure(
            f"the features of {path} are not finite: float16 ends at 65504 and this backbone goes beyond. "
            "Choose another --backbone or other --weights"
        )
    frame_indices = np.concatenate(video.indices)
    origin = Origin(
        fps=video.finished.fps,
        header_frames=count.header_frames,
        decoded_frames=count.decoded_frames,
        source_bytes=video.finished.source_bytes,
        decoder=count.decoder,
        runtime=runtime,
    )
    return tuple(
        VideoFeatures(np.ascontiguousarray(features[view::num_views]), frame_indices, origin)
        for view in range(num_views)
    )


def _ahead(events: Generator[Item, None, None], stop: threading.Event) -> Generator[Item, None, None]:
    """The same items, fetched by a thread of its own while the caller computes; at most ``_EVENTS_AHEAD`` in store.

    Closing it sets ``stop``, which ends ``events`` too.
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
