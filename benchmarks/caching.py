"""Measure the caching job against the limits of the machine.

    python -m benchmarks.caching                                   # the demo's videos, the default backbone
    python -m benchmarks.caching --root VIDEOS --backbone resnet18 # your own videos
    python -m benchmarks.caching --memory                          # peak memory: 100 and 1,000 videos, a 1-hour video

Each round measures the following in turn, on the same files, in frames per second:

    bare decode  the decoder in one process, without resizing
    a            decoding alone: the job's reader processes on all cores, frames resized and cropped for the network
    b            the CNN alone, on frames in memory
    job          what python -m pipeline.cache does, from the first video to the last stored entry
    plain        the usual simple loop: OpenCV, torchvision's transforms frame by frame, PyTorch in batches of 32

Decoding and the CNN share the cores, so the job cannot be faster than limit = 1 / (1/a + 1/b). The rates depend on the
machine: compare the ratios, which are medians over the rounds.
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
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import psutil
import torch
from PIL import Image

from data.catalog import DataConfig, load_dataset
from data.command import parse_arguments, run_command
from data.listing import VIDEO_EXTENSIONS
from data.records import DatasetError, VideoRecord
from data.video import read_frames
from models.backbones import Backbone, load_backbone
from models.cnn.torchvision_ops import declare_missing_ops
from pipeline.cache.job import FeatureCache
from pipeline.features.encoders import Encoder, make_encoder
from pipeline.features.readers import Frames, read_videos
from pipeline.features.sampling import FrameSampling
from pipeline.settings.config import FeatureConfig
from pipeline.settings.device import choose_device

PLAIN_BATCH_FRAMES = 32


@dataclass(frozen=True)
class Arguments:
    """What to measure, on which videos."""

    backbone: str = "efficientnet_lite0"
    """as for train.py; its weights are random, which does not change the time"""
    root: Path | None = None
    """folder to search for videos; by default the demo, which is rendered if it is missing"""
    videos: int = 60
    """videos per round; the files are repeated if there are fewer"""
    rounds: int = 3
    """how often everything is measured"""
    seconds: float = 20.0
    """time limit of the CNN alone and of the plain loop, in each round"""
    memory: bool = False
    """measure peak memory instead"""
    sampling: str = "uniform:25"
    """frames of each video"""


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(Arguments, arguments, prog="python -m benchmarks.caching", description=__doc__)
    files = find_videos(options.root) if options.root else [v.path for v in load_dataset(DataConfig("demo")).videos]
    with tempfile.TemporaryDirectory() as folder:
        if options.memory:
            measure_memory(files, Path(folder))
        else:
            measure_speed(make_records(files, options.videos), options, Path(folder))
    return 0


def find_videos(root: Path) -> list[Path]:
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_EXTENSIONS)
    if not found:
        raise DatasetError(f"{root} contains no video. Name another folder with --root.")
    return found


def make_records(files: Sequence[Path], count: int) -> list[VideoRecord]:
    """``count`` records with distinct names, spread evenly over the files; files are repeated if there are fewer."""
    step = max(1, len(files) // count)
    chosen = itertools.islice(itertools.cycle(files[::step]), count)
    return [VideoRecord(f"{number}", path, 0, "") for number, path in enumerate(chosen)]


def measure_speed(records: Sequence[VideoRecord], options: Arguments, folder: Path) -> None:
    """Print the rates of every round and the median ratios."""
    name, sampling = options.backbone, FrameSampling.parse(options.sampling)
    weights = folder / "random.pt"
    backbone = with_random_weights(name, weights)
    encoder = make_encoder(backbone, choose_device("auto"), "auto", folder / "onnx")
    plain = PlainLoop(backbone)
    paths = [record.path for record in records]
    rates: dict[str, list[float]] = {"bare decode": [], "a": [], "b": [], "job": [], "plain": []}
    bytes_per_video = 0.0
    print(f"{name}, {sampling}, {len(records)} videos, {os.cpu_count()} cores, {encoder.runtime}; frames/s", flush=True)
    print(f"{'':8}" + "".join(f"{key:>13}" for key in rates), flush=True)
    for number in range(options.rounds):
        path = folder / f"cache-{number}"
        cache = FeatureCache(FeatureConfig(backbone=name, weights=weights, cache=path, sampling=str(sampling)))
        shutil.copytree(folder / "onnx", path / "onnx", dirs_exist_ok=True)
        rates["bare decode"].append(rate_of(decode_alone(paths[:20], sampling)))
        rates["a"].append(rate_of(read_alone(paths, backbone, sampling)))
        rates["b"].append(encode_alone(encoder, backbone.preprocessing.crop, options.seconds))
        started = time.perf_counter()
        summary = cache.fill("benchmark", records)
        rates["job"].append(summary.num_frames / (time.perf_counter() - started))
        if summary.num_failed:
            raise SystemExit(f"{summary.num_failed} videos failed; see {cache.store.errors_path('benchmark')}")
        rates["plain"].append(rate_of(plain.features(paths, sampling, options.seconds)))
        entries = [entry.stat().st_size for entry in path.rglob("*.safetensors")]
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
    """Frames per second of an iterator that does the work and yields the number of frames after each step."""
    started = time.perf_counter()
    return sum(batches) / (time.perf_counter() - started)


def decode_alone(paths: Sequence[Path], sampling: FrameSampling) -> Iterator[int]:
    """Decode in this process, without resizing."""
    for path in paths:
        yield sum(1 for _ in read_frames(path, sampling.indices))


def read_alone(paths: Sequence[Path], backbone: Backbone, sampling: FrameSampling) -> Iterator[int]:
    """Decode, resize and crop as the caching job does, on all cores."""
    workers = os.cpu_count() or 1
    with closing(read_videos(paths, sampling, backbone.preprocessing, workers=workers, timeout=60)) as events:
        for event in events:
            yield len(event.indices) if isinstance(event, Frames) else 0


def encode_alone(encoder: Encoder, crop: int, seconds: float) -> float:
    """Frames per second of the CNN on random frames in memory."""
    frames = np.random.default_rng(0).integers(256, size=(encoder.batch_frames, crop, crop, 3), dtype=np.uint8)
    encoder.encode(frames)

    def batches() -> Iterator[int]:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            yield len(encoder.encode(frames))

    return rate_of(batches())


class PlainLoop:
    """The usual simple feature extraction, with the same backbone, frames and features as the job."""

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
        """Yield the number of frames of each video, until ``seconds`` have passed."""
        started = time.perf_counter()
        for path in paths:
            capture = cv2.VideoCapture(str(path))
            num_frames, fps = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture.get(cv2.CAP_PROP_FPS)
            wanted = set(sampling.indices(num_frames, fps).tolist())
            images = []
            for index in itertools.count():
                ok, frame = capture.read()
                if not ok:
                    break
                if index in wanted:
                    images.append(self._transform(Image.fromarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))))
            capture.release()
            starts = range(0, len(images), PLAIN_BATCH_FRAMES)
            features = [self._network(torch.stack(images[start : start + PLAIN_BATCH_FRAMES])) for start in starts]
            yield len(torch.cat(features).numpy())
            if time.perf_counter() - started > seconds:
                return


def with_random_weights(name: str, path: Path) -> Backbone:
    """The backbone with random weights, which are also saved to ``path`` so that the job can load them."""
    declare_missing_ops()
    torch.manual_seed(0)
    network = load_backbone(name, pretrained=False).network
    state_dict = {key.removeprefix("network."): value for key, value in network.state_dict().items()}
    torch.save(state_dict, path)
    return load_backbone(name, path)


def measure_memory(files: Sequence[Path], folder: Path) -> None:
    """Print the peak memory of whole caching jobs over 100 and 1,000 videos and over one video of an hour."""
    write_long_video(folder / "1 hour" / "hour.avi", num_frames=90_000)
    for count in (100, 1000):
        for record in make_records(files, count):
            link = folder / f"{count} videos" / f"{record.video_id}{record.path.suffix}"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(record.path.resolve())
    peaks: dict[str, float] = {}
    for name in ("100 videos", "1000 videos", "1 hour"):
        peaks[name] = peak_memory(folder / name, folder / "cache" / name)
        ratio = peaks[name] / peaks["100 videos"]
        print(f"{name:12} {peaks[name]:8.0f} MB   {ratio:.3f} x that of 100 videos", flush=True)


def peak_memory(root: Path, cache: Path) -> float:
    """Peak memory of the caching job over the videos in ``root`` and of its readers, in MB.

    Adds up the proportional set size of all processes, which counts each shared page once, five times a second.
    """
    command = [sys.executable, "-m", "pipeline.cache", "--dataset", "unlabelled"]
    command += ["--root", str(root), "--cache", str(cache)]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = 0.0
    while job.poll() is None:
        peak = max(peak, memory_of(job.pid))
        time.sleep(0.2)
    if job.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {job.returncode}: {job.communicate()[1]}")
    return peak / 2**20


def memory_of(pid: int) -> float:
    """Proportional set size of a process and its descendants, in bytes; processes that have ended count 0."""
    total = 0.0
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total


def write_long_video(path: Path, num_frames: int) -> None:
    """Write a video in UCF101's resolution, at 25 frames per second."""
    path.parent.mkdir(parents=True)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"XVID"), 25, (320, 240))
    picture = cv2.resize(np.random.default_rng(0).integers(256, size=(12, 16, 3), dtype=np.uint8), (320, 240))
    for index in range(num_frames):
        writer.write(np.roll(picture, index, axis=1))
    writer.release()


if __name__ == "__main__":
    sys.exit(run_command(main))
