"""The embedded dataset: short videos of cartoon people, rendered on the spot in UCF101's layout.

    python -m data.demo --root datasets/demo

Its classes come in pairs that are each other's time reversal (SitDown / StandUp, ...). A clip of the second class is
drawn by the same random process as one of the first and its frames are played backwards. So within a pair the *set* of
frames of a video has one distribution: a classifier that averages frames can tell the pairs apart and then gets half
of the videos right, whatever its features. To do better it must know the order.

A group is one actor (body and clothes) in one scene who performs every class, so what an actor or a scene looks like
says nothing about the class, and no actor or scene stands on two sides of a split. As in UCF101, some groups are in no
test list; they are for validation.
"""

import dataclasses
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

from data.atomic import write_text_atomically
from data.catalog import DataConfig
from data.demo.actions import ACTIONS, FPS, HEIGHT, WIDTH, Stage, film, random_stage
from data.demo.people import Image
from data.download import progress_bar
from data.records import DatasetError, VideoDataset
from data.ucf101 import load_layout

VERSION = 1  # of the pictures; to be raised whenever a seed would give other ones
DEFAULT_ROOT = Path("datasets/demo")
MARKER = "demo.json"  # written last: the rendering is whole
UNFINISHED_MARKER = "demo.unfinished.json"  # written first: a killed rendering is known for what it was to become


