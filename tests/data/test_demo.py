"""data/demo: layout and lists, the time reversal within pairs, and renderings that are complete or resume."""

import hashlib
import json
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
import pytest
from numpy.typing import NDArray

from data.catalog import DataConfig, load_dataset
from data.demo import dataset as demo
from data.demo.actions import ACTIONS, FPS, HEIGHT, WIDTH, film, postures
from data.demo.dataset import DemoVideo, Rendering, draw_frames, load, main, render, stage_of
from data.records import DatasetError
from data.video import count_frames
from tests.helpers import REPOSITORY

SIZE = {"classes": 2, "groups": 4, "clips": 1}
ARGUMENTS = ["--classes", "2", "--groups", "4", "--clips", "1"]


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
    full = Rendering(demo.VERSION, seed=0, classes=8, groups=10, clips=3)
    assert full.validation_groups() == {9, 10}
    assert full.test_groups() == [{1, 2, 3}, {4, 5, 6}, {7, 8}]
    assert len(full.videos()) == 240


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
    frame = draw_frames(DemoVideo(pair=2, is_reversed=True, group=1, number=1), seed=0)[0]
    assert demo.VERSION == 1
    assert frame.mean(axis=(0, 1)) == pytest.approx([148.565, 162.501, 128.041], abs=0.01)


def test_other_seed_other_frames() -> None:
    """Another seed gives another actor in another scene."""
    video = DemoVideo(pair=0, is_reversed=False, group=1, number=1)
    assert difference(draw_frames(video, seed=0)[0], draw_frames(video, seed=1)[0]) > 10


@pytest.mark.parametrize("pair", range(len(ACTIONS)))
def test_the_second_class_is_the_first_played_backwards(pair: int) -> None:
    """A reversed video is a forward take, frame by frame backwards, so an average of its frames reveals nothing."""
    video = DemoVideo(pair, is_reversed=True, group=1, number=1)
    take = film(ACTIONS[pair], stage_of(0, 1), np.random.default_rng((0, 1, pair, 2 * video.number + 1)))
    assert np.array_equal(draw_frames(video, seed=0), take[::-1])
    assert difference(take[0], take[-1]) > 3 * difference(take[0], take[1]), "start and end must look different"


def test_files_contain_the_frames_in_the_order_of_their_class(rendered: Path) -> None:
    """The video on disk runs as its class says: StandUp begins where a forward take ends."""
    for is_reversed, name in ((False, "SitDown"), (True, "StandUp")):
        drawn = draw_frames(DemoVideo(0, is_reversed, group=1, number=1), seed=0)
        read = read_frames(rendered / "UCF-101" / name / f"v_{name}_g01_c01.avi")
        assert len(read) == len(drawn)
        assert difference(read[0], drawn[0]) < 5 < difference(read[0], drawn[-1])
        assert difference(read[-1], drawn[-1]) < 5


def test_waiting_times_do_not_reveal_the_direction() -> None:
    """Actors wait as long before as after the movement, so the time spent in a pose says nothing about the class."""
    before, after = [], []
    for seed in range(300):
        angles = postures(ACTIONS[0], 100, np.random.default_rng(seed))[:, :, 4, 0].mean(axis=1)  # thighs
        still = np.abs(np.diff(angles)) < 0.3
        before.append(int(np.argmin(still)))
        after.append(int(np.argmin(still[::-1])))
    assert min(np.mean(before), np.mean(after)) > 5
    assert abs(np.mean(before) - np.mean(after)) < 1.5
    assert abs(np.std(before) - np.std(after)) < 1.5


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
        process.send_signal(signal.SIGKILL)
        process.communicate()
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
    assert wanted == [Rendering(demo.VERSION, seed=0, classes=8, groups=10, clips=3)]
    sizes = [(len(split.train), len(split.validation), len(split.test)) for split in dataset.splits.values()]
    assert sizes == [(120, 48, 72), (120, 48, 72), (144, 48, 48)]


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
        (["--classes", "3"], "classes must be an even number from 2 to 8, not 3"),
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
    """On CNN features of unseen actors, a linear classifier gets half right from the average of the frames, and nearly
    all from their start and end."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from pipeline.cache.job import FeatureCache
    from pipeline.settings.config import FeatureConfig

    dataset = load(DataConfig("demo", root=tmp_path / "demo"))
    stored, _ = FeatureCache(FeatureConfig(cache=tmp_path / "cache")).load(dataset.store_name, dataset.videos)
    features = {
        record.video_id: video.features.astype(np.float32)
        for record, video in zip(dataset.videos, stored, strict=True)
        if video is not None
    }

    def average(video: NDArray[np.float32]) -> NDArray[np.float32]:
        return video.mean(axis=0)

    def start_and_end(video: NDArray[np.float32]) -> NDArray[np.float32]:
        third = len(video) // 3
        return np.concatenate([average(video[:third]), average(video[-third:])])

    accuracies = {}
    for summary in (average, start_and_end):
        right = []
        for split in dataset.splits.values():
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
            classifier.fit([summary(features[r.video_id]) for r in split.train], [r.label for r in split.train])
            predicted = classifier.predict([summary(features[r.video_id]) for r in split.test])
            right.extend(predicted == [record.label for record in split.test])
        accuracies[summary.__name__] = float(np.mean(right))
    assert accuracies["average"] <= 0.60
    assert accuracies["start_and_end"] >= 0.95
