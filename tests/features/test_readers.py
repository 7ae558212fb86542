"""Reader processes: correct frames in order, and no video or reader can block or outlive the job."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.video import read_header
from models.cnn.preprocessing import VIEWS, Preprocessing
from pipeline.features import readers
from pipeline.features.readers import FRAMES_PER_BLOCK, Event, Failed, Finished, Frames, read_videos
from pipeline.features.sampling import FrameSampling
from tests.helpers import REPOSITORY
from tests.helpers.clips import board_means, decode_board, make_clip
from tests.helpers.processes import reader_processes

SMALL = Preprocessing(resize=16, crop=16, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
EVERY_FRAME = FrameSampling.parse("every:1")

READ_AND_STALL = """
import sys, time
from pathlib import Path
from tests.helpers.processes import reader_processes
from tests.features.test_readers import EVERY_FRAME, SMALL
from pipeline.features.readers import read_videos

for event in read_videos([Path(path) for path in sys.argv[1:]], EVERY_FRAME, SMALL, workers=2, timeout=60):
    print(*[reader.pid for reader in reader_processes()], flush=True)
    time.sleep(60)
"""

READ_IN_A_POOL_WORKER = """
import multiprocessing, sys
from pathlib import Path
from pipeline.features.readers import read_videos
from tests.features.test_readers import EVERY_FRAME, SMALL

def count_events(path):
    return len(list(read_videos([path], EVERY_FRAME, SMALL, workers=1, timeout=60)))

with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.map(count_events, [Path(sys.argv[1])]))
"""


@pytest.fixture
def hanging_video(tmp_path: Path) -> Iterator[Path]:
    """A pipe that starts like an AVI file and then sends nothing: its decoder blocks in native code."""
    path = tmp_path / "hanging.avi"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    os.write(end, b"RIFF" + bytes(4000))
    yield path
    os.close(end)


def long_video(folder: Path) -> Path:
    """100,000 frames without a header, so that counting them means decoding them all."""
    path = folder / "long.mpg"
    writer = cv2.VideoWriter(str(folder / "one.m2v"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mpg2"), 25, (64, 64))
    writer.write(np.zeros((64, 64, 3), dtype=np.uint8))
    writer.release()
    path.write_bytes((folder / "one.m2v").read_bytes() * 100_000)
    return path


def read(
    paths: list[Path], sampling: FrameSampling = EVERY_FRAME, workers: int = 1, timeout: float = 60
) -> dict[int, list[Event]]:
    """Read videos; returns all events, by job."""
    events: dict[int, list[Event]] = defaultdict(list)
    for event in read_videos(paths, sampling, SMALL, workers=workers, timeout=timeout):
        events[event.job].append(event)
    return events


def assert_complete(events: list[Event], number: int, num_frames: int) -> None:
    """Check the events of one video: every frame of clip ``number`` once, in order, then the end."""
    *blocks, end = events
    assert isinstance(end, Finished) and end.count.decoded_frames == num_frames
    seen: list[tuple[int, int]] = []
    indices: list[int] = []
    for block in blocks:
        assert isinstance(block, Frames) and 0 < len(block.indices) <= FRAMES_PER_BLOCK
        assert block.pixels.dtype == np.uint8 and block.pixels.shape == (len(block.indices), 16, 16, 3)
        seen += decode_board(board_means(block.pixels))
        indices += block.indices.tolist()
    assert indices == list(range(num_frames))
    assert seen == [(number, index) for index in indices]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_video_without_a_frame_rate_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames per second of a file that does not say its rate: this video fails, with its path and what to do."""
    path = make_clip(tmp_path / "clip.avi")
    header = dataclasses.replace(read_header(path), fps=0.0)  # FFmpeg makes up a rate where it can
    monkeypatch.setattr("data.video.read_header", lambda *_: header)
    [event] = readers._read(3, path, readers._Task(FrameSampling.parse("fps:5"), SMALL, VIEWS[:1]), lambda: None)
    assert isinstance(event, Failed) and event.job == 3
    assert str(path) in event.reason and "fps:5 needs" in event.reason and "every:N" in event.reason