@dataclass(frozen=True)
class Rendering:
    """What a rendered folder holds, as its marker says. Any part of it changed gives other files."""

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
                f"groups must be at least 4 (one to validate, and in each of the three splits one to test and another "
                f"to train), not {self.groups}."
            )

    def clip_list(self) -> list["Clip"]:
        """Every clip, classes in alphabetical order as in UCF101's lists."""
        clips = [
            Clip(pair, reverse, group, number)
            for pair in range(self.classes // 2)
            for reverse in (False, True)
            for group in range(1, self.groups + 1)
            for number in range(1, self.clips + 1)
        ]
        return sorted(clips, key=lambda clip: clip.list_path)

    def validation_groups(self) -> frozenset[int]:
        """The last fifth of the groups: g09 and g10 of 10."""
        return frozenset(range(self.groups - max(1, self.groups // 5) + 1, self.groups + 1))

    def test_groups(self) -> list[frozenset[int]]:
        """For each split a third of the others: of 10, g01-g03, g04-g06 and g07-g08."""
        others = [group for group in range(1, self.groups + 1) if group not in self.validation_groups()]
        return [frozenset(part.tolist()) for part in np.array_split(others, 3)]


@dataclass(frozen=True)
class Clip:
    """One video of the dataset. ``pair`` is an index into ``ACTIONS``; ``group`` and ``number`` count from 1."""

    pair: int
    is_reversed: bool
    group: int
    number: int

    @property
    def class_name(self) -> str:
        action = ACTIONS[self.pair]
        return action.backward if self.is_reversed else action.forward

    @property
    def list_path(self) -> str:
        """As the official lists write it: ``<Class>/v_<Class>_g01_c01.avi``."""
        return f"{self.class_name}/v_{self.class_name}_g{self.group:02d}_c{self.number:02d}.avi"


def render(
    root: Path = DEFAULT_ROOT,
    seed: int = 0,
    classes: int = 8,
    groups: int = 10,
    clips: int = 3,
    workers: int | None = None,
) -> None:
    """Render the dataset; where that was begun before, finish it. Done already, it does nothing.

    Args:
        root: where to; a new or empty folder, or one this command made.
        seed: other seeds, other actors, scenes and movements. Seed and version give the bytes of every file.
        classes: how many, an even number: they come in pairs.
        groups: how many actors, each in a scene of its own.
        clips: how many of each class and group.
        workers: number of processes; by default one for each core.

    Raises:
        DatasetError: ``root`` holds something else, or a number is out of range.
        OSError: the disk is full or may not be written.
    """
    rendering = Rendering(VERSION, seed, classes, groups, clips)
    if workers is not None and workers < 1:
        raise DatasetError(f"workers must be positive, not {workers}.")
    if _is_done(root, rendering):
        return
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):  # another process may be at it: wait, then find it done
        if _is_done(root, rendering):
            return
        write_text_atomically(root / UNFINISHED_MARKER, _marker_text(rendering))
        _write_videos(rendering, root, workers or os.cpu_count() or 1)
        _write_lists(rendering, root / "ucfTrainTestlist")
        write_text_atomically(root / MARKER, _marker_text(rendering))
        (root / UNFINISHED_MARKER).unlink()


def load(config: DataConfig) -> VideoDataset:
    """The demo dataset with the splits "1", "2" and "3", rendered first where it is not there.

    A folder that was rendered with another seed or size is taken as it is.

    Raises:
        DatasetError: the folder holds something else, or lacks files.
    """
    root = config.root_or("demo")
    rendering = _read_marker(root / MARKER) or _read_marker(root / UNFINISHED_MARKER)
    size = {} if rendering is None else {name: value for name, value in asdict(rendering).items() if name != "version"}
    render(root, **size)
    done = _read_marker(root / MARKER)
    assert done is not None, root
    remedy = f"delete {root} and run python -m data.demo --root {root}"
    dataset = load_layout(root, "demo", remedy, done.validation_groups())
    # Videos of two seeds share their names, but must not share stored features.
    return dataclasses.replace(dataset, store_name=f"demo-version_{done.version}-seed_{done.seed}")


def clip_frames(clip: Clip, seed: int) -> list[Image]:
    """The clip's frames, BGR uint8 [HEIGHT, WIDTH, 3] each: a take of its action, backwards for the reversed class."""
    take = 2 * clip.number + clip.is_reversed
    rng = np.random.default_rng((seed, clip.group, clip.pair, take))
    frames = film(ACTIONS[clip.pair], stage_of(seed, clip.group), rng)
    return frames[::-1] if clip.is_reversed else frames


@cache
def stage_of(seed: int, group: int) -> Stage:
    """The actor, scene and things of a group."""
    return random_stage(group, np.random.default_rng((seed, group)))


def _is_done(root: Path, wanted: Rendering) -> bool:
    """Whether ``wanted`` lies at ``root``, whole. Raises ``DatasetError`` where something else does."""
    done = _read_marker(root / MARKER)
    found = done or _read_marker(root / UNFINISHED_MARKER)
    if found is None and root.is_dir() and any(path.name != ".lock" for path in root.iterdir()):
        raise DatasetError(f"{root} holds something that is not the demo dataset. Name a new folder with --root.")
    if found is not None and found != wanted:
        differing = [
            f"{name} is {value}, asked for is {asdict(wanted)[name]}"
            for name, value in asdict(found).items()
            if value != asdict(wanted)[name]
        ]
        raise DatasetError(
            f"{root} holds another demo dataset: {'; '.join(differing)}. Delete it or name a new folder with --root."
        )
    return done is not None


def _read_marker(path: Path) -> Rendering | None:
    """What a marker says; ``None`` where there is none."""
    if not path.exists():
        return None
    try:
        return Rendering(**json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path} does not describe a demo dataset ({error}). Delete {path.parent}.") from error


def _marker_text(rendering: Rendering) -> str:
    return json.dumps(asdict(rendering), indent=2) + "\n"


def _write_videos(rendering: Rendering, root: Path, workers: int) -> None:
    """Render the clips that are not there yet."""
    places = [(clip, root / "UCF-101" / clip.list_path) for clip in rendering.clip_list()]
    missing = [(clip, path) for clip, path in places if not path.exists()]
    for folder in {path.parent for _, path in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(len(places), "video", "rendering", done=len(places) - len(missing)) as bar:
        if workers == 1 or len(missing) <= 1:
            for clip, path in missing:
                _write_clip(clip, rendering.seed, path)
                bar.update()
            return
        # Spawn, never fork: OpenCV may hang in a child of a process that has used its threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            tasks = [pool.submit(_write_clip, clip, rendering.seed, path) for clip, path in missing]
            try:
                for task in as_completed(tasks):
                    task.result()
                    bar.update()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _write_clip(clip: Clip, seed: int, path: Path) -> None:
    """Render one clip; a file of the final name is always whole."""
    frames = clip_frames(clip, seed)
    # The writer needs the suffix. Only the holder of the lock writes here, so the name need not be unique, and what a
    # killed process left is overwritten.
    unfinished = path.with_name(f".{path.name}")
    writer = cv2.VideoWriter(str(unfinished), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"XVID"), FPS, (WIDTH, HEIGHT))
    for frame in frames:
        writer.write(frame)
    writer.release()
    written = _count_frames(unfinished)
    if written != len(frames):  # the writer itself never says that the disk is full
        unfinished.unlink(missing_ok=True)
        raise OSError(f"of the {len(frames)} frames of {path} only {written} could be written. Is the disk full?")
    os.replace(unfinished, path)


def _count_frames(path: Path) -> int:
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    count = 0
    while video.grab():
        count += 1
    video.release()
    return count


def _write_lists(rendering: Rendering, folder: Path) -> None:
    """``classInd.txt`` and three pairs of ``trainlist0k.txt`` and ``testlist0k.txt``, as UCF101 writes them."""
    clips = rendering.clip_list()
    class_ids = {name: number for number, name in enumerate(sorted({clip.class_name for clip in clips}), start=1)}
    lists = {"classInd.txt": [f"{number} {name}" for name, number in class_ids.items()]}
    for split, test_groups in enumerate(rendering.test_groups(), start=1):
        lists[f"testlist{split:02d}.txt"] = [clip.list_path for clip in clips if clip.group in test_groups]
        lists[f"trainlist{split:02d}.txt"] = [
            f"{clip.list_path} {class_ids[clip.class_name]}" for clip in clips if clip.group not in test_groups
        ]
    for name, lines in lists.items():
        write_text_atomically(folder / name, "".join(f"{line}\n" for line in lines))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns its exit code: 0 done, 1 a disk that refuses, 2 usage."""
    import tyro

    try:
        tyro.cli(render, prog="python -m data.demo", args=arguments)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
