"""The caching job on a Ray cluster: workers on its nodes make what the driver hands out.

The driver is the process that the user started. It keeps every worker some videos ahead of its work and hears what
became of each; the features go straight from the worker into the store, which all nodes share. So a worker can be lost
at any moment: what it has not reported is handed out again, and found in the store if it was finished.
"""

import logging
import os
import queue
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.errors import UserError
from data.records import VideoRecord
from pipeline.cache.job import FeatureCache, Made
from pipeline.settings.config import ConfigError, FeatureConfig, JobConfig

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of its own next version
try:
    import ray
    from ray.exceptions import RayError
except ImportError as missing:
    raise ConfigError("--engine ray needs Ray, which is not installed: pip install -e '.[cluster]'") from missing

SECONDS_WITHOUT_WORKER = 300.0  # as long as a cloud may take to start a machine
LOSSES_BEFORE_ALONE = 2
_SECONDS_PER_ROUND = 0.1
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_AFTER_FAILED_START = 5.0
_FAILED_STARTS = 3
_SECONDS_TO_ANSWER = 10.0
_FIRST_VIDEOS_AHEAD = 16
_MOST_VIDEOS_AHEAD = 1024


class ClusterError(UserError):
    """The cluster can't do the job. The message says what was asked for, what there is, and what to do."""


def make_on_cluster(
    cache: FeatureCache, job: JobConfig, dataset: str, records: Iterable[VideoRecord]
) -> Generator[Made, None, None]:
    """Like ``FeatureCache.make``, by workers of ``job.ray_cpus`` and ``job.ray_gpus`` each, as many as have room.

    Closing the generator ends the workers. A node that is lost costs nothing but what its workers were at; nodes that
    join are used. A video that loses its worker again and again fails.

    Raises:
        ClusterError: there is no cluster, no room in it for a worker, or a node that does not see the store and the
            videos where this process sees them.
        ConfigError: the settings contradict each other.
        StoreError: a worker can't write into the store.
    """
    videos = [replace(record, path=record.path.absolute()) for record in records]
    features = worker_features(cache.config, job)
    landmarks = Landmarks.seen_here(cache, videos)
    with _connected(job.ray_address):
        yield from _Driver(features, job, dataset, landmarks, videos).run()


