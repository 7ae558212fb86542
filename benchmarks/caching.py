"""How fast the caching job is, and how near to what the machine can do.

    python -m benchmarks.caching                                   # the demo's videos, the default backbone
    python -m benchmarks.caching --root VIDEOS --backbone resnet18 # your own
    python -m benchmarks.caching --memory                          # peak memory: 100 and 1,000 videos, a 1-hour video

Measured in turn on the same files, over several rounds in one run:

a      decode alone: the job's reader processes on all cores, frames resized and cropped, ready for the network
b      the CNN alone, on frames in memory
job    what ``python -m pipeline.cache`` does, from the first video to the last stored entry
plain  the loop that everybody writes first: OpenCV, torchvision's transforms frame by frame, PyTorch in batches of 32

Decoding and the CNN share the cores, so the job cannot be faster than ``limit`` = 1 / (1/a + 1/b). What counts are the
ratios (medians over the rounds): the figures themselves are the machine's.
"""

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
import tyro
from PIL import Image

from data.catalog import DataConfig, load_dataset
from data.folder import VIDEO_EXTENSIONS
from data.records import VideoRecord
from data.video import read_frames
from models.backbones import Backbone, load_backbone
from models.torchvision_ops import declare_missing_ops
from pipeline.cache.job import FeatureCache
from pipeline.features.encoders import Encoder, make_encoder
from pipeline.features.readers import Frames, read_videos
from pipeline.features.sampling import FrameSampling
from pipeline.settings.config import FeatureConfig
from pipeline.settings.device import choose_device

PLAIN_BATCH_FRAMES = 32


def main(
    backbone: str = "efficientnet_lite0",
    root: Path | None = None,
    videos: int = 60,
    rounds: int = 3,
    seconds: float = 20.0,
    memory: bool = False,
    sampling: str = "uniform:25",
) -> None:
    """Print what the caching job does in a second, beside what it could do.

    Args:
        backbone: as for train.py. Its weights are random: they make no difference to the time.
        root: folder with videos somewhere in it; none given: the demo, rendered where it is not there yet.
        videos: of them to use in each round; fewer there are repeated.
        rounds: of all measurements in turn.
        seconds: after which the CNN alone and the plain loop stop, in each round.
        memory: measure peak memory instead.
        sampling: frames of each video.
    """
    files = videos_below(root) if root else [video.path for video in load_dataset(DataConfig("demo")).videos]
    with tempfile.TemporaryDirectory() as folder:
        if memory:
            measure_memory(files, Path(folder))
        else:
            measure_speed(
                repeated(files, videos), backbone, FrameSampling.parse(sampling), rounds, seconds, Path(folder)
            )


def videos_below(root: Path) -> list[Path]:
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_EXTENSIONS)
    if not found:
        raise SystemExit(f"no video in {root}")
    return found