def test_frames_per_second_follow_the_files_own_rate(tmp_path: Path) -> None:
    """A reader knows each file's frame rate: 5 per second are every fifth frame at 25."""
    events = read([make_clip(tmp_path / "clip.avi", 21)], FrameSampling.parse("fps:5"))[0]
    assert [index for event in events if isinstance(event, Frames) for index in event.indices] == [0, 5, 10, 15, 20]


def test_frames_are_in_order_however_videos_interleave(tmp_path: Path) -> None:
    """Videos shorter and longer than a block, read by two processes, each give their own frames in order."""
    lengths = [100, 3, FRAMES_PER_BLOCK, 1, FRAMES_PER_BLOCK + 1, 50]
    paths = [make_clip(tmp_path / f"{number}.avi", length, number) for number, length in enumerate(lengths)]
    events = read(paths, workers=2)
    assert sorted(events) == list(range(len(paths)))
    for number, length in enumerate(lengths):
        assert_complete(events[number], number, length)


def test_only_sampled_frames_are_returned(tmp_path: Path) -> None:
    """uniform:4 of 40 frames gives exactly its four frames, and the end reports all 40."""
    path = make_clip(tmp_path / "clip.avi", num_frames=40)
    frames, end = read([path], FrameSampling.parse("uniform:4"))[0]
    assert isinstance(frames, Frames) and isinstance(end, Finished)
    assert frames.indices.dtype == np.int32
    assert frames.indices.tolist() == [5, 15, 25, 35]
    assert decode_board(board_means(frames.pixels)) == [(0, 5), (0, 15), (0, 25), (0, 35)]
    assert (end.count.decoded_frames, end.fps, end.source.num_bytes) == (40, 25.0, path.stat().st_size)


def test_bad_files_fail_alone_with_the_reason(tmp_path: Path) -> None:
    """Empty, missing and foreign files fail with file and reason; the video after them is read."""
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.avi").write_text("not a video\n" * 100)
    (tmp_path / "folder.avi").mkdir()
    names = ["empty.avi", "text.avi", "folder.avi", "missing.avi"]
    events = read([*(tmp_path / name for name in names), make_clip(tmp_path / "good.avi")])
    for job, (name, reason) in enumerate(
        zip(names, ["empty (0 bytes)", "not a video", "Is a directory", "No such file"], strict=True)
    ):
        (failed,) = events[job]
        assert isinstance(failed, Failed)
        assert name in failed.reason and reason in failed.reason
    assert_complete(events[4], 0, 20)


def test_header_with_billions_of_frames_is_rejected(tmp_path: Path) -> None:
    """A damaged frame count in the header fails with a reason, and no memory is allocated for all those frames."""
    path = make_clip(tmp_path / "clip.avi", num_frames=20)
    content = bytearray(path.read_bytes())
    for place in (content.index(b"avih") + 8 + 16, content.index(b"strh") + 8 + 32):
        assert content[place : place + 4] == (20).to_bytes(4, "little")
        content[place : place + 4] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(content)
    (failed,) = read([path])[0]
    assert isinstance(failed, Failed) and "promises 2147483647 frames" in failed.reason


def test_hanging_reader_is_killed_and_fails_one_video(tmp_path: Path, hanging_video: Path) -> None:
    """A file that blocks its decoder is given up after the time limit, even with a single process."""
    events = read([hanging_video, make_clip(tmp_path / "good.avi")], timeout=2)
    assert events[0] == [Failed(0, "no new frame for 2 s: the reader hung and was killed")]
    assert_complete(events[1], 0, 20)


def test_hanging_reader_is_killed_while_others_work(tmp_path: Path, hanging_video: Path) -> None:
    """The time limit of a hanging reader also passes while other readers send frames and the caller is slow."""
    clip = make_clip(tmp_path / "good.avi", num_frames=2)
    paths = [hanging_video, *[clip] * 400]
    num_finished = 0
    with closing(read_videos(paths, EVERY_FRAME, SMALL, workers=2, timeout=2)) as events:
        for event in events:
            time.sleep(0.05)
            num_finished += isinstance(event, Finished)
            if isinstance(event, Failed):
                break
    assert event.job == 0
    assert num_finished < 200, "the hanging reader was only detected after the others had finished"


