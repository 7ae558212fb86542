"""The caching job on a Ray cluster: lost nodes cost nothing, and what can't work says so."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.records import VideoRecord
from pipeline.cache.__main__ import main
from pipeline.cache.job import FeatureCache, Made
from pipeline.cache.store import StoreError
from pipeline.settings.config import ConfigError, FeatureConfig, JobConfig
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
    ClusterWorker,
    Landmarks,
    make_on_cluster,
    num_workers_with_room,
    worker_features,
)

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
NUM_VIDEOS = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that computes nothing, and two nodes of one CPU each."""
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
    """The command on ``NUM_VIDEOS`` clips, not made yet, each of which takes a worker some tenths of a second."""
    flags = ["--sampling", "every:1", "--engine", "ray", "--ray-address", cluster.address]
    return Job(tmp_path / "videos", tiny_backbone, *flags)


class Running:
    """The command at work; what it says is read while it runs."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._said = folder / "stderr"
        with self._said.open("w") as stderr:
            self.process = subprocess.Popen(job.command, stdout=subprocess.PIPE, stderr=stderr, text=True)

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    @property
    def said(self) -> str:
        return self._said.read_text()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 200
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def finish(self) -> str:
        """Its standard output, once it has ended."""
        return self.process.communicate(timeout=120)[0]


def test_a_node_is_lost(job: Job, cluster: Cluster, tmp_path: Path) -> None:
    """Of two nodes one dies in the middle of the job: in the end every video is stored, once, and intact."""
    two_classes(tmp_path / "videos", NUM_VIDEOS, num_frames=24)
    with Running(job, tmp_path) as running:
        running.wait_until(lambda: "workers: 2" in running.said and len(job.entries()) >= 4)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        assert len(job.entries()) < NUM_VIDEOS, "it was over before the node was lost: the test shows nothing"
        summary = json.loads(running.finish())
        assert running.process.returncode == 0, running.said
    cluster.add_node(**NODE)
    assert "is lost, its" in running.said and "Traceback" not in running.said
    assert assert_all_intact(job.cache) == len(job.entries()) == NUM_VIDEOS
    assert (summary["num_failed"], summary["num_extracted"] + summary["num_made_elsewhere"]) == (0, NUM_VIDEOS)


def test_a_bad_video_is_named(job: Job, tmp_path: Path) -> None:
    """On a cluster too a bad video costs only itself: exit code 1, a line in errors.jsonl, a summary on stdout."""
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
    """Ctrl-C ends the command and the workers, with code 130; the same command goes on where it was."""
    two_classes(tmp_path / "videos", NUM_VIDEOS, num_frames=60)
    with Running(job, tmp_path) as running:
        running.wait_until(lambda: bool(job.entries()))
        running.process.send_signal(signal.SIGINT)
        running.finish()
    assert running.process.returncode == 130, running.said
    assert "interrupted" in running.said and "Traceback" not in running.said
    time.sleep(1)
    kept = len(job.entries())
    time.sleep(2)
    assert len(job.entries()) == kept < NUM_VIDEOS, "the workers go on"
    summary = json.loads(job.run().stdout)
    assert (summary["num_cached_before"], summary["num_extracted"]) == (kept, NUM_VIDEOS - kept)
    assert assert_all_intact(job.cache) == NUM_VIDEOS


class ShamWorker(ClusterWorker):
    """Makes nothing, but dies of a video called ``poison``."""

    def open(self) -> str:
        return "sham"

    def advance(self, videos: Sequence[VideoRecord]) -> list[Made]:
        if any(video.video_id == "poison" for video in videos):
            os._exit(1)
        return [Made(video, num_frames=1) for video in videos]


@pytest.fixture
def cache(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> FeatureCache:
    name, weights = tiny_backbone
    return FeatureCache(FeatureConfig(backbone=name, weights=weights, cache=tmp_path / "cache", runtime="torch"))


def test_a_video_that_kills_its_workers_is_given_up(
    cache: FeatureCache, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails, with the reason, after the third worker; the videos that were with it are made."""
    monkeypatch.setattr(cluster_module, "ClusterWorker", ShamWorker)
    records = [make_record(name) for name in ["a", "b", "poison", *"cdefghi"]]
    made = list(make_on_cluster(cache, JobConfig(engine="ray", ray_address=cluster.address), "set", records))
    assert sorted(video.record.video_id for video in made) == sorted(record.video_id for record in records)
    (failed,) = [video for video in made if video.failure is not None]
    assert failed.record.video_id == "poison" and "3 workers were lost over it" in str(failed.failure)


