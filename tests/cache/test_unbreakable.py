"""The caching job under kill -9, concurrent jobs and bad disks: the store stays correct, and no work is lost.

pytest tests/cache/test_unbreakable.py -m slow -s            # killed 100 times
KILLS=1000 KILL_SEED=7 pytest tests/cache/test_unbreakable.py -m slow -s
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.catalog import DataConfig, load_dataset
from data.command import run_command
from data.records import VideoRecord
from pipeline.cache.__main__ import main
from pipeline.cache.job import FeatureCache
from pipeline.features.recipe import FeatureRecipe
from pipeline.settings.config import FeatureConfig
from pipeline.store.store import DamagedEntry, FeatureStore, read_failures
from tests.cache.test_job import Job, features_of, session_is_empty, two_classes
from tests.helpers import REPOSITORY
from tests.helpers.clips import make_clip
from tests.helpers.processes import reader_processes

NUM_VIDEOS = 120
SECONDS_TO_START = 8.0  # imports, the backbone, the first reader: on a busy machine of two cores
SECONDS_FOR_READERS_TO_END = 10.0


def assert_all_intact(cache: Path) -> int:
    """Check that every entry in the store is intact; returns their number."""
    num_entries = 0
    for description in cache.glob("*/recipe.json"):
        store = FeatureStore(cache, FeatureRecipe.from_json(description.read_text()))
        for path in store.folder.rglob("*.safetensors"):
            dataset, _, video_id = path.relative_to(store.folder).with_suffix("").as_posix().partition("/")
            assert store.read(dataset, video_id) is not None
            num_entries += 1
    return num_entries


def abandoned(cache: Path) -> set[Path]:
    """All files that do not belong to a store."""
    kept = {".safetensors", ".onnx", ".json", ".jsonl", ".npy", ".table"}
    return {path for path in cache.rglob("*") if path.is_file() and path.suffix not in kept}


class Killing:
    """A job that is killed and restarted."""

    def __init__(self, job: Job, seed: int) -> None:
        self.job = job
        self.rng = np.random.default_rng(seed)
        self.num_new: list[int] = []

    def kill_once(self, moment: str) -> None:
        """Run the job until ``moment``, kill it, and check what it leaves."""
        self._make_work()
        kept = {path: path.stat().st_mtime_ns for path in self.job.entries()}
        leftovers = abandoned(self.job.cache)
        process = subprocess.Popen(
            self.job.command,
            cwd=REPOSITORY,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            self._wait_for(moment, process, num_kept=len(kept))
            if moment == "at work, a reader first":
                for reader in reader_processes(process.pid)[:1]:
                    reader.kill()
                time.sleep(self.rng.uniform(0, 0.5))
        finally:
            process.kill()  # the parent only, not its readers
            process.wait()
        deadline = time.monotonic() + SECONDS_FOR_READERS_TO_END
        while not session_is_empty(process.pid):
            assert time.monotonic() < deadline, "readers are left running"
            time.sleep(0.02)
        found = {path: path.stat().st_mtime_ns for path in self.job.entries()}
        assert kept.items() <= found.items(), "finished work was lost or repeated"
        assert assert_all_intact(self.job.cache) == len(found)
        self.num_new.append(len(found) - len(kept))
        if self.num_new[-1]:
            assert not leftovers & abandoned(self.job.cache), "the next run did not remove temporary files"

    def _make_work(self) -> None:
        entries = self.job.entries()
        if len(entries) > NUM_VIDEOS // 2:
            for number in self.rng.permutation(len(entries))[: NUM_VIDEOS // 2]:
                entries[number].unlink()

    def _wait_for(self, moment: str, process: "subprocess.Popen[bytes]", num_kept: int) -> None:
        num_lacking = NUM_VIDEOS - num_kept
        if moment == "starting up":
            num_entries, seconds = 0, self.rng.uniform(0, SECONDS_TO_START)
        elif moment == "at the end":
            num_entries, seconds = NUM_VIDEOS, self.rng.uniform(0, 1)
        else:
            num_entries, seconds = num_kept + int(self.rng.integers(1, num_lacking)), self.rng.uniform(0, 0.1)
        while len(self.job.entries()) < num_entries and process.poll() is None:
            time.sleep(0.002)
        assert process.poll() in (None, 0), f"the job ended early with exit code {process.returncode}"
        time.sleep(seconds)


def kill_again_and_again(job: Job, num_kills: int, seed: int) -> list[int]:
    """Number of entries that each killed run stored. Afterwards the job is run to its end."""
    moments = ["at work, a reader first", "starting up", "at work", "at the end"]
    killing = Killing(job, seed)
    for number in range(num_kills):
        killing.kill_once(moments[number % len(moments)])
    done = job.run()
    assert done.returncode == 0, done.stderr
    assert assert_all_intact(job.cache) == len(job.entries()) == NUM_VIDEOS
    assert not abandoned(job.cache)
    return killing.num_new


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_killed_a_hundred_times(
    tmp_path: Path, tiny_backbone: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 after losing a reader, at start-up, at work and at the end, with an exported network in the cache: all
    entries stay intact, and the job resumes."""
    num_kills = int(os.environ.get("KILLS", "100"))
    two_classes(tmp_path / "videos", NUM_VIDEOS)
    job = Job(tmp_path / "videos", tiny_backbone, "--runtime", "onnx")
    num_new = kill_again_and_again(job, num_kills, seed=int(os.environ.get("KILL_SEED", "1")))
    with capsys.disabled():
        print(f"\nkilled {num_kills} times, {sum(map(bool, num_new))} times at work: {sum(num_new)} entries, all kept")
    assert sum(map(bool, num_new)) >= num_kills // 3