def test_slow_caller_does_not_make_a_reader_hang(tmp_path: Path) -> None:
    """Readers that wait for the caller are not killed, however long that takes."""
    paths = [make_clip(tmp_path / f"{number}.avi", 70, number) for number in range(2)]
    events: dict[int, list[Event]] = defaultdict(list)
    for event in read_videos(paths, EVERY_FRAME, SMALL, workers=2, timeout=1):
        events[event.job].append(event)
        if sum(map(len, events.values())) == 1:
            time.sleep(3)
    for number in range(2):
        assert_complete(events[number], number, 70)


def test_long_decode_without_a_sampled_frame_is_not_a_hang(tmp_path: Path) -> None:
    """The limit applies to decoded frames, not sampled ones: a long video with few sampled frames is read fully."""
    started = time.monotonic()
    frames, end = read([long_video(tmp_path)], FrameSampling.parse("uniform:1"), timeout=1)[0]
    assert isinstance(frames, Frames) and isinstance(end, Finished)
    assert frames.indices.tolist() == [50_000] and end.count.decoded_frames == 100_000
    assert time.monotonic() - started > 1, "the video is too short: the test shows nothing"


def test_crashing_reader_fails_one_video(tmp_path: Path, hanging_video: Path) -> None:
    """A reader that dies in the middle of a video (a crash in native code) is replaced; the reason names the signal."""

    def kill_the_reader() -> None:
        wait_until(lambda: bool(reader_processes()))
        (reader,) = reader_processes()
        os.kill(reader.pid, signal.SIGSEGV)

    killer = threading.Thread(target=kill_the_reader)
    killer.start()
    events = read([hanging_video, make_clip(tmp_path / "good.avi")])
    killer.join()
    assert events[0] == [Failed(0, "the decoder crashed (SIGSEGV)")]
    assert_complete(events[1], 0, 20)


def test_reader_that_dies_between_videos_fails_none(tmp_path: Path) -> None:
    """A reader that is killed while idle (say, out of memory) is replaced without a failure."""
    paths = [make_clip(tmp_path / f"{number}.avi", 5, number) for number in range(2)]
    events: dict[int, list[Event]] = defaultdict(list)
    for event in read_videos(paths, EVERY_FRAME, SMALL, workers=1, timeout=60):
        events[event.job].append(event)
        if isinstance(event, Finished) and event.job == 0:
            (reader,) = reader_processes()
            reader.kill()
            os.waitid(os.P_PID, reader.pid, os.WEXITED | os.WNOWAIT)
    for number in range(2):
        assert_complete(events[number], number, 5)


