"""The caching job on a Ray cluster: a driver cuts the videos into batches, and Ray runs one task per batch.

The driver is the process that the user started. A task reports the videos whose features it has stored; the features
themselves go from the node straight into the store, which all nodes share. When a task is lost with its node, the
videos that it had not reported go into another batch, and those that it had stored are skipped there.
"""

import functools
import logging
import os
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.errors import UserError
from data.objects import Place
from data.records import VideoRecord
from pipeline.cache.job import FeatureCache, VideoOutcome
from pipeline.settings.config import ConfigError, FeatureConfig, JobConfig

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about Ray's next version
try:
    import ray
    from ray.exceptions import RayError
except ImportError as missing:
    raise ConfigError("--engine ray needs Ray, which is not installed: pip install -e '.[cluster]'") from missing

SECONDS_WITHOUT_WORKER = 300.0  # a cloud may take that long to start a machine
LOSSES_BEFORE_ALONE = 2
_LARGEST_BATCH = 1024
_SECONDS_PER_ROUND = 0.1
_SECONDS_BETWEEN_REPORTS = 1.0
_SECONDS_BETWEEN_NODE_COUNTS = 1.0
_SECONDS_AFTER_FAILED_START = 5.0
_FAILED_STARTS = 3
_SECONDS_TO_CONNECT = 10.0


# The driver and its tasks exchange tuples of strings and numbers. Ray takes many times as long for records with paths,
# and for lists, whose items it serializes one by one.
Report = tuple[str, tuple[int, str | None, bool, str | None]]
"""The id of a video, and the values of its ``VideoOutcome`` after ``record``."""


class ClusterError(UserError):
    """The cluster can't do the job. The message says what was requested, what is available, and what to do."""


def extract_on_cluster(
    cache: FeatureCache, job: JobConfig, dataset: str, videos: Sequence[VideoRecord]
) -> Generator[VideoOutcome, None, None]:
    """Like ``FeatureCache.extract``, in Ray tasks of ``job.ray_cpus`` and ``job.ray_gpus`` each.

    As many tasks run at a time as the cluster has room for, on nodes that join later too. A video whose task is lost
    three times counts as failed. Closing the generator ends the tasks.

    Raises:
        ClusterError: there is no cluster, it has no room for a task, or a node does not see the store and the videos
            at the same paths as this process.
        ConfigError: the settings contradict each other.
        StoreError: a task can't write into the store.
    """
    features = worker_features(cache.config, job)
    shared_files = SharedFiles.of_job(cache, videos)
    with _connected(job.ray_address):
        yield from _Driver(features, job, dataset, shared_files, videos).run()