def repeated(files: Sequence[Path], count: int) -> list[VideoRecord]:
    """``count`` records under names of their own, spread over the files, which are repeated where they are fewer."""
    step = max(1, len(files) // count)
    chosen = itertools.islice(itertools.cycle(files[::step]), count)
    return [VideoRecord(f"{number}", path, 0, "") for number, path in enumerate(chosen)]


def measure_speed(
    records: Sequence[VideoRecord], name: str, sampling: FrameSampling, rounds: int, seconds: float, folder: Path
) -> None:
    weights = folder / "random.pt"
    backbone = with_random_weights(name, weights)
    encoder = make_encoder(backbone, choose_device("auto"), "auto", folder / "onnx")
    plain = PlainLoop(backbone)
    paths = [record.path for record in records]
    rates: dict[str, list[float]] = {"bare decode": [], "a": [], "b": [], "job": [], "plain": []}
    bytes_per_video = 0.0
    print(f"{name}, {sampling}, {len(records)} videos, {os.cpu_count()} cores, {encoder.runtime}; frames/s", flush=True)
    print(f"{'':8}" + "".join(f"{key:>13}" for key in rates), flush=True)
    for number in range(rounds):
        config = FeatureConfig(backbone=name, weights=weights, cache=folder / f"cache-{number}", sampling=str(sampling))
        cache = FeatureCache(config)
        shutil.copytree(folder / "onnx", config.cache / "onnx", dirs_exist_ok=True)
        rates["bare decode"].append(rate_of(decode_alone(paths[:20], sampling)))
        rates["a"].append(rate_of(read_alone(paths, backbone, sampling)))
        rates["b"].append(encode_alone(encoder, backbone.preprocessing.crop, seconds))
        started = time.perf_counter()
        summary = cache.fill("benchmark", records)
        rates["job"].append(summary.num_frames / (time.perf_counter() - started))
        if summary.num_failed:
            raise SystemExit(f"{summary.num_failed} videos failed: {cache.store.errors_path('benchmark')}")
        rates["plain"].append(rate_of(plain.features(paths, sampling, seconds)))
        entries = [path.stat().st_size for path in cache.store.folder.rglob("*.safetensors")]
        bytes_per_video = sum(entries) / len(entries)
        print(f"round {number:2}" + "".join(f"{values[-1]:13.1f}" for values in rates.values()), flush=True)
    limits = [1 / (1 / a + 1 / b) for a, b in zip(rates["a"], rates["b"], strict=True)]
    of_limit = [job / limit for job, limit in zip(rates["job"], limits, strict=True)]
    of_plain = [job / plain for job, plain in zip(rates["job"], rates["plain"], strict=True)]
    per_video = summary.num_frames / len(records)
    print(
        f"job: {statistics.median(rates['job']) / per_video:.2f} videos/s, {bytes_per_video:.0f} bytes per video stored"
    )
    print(f"job / limit: {statistics.median(of_limit):.2f}   job / plain: {statistics.median(of_plain):.2f}")


def rate_of(batches: Iterator[int]) -> float:
    """Frames per second of something that yields how many it has done."""
    started = time.perf_counter()
    return sum(batches) / (time.perf_counter() - started)


def decode_alone(paths: Sequence[Path], sampling: FrameSampling) -> Iterator[int]:
    """One process, no resize: the decoder itself."""
    for path in paths:
        yield sum(1 for _ in read_frames(path, sampling.indices))


def read_alone(paths: Sequence[Path], backbone: Backbone, sampling: FrameSampling) -> Iterator[int]:
    workers = os.cpu_count() or 1
    with closing(read_videos(paths, sampling, backbone.preprocessing, workers=workers, timeout=60)) as events:
        for event in events:
            yield len(event.indices) if isinstance(event, Frames) else 0


def encode_alone(encoder: Encoder, crop: int, seconds: float) -> float:
    frames = np.random.default_rng(0).integers(256, size=(encoder.batch_frames, crop, crop, 3), dtype=np.uint8)
    encoder.encode(frames)

    def batches() -> Iterator[int]:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            yield len(encoder.encode(frames))

    return rate_of(batches())


class PlainLoop:
    """Feature extraction as the peers do it; the same backbone, frames and features."""

    def __init__(self, backbone: Backbone) -> None:
        from torchvision import transforms

        preprocessing = backbone.preprocessing
        modes = transforms.InterpolationMode
        size = preprocessing.resize if preprocessing.keep_aspect_ratio else (preprocessing.resize,) * 2
        self._network = backbone.network
        self._transform = transforms.Compose(
            [
                transforms.Resize(size, modes.BILINEAR if preprocessing.interpolation == "bilinear" else modes.BICUBIC),
                transforms.CenterCrop(preprocessing.crop),
                transforms.ToTensor(),
                transforms.Normalize(preprocessing.mean, preprocessing.std),
            ]
        )

    @torch.inference_mode()
    def features(self, paths: Sequence[Path], sampling: FrameSampling, seconds: float) -> Iterator[int]:
        """Yields how many frames it has done, until ``seconds`` are over."""
        started = time.perf_counter()
        for path in paths:
            capture = cv2.VideoCapture(str(path))
            wanted = set(sampling.indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT))).tolist())
            images = []
            for index in itertools.count():
                ok, frame = capture.read()
                if not ok:
                    break
                if index in wanted:
                    images.append(self._transform(Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))))
            capture.release()
            features = [self._network(torch.stack(batch)) for batch in batched(images, PLAIN_BATCH_FRAMES)]
            yield len(torch.cat(features).numpy())
            if time.perf_counter() - started > seconds:
                return


def batched(images: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]


def with_random_weights(name: str, path: Path) -> Backbone:
    """The backbone with random weights, which are left in ``path`` for others to load."""
    declare_missing_ops()
    torch.manual_seed(0)
    network = load_backbone(name, pretrained=False).network
    state_dict = {key.removeprefix("network."): value for key, value in network.state_dict().items()}
    torch.save(state_dict, path)
    return load_backbone(name, path)


def measure_memory(files: Sequence[Path], folder: Path) -> None:
    """Peak memory of whole jobs: all their processes, each page counted once."""
    write_long_video(folder / "1 hour" / "hour.avi", num_frames=90_000)
    for count in (100, 1000):
        for record in repeated(files, count):
            link = folder / f"{count} videos" / f"{record.video_id}{record.path.suffix}"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(record.path.resolve())
    peaks: dict[str, float] = {}
    for name in ("100 videos", "1000 videos", "1 hour"):
        peaks[name] = peak_memory(folder / name, folder / "cache" / name)
        ratio = peaks[name] / peaks["100 videos"]
        print(f"{name:12} {peaks[name]:8.0f} MB   {ratio:.3f} x that of 100 videos", flush=True)


def peak_memory(root: Path, cache: Path) -> float:
    """MB, of the caching job over a folder, readers included (proportional set size, sampled five times a second)."""
    command = [sys.executable, "-m", "pipeline.cache", "--dataset", "unlabelled"]
    command += ["--root", str(root), "--cache", str(cache)]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = 0.0
    while job.poll() is None:
        peak = max(peak, memory_of(job.pid))
        time.sleep(0.2)
    if job.returncode:
        raise SystemExit(f"the job ended with exit code {job.returncode}: {job.communicate()[1]}")
    return peak / 2**20


def memory_of(pid: int) -> float:
    total = 0.0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
    except psutil.Error:
        pass
    return total


def write_long_video(path: Path, num_frames: int) -> None:
    """A moving picture of UCF101's size, 25 frames a second."""
    path.parent.mkdir(parents=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"XVID"), 25, (320, 240))
    picture = cv2.resize(np.random.default_rng(0).integers(256, size=(12, 16, 3), dtype=np.uint8), (320, 240))
    for index in range(num_frames):
        writer.write(np.roll(picture, index, axis=1))
    writer.release()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
