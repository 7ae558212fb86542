"""Measure the driver of the caching job on a Ray cluster: how many videos it hands out, and its memory for each.

    python -m benchmarks.driver --videos 1000000

The job is that of ``python -m pipeline.cache --dataset folder --root videos.csv --engine ray``, from the CSV to the
last outcome, on a cluster that is made on this machine. Its workers do nothing: a task reports its videos as extracted,
``--report`` at a time. The videos' names are as long as UCF101's, and lead through links to a few empty files.

    read         reading the CSV
    look up      looking for the videos in the store, which is empty, and for their files
    hand out     cutting batches and receiving reports, from the first tenth of the videos on, when all workers run

Memory is the driver's own, without pages that it shares with other processes, compared with that before it reads the
CSV. Workers and Ray's processes share the cores with the driver, so on few cores they set the videos per second; the
driver's processor time per video is the limit of a driver with a core of its own.
"""

import csv
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil

from data.catalog import DataConfig, load_dataset
from data.command import parse_arguments, run_command
from pipeline.cache.__main__ import chosen_videos
from pipeline.cache.job import FeatureCache, VideoOutcome
from pipeline.cache.relink import locate
from pipeline.cache.shards import Shard
from pipeline.settings.config import FeatureConfig, JobConfig

NUM_FILES = 1000  # in each class
SECONDS_BETWEEN_SAMPLES = 0.05


@dataclass(frozen=True)
class Arguments:
    """How many videos, and how large a cluster."""

    videos: int = 1_000_000
    """names in the CSV"""
    workers: int = 8
    """tasks at a time"""
    report: int = 50
    """videos that a task reports at a time: what a worker extracts in a second"""


@dataclass
class Memory:
    """The peak of this process's own memory in each stage, in bytes, sampled 20 times a second."""

    start: int = 0
    peaks: dict[str, int] = field(default_factory=dict)
    stage: str = ""

    @contextmanager
    def sampled(self) -> Iterator[None]:
        self.start, ended = own_memory(), threading.Event()

        def sample() -> None:
            while not ended.wait(SECONDS_BETWEEN_SAMPLES):
                self.peaks[self.stage] = max(self.peaks.get(self.stage, 0), own_memory() - self.start)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def own_memory() -> int:
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(Arguments, arguments, prog="python -m benchmarks.driver", description=__doc__)
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as folder:
        csv_path = write_dataset(Path(folder) / "videos", options.videos)
        node = {"num_cpus": options.workers, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            measure(csv_path, Path(folder) / "cache", cluster.address, options)
        finally:
            cluster.shutdown()
    return 0


def write_dataset(folder: Path, num_videos: int) -> Path:
    """Write a CSV of videos that exist: the folder of every class is a link to the same empty files."""
    files = folder / "files"
    files.mkdir(parents=True)
    names = [f"v_ApplyEyeMakeup_g{number // 40 + 1:02d}_c{number % 40 + 1:02d}.avi" for number in range(NUM_FILES)]
    for name in names:
        (files / name).touch()
    csv_path = folder / "videos.csv"
    with csv_path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        for start in range(0, num_videos, NUM_FILES):
            label = f"EyeMakeup{start // NUM_FILES:05d}"
            (folder / label).symlink_to(files)
            writer.writerows((f"{label}/{name}", label) for name in names[: num_videos - start])
    return csv_path


def measure(csv_path: Path, cache_folder: Path, address: str, options: Arguments) -> None:
    """Print the time and the driver's memory per video in each stage of one job."""
    from pipeline.cache import cluster

    cache = FeatureCache(FeatureConfig(cache=cache_folder))
    job = JobConfig(engine="ray", ray_address=address)

    def report_batch(*arguments: Any) -> Generator[Any, None, None]:
        from pipeline.cache.cluster import extract_batch  # the worker's own, not this function

        do_nothing(options.report)
        yield from extract_batch(*arguments)

    memory = Memory()
    clock: dict[str, tuple[float, float]] = {}

    def extract(dataset: str, videos: Any) -> Generator[VideoOutcome, None, None]:
        clock["looked up"], memory.stage = times(), "hand out"
        for number, outcome in enumerate(cluster.extract_on_cluster(cache, job, dataset, videos)):
            if number == options.videos // 10:
                clock["running"] = times()
            yield outcome
        clock["handed out"] = times()

    module: Any = cluster
    module.extract_batch = report_batch
    with memory.sampled():
        clock["start"], memory.stage = times(), "read"
        dataset = load_dataset(DataConfig("folder", csv_path))
        videos = chosen_videos(dataset, "all", Shard())
        folder = locate(cache.store, dataset)
        clock["read"], memory.stage = times(), "look up"
        summary = cache.fill(folder, videos, extract)
    assert summary.num_extracted == options.videos, summary
    print(f"{options.videos:,} videos, {options.workers} workers, {options.report} per report, {os.cpu_count()} cores")
    print(f"{'':10}{'videos/s':>10}{'us of CPU per video':>22}{'kB at most per video':>22}")
    handed_out = options.videos - options.videos // 10
    for stage, start, end, count in (
        ("read", "start", "read", options.videos),
        ("look up", "read", "looked up", options.videos),
        ("hand out", "running", "handed out", handed_out),
    ):
        wall, cpu = (after - before for before, after in zip(clock[start], clock[end], strict=True))
        per_video = memory.peaks[stage] / options.videos / 1000
        print(f"{stage:10}{count / wall:10,.0f}{1e6 * cpu / count:22.1f}{per_video:22.3f}", flush=True)


def times() -> tuple[float, float]:
    """Wall-clock time and this process's processor time, in seconds."""
    return time.perf_counter(), time.process_time()


def do_nothing(videos_per_second: int) -> None:
    """Make the tasks of this process do nothing, by a clock in which that takes a second for so many videos."""
    from pipeline.cache import cluster

    def extract(dataset: str, videos: Sequence[Any]) -> Iterator[VideoOutcome]:
        for video in videos:
            yield VideoOutcome(video, num_frames=25)

    ticks = itertools.count()
    worker: Any = cluster
    worker._open_cache = lambda *_: SimpleNamespace(extract=extract)
    worker.time = SimpleNamespace(monotonic=lambda: next(ticks) / videos_per_second)


if __name__ == "__main__":
    run_command(main)