def worker_features(features: FeatureConfig, job: JobConfig) -> FeatureConfig:
    """The settings of one task: its share of a node, and absolute paths.

    Raises ``ConfigError`` if ``--device`` contradicts ``--ray-gpus``.
    """
    device = "cuda" if job.ray_gpus else "cpu"
    if features.device not in ("auto", device):
        raise ConfigError(
            f"--device {features.device} contradicts --ray-gpus {job.ray_gpus:g}: on a cluster --ray-gpus alone sets "
            "the device (0: CPU; 1, or less where several workers share one: GPU). Leave out --device"
        )
    return replace(
        features,
        cache=features.cache.absolute(),
        weights=features.weights and features.weights.absolute(),
        workers=max(1, int(job.ray_cpus)),
        device=device,
    )


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address:
            _check_port(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"at {address}" if address else "on this machine"
        raise ClusterError(
            f"no Ray cluster {where} ({error}). Start one with `ray start --head`, and pass the address that it prints "
            "as --ray-address"
        ) from error
    # Ray prints a lost node's log to standard output, which must contain the summary only.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            yield
        finally:
            ray.shutdown()


def _check_port(address: str) -> None:
    """Raise ``OSError`` if nothing listens at the address. Ray itself would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_CONNECT).close()


@dataclass(frozen=True)
class SharedFiles:
    """Files that show whether a node sees the same store and the same videos as the driver.

    Without this check, a node that lacks the store's file system would fill a folder of its own, and one that lacks
    the videos would fail them all, faster than the other nodes extract them.
    """

    recipe: Place
    recipe_time_ns: int
    video: Path | None

    @classmethod
    def of_job(cls, cache: FeatureCache, videos: Sequence[VideoRecord]) -> "SharedFiles":
        recipe = (cache.store.folder / "recipe.json").absolute()
        video = next((record.path.absolute() for record in videos if os.path.exists(record.path)), None)
        return cls(recipe, recipe.stat().st_mtime_ns, video)

    def check(self) -> None:
        """Raise ``ClusterError`` if this machine does not see them."""
        if not self.recipe.exists() or self.recipe.stat().st_mtime_ns != self.recipe_time_ns:
            raise ClusterError(
                f"{socket.gethostname()} does not see the job's store {self.recipe.parent}: all nodes must share that "
                "folder. Mount it on every node, or choose another --cache"
            )
        if self.video is not None and not self.video.exists():
            raise ClusterError(
                f"{socket.gethostname()} does not see {self.video}: all nodes must see the videos at the same paths. "
                "Mount them on every node, or choose another --root"
            )


def extract_batch(
    features: FeatureConfig, dataset: str, shared_files: SharedFiles, videos: tuple[tuple[str, str], ...]
) -> Generator[str | tuple[Report, ...], None, None]:
    """The Ray task. Yields the node's host name once the backbone is loaded, then reports, once a second.

    Args:
        videos: id and absolute path of each.

    Raises ``ClusterError`` if the node is set up for another job, and what ``FeatureCache`` raises.
    """
    cache = _open_cache(features, shared_files)
    yield socket.gethostname()
    reports, last_report = [], time.monotonic()
    for outcome in cache.extract(dataset, [VideoRecord(video_id, Path(path), 0, "") for video_id, path in videos]):
        values = (outcome.num_frames, outcome.failure, outcome.made_elsewhere, outcome.shortfall)
        reports.append((outcome.record.video_id, values))
        if time.monotonic() - last_report >= _SECONDS_BETWEEN_REPORTS:
            yield tuple(reports)
            reports, last_report = [], time.monotonic()
    yield tuple(reports)


@functools.cache
def _open_cache(features: FeatureConfig, shared_files: SharedFiles) -> FeatureCache:
    """Load the backbone, once per worker process."""
    shared_files.check()
    cache = FeatureCache(features)
    if cache.store.folder != shared_files.recipe.parent:
        raise ClusterError(
            f"{socket.gethostname()} would make features of another recipe ({cache.store.folder} instead of "
            f"{shared_files.recipe.parent}): it has other weights or another version of this project. Install the same "
            "on every node"
        )
    return cache


class Backlog:
    """The videos that no task has. They are read as they are taken.

    The videos of a lost task come back. Which of them is to blame is unknown, so a video that comes back twice runs
    alone from then on, and is given up if that task is lost too.
    """

    def __init__(self, videos: Sequence[VideoRecord]) -> None:
        self._new, self._num_new = iter(videos), len(videos)
        self._returned: deque[VideoRecord] = deque()
        self._suspects: deque[VideoRecord] = deque()
        self._num_losses: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._num_new + len(self._returned) + len(self._suspects)

    def take(self, count: int) -> list[VideoRecord]:
        """The next batch, of up to ``count`` videos."""
        if self._suspects:
            return [self._suspects.popleft()]
        batch = list(islice(self._new, count))
        self._num_new -= len(batch)
        return batch + [self._returned.popleft() for _ in range(min(count - len(batch), len(self._returned)))]

    def put_back(self, videos: Iterable[VideoRecord]) -> None:
        """Return the videos of a task that never started."""
        for video in videos:
            self._queue_of(video).append(video)

    def put_back_lost(self, videos: Iterable[VideoRecord]) -> list[VideoRecord]:
        """Return the unreported videos of a lost task, except those that are given up, which it returns."""
        given_up = []
        for video in videos:
            self._num_losses[video.video_id] += 1
            if self._num_losses[video.video_id] > LOSSES_BEFORE_ALONE:
                given_up.append(video)
            else:
                self._queue_of(video).append(video)
        return given_up

    def _queue_of(self, video: VideoRecord) -> deque[VideoRecord]:
        return self._suspects if self._num_losses[video.video_id] >= LOSSES_BEFORE_ALONE else self._returned


def num_workers_with_room(nodes: Sequence[Mapping[str, Any]], cpus: float, gpus: float) -> int:
    """How many tasks of a size fit on idle nodes; ``nodes`` as ``ray.nodes()`` returns them."""
    num_workers = 0
    for resources in _resources(nodes):
        fitting = int(resources.get("CPU", 0) / cpus)
        if gpus:
            fitting = min(fitting, int(resources.get("GPU", 0) / gpus))
        num_workers += fitting
    return num_workers


def _resources(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    return [node["Resources"] for node in nodes if node["Alive"]]


@dataclass(eq=False)
class _Task:
    """A submitted batch; ``host`` is ``None`` until it has started."""

    stream: Any
    unreported: dict[str, VideoRecord]
    host: str | None = None


class _Driver:
    def __init__(
        self,
        features: FeatureConfig,
        job: JobConfig,
        dataset: str,
        shared_files: SharedFiles,
        videos: Sequence[VideoRecord],
    ) -> None:
        self._job = job
        self._num_readers = features.workers
        self._arguments = (features, dataset, shared_files)
        options: dict[str, Any] = {
            "num_cpus": job.ray_cpus,
            "num_gpus": job.ray_gpus,
            "num_returns": "streaming",
            # The task waits until its report has arrived: if it crashes, the driver knows how far it came.
            "_generator_backpressure_num_objects": 1,
            "max_retries": 0,  # the backlog decides what to retry
            "max_calls": 0,  # no limit, so that a process loads the backbone once
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(features.workers), "OMP_WAIT_POLICY": "PASSIVE"}},
        }
        self._remote: Any = ray.remote(**options)(extract_batch)
        self._backlog = Backlog(videos)
        self._tasks: list[_Task] = []
        self._room = 0
        self._next_count = self._next_start = 0.0
        self._last_worker = time.monotonic()
        self._num_failed_starts = 0
        self._last_failure = ""
        self._num_shown = -1

    def run(self) -> Generator[VideoOutcome, None, None]:
        try:
            while self._backlog or self._tasks:
                self._count_room()
                self._submit()
                if not self._tasks:
                    time.sleep(_SECONDS_PER_ROUND)
                    continue
                tasks = {task.stream: task for task in self._tasks}
                # All tasks that report within a round: with hundreds of them, one at a time is too slow.
                ready, _ = ray.wait(list(tasks), num_returns=len(tasks), timeout=_SECONDS_PER_ROUND)
                for stream in ready:
                    yield from self._receive(tasks[stream])
        finally:
            for task in self._tasks:
                ray.cancel(task.stream, force=True)

    def _count_room(self) -> None:
        """Count the tasks that fit on the cluster. Raises ``ClusterError`` if none has started for too long."""
        now = time.monotonic()
        if now < self._next_count:
            return
        self._next_count = now + _SECONDS_BETWEEN_NODE_COUNTS
        nodes = ray.nodes()
        room = num_workers_with_room(nodes, self._job.ray_cpus, self._job.ray_gpus)
        # At least one task waits where there is no room: it makes a cluster that grows on demand start a node.
        self._room = max(1, room)
        num_started = sum(task.host is not None for task in self._tasks)
        if num_started > self._num_shown:
            self._num_shown = num_started
            tqdm.write(f"workers: {num_started}, room for {room}", file=sys.stderr)
        if num_started:
            self._last_worker = now
            return
        seconds = now - self._last_worker
        if seconds > SECONDS_WITHOUT_WORKER:
            raise ClusterError(f"no worker has started for {seconds:.0f} s. {self._describe_resources(nodes)}")
        if self._num_failed_starts >= max(_FAILED_STARTS, self._room):
            raise ClusterError(f"no worker can start. {self._describe_resources(nodes)}")

    def _describe_resources(self, nodes: Sequence[Mapping[str, Any]]) -> str:
        def size(resources: Mapping[str, float]) -> str:
            return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"

        kinds = Counter(size(resources) for resources in _resources(nodes))
        listed = ", ".join(f"{count} with {kind}" for kind, count in sorted(kinds.items()))
        requested = size({"CPU": self._job.ray_cpus, "GPU": self._job.ray_gpus})
        failure = f" The last failure: {self._last_failure}" if self._last_failure else ""
        return (
            f"Each needs {requested} (--ray-cpus, --ray-gpus). The cluster's nodes: {listed}; free now: "
            f"{size(ray.available_resources())}. Request less, add nodes, or wait until other jobs end.{failure}"
        )

    def _submit(self) -> None:
        while self._backlog and len(self._tasks) < self._room and time.monotonic() >= self._next_start:
            # Batches shrink towards the end, so that all tasks end at about the same time.
            share = len(self._backlog) // (2 * self._room)
            videos = self._backlog.take(min(max(share, self._num_readers + 1), _LARGEST_BATCH))
            named = tuple((video.video_id, str(video.path.absolute())) for video in videos)
            stream = self._remote.remote(*self._arguments, named)
            self._tasks.append(_Task(stream, {video.video_id: video for video in videos}))

    def _receive(self, task: _Task) -> Generator[VideoOutcome, None, None]:
        """One report of a task, which has one ready."""
        try:
            report = ray.get(next(task.stream))
        except StopIteration:
            self._tasks.remove(task)
        except RayError as error:
            self._tasks.remove(task)
            yield from self._handle_loss(task, error)
        else:
            if isinstance(report, str):
                task.host = report
                self._num_failed_starts = 0
                return
            for video_id, values in report:
                yield VideoOutcome(task.unreported.pop(video_id), *values)

    def _handle_loss(self, task: _Task, error: RayError) -> Generator[VideoOutcome, None, None]:
        cause = getattr(error, "cause", None)
        if isinstance(cause, UserError):  # the store or the settings are wrong: the next task would fail as well
            raise cause from error
        reason = f"{type(cause).__name__}: {cause}" if cause else " ".join(str(error).split())[:300]
        self._last_failure = reason
        if task.host is None:
            self._num_failed_starts += 1
            self._next_start = time.monotonic() + _SECONDS_AFTER_FAILED_START
            self._backlog.put_back(task.unreported.values())
            tqdm.write(f"a worker could not start: {reason}", file=sys.stderr)
            return
        self._num_shown = 0
        num_videos = len(task.unreported)
        tqdm.write(f"a worker on {task.host} is lost, its {num_videos} videos go to others: {reason}", file=sys.stderr)
        for video in self._backlog.put_back_lost(task.unreported.values()):
            losses = LOSSES_BEFORE_ALONE + 1
            yield VideoOutcome(video, failure=f"{video.path} was given up: {losses} workers were lost on it ({reason})")
