"""Decode -> CNN: videos in, the features of each out, in one pass over all of them.

Reader processes decode while the CNN computes. A batch for the CNN is filled from whatever frames are there, of one
video or of several, so short videos cost no half-empty batches.
"""

import queue
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from models.backbones import Backbone, normalize
from pipeline.config import ConfigError
from pipeline.readers import Event, Failed, Finished, Frames, read_videos
from pipeline.sampling import FrameSampling
from pipeline.store import FeatureRecipe, Origin, VideoFeatures

BATCH_FRAMES = 64
_EVENTS_AHEAD = 8

Encoder = Callable[[NDArray[np.uint8]], NDArray[np.float16]]


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


def choose_device(name: str) -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu`` or ``cuda``; raises ``ConfigError`` for what there is not."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown --device {name!r}. There are auto, cpu and cuda (which GPU: CUDA_VISIBLE_DEVICES).")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but PyTorch sees no GPU. Use --device cpu, or install PyTorch for CUDA.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def make_encoder(backbone: Backbone, device: torch.device) -> Encoder:
    """The CNN as a function: uint8 ``[N, crop, crop, 3]`` RGB -> float16 ``[N, feature_dim]``."""
    network = backbone.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def encode(frames: NDArray[np.uint8]) -> NDArray[np.float16]:
        images = normalize(torch.from_numpy(frames).to(device), backbone.preprocessing)
        with torch.autocast("cuda", torch.float16, enabled=device.type == "cuda"):
            features = network(images)
        return np.asarray(features.half().cpu().numpy())

    return encode


def extract(
    paths: Sequence[Path],
    backbone: Backbone,
    sampling: FrameSampling,
    encode: Encoder,
    *,
    workers: int,
    timeout: float,
    on_short: Literal["keep", "fail"] = "keep",
) -> Generator[tuple[int, VideoFeatures | ExtractionFailure], None, None]:
    """Features of videos, each as soon as it is whole; videos may overtake one another.

    Args:
        paths: of the videos.
        workers: processes that decode.
        timeout: seconds without a new frame after which a video is given up.
        on_short: what becomes of a file that holds fewer frames than its header promises.

    Yields:
        a video's position in ``paths`` with its features, or with why there are none.
    """
    videos: dict[int, _Video] = {}
    waiting = _WaitingFrames()
    runtime = f"torch-{torch.__version__}"
    with closing(_ahead(read_videos(paths, sampling, backbone.preprocessing, workers, timeout))) as events:
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
                waiting.add(event)
            while waiting.num_frames >= BATCH_FRAMES:
                _encode_batch(waiting.take(BATCH_FRAMES), videos, encode)
            for job in [job for job, video in videos.items() if video.is_whole]:
                yield job, _result(paths[job], videos.pop(job), runtime, on_short)
    if waiting.num_frames:
        _encode_batch(waiting.take(waiting.num_frames), videos, encode)
    for job, video in videos.items():
        yield job, _result(paths[job], video, runtime, on_short)


@dataclass
class _Video:
    """A video whose features are coming in, in order."""

    indices: list[NDArray[np.int32]] = field(default_factory=list)
    features: list[NDArray[np.float16]] = field(default_factory=list)
    finished: Finished | None = None

    @property
    def is_whole(self) -> bool:
        return self.finished is not None and sum(map(len, self.indices)) == sum(map(len, self.features))


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


def _encode_batch(blocks: list[tuple[int, NDArray[np.uint8]]], videos: dict[int, _Video], encode: Encoder) -> None:
    features = encode(np.concatenate([pixels for _, pixels in blocks]))
    start = 0
    for job, pixels in blocks:
        videos[job].features.append(features[start : start + len(pixels)])
        start += len(pixels)


def _result(
    path: Path, video: _Video, runtime: str, on_short: Literal["keep", "fail"]
) -> VideoFeatures | ExtractionFailure:
    assert video.finished is not None
    count = video.finished.count
    if count.is_short and (on_short == "fail" or not video.features):
        return ExtractionFailure(f"{path} is short: {count.decoded_frames} of {count.header_frames} frames decode")
    return VideoFeatures(
        features=np.concatenate(video.features),
        frame_indices=np.concatenate(video.indices),
        origin=Origin(
            fps=video.finished.fps,
            header_frames=count.header_frames,
            decoded_frames=count.decoded_frames,
            source_bytes=path.stat().st_size,
            decoder=count.decoder,
            runtime=runtime,
        ),
    )


def _ahead(events: Generator[Event, None, None]) -> Generator[Event, None, None]:
    """The same events, fetched by a thread of its own while the caller computes; at most ``_EVENTS_AHEAD`` in store."""
    ready: queue.Queue[Event | BaseException | None] = queue.Queue(_EVENTS_AHEAD)
    stopped = threading.Event()

    def put(item: Event | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return

    def fetch() -> None:
        try:
            with closing(events):
                for event in events:
                    put(event)
                    if stopped.is_set():
                        return
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
        stopped.set()
        thread.join()
