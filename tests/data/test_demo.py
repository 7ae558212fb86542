"""data/demo: layout and lists, what the classes of a pair share, and renderings that are complete or resume."""

import hashlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from data.catalog import DataConfig, load_dataset
from data.demo import dataset as demo
from data.demo.actions import ACTIONS, FPS, Action, postures
from data.demo.clutter import random_obstacles
from data.demo.dataset import DemoVideo, Rendering, draw_frames, load, main, render, stage_of
from data.demo.drawing import CANVAS_HEIGHT, CANVAS_WIDTH, fill
from data.demo.film import HEIGHT, WIDTH, film
from data.demo.people import TORSO
from data.records import DatasetError
from data.video import count_frames
from tests.helpers import REPOSITORY

SIZE = {"classes": 2, "groups": 4, "clips": 1}
ARGUMENTS = ["--classes", "2", "--groups", "4", "--clips", "1"]
CYCLES = [action for action in ACTIONS if action.is_cycle]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SitDown and StandUp, four groups, one video each."""
    root = tmp_path_factory.mktemp("rendered") / "demo"
    render(root, workers=1, **SIZE)
    return root


def hashes(root: Path) -> dict[str, str]:
    """sha256 of every file except the lock, hidden ones too, by path under ``root``."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_frames(path: Path) -> list[NDArray[np.uint8]]:
    video = cv2.VideoCapture(str(path))
    frames: list[NDArray[np.uint8]] = []
    while True:
        ok, frame = video.read()
        if not ok:
            return frames
        frames.append(frame)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Mean absolute difference of two frames in grey levels."""
    return float(np.abs(one.astype(np.int16) - other).mean())


def start_command(root: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "data.demo", "--root", str(root), "--workers", "1", *ARGUMENTS]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)


def test_videos_have_ucf101s_format(rendered: Path) -> None:
    """Every video is an XviD AVI of 320x240 at 25 fps, 2 to 4 seconds long, at the path UCF101 would use."""
    paths = sorted((rendered / "UCF-101").rglob("*.avi"))
    names = [f"{name}/v_{name}_g{group:02d}_c01.avi" for name in ("SitDown", "StandUp") for group in range(1, 5)]
    assert [path.relative_to(rendered / "UCF-101").as_posix() for path in paths] == names
    for path in paths:
        video = cv2.VideoCapture(str(path))
        assert path.read_bytes()[112:116] == b"XVID", "the header's codec"
        assert video.get(cv2.CAP_PROP_FPS) == FPS == 25
        frames = read_frames(path)
        assert 2 * FPS <= len(frames) <= 4 * FPS
        assert {frame.shape for frame in frames} == {(HEIGHT, WIDTH, 3)} == {(240, 320, 3)}


def test_lists_are_in_the_official_format(rendered: Path) -> None:
    """Class ids count from 1 and are in training lines only, as UCF101's readers expect."""
    lists = rendered / "ucfTrainTestlist"
    assert (lists / "classInd.txt").read_text() == "1 SitDown\n2 StandUp\n"
    assert (lists / "testlist01.txt").read_text() == "SitDown/v_SitDown_g01_c01.avi\nStandUp/v_StandUp_g01_c01.avi\n"
    assert (lists / "trainlist01.txt").read_text().splitlines()[-1] == "StandUp/v_StandUp_g04_c01.avi 2"
    assert len(list(lists.iterdir())) == 7


def test_groups_of_the_full_size() -> None:
    """With ten groups, the splits test on three, three and two, and all of them validate on the last two."""
    full = Rendering(demo.VERSION, seed=0, classes=10, groups=10, clips=2)
    assert full.validation_groups() == {9, 10}
    assert full.test_groups() == [{1, 2, 3}, {4, 5, 6}, {7, 8}]
    assert len(full.videos()) == 200


def test_no_actor_is_in_two_parts_of_a_split(rendered: Path) -> None:
    """The actor of a group performs every class, so a group's number must be in one part for all classes at once."""
    dataset = load_dataset(DataConfig("demo", root=rendered))
    assert list(dataset.splits) == ["1", "2", "3"]
    for split in dataset.splits.values():
        parts = [split.train, split.validation, split.test]
        numbers = [{record.group.rpartition("_")[2] for record in part} for part in parts]
        assert all(numbers) and sum(map(len, numbers)) == len(set.union(*numbers)) == 4
        for part in parts:
            assert len(set(Counter(record.label for record in part).values())) == 1, "classes are not balanced"