@pytest.mark.parametrize("num_jobs", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_jobs_share_a_store_and_its_work(tmp_path: Path, tiny_backbone: tuple[str, Path], num_jobs: int) -> None:
    """Concurrent jobs on one store all succeed, corrupt nothing, and repeat little of each other's work."""
    two_classes(tmp_path / "videos", NUM_VIDEOS)
    job = Job(tmp_path / "videos", tiny_backbone, "--workers", "1")
    processes = [
        subprocess.Popen(job.command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(num_jobs)
    ]
    num_extracted = 0
    for process in processes:
        output, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        num_extracted += json.loads(output)["num_extracted"]
    assert assert_all_intact(job.cache) == NUM_VIDEOS
    assert not abandoned(job.cache)
    # A job looks a video up a few videos before its turn; what another job stores after that is made twice.
    assert NUM_VIDEOS <= num_extracted <= NUM_VIDEOS + 48 * (num_jobs - 1)


Command = Callable[..., int]


@pytest.fixture
def cache_videos(tmp_path: Path, tiny_backbone: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command on four videos in this process, with a cache folder; returns its exit code."""
    two_classes(tmp_path / "videos", 4)

    def run(cache: Path) -> int:
        command = Job(tmp_path / "videos", tiny_backbone, "--workers", "1", "--cache", str(cache)).command
        monkeypatch.setattr(sys, "argv", command[2:])
        return run_command(main)

    return run


def test_store_on_another_file_system(cache_videos: Command, tmp_path: Path) -> None:
    """The store may be on another file system, because nothing is renamed across devices."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        assert cache_videos(Path(folder) / "cache") == 0
        assert assert_all_intact(Path(folder) / "cache") == 4


def test_store_behind_a_symbolic_link(cache_videos: Command, tmp_path: Path) -> None:
    """A cache folder that is a symbolic link is filled at its target, and the link is kept."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert cache_videos(tmp_path / "link") == 0
    assert assert_all_intact(tmp_path / "disk") == 4
    assert (tmp_path / "link").is_symlink()


def a_file(path: Path) -> None:
    path.write_text("mine")


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("unmounted"))


@pytest.mark.parametrize("make", [a_file, a_link_to_nowhere])
def test_cache_that_cannot_be_a_folder_is_an_error(
    cache_videos: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None]
) -> None:
    """A file or a dangling link as --cache gives exit code 2 and one clear line, and is not changed."""
    make(tmp_path / "store")
    assert cache_videos(tmp_path / "store") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and str(tmp_path / "store") in error
    assert (tmp_path / "store").is_symlink() or (tmp_path / "store").read_text() == "mine"


def test_read_only_store_is_an_error(cache_videos: Command, tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """A job on a read-only store ends with code 2 and advice; existing entries are kept."""
    job = Job(tmp_path / "videos", tiny_backbone)
    assert cache_videos(job.cache) == 0
    lost, *kept = job.entries()
    lost.unlink()
    folders = [job.cache, *(path for path in job.cache.rglob("*") if path.is_dir())]

    def obey_permissions() -> None:
        ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE: applies permissions to root

    for folder in folders:
        folder.chmod(0o555)
    try:
        done = job.run(preexec_fn=obey_permissions)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: the feature store can't be written" in done.stderr and "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(job.entries()) == sorted(kept) and assert_all_intact(job.cache) == 3


def test_disk_full_while_a_failure_is_noted(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """If ``errors.jsonl`` itself reaches the limit: code 2, a clear error, and later lines are readable."""
    root = tmp_path / "videos"
    two_classes(root, 4)
    (root / "run" / "bad.avi").write_text("no video")
    job = Job(root, tiny_backbone)
    name, weights = tiny_backbone
    store = FeatureCache(FeatureConfig(backbone=name, weights=weights, cache=job.cache)).store
    dataset = load_dataset(DataConfig("folder", root=root)).store_name
    for _ in range(100):  # far more than an entry takes
        store.note_failure(dataset, "old.avi", root / "old.avi", "long ago")
    log = store.errors_path(dataset)
    limit = log.stat().st_size + 40  # in the middle of a line

    done = job.run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "the feature store can't be written" in done.stderr and "errors.jsonl" in done.stderr
    assert "Traceback" not in done.stderr
    assert_all_intact(job.cache)
    store.note_failure(dataset, "bad.avi", root / "bad.avi", "no video")
    assert [failure.video_id for failure in read_failures(log)] == ["old.avi"] * 100 + ["bad.avi"]


def one_bit(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    damaged[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def cut_off(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def end_zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    """The effect of a power cut on a file whose length was written before its blocks."""
    start = rng.integers(len(content) - 100)
    return content[:start] + bytes(len(content) - start)


def longer(content: bytes, rng: np.random.Generator) -> bytes:
    return content + rng.bytes(100)


def test_widely_damaged_store_is_repaired(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """With 30 of 40 entries damaged in four ways, exactly those are recomputed, with the same features."""
    name, weights = tiny_backbone
    records = [
        VideoRecord(f"{number}.avi", make_clip(tmp_path / f"{number}.avi", 8, number), 0, "g") for number in range(40)
    ]

    def open_it() -> FeatureCache:
        config = FeatureConfig(backbone=name, weights=weights, cache=tmp_path / "cache", runtime="torch", workers=1)
        return FeatureCache(config)

    cache = open_it()
    before, _ = cache.load("set", records)
    rng = np.random.default_rng(0)
    damages = [one_bit, cut_off, end_zeroed, longer]
    num_damaged = 0
    for number in rng.permutation(len(records))[:30]:
        path = cache.store.path("set", records[number].video_id)
        path.write_bytes(damages[number % len(damages)](path.read_bytes(), rng))
        try:
            cache.store.read("set", records[number].video_id)
        except DamagedEntry:
            num_damaged += 1
    assert num_damaged >= 28, "all damage but a bit of white space must be detected"
    after, summary = open_it().load("set", records)
    assert (summary.num_extracted, summary.num_failed) == (num_damaged, 0)
    for ours, theirs in zip(features_of(before, records), features_of(after, records), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-3)
    np.testing.assert_array_equal(before.frame_indices, after.frame_indices)
    assert open_it().load("set", records)[1].num_extracted == 0
