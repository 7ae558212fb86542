"""Measure what a feature store of many videos takes: time and memory of the commands that look at every one of them.

    python -m benchmarks.millions                  # 1,000,000 videos with tiny features: 15 minutes, 4 GB of disk
    python -m benchmarks.millions --videos 50000   # takes a minute

The videos do not exist: their features (4 frames of 64 numbers) are written as imported ones. Each command runs in a
process of its own, first with a tenth of the videos, then with all. Its peak memory is that of the process; memory per
video is the difference of both, so that what Python and its libraries need does not count.

status    ``python -m pipeline.cache status``
lacking   ``python -m pipeline.cache --dataset folder``: read the list of videos, and find that no features are missing
pack      the same list; copy all features into the packed file that training reads
packed    the same list; open that copy
floor     read the list of videos only
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tabulate import tabulate

from data.progress import Progress
from pipeline.features.recipe import Origin, VideoFeatures, imported_recipe
from pipeline.store import entry
from pipeline.store.store import FeatureStore

NAME = "made"
PARTS = 10
CLASSES = 100
ORIGIN = Origin(25.0, 164, 164, 0, "none", "none")
# A process says itself what its peak was. What the system says of a child counts this process's memory, too.
REPORT = """
import atexit, sys
def report(path=sys.argv[1]):
    with open("/proc/self/status") as status, open(path, "w") as file:
        file.write(next(line.split()[1] for line in status if line.startswith("VmHWM")))
atexit.register(report)
"""
COMMAND = (
    REPORT
    + """
import runpy
sys.argv = sys.argv[2:]
runpy.run_module("pipeline.cache", run_name="__main__", alter_sys=True)
"""
)
LIST = (
    REPORT
    + """
from pathlib import Path
from data.catalog import DataConfig, load_dataset
dataset = load_dataset(DataConfig(dataset="folder", root=Path(sys.argv[2]), dataset_name="made"))
"""
)
LOAD = (
    LIST
    + """
from pipeline.cache.job import FeatureCache
from pipeline.settings.config import FeatureConfig
cache = FeatureCache(FeatureConfig(cache=Path(sys.argv[3]), backbone="imported:made"))
packed, _ = cache.load(dataset.store_name, dataset.videos)
assert len(packed.videos) == len(dataset.videos)
"""
)


@dataclass(frozen=True)
class Options:
    videos: int = 1_000_000
    keep: Path | None = None
    """folder in which the stores are made, and used again by the next call (default: a temporary one)"""


@dataclass(frozen=True)
class Cost:
    """What one process takes: seconds, and peak memory in bytes."""

    seconds: float
    memory: int


def measure(code: str, *arguments: object) -> Cost:
    """Run Python code that begins with ``REPORT`` to its end. Raises ``SystemExit`` if it fails."""
    with tempfile.NamedTemporaryFile("r") as peak:
        started = time.perf_counter()
        command = [sys.executable, "-c", code, peak.name, *map(str, arguments)]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            raise SystemExit(f"{' '.join(map(str, arguments))} failed")
        return Cost(time.perf_counter() - started, int(peak.read()) * 1024)


def video_ids(count: int) -> list[str]:
    return [f"class_{number % CLASSES:03d}/video_{number:08d}.avi" for number in range(count)]


def write_files(store: FeatureStore, names: Sequence[str]) -> None:
    """Write the entries as files, without the care (fsync) that a job takes, which would take most of the time."""
    features = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float16)
    indices = np.arange(4, dtype=np.int32)
    folders = set()
    progress = Progress(len(names), "file", what="writing")
    for name in names:
        path = store.path(NAME, name)
        assert isinstance(path, Path)
        if path.parent not in folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.add(path.parent)
        video = VideoFeatures(features, indices, ORIGIN)
        path.write_bytes(entry.encode(video, store.recipe.fingerprint, name, "center"))
        progress.advance()
    progress.close()


def write_list(path: Path, names: Sequence[str]) -> None:
    rows = (f"{name},{name.partition('/')[0]},{number // CLASSES % 25}\n" for number, name in enumerate(names))
    path.write_text("path,label,group\n" + "".join(rows))


def make(folder: Path, count: int) -> None:
    """Make a store of ``count`` videos, and their list. What an earlier call finished is used again."""
    if (folder / "videos.csv").exists():
        return
    names, store = video_ids(count), FeatureStore(folder / "cache", imported_recipe(NAME))
    for part in range(PARTS):
        write_files(store, names[count * part // PARTS : count * (part + 1) // PARTS])
        cost = measure(COMMAND, "cache", "compact", "--cache", folder / "cache")
        print(f"compact, part {part + 1} of {PARTS}: {cost.seconds:.1f} s, {cost.memory / 1e6:.0f} MB", flush=True)
    write_list(folder / "videos.csv", names)  # last


def costs(folder: Path) -> dict[str, Cost]:
    """What the commands cost on a store that ``make`` made, by the name of the command."""
    cache, listed = folder / "cache", folder / "videos.csv"
    for path in cache.glob("*/packed"):
        shutil.rmtree(path)
    dataset = ["--dataset", "folder", "--root", listed, "--dataset-name", NAME]
    return {
        "status": measure(COMMAND, "cache", "status", "--cache", cache),
        "lacking": measure(COMMAND, "cache", *dataset, "--cache", cache, "--backbone", f"imported:{NAME}"),
        "pack": measure(LOAD, listed, cache),
        "packed": measure(LOAD, listed, cache),
        "floor": measure(LIST, listed, cache),
    }


def main(options: Options) -> None:
    few, many = options.videos // PARTS, options.videos
    with tempfile.TemporaryDirectory(prefix="millions-") as temporary:
        folder = options.keep or Path(temporary)
        found = []
        for count in (few, many):
            make(folder / str(count), count)
            found.append(costs(folder / str(count)))
        num_files = sum(len(names) for _, _, names in os.walk(folder / str(many) / "cache"))
    rows = []
    for name, cost in found[1].items():
        fewer = found[0][name]
        per_video = (cost.memory - fewer.memory) / (many - few)
        rows.append([name, fewer.seconds, cost.seconds, fewer.memory / 1e6, cost.memory / 1e6, per_video])
    head = ["", f"{few:,}: s", f"{many:,}: s", "MB", "MB", "bytes per video"]
    print(tabulate(rows, head, tablefmt="github", floatfmt=("", ".1f", ".1f", ".0f", ".0f", ".0f")))
    print(f"\n{num_files} files in the store")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
