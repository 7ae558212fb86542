"""The caching job on a Ray cluster: lost nodes lose no work, and a cluster that can't do the job gives clear errors."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.records import VideoRecord
from pipeline.cache.__main__ import main
from pipeline.cache.job import FeatureCache
from pipeline.settings.config import ConfigError, FeatureConfig, JobConfig
from pipeline.store.store import StoreError
from tests.cache.test_job import Job, two_classes
from tests.cache.test_unbreakable import assert_all_intact
from tests.helpers.synthetic import make_record

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
pytest.importorskip("ray", reason="the extra [cluster] is not installed")

from ray.cluster_utils import Cluster  # noqa: E402

from pipeline.cache import cluster as cluster_module  # noqa: E402
from pipeline.cache.cluster import (  # noqa: E402
    Backlog,
    ClusterError,
    Report,
    SharedFiles,
    extract_batch,
    extract_on_cluster,
    num_workers_with_room,
    worker_features,
)

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
NUM_VIDEOS = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head node without CPUs, and two nodes of one CPU each."""
    head = {"num_cpus": 0, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    running = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            running.add_node(**NODE)
        yield running
    finally:
        running.shutdown()


@pytest.fixture
def job(tmp_path: Path, tiny_backbone: tuple[str, Path], cluster: Cluster) -> Job:
    """The command on a folder of clips that the test has yet to make."""
    flags = ["--sampling", "every:1", "--engine", "ray", "--ray-address", cluster.address]
    return Job(tmp_path / "videos", tiny_backbone, *flags)


class Running:
    """A running command, whose standard error can be read."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._stderr = folder / "stderr"
        with self._stderr.open("w") as stderr:
            self.process = subprocess.Popen(job.command, stdout=subprocess.PIPE, stderr=stderr, text=True)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def errors(self) -> str:
        return self._stderr.read_text()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 200
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, self.errors
            time.sleep(0.05)

    def finish(self) -> str:
        """Wait for its end; returns its standard output."""
        return self.process.communicate(timeout=120)[0]


@pytest.mark.slow
def test_a_node_is_lost(job: Job, cluster: Cluster, tmp_path: Path) -> None:
    """One of two nodes dies in the middle of the job: every video is stored once and intact in the end."""
    two_classes(tmp_path / "videos", NUM_VIDEOS, num_frames=100)  # else they are done before the node is gone
    with Running(job, tmp_path) as running:
        running.wait_until(lambda: "workers: 2" in running.errors and len(job.entries()) >= 4)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        assert len(job.entries()) < NUM_VIDEOS, "the job ended before the node was lost: the test shows nothing"
        summary = json.loads(running.finish())
        assert running.process.returncode == 0, running.errors
    cluster.add_node(**NODE)
    assert "is lost, its" in running.errors and "Traceback" not in running.errors
    assert assert_all_intact(job.cache) == len(job.entries()) == NUM_VIDEOS
    assert (summary["num_failed"], summary["num_extracted"] + summary["num_made_elsewhere"]) == (0, NUM_VIDEOS)


def test_a_bad_video_is_named(job: Job, tmp_path: Path) -> None:
    """A bad video affects no other video: exit code 1, a line in errors.jsonl, a summary on standard output."""
    two_classes(tmp_path / "videos", 4)
    (tmp_path / "videos" / "run" / "bad.avi").write_text("no video")
    done = job.run()
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["num_extracted"], summary["num_failed"]) == (4, 1)
    (log,) = job.cache.rglob("errors.jsonl")
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["video_id"] == "run/bad.avi" and "is not a video" in line["reason"]
    assert assert_all_intact(job.cache) == 4


@pytest.mark.slow
def test_interrupted(job: Job, tmp_path: Path) -> None:
    """Ctrl-C ends the command and its workers, with exit code 130; the same command then resumes the job."""
    two_classes(tmp_path / "videos", NUM_VIDEOS, num_frames=60)
    with Running(job, tmp_path) as running:
        running.wait_until(lambda: bool(job.entries()))
        running.process.send_signal(signal.SIGINT)
        running.finish()
    assert running.process.returncode == 130, running.errors
    assert "interrupted" in running.errors and "Traceback" not in running.errors
    time.sleep(1)
    kept = len(job.entries())
    time.sleep(2)
    assert len(job.entries()) == kept < NUM_VIDEOS, "the workers are still running"
    summary = json.loads(job.run().stdout)
    assert (summary["num_cached_before"], summary["num_extracted"]) == (kept, NUM_VIDEOS - kept)
    assert assert_all_intact(job.cache) == NUM_VIDEOS


def extract_or_die(
    features: FeatureConfig, dataset: str, shared_files: SharedFiles, videos: tuple[tuple[str, str], ...]
) -> Iterator[str | tuple[Report, ...]]:
    """Stands in for ``extract_batch``: extracts nothing, and kills its process on a video called ``poison``."""
    yield "host"
    for video_id, path in videos:
        assert os.path.isabs(path)
        if video_id == "poison":
            os._exit(1)
        yield ((video_id, (1, None, False, None)),)


def find_disk_full(*_: Any) -> Iterator[str | tuple[Report, ...]]:
    yield "host"
    raise StoreError("full")


@pytest.fixture
def cache(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> FeatureCache:
    name, weights = tiny_backbone
    return FeatureCache(FeatureConfig(backbone=name, weights=weights, cache=tmp_path / "cache", runtime="torch"))


@pytest.mark.slow
def test_a_video_that_kills_its_workers_is_given_up(
    cache: FeatureCache, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the third lost worker the video fails with the reason; the other videos of its batches succeed."""
    monkeypatch.setattr(cluster_module, "extract_batch", extract_or_die)
    records = [make_record(name) for name in ["a", "b", "poison", *"cdefghi"]]
    job = JobConfig(engine="ray", ray_address=cluster.address)
    outcomes = list(extract_on_cluster(cache, job, "set", records))
    assert sorted(outcome.record.video_id for outcome in outcomes) == sorted(record.video_id for record in records)
    (failed,) = [outcome for outcome in outcomes if outcome.failure is not None]
    assert failed.record.video_id == "poison" and "3 workers were lost" in str(failed.failure)


def test_a_store_that_a_worker_cannot_write_ends_the_job(
    cache: FeatureCache, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that every other worker would meet too reaches the user as it is, instead of being retried."""
    monkeypatch.setattr(cluster_module, "extract_batch", find_disk_full)
    job = JobConfig(engine="ray", ray_address=cluster.address)
    with pytest.raises(StoreError, match="full"):
        list(extract_on_cluster(cache, job, "set", [make_record("a")]))


def test_no_room_for_a_worker(cache: FeatureCache, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no worker fits, the error says what was requested and what the cluster has, instead of waiting forever."""
    monkeypatch.setattr(cluster_module, "SECONDS_WITHOUT_WORKER", 0.5)
    job = JobConfig(engine="ray", ray_address=cluster.address, ray_cpus=64, ray_gpus=0.5)
    with pytest.raises(ClusterError, match=r"64 CPUs and 0.5 GPUs .* 2 with 1 CPUs and 0 GPUs; .* Request less"):
        list(extract_on_cluster(cache, job, "set", [make_record("a")]))


def test_no_cluster(cache: FeatureCache) -> None:
    """If nothing answers at the address, the error says how to start a cluster."""
    job = JobConfig(engine="ray", ray_address="127.0.0.1:1")
    with pytest.raises(ClusterError, match=r"no Ray cluster at 127.0.0.1:1 .*ray start --head"):
        list(extract_on_cluster(cache, job, "set", [make_record("a")]))


def test_without_ray_the_error_says_what_to_install(
    tmp_path: Path, tiny_backbone: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is an optional extra: without it, --engine ray fails with the command that installs it."""
    two_classes(tmp_path / "videos", 8)
    monkeypatch.delitem(sys.modules, "pipeline.cache.cluster")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray.*pip install -e '.\[cluster\]'"):
        main(Job(tmp_path / "videos", tiny_backbone, "--engine", "ray").command[3:])


def test_a_node_without_the_store_or_the_videos_is_named(cache: FeatureCache, tmp_path: Path) -> None:
    """A node that lacks the store or the videos must not start: it would fill another folder or fail all videos."""
    video = tmp_path / "a.avi"
    video.write_bytes(b"")
    shared_files = SharedFiles.of_job(cache, [make_record("gone" * 99), replace(make_record("a"), path=video)])
    shared_files.check()
    video.unlink()
    with pytest.raises(ClusterError, match="does not see .*a.avi"):
        shared_files.check()
    os.utime(shared_files.recipe, ns=(1, 1))
    with pytest.raises(ClusterError, match="does not see the job's store"):
        shared_files.check()


def test_a_worker_with_another_recipe_is_rejected(cache: FeatureCache) -> None:
    """A node with other weights under the same name would make features that the job does not need."""
    features = replace(cache.config, sampling="uniform:3")
    with pytest.raises(ClusterError, match="features of another recipe"):
        next(extract_batch(features, "set", SharedFiles.of_job(cache, []), ()))


def test_a_worker_reports_every_video_of_its_batches(cache: FeatureCache, tmp_path: Path) -> None:
    """A task reports its host, then each of its videos; the next one in the same process uses the loaded backbone."""
    two_classes(tmp_path / "videos", 5)
    paths = sorted((tmp_path / "videos").rglob("*.avi"))
    videos = tuple((path.name, str(path)) for path in paths)
    features, shared_files = replace(cache.config, workers=1), SharedFiles.of_job(cache, [])
    for batch in (videos[:3], videos[3:]):
        host, *reports = extract_batch(features, "set", shared_files, batch)
        assert isinstance(host, str)
        outcomes = [outcome for report in reports for outcome in report]
        assert outcomes == [(video_id, (8, None, False, None)) for video_id, _ in batch]
    assert assert_all_intact(cache.config.cache) == 5


def test_settings_of_a_worker(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker uses its share of a node only, and absolute paths."""
    monkeypatch.chdir(tmp_path)
    features = FeatureConfig(cache=Path("cache"), weights=Path("w.pt"))
    small = worker_features(features, JobConfig(engine="ray", ray_cpus=0.5))
    assert (small.workers, small.device) == (1, "cpu")
    assert (small.cache, small.weights) == (tmp_path / "cache", tmp_path / "w.pt")
    large = worker_features(features, JobConfig(engine="ray", ray_cpus=12, ray_gpus=1))
    assert (large.workers, large.device) == (12, "cuda")
    with pytest.raises(ConfigError, match="contradicts --ray-gpus"):
        worker_features(replace(features, device="cuda"), JobConfig(engine="ray"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ray_cpus": 4}, "for --engine ray"),
        ({"engine": "ray", "frames": Path("x")}, "leave out --engine ray"),
        ({"engine": "ray", "ray_cpus": 0}, "ray_cpus must be at least 0.1"),
        ({"engine": "ray", "ray_gpus": 2}, "uses one GPU"),
    ],
)
def test_contradicting_settings_are_rejected(wrong: dict[str, Any], message: str) -> None:
    """A flag that would have no effect, or can't be satisfied, is rejected before anything starts."""
    with pytest.raises(ConfigError, match=message):
        JobConfig(**wrong)


def test_room_is_counted_node_by_node() -> None:
    """A worker needs its CPUs and its GPU on one node; dead nodes do not count."""
    gpu_node = {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}
    cpu_node = {"Alive": True, "Resources": {"CPU": 7.0}}
    dead = {"Alive": False, "Resources": {"CPU": 64.0}}
    nodes = [gpu_node, cpu_node, dead]
    assert num_workers_with_room(nodes, cpus=4, gpus=0) == 4 + 1
    assert num_workers_with_room(nodes, cpus=4, gpus=1) == 2
    assert num_workers_with_room(nodes, cpus=1, gpus=0.25) == 8
    assert num_workers_with_room([], cpus=1, gpus=0) == 0


class CountedList(list[VideoRecord]):
    """A list that counts the records that were read from it."""

    num_read = 0

    def __iter__(self) -> Iterator[VideoRecord]:
        for record in super().__iter__():
            self.num_read += 1
            yield record


def test_the_backlog_reads_videos_as_they_are_taken() -> None:
    """The records of millions of videos are never in memory at once; new videos come before those of lost tasks."""
    videos = CountedList(make_record(str(number)) for number in range(10))
    backlog = Backlog(videos)
    first = backlog.take(3)
    assert ([video.video_id for video in first], videos.num_read, len(backlog)) == (["0", "1", "2"], 3, 7)
    backlog.put_back(first)
    assert (len(backlog.take(4)), videos.num_read, len(backlog)) == (4, 7, 6)
    assert [video.video_id for video in backlog.take(9)] == ["7", "8", "9", "0", "1", "2"]
    assert not backlog and backlog.take(1) == []


@settings(max_examples=200, deadline=None)
@given(
    num_videos=st.integers(1, 60),
    poison=st.sets(st.integers(0, 59), max_size=4),
    num_workers=st.integers(1, 5),
    seed=st.randoms(use_true_random=False),
)
def test_only_videos_that_kill_are_given_up(num_videos: int, poison: set[int], num_workers: int, seed: Any) -> None:
    """However videos are mixed in batches, each is extracted or given up once, and only killing ones are given up."""
    backlog = Backlog([make_record(str(number)) for number in range(num_videos)])
    batches: list[dict[str, VideoRecord]] = [{} for _ in range(num_workers)]
    extracted: list[str] = []
    given_up: list[str] = []
    num_losses = 0
    while backlog or any(batches):
        batch = seed.choice(batches)
        if not batch:
            batch |= {video.video_id: video for video in backlog.take(seed.randint(1, 16))}
            if seed.random() > 0.9:  # the worker could not start
                backlog.put_back(batch.values())
                batch.clear()
            continue
        if any(int(name) in poison for name in batch) and seed.random() < 0.5:
            given_up += [video.video_id for video in backlog.put_back_lost(batch.values())]
            batch.clear()
            num_losses += 1
        elif harmless := [name for name in batch if int(name) not in poison]:
            extracted.append(harmless[0])
            del batch[harmless[0]]
    assert sorted(extracted + given_up, key=int) == [str(number) for number in range(num_videos)]
    assert set(given_up) == {str(number) for number in poison if number < num_videos}
    assert num_losses <= 3 * len(poison)