def test_same_bytes_for_any_number_of_workers(rendered: Path, tmp_path: Path) -> None:
    """The files depend only on the seed, not on how the work was distributed."""
    render(tmp_path / "again", workers=2, **SIZE)
    assert hashes(tmp_path / "again") == hashes(rendered)


def test_frames_are_those_of_this_version() -> None:
    """A change of the drawing code that changes the frames must raise VERSION, or stored features would be stale."""
    frame = draw_frames(DemoVideo(pair=2, is_second=True, group=1, number=1), seed=0)[0]
    assert demo.VERSION == 2
    assert frame.mean(axis=(0, 1)) == pytest.approx([154.803, 162.988, 131.300], abs=0.01)


def test_other_seed_other_frames() -> None:
    """Another seed gives another actor in another scene."""
    video = DemoVideo(pair=0, is_second=False, group=1, number=1)
    assert difference(draw_frames(video, seed=0)[0], draw_frames(video, seed=1)[0]) > 10


def test_twelve_pairs_differ_in_direction_and_four_in_tempo() -> None:
    """Every class has a name of its own, in UCF101's CamelCase, and the first classes stay the first."""
    names = [name for action in ACTIONS for name in action.classes]
    assert (len(ACTIONS) - len(CYCLES), len(CYCLES)) == (12, 4)
    assert len(set(names)) == 32
    assert all(re.fullmatch("([A-Z][a-z]+)+", name) for name in names)
    assert names[:8] == ["SitDown", "StandUp", "RaiseArms", "LowerArms", "LiftBox", "PutDownBox", "LieDown", "GetUp"]


@pytest.mark.parametrize("pair", [pair for pair, action in enumerate(ACTIONS) if not action.is_cycle])
def test_the_second_class_is_the_first_played_backwards(pair: int) -> None:
    """A reversed video is a forward take, frame by frame backwards, so an average of its frames reveals nothing."""
    video = DemoVideo(pair, is_second=True, group=1, number=1)
    take = film(ACTIONS[pair], False, stage_of(0, 1), np.random.default_rng((0, 1, pair, 2 * video.number + 1)))
    assert np.array_equal(draw_frames(video, seed=0), take[::-1])
    assert difference(take[0], take[-1]) > 1.5 * difference(take[0], take[1]), "start and end must look different"


@pytest.mark.parametrize("action", CYCLES, ids=lambda action: action.classes[0])
def test_both_tempos_show_the_same_postures(action: Action) -> None:
    """A slow and a fast video have the same mean posture and the same spread around it: only the tempo differs."""
    slow, fast = (
        [postures(action, is_fast, 60, np.random.default_rng(seed))[:, 0] for seed in range(40)]
        for is_fast in (False, True)
    )
    # The same seed draws the same noise, side and (but for the tempo) phase.
    for one, other in zip(slow, fast, strict=True):
        assert np.abs(one.mean(axis=0) - other.mean(axis=0)).max() < 2.0
    spread = [np.concatenate(videos).std(axis=0) for videos in (slow, fast)]
    assert np.abs(spread[0] - spread[1]).max() < 1.0
    steps = [np.mean([np.abs(np.diff(video, axis=0)).mean() for video in videos]) for videos in (slow, fast)]
    assert steps[1] > 1.8 * steps[0], "the fast class must be faster"


@pytest.mark.parametrize("action", CYCLES, ids=lambda action: action.classes[0])
def test_frames_spread_evenly_over_the_cycle(action: Action) -> None:
    """Any frame is as likely to show any moment of the cycle at one tempo as at the other, the first frame too."""
    firsts = [
        [postures(action, is_fast, 75, np.random.default_rng((seed, is_fast)))[0, 0] for seed in range(400)]
        for is_fast in (False, True)
    ]
    moving = np.argmax(np.std(firsts, axis=(0, 1)))
    angles = [np.array(first).reshape(400, -1)[:, moving] for first in firsts]
    assert ks_2samp(*angles).pvalue > 0.01


