"""Measure how long scoring many runs takes on the CPU, compared with the matrix products that it can't avoid.

    python -m benchmarks.evaluation                         # 10 runs x 3,783 videos x 10 clips, UCF101's first split
    python -m benchmarks.evaluation --runs 2 --videos 500   # takes less time

One process measures these in turn, round after round:

floor   only the products, with preallocated operands and results: each model projects every stored frame once, does
        ``clip_frames - 1`` steps of [clips, H] x [H, H] (before the first step the state is zero), and the read-out.
        In float32, on all cores, with the block size that is fastest on this machine.
job     ``pipeline.evaluation.scoring.predict`` and ``pipeline.evaluation.metrics.metrics`` for each run: from stored
        float16 features to metrics with intervals. Reports are not included: they take the same time for any network.
orders  the job as ``evaluate.py`` does it: the clips also with their frames reversed and shuffled, and the intervals of
        the drops in accuracy. Its last column is the time relative to that of the job.
plain   the same scores from ``model(clips)``, one clip at a time, for one run: the cost without shared frames.

The features are random numbers, which does not affect the time. The ratios, medians over the rounds, are the result.
LSTM and GRU always read each clip separately (``plain``), because PyTorch's layers don't accept projected frames.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from tabulate import tabulate

from data.records import VideoRecord
from models.classifier import SequenceClassifier
from models.cnn.preprocessing import CENTER
from models.config import ModelConfig
from pipeline.evaluation.comparison import order_drops
from pipeline.evaluation.metrics import metrics
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.scoring import CPU_CLIPS, ORDERS, predict
from pipeline.features.recipe import Origin
from pipeline.store.packed import PackedFeatures
from pipeline.store.packed_videos import PackedVideo
from pipeline.training.batches import FeatureTable, evaluation_blocks
from pipeline.training.clips import ClipSampling

FLOOR_CLIPS = (64, 128, 256, 512, 1024)  # clips per block: the fastest is the floor
ORIGIN = Origin(25.0, 250, 250, 1, "none", "none")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """The amount of work."""

    runs: int = 10
    videos: int = 3783
    clips: int = 10
    """clips of each video"""
    clip_frames: int = 16
    """frames of each clip; the clips of a video overlap"""
    frames: int = 25
    """stored frames of each video"""
    features: int = 1280
    """features of each frame"""
    hidden: int = 512
    classes: int = 101

    @property
    def sampling(self) -> ClipSampling:
        return ClipSampling(frames=self.clip_frames, per_video=self.clips)

    @property
    def read_width(self) -> int:
        """Inputs of the linear layer per clip: the last state and the mean state, as in the default read-out."""
        return 2 * self.hidden

    @property
    def clips_of_a_video(self) -> int:
        """Clips per video: fewer than ``clips`` where the video is too short."""
        return len(self.sampling.all(self.frames))

    def gigaflops(self) -> float:
        """Floating-point operations of one run's floor, in units of 1e9."""
        projected = self.frames * self.features * self.hidden
        stepped = self.clips_of_a_video * (self.clip_frames - 1) * self.hidden**2
        read = self.clips_of_a_video * self.read_width * self.classes
        return 2e-9 * self.videos * (projected + stepped + read)


def main(size: tyro.conf.OmitArgPrefixes[Size], rounds: int = 3, threads: int | None = None) -> None:
    """Print a table.

    Args:
        size: the amount of work.
        rounds: how often each measurement is repeated.
        threads: number of PyTorch threads (default: PyTorch's choice).
    """
    if threads is not None:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # as evaluate.py does
    torch.manual_seed(0)
    models = [make_model(size) for _ in range(size.runs)]
    names = tuple(f"class{number}" for number in range(size.classes))
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        table = FeatureTable(*make_features(Path(folder) / "features.npy", size))
        floor = fastest_floor(size)
        difference = largest_difference(models[0], table, size)
        times: dict[str, list[float]] = {"floor": [], "job": [], "orders": [], "plain": []}
        for _ in range(rounds):
            floors, jobs, orders = [], [], []
            for model in models:  # alternately, so that noise affects both alike
                floors.append(seconds(floor))
                jobs.append(seconds(partial(score_run, model, table, size, names)))
                orders.append(seconds(partial(score_orders, model, table, size, names)))
            times["floor"].append(sum(floors))
            times["job"].append(sum(jobs))
            times["orders"].append(sum(orders))
            times["plain"].append(size.runs * seconds(lambda: plain_scores(models[0], table, size)))
    show(size, times, difference)


def score_run(model: SequenceClassifier, table: FeatureTable, size: Size, classes: tuple[str, ...]) -> None:
    metrics(predict(model, table, size.sampling, classes, CPU)["forward"])


def score_orders(model: SequenceClassifier, table: FeatureTable, size: Size, classes: tuple[str, ...]) -> None:
    orders = predict(model, table, size.sampling, classes, CPU, orders=ORDERS)
    forward = orders.pop("forward")
    metrics(forward)
    order_drops(forward, orders)


