"""The demo dataset: short videos of cartoon people, rendered locally in UCF101's layout.

    python -m data.demo --root datasets/demo                                    # 10 classes, as train.py renders them
    python -m data.demo --root datasets/whole_demo --classes 32 --groups 24 --clips 1     # all classes

Its classes come in pairs. In twelve, the classes are each other's time reversal (SitDown / StandUp, ...): a video of
the second is drawn by the same random process as one of the first, and its frames are written backwards. In four, the
same movement is repeated at a slow or a fast tempo (WalkInPlace / RunInPlace, ...). So within a pair, the *set* of a
video's frames has the same distribution: a classifier that averages frames can distinguish the pairs, but then gets
half of the videos right at best, whatever its features. To do better, it must use the order.

A group is one actor (body and clothes) in one scene who performs every class. So the looks of actor and scene say
nothing about the class, and no actor or scene is in two parts of a split. As in UCF101, some groups are in no test
list; they are for validation.
"""

import dataclasses
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from data.atomic import write_text_atomically
from data.catalog import DataConfig
from data.demo.actions import ACTIONS, FPS
from data.demo.drawing import Image
from data.demo.film import HEIGHT, WIDTH, Stage, film, random_stage
from data.processes import available_cores, end_with_parent
from data.progress import Progress
from data.records import DatasetError, VideoDataset, require_usable_paths
from data.ucf101 import load_layout

VERSION = 2  # raise it whenever the same seed would give other videos
DEFAULT_ROOT = Path("datasets/demo")
MARKER = "demo.json"  # written last: the rendering is complete
UNFINISHED_MARKER = "demo.unfinished.json"  # written first: says what a killed rendering was going to contain