def test_things_in_front_leave_the_actor_visible() -> None:
    """What stands in front of the actors hides a part of the place where they act, but never most of it."""
    hidden = []
    for seed in range(200):
        canvas = np.zeros((CANVAS_HEIGHT, CANVAS_WIDTH, 3), np.uint8)
        fill(canvas, [(corners, (255, 255, 255)) for corners, _ in random_obstacles(np.random.default_rng(seed))])
        hidden.append(np.mean(canvas[150:470, CANVAS_WIDTH // 2 - 80 : CANVAS_WIDTH // 2 + 80] > 0))
    assert 0.05 < np.mean(hidden) < 0.25
    assert max(hidden) < 0.6


def test_files_contain_the_frames_in_the_order_of_their_class(rendered: Path) -> None:
    """The video on disk runs as its class says: StandUp begins where a forward take ends."""
    for is_second, name in ((False, "SitDown"), (True, "StandUp")):
        drawn = draw_frames(DemoVideo(0, is_second, group=1, number=1), seed=0)
        read = read_frames(rendered / "UCF-101" / name / f"v_{name}_g01_c01.avi")
        assert len(read) == len(drawn)
        assert difference(read[0], drawn[0]) < 5 < difference(read[0], drawn[-1])
        assert difference(read[-1], drawn[-1]) < 5


def test_waiting_times_do_not_reveal_the_direction() -> None:
    """Actors wait as long before as after the movement, so the time spent in a pose says nothing about the class."""
    bow = next(action for action in ACTIONS if len(action.keyframes) == 2 and not action.is_cycle)
    before, after = [], []
    for seed in range(600):
        torso = postures(bow, False, 100, np.random.default_rng(seed))[:, 0, TORSO, 0]
        still = np.abs(np.diff(torso)) < 0.3
        before.append(int(np.argmin(still)))
        after.append(int(np.argmin(still[::-1])))
    assert min(np.mean(before), np.mean(after)) > 5
    assert abs(np.mean(before) - np.mean(after)) < 2.5
    assert abs(np.std(before) - np.std(after)) < 2.5


def test_a_killed_rendering_resumes(rendered: Path, tmp_path: Path) -> None:
    """After kill -9, final names are complete videos, no marker says done, and the next call makes the same files."""
    root = tmp_path / "demo"
    process = start_command(root)
    try:
        deadline = time.monotonic() + 60
        while len(list(root.rglob("v_*.avi"))) < 2:
            assert process.poll() is None and time.monotonic() < deadline, "rendered nothing"
            time.sleep(0.02)
    finally:
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive, "workers wait for a parent that is gone, or write while another rendering holds the lock"
    assert not (root / "demo.json").exists()
    reference = hashes(rendered)
    finished = {name: value for name, value in hashes(root).items() if Path(name).name.startswith("v_")}
    assert 2 <= len(finished) < 8
    assert finished.items() <= reference.items()
    half_written = root / "UCF-101" / "StandUp" / ".v_StandUp_g04_c01.avi"
    half_written.parent.mkdir(exist_ok=True)
    half_written.write_bytes(b"RIFF")
    times = {name: (root / name).stat().st_mtime_ns for name in finished}

    dataset = load(DataConfig("demo", root=root))

    assert hashes(root) == reference
    assert times == {name: (root / name).stat().st_mtime_ns for name in finished}, "a finished video was rendered again"
    assert len(dataset.videos) == 8


def test_a_finished_rendering_is_left_alone(rendered: Path) -> None:
    """A second call changes no file."""
    before = {path: path.stat().st_mtime_ns for path in rendered.rglob("*")}
    render(rendered, workers=1, **SIZE)
    assert {path: path.stat().st_mtime_ns for path in rendered.rglob("*")} == before


def test_load_accepts_a_folder_as_it_was_rendered(rendered: Path) -> None:
    """A smaller set is loaded as it is, and its features can't be mistaken for those of another seed."""
    dataset = load(DataConfig("demo", root=rendered))
    assert dataset.classes == ("SitDown", "StandUp")
    assert [len(part) for part in (dataset.videos, dataset.split("1").test)] == [8, 2]
    assert (dataset.name, dataset.store_name) == ("demo", f"demo-version_{demo.VERSION}-seed_0")
    assert all(count_frames(record.path).decoded_frames >= 2 * FPS for record in dataset.videos)


def test_load_renders_a_missing_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo needs no command first: loading from an empty folder renders the full size there."""
    wanted = []

    def render_small(rendering: Rendering, root: Path, workers: int) -> None:
        wanted.append(rendering)
        for video in rendering.videos():
            path = root / "UCF-101" / video.list_path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    monkeypatch.setattr(demo, "_write_videos", render_small)
    dataset = load(DataConfig("demo", root=tmp_path / "demo"))
    assert wanted == [Rendering(demo.VERSION, seed=0, classes=10, groups=10, clips=2)]
    sizes = [(len(split.train), len(split.validation), len(split.test)) for split in dataset.splits.values()]
    assert sizes == [(100, 40, 60), (100, 40, 60), (120, 40, 40)]


def test_another_rendering_is_not_overwritten(rendered: Path) -> None:
    """Rendering another seed into the same folder is an error that names the difference, not a mixture of both."""
    before = hashes(rendered)
    with pytest.raises(DatasetError, match="seed is 0, not 1.*Delete it or name a new folder"):
        render(rendered, seed=1, workers=1, **SIZE)
    assert hashes(rendered) == before


def test_videos_of_another_version_are_refused(tmp_path: Path) -> None:
    """Videos that an older version of the code drew must not be taken for current ones."""
    (tmp_path / "demo.json").write_text(json.dumps({"version": 0, "seed": 0, **SIZE}))
    with pytest.raises(DatasetError, match=f"version is 0, not {demo.VERSION}"):
        load(DataConfig("demo", root=tmp_path))


def test_a_broken_marker_is_an_error(tmp_path: Path) -> None:
    """An invalid marker is reported with its path, not as a traceback."""
    (tmp_path / "demo.json").write_text("{}")
    with pytest.raises(DatasetError, match="demo.json does not describe a demo dataset"):
        load(DataConfig("demo", root=tmp_path))


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    """A wrong --root must not be filled with videos: it may contain the user's own."""
    (tmp_path / "holiday.avi").touch()
    with pytest.raises(DatasetError, match=f"{tmp_path} contains files that are not the demo dataset"):
        load(DataConfig("demo", root=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.avi"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "3"], "classes must be an even number from 2 to 32, not 3"),
        (["--groups", "3"], "groups must be at least 4"),
        (["--clips", "0"], "must be positive"),
        (["--workers", "0"], "workers must be positive, not 0"),
    ],
)
def test_sizes_out_of_range(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    exit_code_of: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A size that gives no fair splits is a usage error, and nothing is written."""
    assert exit_code_of(main, "--root", str(tmp_path / "demo"), *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    """OpenCV's writer does not report a full disk, yet no shortened video may get its final name."""
    command = [sys.executable, "-m", "data.demo", "--root", str(tmp_path / "demo"), "--workers", "1", *ARGUMENTS]
    limited = f"ulimit -f 32; exec {shlex.join(command)}"  # no file of more than 32 KB
    result = subprocess.run(["bash", "-c", limited], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Is the disk full?" in result.stderr and "Traceback" not in result.stderr
    assert not [name for name in hashes(tmp_path / "demo") if name.endswith((".avi", "demo.json"))]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_only_order_tells_the_classes_apart(tmp_path: Path) -> None:
    """On CNN features of unseen actors, a linear classifier gets half right from the average of the frames. From the
    averages of their thirds it knows most directions, but no tempos."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from pipeline.cache.job import FeatureCache
    from pipeline.labels.probabilities import video_vectors
    from pipeline.settings.config import FeatureConfig

    dataset = load(DataConfig("demo", root=tmp_path / "demo"))
    packed, _ = FeatureCache(FeatureConfig(cache=tmp_path / "cache")).load(dataset.store_name, dataset.videos)
    tempos = {dataset.classes.index(name) for action in CYCLES for name in action.classes if name in dataset.classes}
    accuracies = {}
    for num_parts in (1, 3):
        right: dict[bool, list[bool]] = {False: [], True: []}
        for split in dataset.splits.values():
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
            classifier.fit(video_vectors(packed, split.train, num_parts), [record.label for record in split.train])
            predicted = classifier.predict(video_vectors(packed, split.test, num_parts))
            for record, label in zip(split.test, predicted, strict=True):
                right[record.label in tempos].append(label == record.label)
        accuracies[num_parts] = {is_tempo: float(np.mean(values)) for is_tempo, values in right.items()}
    assert max(accuracies[1].values()) <= 0.60
    assert accuracies[3][False] >= 0.80
    assert accuracies[3][True] <= 0.60