def test_no_room_for_a_worker_is_told(cache: FeatureCache, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no worker fits, the error says what was asked for and what the cluster has, instead of waiting forever."""
    monkeypatch.setattr(cluster_module, "SECONDS_WITHOUT_WORKER", 0.5)
    job = JobConfig(engine="ray", ray_address=cluster.address, ray_cpus=64, ray_gpus=0.5)
    with pytest.raises(ClusterError, match=r"64 CPUs and 0.5 GPUs .* 2 with 1 CPUs and 0 GPUs; .* Ask for less"):
        list(make_on_cluster(cache, job, "set", [make_record("a")]))


def test_no_cluster_is_told(cache: FeatureCache) -> None:
    """An address at which nothing answers is told, with how to begin a cluster."""
    job = JobConfig(engine="ray", ray_address="127.0.0.1:1")
    with pytest.raises(ClusterError, match=r"no Ray cluster at 127.0.0.1:1 .*ray start --head"):
        list(make_on_cluster(cache, job, "set", [make_record("a")]))


def test_without_ray_the_error_says_what_to_install(
    tmp_path: Path, tiny_backbone: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is an extra: whoever asks for the engine without it is told how to get it."""
    two_classes(tmp_path / "videos", 8)
    monkeypatch.delitem(sys.modules, "pipeline.cache.cluster")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray.*pip install -e '.\[cluster\]'"):
        main(Job(tmp_path / "videos", tiny_backbone, "--engine", "ray").command[3:])


def test_a_node_without_the_store_or_the_videos_is_found_out(cache: FeatureCache, tmp_path: Path) -> None:
    """A node that sees another folder, or no videos, must not begin: it would fill or fail what nobody looks at."""
    video = tmp_path / "a.avi"
    video.write_bytes(b"")
    landmarks = Landmarks.seen_here(cache, [make_record("gone"), replace(make_record("a"), path=video)])
    landmarks.check()
    video.unlink()
    with pytest.raises(ClusterError, match="does not see .*a.avi"):
        landmarks.check()
    os.utime(landmarks.recipe, ns=(1, 1))
    with pytest.raises(ClusterError, match="does not see the job's store"):
        landmarks.check()


def test_a_worker_of_another_recipe_is_found_out(cache: FeatureCache) -> None:
    """A node with other weights under the same name would make features that the job does not ask for."""
    worker = ClusterWorker(replace(cache.config, sampling="uniform:3"), "set", Landmarks.seen_here(cache, []))
    with pytest.raises(ClusterError, match="features of another recipe"):
        worker.open()


def test_a_worker_makes_all_it_is_given_though_nothing_follows(cache: FeatureCache, tmp_path: Path) -> None:
    """The last videos are not held back for others to fill a batch with; and it goes on when more come."""
    two_classes(tmp_path / "videos", 5)
    paths = sorted((tmp_path / "videos").rglob("*.avi"))
    videos = [VideoRecord(path.name, path, 0, "g") for path in paths]
    worker = ClusterWorker(replace(cache.config, workers=1), "set", Landmarks.seen_here(cache, videos))
    worker.open()
    for some in (videos[:3], videos[3:]):
        made = worker.advance(some)
        while len(made) < len(some):
            made += worker.advance([])
        assert {video.record for video in made} == set(some)
    assert assert_all_intact(cache.config.cache) == 5


def test_what_a_worker_fails_of_is_raised(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that can't be written, say, must end the job and not leave the driver waiting."""

    def make(*_: Any) -> Iterator[Made]:
        raise StoreError("full")
        yield

    monkeypatch.setattr(FeatureCache, "make", make)
    worker = ClusterWorker(cache.config, "set", Landmarks.seen_here(cache, []))
    worker.open()
    with pytest.raises(StoreError, match="full"):
        worker.advance([make_record("a")])


def test_settings_of_a_worker(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker takes its share of a node and no more, and finds its files wherever it starts."""
    monkeypatch.chdir(tmp_path)
    features = FeatureConfig(cache=Path("cache"), weights=Path("w.pt"))
    small = worker_features(features, JobConfig(engine="ray", ray_cpus=0.5))
    assert (small.workers, small.device) == (1, "cpu")
    assert (small.cache, small.weights) == (tmp_path / "cache", tmp_path / "w.pt")
    large = worker_features(features, JobConfig(engine="ray", ray_cpus=12, ray_gpus=1))
    assert (large.workers, large.device) == (12, "cuda")
    with pytest.raises(ConfigError, match="--ray-gpus alone"):
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
def test_settings_that_make_no_sense(wrong: dict[str, Any], message: str) -> None:
    """A flag that would be without effect, or can't be met, is refused before anything starts."""
    with pytest.raises(ConfigError, match=message):
        JobConfig(**wrong)


def test_room_is_counted_node_by_node() -> None:
    """A worker needs its CPUs and its GPU on one node; dead nodes have no room."""
    gpu_node = {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}
    cpu_node = {"Alive": True, "Resources": {"CPU": 7.0}}
    dead = {"Alive": False, "Resources": {"CPU": 64.0}}
    nodes = [gpu_node, cpu_node, dead]
    assert num_workers_with_room(nodes, cpus=4, gpus=0) == 4 + 1
    assert num_workers_with_room(nodes, cpus=4, gpus=1) == 2
    assert num_workers_with_room(nodes, cpus=1, gpus=0.25) == 8
    assert num_workers_with_room([], cpus=1, gpus=0) == 0


@settings(max_examples=200, deadline=None)
@given(
    num_videos=st.integers(1, 60),
    poison=st.sets(st.integers(0, 59), max_size=4),
    num_workers=st.integers(1, 5),
    seed=st.randoms(use_true_random=False),
)
def test_only_what_kills_is_given_up(num_videos: int, poison: set[int], num_workers: int, seed: Any) -> None:
    """However videos fall together on workers: each is made or given up, once, and only those given up that kill."""
    backlog = Backlog(make_record(str(number)) for number in range(num_videos))
    hands: list[dict[str, VideoRecord]] = [{} for _ in range(num_workers)]
    made: list[str] = []
    given_up: list[str] = []
    num_losses = 0
    while backlog or any(hands):
        in_hand = seed.choice(hands)
        in_hand |= {video.video_id: video for video in backlog.take(seed.randint(1, 16) - len(in_hand), in_hand)}
        if not in_hand:
            continue
        if any(int(name) in poison for name in in_hand) and seed.random() < 0.5:
            given_up += [video.video_id for video in backlog.give_back(in_hand.values())]
            in_hand.clear()
            num_losses += 1
        elif harmless := [name for name in in_hand if int(name) not in poison]:
            made.append(harmless[0])
            del in_hand[harmless[0]]
    assert sorted(made + given_up, key=int) == [str(number) for number in range(num_videos)]
    assert set(given_up) == {str(number) for number in poison if number < num_videos}
    assert num_losses <= 3 * len(poison)