def test_readers_wait_for_a_slow_caller(tmp_path: Path) -> None:
    """A reader stops decoding until its block is received, so memory does not grow with a video's length."""
    with closing(read_videos([long_video(tmp_path)], EVERY_FRAME, SMALL, workers=1, timeout=60)) as events:
        next(events)
        (reader,) = reader_processes()

        def seconds_computed() -> float:
            fields = Path(f"/proc/{reader.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        time.sleep(0.2)
        before = seconds_computed()
        time.sleep(0.5)
        assert seconds_computed() - before < 0.05
        for _ in range(200):
            next(events)
        assert seconds_computed() - before > 0.05, "the reader had finished already: the test shows nothing"


def test_ctrl_c_does_not_end_readers(tmp_path: Path) -> None:
    """SIGINT, which a terminal sends to every process, ends no reader, not even a starting one."""
    path = make_clip(tmp_path / "good.avi", FRAMES_PER_BLOCK)

    def interrupt_the_reader() -> None:
        wait_until(lambda: bool(reader_processes()))
        (reader,) = reader_processes()
        for _ in range(20):
            os.kill(reader.pid, signal.SIGINT)
            time.sleep(0.02)

    interrupter = threading.Thread(target=interrupt_the_reader)
    with closing(read_videos([path] * 200, EVERY_FRAME, SMALL, workers=1, timeout=60)) as stream:
        interrupter.start()
        events = list(stream)
        interrupter.join()
    assert [type(event) for event in events] == [Frames, Finished] * 200


def test_closing_ends_the_processes(tmp_path: Path, hanging_video: Path) -> None:
    """Closing the generator early leaves no process behind, not even one that hangs."""
    paths = [make_clip(tmp_path / "good.avi"), hanging_video, hanging_video]
    with closing(read_videos(paths, EVERY_FRAME, SMALL, workers=2, timeout=60)) as events:
        next(events)
        assert len(reader_processes()) == 2
    assert not reader_processes()


def test_stop_works_while_readers_are_silent(hanging_video: Path) -> None:
    """A stop (Ctrl-C) does not wait for a hanging video's time limit."""
    stop = threading.Event()
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    started = time.monotonic()
    assert list(read_videos([hanging_video], EVERY_FRAME, SMALL, workers=1, timeout=60, stop=stop)) == []
    assert time.monotonic() - started < 10
    assert not reader_processes()


def test_readers_end_when_their_parent_is_killed(tmp_path: Path, hanging_video: Path) -> None:
    """kill -9 of the job leaves no process behind: neither a hanging reader nor one that waits to send."""
    command = [sys.executable, "-c", READ_AND_STALL, str(make_clip(tmp_path / "good.avi", 3000)), str(hanging_video)]
    job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    readers = [int(pid) for pid in job.stdout.readline().split()]
    assert len(readers) == 2 and not any(map(has_ended, readers))
    job.kill()
    job.wait()
    assert wait_until(lambda: all(map(has_ended, readers)))
    job.stdout.close()


def test_plain_script_and_pool_worker_can_read(tmp_path: Path) -> None:
    """A script needs no ``if __name__ == "__main__"``, and a daemonic pool worker may start readers."""
    script = tmp_path / "script.py"
    script.write_text(READ_IN_A_POOL_WORKER)
    command = [sys.executable, str(script), str(make_clip(tmp_path / "good.avi"))]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[2]\n", done.stderr


def test_folder_with_our_name_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory may contain an unrelated folder ``pipeline``."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "readers.py").write_text("raise ImportError('not this one')")
    path = make_clip(tmp_path / "good.avi")
    monkeypatch.chdir(tmp_path)
    assert_complete(read([path])[0], 0, 20)


def test_views_of_a_frame_are_consecutive(tmp_path: Path) -> None:
    """Each frame gives all requested views in order: first the centre, then its mirror image."""
    path = make_clip(tmp_path / "good.avi", 40)
    plain = np.concatenate([event.pixels for event in read([path])[0] if isinstance(event, Frames)])
    views = VIEWS[:2]
    events = read_videos([path], EVERY_FRAME, SMALL, views=views, workers=1, timeout=60)
    both = np.concatenate([event.pixels for event in events if isinstance(event, Frames)])
    np.testing.assert_array_equal(both[0::2], plain)
    np.testing.assert_array_equal(both[1::2], plain[:, :, ::-1])


def test_whole_frames_in_blocks_of_bounded_size(tmp_path: Path) -> None:
    """Without preprocessing the frames are as decoded; however large they are, a block stays small."""
    path = tmp_path / "large.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25, (1920, 1080))
    for level in range(6):
        writer.write(np.full((1080, 1920, 3), 40 * level, dtype=np.uint8))
    writer.release()
    events = list(read_videos([path], EVERY_FRAME, None, workers=1, timeout=60))
    blocks = [event for event in events if isinstance(event, Frames)]
    assert [index for block in blocks for index in block.indices] == list(range(6))
    for block in blocks:
        assert block.pixels.shape == (1, 1080, 1920, 3)
        assert abs(int(block.pixels.mean()) - 40 * int(block.indices[0])) < 5