def worker_features(features: FeatureConfig, job: JobConfig) -> FeatureConfig:
    """The settings of one worker, wherever it runs: its share of a node, and paths that don't depend on a folder.

    Raises ``ConfigError`` where ``--device`` says otherwise than ``--ray-gpus``.
    """
    device = "cuda" if job.ray_gpus else "cpu"
    if features.device not in ("auto", device):
        raise ConfigError(
            f"--device {features.device} with --ray-gpus {job.ray_gpus:g}: on a cluster --ray-gpus alone says whether "
            "workers have a GPU (1, or less where several share one)"
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
            _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"at {address}" if address else "here"
        raise ClusterError(
            f"no Ray cluster {where} ({error}). Begin one with `ray start --head`, and give the address that it prints "
            "as --ray-address"
        ) from error
    # Ray prints a lost node's log to standard output, where the summary is to stand alone.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            yield
        finally:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raises ``OSError`` where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()


@dataclass(frozen=True)
class Landmarks:
    """Files by which a node finds out whether it sees the same store and the same videos.

    A node without the store's file system would otherwise fill a folder of its own, and one without the videos would
    fail them all, faster than the others can make them.
    """

    recipe: Path
    recipe_time_ns: int
    video: Path | None

    @classmethod
    def seen_here(cls, cache: FeatureCache, videos: Sequence[VideoRecord]) -> "Landmarks":
        recipe = (cache.store.folder / "recipe.json").absolute()
        video = next((record.path for record in videos if record.path.exists()), None)
        return cls(recipe, recipe.stat().st_mtime_ns, video)

    def check(self) -> None:
        """Raises ``ClusterError`` where this machine does not see them."""
        if not self.recipe.exists() or self.recipe.stat().st_mtime_ns != self.recipe_time_ns:
            raise ClusterError(
                f"{socket.gethostname()} does not see the job's store {self.recipe.parent}: every node must see one "
                "and the same folder there. Mount it on all nodes, or give another --cache"
            )
        if self.video is not None and not self.video.exists():
            raise ClusterError(
                f"{socket.gethostname()} does not see {self.video}: every node must see the videos at the same place. "
                "Mount them on all nodes, or give another --root"
            )


class ClusterWorker:
    """What runs on a node: the caching job of one machine, on the videos that it is given."""

    def __init__(self, features: FeatureConfig, dataset: str, landmarks: Landmarks) -> None:
        self._features, self._dataset, self._landmarks = features, dataset, landmarks
        self._given: queue.SimpleQueue[VideoRecord] = queue.SimpleQueue()
        self._made: queue.SimpleQueue[Made | BaseException] = queue.SimpleQueue()

    def open(self) -> str:
        """Load the backbone and begin to wait for videos; the name of the machine.

        Raises ``ClusterError`` where it would not do the driver's job, and what ``FeatureCache`` raises.
        """
        self._landmarks.check()
        cache = FeatureCache(self._features)
        if cache.store.folder != self._landmarks.recipe.parent:
            raise ClusterError(
                f"{socket.gethostname()} would make features of another recipe ({cache.store.folder} instead of "
                f"{self._landmarks.recipe.parent}): other weights, or another version of this project is there"
            )
        threading.Thread(target=self._work, args=(cache,), name="work", daemon=True).start()
        return socket.gethostname()

    def advance(self, videos: Sequence[VideoRecord]) -> list[Made]:
        """Take more videos, and tell what became of those taken before: of one at least, so there must be one."""
        for video in videos:
            self._given.put(video)
        answer: list[Made] = []
        while not answer or not self._made.empty():
            made = self._made.get()
            if isinstance(made, BaseException):
                raise made
            answer.append(made)
        return answer

    def _work(self, cache: FeatureCache) -> None:
        try:
            while True:
                for made in cache.make(self._dataset, self._all_given(self._given.get())):
                    self._made.put(made)
        except BaseException as error:  # raised again where the driver hears of it
            self._made.put(error)

    def _all_given(self, first: VideoRecord) -> Iterator[VideoRecord]:
        """Ends when there is no more at hand: the last videos wait in a batch for those behind them, which may depend
        on an answer about these."""
        yield first
        while not self._given.empty():
            yield self._given.get()


class Backlog:
    """The videos that no worker has.

    Those of a worker that was lost come back. Which of them was to blame, if any, is not known; so what comes back
    twice is given out alone from then on, and what is then lost once more is given up.
    """

    def __init__(self, videos: Iterable[VideoRecord]) -> None:
        self._waiting = deque(videos)
        self._suspects: deque[VideoRecord] = deque()
        self._num_losses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    def take(self, count: int, in_hand: Mapping[str, VideoRecord]) -> list[VideoRecord]:
        """Up to ``count`` videos for a worker that has those ``in_hand``, by their ids."""
        if any(self._num_losses[video_id] >= LOSSES_BEFORE_ALONE for video_id in in_hand):
            return []
        if self._suspects and not in_hand:
            return [self._suspects.popleft()]
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    def give_back(self, videos: Iterable[VideoRecord]) -> list[VideoRecord]:
        """What a lost worker had in hand. Returns those that are given up."""
        given_up = []
        for video in videos:
            num_losses = self._num_losses[video.video_id] = self._num_losses[video.video_id] + 1
            if num_losses > LOSSES_BEFORE_ALONE:
                given_up.append(video)
            elif num_losses == LOSSES_BEFORE_ALONE:
                self._suspects.append(video)
            else:
                self._waiting.append(video)
        return given_up


def num_workers_with_room(nodes: Sequence[Mapping[str, Any]], cpus: float, gpus: float) -> int:
    """How many workers of a size fit on nodes (as ``ray.nodes()`` tells of them) that do nothing else."""
    rooms = []
    for resources in _resources(nodes):
        room = int(resources.get("CPU", 0) / cpus)
        rooms.append(min(room, int(resources.get("GPU", 0) / gpus)) if gpus else room)
    return sum(rooms)


def _resources(nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    return [node["Resources"] for node in nodes if node["Alive"]]


@dataclass(eq=False)
class _Worker:
    """A worker as the driver sees it; ``call`` is what it was asked and has not answered."""

    actor: Any
    call: Any
    host: str | None = None
    in_hand: dict[str, VideoRecord] = field(default_factory=dict)
    videos_ahead: int = _FIRST_VIDEOS_AHEAD


class _Driver:
    def __init__(
        self,
        features: FeatureConfig,
        job: JobConfig,
        dataset: str,
        landmarks: Landmarks,
        videos: Sequence[VideoRecord],
    ) -> None:
        self._job = job
        self._num_readers = features.workers
        self._arguments = (features, dataset, landmarks)
        self._remote: Any = ray.remote(ClusterWorker).options(
            num_cpus=job.ray_cpus,
            num_gpus=job.ray_gpus,
            runtime_env={
                "env_vars": {"OMP_NUM_THREADS": str(features.workers), "OMP_WAIT_POLICY": "PASSIVE"},
            },
        )
        self._backlog = Backlog(videos)
        self._workers: list[_Worker] = []
        self._next_look = 0.0
        self._last_open = time.monotonic()
        self._num_failed_starts = 0
        self._num_said = -1
        self._last_failure = ""

    def run(self) -> Generator[Made, None, None]:
        try:
            while self._num_left:
                self._look_after_workers()
                self._hand_out()
                asked = {worker.call: worker for worker in self._workers if worker.call is not None}
                if not asked:
                    time.sleep(_SECONDS_PER_ROUND)
                    continue
                # All that answer within a round together: with hundreds of workers, one by one is too slow.
                answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS_PER_ROUND)
                for call in answered:
                    yield from self._hear(asked[call])
        finally:
            for worker in self._workers:
                ray.kill(worker.actor)

    @property
    def _num_left(self) -> int:
        return len(self._backlog) + sum(len(worker.in_hand) for worker in self._workers)

    @property
    def _open(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.host is not None]

    def _look_after_workers(self) -> None:
        """Start as many workers as have room, or one that waits for it. Raises ``ClusterError`` where none comes up."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _SECONDS_BETWEEN_LOOKS
        nodes = ray.nodes()
        # One where there is no room: it tells a cluster that grows on demand that there is a demand.
        wanted = max(1, num_workers_with_room(nodes, self._job.ray_cpus, self._job.ray_gpus))
        for _ in range(min(wanted, self._num_left) - len(self._workers)):
            actor = self._remote.remote(*self._arguments)
            self._workers.append(_Worker(actor, actor.open.remote()))
        if len(self._open) != self._num_said:
            self._num_said = len(self._open)
            self._say(f"workers: {self._num_said}, room for {wanted}")
        if self._open:
            self._last_open = now
            return
        seconds = now - self._last_open
        if seconds > SECONDS_WITHOUT_WORKER:
            raise ClusterError(f"no worker has started for {seconds:.0f} s. {self._asked_and_there(nodes)}")
        if self._num_failed_starts >= max(_FAILED_STARTS, wanted):
            raise ClusterError(f"no worker can start. {self._asked_and_there(nodes)}")

    def _asked_and_there(self, nodes: Sequence[Mapping[str, Any]]) -> str:
        def size(resources: Mapping[str, float]) -> str:
            return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"

        kinds = Counter(map(size, _resources(nodes)))
        there = ", ".join(f"{count} with {kind}" for kind, count in sorted(kinds.items()))
        asked = size({"CPU": self._job.ray_cpus, "GPU": self._job.ray_gpus})
        failure = f" The last failure: {self._last_failure}" if self._last_failure else ""
        return (
            f"Each asks for {asked} (--ray-cpus, --ray-gpus). Nodes there are: {there}; free now: "
            f"{size(ray.available_resources())}. Ask for less, add nodes, or wait until others are done.{failure}"
        )

    def _hand_out(self) -> None:
        workers = self._open
        for worker in workers:
            if worker.call is not None:
                continue
            # Towards the end all get less, so that they end together.
            fair_share = max(self._num_readers + 1, len(self._backlog) // len(workers))
            count = min(worker.videos_ahead, fair_share) - len(worker.in_hand)
            videos = self._backlog.take(count, worker.in_hand)
            worker.in_hand |= {video.video_id: video for video in videos}
            if worker.in_hand:
                worker.call = worker.actor.advance.remote(videos)

    def _hear(self, worker: _Worker) -> Generator[Made, None, None]:
        try:
            answer = ray.get(worker.call)
        except RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, ValueError):  # the store's or the settings' fault: the next worker's too
                raise cause from error
            reason = f"{type(cause).__name__}: {cause}" if cause else " ".join(str(error).split())[:300]
            yield from self._lose(worker, reason)
            return
        worker.call = None
        if worker.host is None:
            worker.host = answer
            self._num_failed_starts = 0
            return
        for made in answer:
            del worker.in_hand[made.record.video_id]
            yield made
        if not worker.in_hand and self._backlog:  # it is faster than we thought
            worker.videos_ahead = min(2 * worker.videos_ahead, _MOST_VIDEOS_AHEAD)

    def _lose(self, worker: _Worker, reason: str) -> Generator[Made, None, None]:
        self._workers.remove(worker)
        ray.kill(worker.actor)  # it may live on somewhere out of reach
        self._last_failure = reason
        if worker.host is None:
            self._num_failed_starts += 1
            self._next_look = time.monotonic() + _SECONDS_AFTER_FAILED_START
            self._say(f"a worker could not start: {reason}")
            return
        self._say(f"a worker on {worker.host} is lost, its {len(worker.in_hand)} videos go to others: {reason}")
        for video in self._backlog.give_back(worker.in_hand.values()):
            losses = LOSSES_BEFORE_ALONE + 1
            yield Made(video, failure=f"{video.path} was given up: {losses} workers were lost over it ({reason})")

    def _say(self, text: str) -> None:
        tqdm.write(text, file=sys.stderr)