def make_model(size: Size) -> SequenceClassifier:
    config = ModelConfig(hidden_size=size.hidden, input_scale="sqrt_hidden")
    model = SequenceClassifier(config, size.features, size.classes)
    assert model.classifier.in_features == size.read_width
    model.set_feature_statistics(torch.randn(size.features), torch.rand(size.features) + 0.5)
    return model.eval()


def make_features(path: Path, size: Size) -> tuple[list[VideoRecord], PackedFeatures]:
    """Videos with random features, memory-mapped from a file in the same way as ``pipeline.store.packed`` maps them."""
    rows = size.videos * size.frames
    written = np.lib.format.open_memmap(path, "w+", "<f2", (rows, size.features))
    rng = np.random.default_rng(0)
    for start in range(0, rows, 4096):
        written[start : start + 4096] = rng.standard_normal((min(4096, rows - start), size.features), np.float32)
    written.flush()
    mapped = np.load(path, mmap_mode="c")
    records = [VideoRecord(f"v{number}", Path("none"), number % size.classes, "") for number in range(size.videos)]
    videos = {
        record.video_id: PackedVideo(number * size.frames, size.frames, ORIGIN) for number, record in enumerate(records)
    }
    frame_indices = np.tile(np.arange(size.frames, dtype=np.int32), size.videos)
    return records, PackedFeatures(mapped, frame_indices, (CENTER,), videos)


def fastest_floor(size: Size) -> Callable[[], None]:
    candidates = [bare_products(size, clips) for clips in FLOOR_CLIPS]
    for products in candidates:
        products()
    return min(candidates, key=lambda products: min(seconds(products) for _ in range(2)))


def bare_products(size: Size, max_clips: int) -> Callable[[], None]:
    """A function that computes all products of scoring one run, in blocks of at most ``max_clips`` clips."""
    per_block = max(1, max_clips // size.clips_of_a_video)
    num_frames, num_clips = per_block * size.frames, per_block * size.clips_of_a_video
    frames, states = torch.randn(num_frames, size.features), torch.randn(num_clips, size.hidden)
    weight_ih, weight_hh = torch.randn(size.hidden, size.features), torch.randn(size.hidden, size.hidden)
    read, weight_out = torch.randn(num_clips, size.read_width), torch.randn(size.classes, size.read_width)
    projected, stepped = torch.empty(num_frames, size.hidden), torch.empty_like(states)
    scores = torch.empty(num_clips, size.classes)

    def products() -> None:
        for start in range(0, size.videos, per_block):
            videos = min(per_block, size.videos - start)
            some_frames, some_clips = videos * size.frames, videos * size.clips_of_a_video
            torch.mm(frames[:some_frames], weight_ih.t(), out=projected[:some_frames])
            for _ in range(size.clip_frames - 1):
                torch.mm(states[:some_clips], weight_hh.t(), out=stepped[:some_clips])
            torch.mm(read[:some_clips], weight_out.t(), out=scores[:some_clips])

    return products


def plain_scores(model: SequenceClassifier, table: FeatureTable, size: Size) -> Predictions:
    """Predictions from separate clips, as in training."""
    probabilities, videos = [], []
    for block in evaluation_blocks(table, size.sampling, CPU_CLIPS):
        scores = model(block.features[block.frames[block.rows]].float())
        probabilities.append(scores.double().softmax(1).numpy())
        videos.append(block.videos.numpy())
    return Predictions(
        tuple(f"class{number}" for number in range(size.classes)),
        tuple(record.video_id for record in table.records),
        table.labels.numpy(),
        np.concatenate(probabilities),
        np.concatenate(videos),
    )


def largest_difference(model: SequenceClassifier, table: FeatureTable, size: Size) -> float:
    """The largest absolute difference between the video probabilities of ``job`` and ``plain``."""
    plain = plain_scores(model, table, size)
    shared = predict(model, table, size.sampling, plain.classes, CPU)["forward"]
    return float(np.abs(shared.video_probabilities - plain.video_probabilities).max())


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def show(size: Size, times: dict[str, list[float]], difference: float) -> None:
    print(
        f"{size.runs} runs x {size.videos} videos x {size.clips_of_a_video} clips of {size.clip_frames} frames, "
        f"{size.frames} x {size.features} stored features, H = {size.hidden}, {torch.get_num_threads()} threads, "
        f"{len(times['job'])} rounds\n"
        f"The floor is {size.runs * size.gigaflops():,.0f} GFLOP: one projection of each stored frame per run, "
        f"{size.clip_frames - 1} recurrent steps per clip, and the read-out.\n"
        f"Largest difference between probabilities of job and plain: {difference:.1e}\n"
    )
    lines = []
    for name, measured in times.items():
        middle = statistics.median(measured)
        ratios = [f"{median_ratio(measured, times[other]):.2f}" for other in ("floor", "job")]
        lines.append([name, f"{middle:.2f}", f"{size.runs * size.videos / middle:,.0f}", *ratios])
    print(tabulate(lines, ["", "s", "videos/s", "/ floor", "/ job"], "github", disable_numparse=True))


def median_ratio(times: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, other, strict=True))


if __name__ == "__main__":
    tyro.cli(main)