@dataclass(frozen=True)
class Rendering:
    """What a rendered folder contains, as its marker says. A change of any field gives other files."""

    version: int
    seed: int
    classes: int
    groups: int
    clips: int

    def __post_init__(self) -> None:
        if self.seed < 0 or self.clips < 1:
            raise DatasetError(f"seed ({self.seed}) must not be negative and clips ({self.clips}) must be positive.")
        if self.classes % 2 or not 2 <= self.classes <= 2 * len(ACTIONS):
            raise DatasetError(f"classes must be an even number from 2 to {2 * len(ACTIONS)}, not {self.classes}.")
        if self.groups < 4:
            raise DatasetError(
                "groups must be at least 4 (one to validate on, and in each of the three splits one to test and one to "
                f"train on), not {self.groups}."
            )

    def videos(self) -> list["DemoVideo"]:
        """Return every video, classes in alphabetical order as in UCF101's lists."""
        videos = [
            DemoVideo(pair, is_second, group, number)
            for pair in range(self.classes // 2)
            for is_second in (False, True)
            for group in range(1, self.groups + 1)
            for number in range(1, self.clips + 1)
        ]
        return sorted(videos, key=lambda video: video.list_path)

    def validation_groups(self) -> frozenset[int]:
        """Return the last fifth of the groups: g09 and g10 of 10."""
        return frozenset(range(self.groups - max(1, self.groups // 5) + 1, self.groups + 1))

    def test_groups(self) -> list[frozenset[int]]:
        """Return for each split a third of the other groups: of 10, g01-g03, g04-g06 and g07-g08."""
        others = [group for group in range(1, self.groups + 1) if group not in self.validation_groups()]
        return [frozenset(part.tolist()) for part in np.array_split(others, 3)]


@dataclass(frozen=True)
class DemoVideo:
    """One video of the dataset.

    ``pair`` is an index into ``ACTIONS``, ``is_second`` tells its two classes apart; ``group`` and ``number`` count
    from 1.
    """

    pair: int
    is_second: bool
    group: int
    number: int

    @property
    def class_name(self) -> str:
        return ACTIONS[self.pair].classes[self.is_second]

    @property
    def list_path(self) -> str:
        """The path as UCF101's lists write it: ``<Class>/v_<Class>_g01_c01.avi``."""
        return f"{self.class_name}/v_{self.class_name}_g{self.group:02d}_c{self.number:02d}.avi"


def render(
    root: Path = DEFAULT_ROOT,
    seed: int = 0,
    classes: int = 10,
    groups: int = 10,
    clips: int = 2,
    workers: int = available_cores(),
) -> None:
    """Render the demo dataset. An interrupted rendering resumes; a finished one is left as it is.

    Args:
        root: folder to render to: new, empty, or rendered by this command before.
        seed: random seed of actors, scenes and movements. The same seed gives the same files, byte for byte.
        classes: number of classes, up to 32; even, because they come in pairs.
        groups: number of actors, each in a scene of their own.
        clips: number of videos per class and group.
        workers: number of processes.

    Raises:
        DatasetError: ``root`` contains something else, or a number is out of range.
        OSError: the disk is full or read-only.
    """
    rendering = Rendering(VERSION, seed, classes, groups, clips)
    require_usable_paths([root.absolute()])  # or OpenCV would crash
    if workers < 1:
        raise DatasetError(f"workers must be positive, not {workers}.")
    if _is_done(root, rendering):
        return
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):  # if another process is rendering, wait until it is done
        if _is_done(root, rendering):
            return
        write_text_atomically(root / UNFINISHED_MARKER, _marker_text(rendering))
        _write_videos(rendering, root, workers)
        _write_lists(rendering, root / "ucfTrainTestlist")
        write_text_atomically(root / MARKER, _marker_text(rendering))
        (root / UNFINISHED_MARKER).unlink()


def load(config: DataConfig) -> VideoDataset:
    """Load the demo dataset with the splits "1", "2" and "3"; render it first if needed.

    A folder that was rendered with another seed or size is loaded as it is.

    Raises:
        DatasetError: the folder contains something else, or lacks files.
    """
    root = config.root_or("demo")
    rendering = _read_marker(root / MARKER) or _read_marker(root / UNFINISHED_MARKER)
    size = {} if rendering is None else {name: value for name, value in asdict(rendering).items() if name != "version"}
    render(root, **size)
    done = _read_marker(root / MARKER)
    assert done is not None, root
    remedy = f"delete {root} and run python -m data.demo --root {root}"
    dataset = load_layout(root, "demo", remedy, done.validation_groups())
    # Videos of two seeds have the same names, but must not share stored features.
    return dataclasses.replace(dataset, store_name=f"demo-version_{done.version}-seed_{done.seed}")


def require_rendered(config: DataConfig) -> None:
    """Raise ``DatasetError`` if loading the demo dataset would render it to a folder that a run names."""
    if config.root is not None and not (config.root / MARKER).is_file():
        raise DatasetError(
            f"{config.root} does not contain the demo dataset. Render it (python -m data.demo --root {config.root}), "
            "or name the folder with --root."
        )


def draw_frames(video: DemoVideo, seed: int) -> list[Image]:
    """Draw a video's frames, BGR uint8 [HEIGHT, WIDTH, 3]: a take of its own."""
    rng = np.random.default_rng((seed, video.group, video.pair, 2 * video.number + video.is_second))
    return film(ACTIONS[video.pair], video.is_second, stage_of(seed, video.group), rng)


@cache
def stage_of(seed: int, group: int) -> Stage:
    """Return the actor, scene and props of a group."""
    return random_stage(group, np.random.default_rng((seed, group)))


def _is_done(root: Path, wanted: Rendering) -> bool:
    """Return whether ``root`` contains ``wanted``, complete. Raise ``DatasetError`` if it contains something else."""
    done = _read_marker(root / MARKER)
    found = done or _read_marker(root / UNFINISHED_MARKER)
    if found is None and root.is_dir() and any(path.name != ".lock" for path in root.iterdir()):
        raise DatasetError(f"{root} contains files that are not the demo dataset. Name a new folder with --root.")
    if found is not None and found != wanted:
        differing = [
            f"{name} is {value}, not {asdict(wanted)[name]}"
            for name, value in asdict(found).items()
            if value != asdict(wanted)[name]
        ]
        raise DatasetError(
            f"{root} contains another demo dataset: {'; '.join(differing)}. Delete it or name a new folder with --root."
        )
    return done is not None


def _read_marker(path: Path) -> Rendering | None:
    """Read a marker; ``None`` if there is none."""
    if not path.exists():
        return None
    try:
        return Rendering(**json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path} does not describe a demo dataset ({error}). Delete {path.parent}.") from error


def _marker_text(rendering: Rendering) -> str:
    return json.dumps(asdict(rendering), indent=2) + "\n"


def _write_videos(rendering: Rendering, root: Path, workers: int) -> None:
    """Render the videos that are missing."""
    targets = [(video, root / "UCF-101" / video.list_path) for video in rendering.videos()]
    missing = [(video, path) for video, path in targets if not path.exists()]
    for folder in {path.parent for _, path in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    num_done = len(targets) - len(missing)
    with closing(Progress(len(targets), "video", num_done, "rendering")) as progress:
        if workers == 1 or len(missing) <= 1:
            for video, path in missing:
                _write_video(video, rendering.seed, path)
                progress.advance()
            return
        # Spawn, never fork: OpenCV may hang in a child of a process that has used its threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(os.getpid(),)) as pool:
            tasks = [pool.submit(_write_video, video, rendering.seed, path) for video, path in missing]
            try:
                for task in as_completed(tasks):
                    task.result()
                    progress.advance()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _start(parent_pid: int) -> None:
    """Prepare a worker process."""
    end_with_parent(parent_pid)  # otherwise it would wait for ever for a parent that was killed
    cv2.setNumThreads(1)


def _write_video(video: DemoVideo, seed: int, path: Path) -> None:
    """Render one video; a file under the final name is always complete."""
    frames = draw_frames(video, seed)
    # OpenCV's writer needs the suffix. Only the holder of the lock writes here, so the name need not be unique, and the
    # remains of a killed process are overwritten.
    unfinished = path.with_name(f".{path.name}")
    writer = cv2.VideoWriter(str(unfinished), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"XVID"), FPS, (WIDTH, HEIGHT))
    for frame in frames:
        writer.write(frame)
    writer.release()
    written = _count_frames(unfinished)
    if written != len(frames):  # the writer itself does not report a full disk
        unfinished.unlink(missing_ok=True)
        raise OSError(f"only {written} of the {len(frames)} frames of {path} could be written. Is the disk full?")
    os.replace(unfinished, path)


def _count_frames(path: Path) -> int:
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    count = 0
    while video.grab():
        count += 1
    video.release()
    return count


def _write_lists(rendering: Rendering, folder: Path) -> None:
    """Write ``classInd.txt`` and three pairs of ``trainlist0k.txt`` and ``testlist0k.txt`` in UCF101's format."""
    videos = rendering.videos()
    class_ids = {name: number for number, name in enumerate(sorted({video.class_name for video in videos}), start=1)}
    lists = {"classInd.txt": [f"{number} {name}" for name, number in class_ids.items()]}
    for split, test_groups in enumerate(rendering.test_groups(), start=1):
        lists[f"testlist{split:02d}.txt"] = [video.list_path for video in videos if video.group in test_groups]
        lists[f"trainlist{split:02d}.txt"] = [
            f"{video.list_path} {class_ids[video.class_name]}" for video in videos if video.group not in test_groups
        ]
    for name, lines in lists.items():
        write_text_atomically(folder / name, "".join(f"{line}\n" for line in lines))


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code, 0."""
    import tyro

    tyro.cli(render, prog="python -m data.demo", args=arguments)
    return 0
