"""python -m pipeline.stream from end to end: files, pipes, addresses, and what it writes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from data.errors import UserError
from data.video import read_frames
from pipeline.recognizer.recognizer import Recognizer
from pipeline.recognizer.tempo import StreamError
from pipeline.stream.__main__ import main
from pipeline.stream.session import Answer, answers
from pipeline.stream.sources import Finished, Lost, OpenSource, Source, open_source
from pipeline.training.loop import load_best
from pipeline.training.run import Run
from tests.helpers import REPOSITORY
from tests.helpers.commands import message, run
from tests.helpers.runs import copy_run
from tests.stream.conftest import CLIP_FRAMES

FPS, SECONDS = 25, 12
NUM_FRAMES = FPS * SECONDS
EAGER = ("--enter", "0.5", "--leave", "0.3", "--min-duration", "0.1", "--device", "cpu")
CHATTY = ("--enter", "0.5", "--leave", "0.3", "--min-duration", "0", "--update", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def recognizer(stream_run: Path) -> Recognizer:
    return Recognizer.load(stream_run, "cpu")


@pytest.fixture(scope="module")
def video(squares_run: Path) -> Path:
    """A rendered video of 8 frames."""
    return squares_run.parents[2] / "videos" / "left" / "v_g8_left.avi"


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory, ffmpeg: str) -> Path:
    """``NUM_FRAMES`` of moving pictures, as MPEG-TS."""
    path = tmp_path_factory.mktemp("long") / "long.ts"
    pictures = ("-f", "lavfi", "-i", f"testsrc=size=96x64:rate={FPS}:duration={SECONDS}")
    make = (*pictures, "-c:v", "mpeg2video", "-f", "mpegts")
    subprocess.run([ffmpeg, "-loglevel", "error", *make, str(path)], check=True)
    return path


def events_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def serve(ffmpeg: str, video: Path, address: str, *options: str) -> "subprocess.Popen[bytes]":
    """Send a video at its own speed to the one client that connects to the address."""
    command = [ffmpeg, "-loglevel", "error", "-re", "-i", str(video), "-c", "copy", "-f", "mpegts", *options, address]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(ffmpeg: str, long_video: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts servers of ``long_video``, and stops them after the test."""
    started = []

    def start_server(address: str, *options: str) -> "subprocess.Popen[bytes]":
        started.append(serve(ffmpeg, long_video, address, *options))
        return started[-1]

    yield start_server
    for process in started:
        process.kill()
        process.wait()


def open_when_ready(recognizer: Recognizer, address: str, **options: Any) -> OpenSource:
    """Open an address as soon as its server listens."""
    for _ in range(100):
        try:
            return open_source(Source.parse(address), recognizer.tempo(), **options)
        except ValueError:
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


@pytest.fixture(autouse=True)
def _ctrl_c_works() -> Iterator[None]:
    """Tests in the background of a script are started with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def on_first_line(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[str]:
    """Act when the command writes its first event. Returns the list that gets all its lines."""
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        if len(lines) == 1:
            act()

    monkeypatch.setattr("pipeline.stream.__main__._print", write)
    return lines


class Slow:
    """A recognizer whose CNN takes longer."""

    def __init__(self, recognizer: Recognizer, seconds: float) -> None:
        self._recognizer, self._seconds = recognizer, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._recognizer, name)

    def encode(self, frames: Any) -> Any:
        time.sleep(self._seconds)
        return self._recognizer.encode(frames)


@pytest.mark.parametrize("clip", ["v_Biking_g05_c02.avi", "rotated_90.mov"])
def test_a_file_gets_the_classifiers_scores_over_time(
    recognizer: Recognizer, stream_run: Path, action_data: Path, clip: str
) -> None:
    """Up to the horizon, the answers equal the whole classifier's on the same frames to 1e-5, and no frame is lost."""
    path = action_data / "clips" / clip
    if not path.exists():
        pytest.skip(f"no {path}")
    opened = open_source(Source.parse(str(path)), recognizer.tempo())
    steps = opened.tempo.horizon(None, recognizer.clips.frames)
    items = list(answers(opened, recognizer, steps))
    frames = [frame for _, frame in read_frames(path)]
    streamed = np.array([item.probabilities for item in items if isinstance(item, Answer)])
    assert isinstance(items[-1], Finished) and len(streamed) == len(frames) and steps == CLIP_FRAMES
    trained = Run(stream_run)
    model, _ = load_best(trained, trained.config())
    with torch.inference_mode():
        features = torch.from_numpy(recognizer.encode(frames[:steps]))[:, None]
        expected = model.eval().scores_over_time(features)[0].softmax(-1)[:, 0]
    np.testing.assert_allclose(streamed[:steps], expected, atol=1e-5)


def test_a_file_is_read_to_its_end(
    video: Path, stream_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints events, and writes segments, an overlay and a timeline that agree with them."""
    outputs = [tmp_path / name for name in ("out.json", "out.mp4", "out.html")]
    files = ("--segments", outputs[0], "--overlay", outputs[1], "--timeline", outputs[2])
    assert main([str(video), "--run", str(stream_run), *EAGER, *map(str, files)]) == 0
    printed = capsys.readouterr()
    events = events_in(printed.out)
    assert events[-1]["type"] == "eof" and events[-1]["reason"] == "end" and events[-1]["answers"] == 8
    assert events[-1].keys() >= {"media_time", "wall_time", "lag", "dropped"}
    assert "8 answers" in printed.err
    ends = [event for event in events if event["type"] == "end"]
    listed = json.loads(outputs[0].read_text())["results"]["v_g8_left"]
    assert ends and [(e["label"], [e["start"], e["end"]]) for e in ends] == [
        (segment["label"], segment["segment"]) for segment in listed
    ]
    capture = cv2.VideoCapture(str(outputs[1]))
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (8, FPS)
    page = outputs[2].read_text()
    assert "v_g8_left" in page and page.count('<path d="M') == 2 and "data:image/jpeg" in page
    assert sorted(tmp_path.iterdir()) == sorted(outputs)


def test_a_pipe_gives_what_the_file_gives(recognizer: Recognizer, long_video: Path) -> None:
    """Video from standard input is read whole, without a frame dropped, with the file's answers."""
    path = Source.parse(str(long_video))
    from_file = list(answers(open_source(path, recognizer.tempo()), recognizer, CLIP_FRAMES))
    stdin = os.dup(0)
    with long_video.open("rb") as file:
        os.dup2(file.fileno(), 0)
        try:
            opened = open_source(Source.parse("-"), recognizer.tempo())
            from_pipe = list(answers(opened, recognizer, CLIP_FRAMES))
        finally:
            os.dup2(stdin, 0)
            os.close(stdin)
    assert not opened.is_live and len(from_pipe) == len(from_file) == NUM_FRAMES + 1
    ends = from_pipe[-1], from_file[-1]
    assert isinstance(ends[0], Finished) and isinstance(ends[1], Finished)
    assert ends[0].time == pytest.approx(ends[1].time, abs=1e-3)
    for one, other in zip(from_pipe[:-1], from_file[:-1], strict=True):
        assert isinstance(one, Answer) and isinstance(other, Answer) and one.dropped == 0
        assert one.frame.time == pytest.approx(other.frame.time, abs=1e-3)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_a_source_that_comes_back(recognizer: Recognizer, server: Callable[..., "subprocess.Popen[bytes]"]) -> None:
    """A server that dies makes a gap; when another listens, the stream goes on as a new one, later in media time."""
    address = f"tcp://127.0.0.1:{free_port()}"
    first = server(f"{address}?listen=1")
    opened = open_when_ready(recognizer, address, timeout=3)
    assert opened.is_live
    seen: list[Answer | Lost] = []
    for item in answers(opened, recognizer, CLIP_FRAMES):
        assert not isinstance(item, Finished)
        seen.append(item)
        gaps = [number for number, one in enumerate(seen) if isinstance(one, Lost)]
        if len(seen) == 20:
            first.kill()
        if isinstance(item, Lost):
            server(f"{address}?listen=1")
        if gaps and len(seen) == gaps[0] + 10:
            break
    before, after = seen[gaps[0] - 1], seen[gaps[0] + 1]
    assert isinstance(before, Answer) and isinstance(after, Answer)
    assert after.frame.time > before.frame.time + 0.2
    # The state was reset: the first answer after the gap is that of a new stream.
    features = recognizer.encode([after.frame.pixels])
    expected, _ = recognizer.head.step(features, recognizer.head.initial_state(1))
    np.testing.assert_allclose(after.probabilities, expected[0], atol=1e-5)
    assert all(item.frame.pixels.max() > 0 for item in seen if isinstance(item, Answer))


def test_a_slow_consumer_is_never_late(
    recognizer: Recognizer, server: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    """Three times too slow, it skips about two thirds of the frames, and follows the server's clock."""
    address = f"http://127.0.0.1:{free_port()}"
    server(address, "-listen", "1")
    opened = open_when_ready(recognizer, address, timeout=5)
    slow: Any = Slow(recognizer, 3 / FPS)
    late, last = [], None
    for item in answers(opened, slow, CLIP_FRAMES, max_lag=1.0):
        assert isinstance(item, Answer)
        late.append(time.monotonic() - item.frame.time)
        assert item.lag < 1.0
        last = item
        if item.frame.time > 5:
            break
    assert last is not None
    assert last.dropped == last.frame.step + 1 - len(late)
    assert 0.5 < last.dropped / last.frame.step < 0.85
    # Media time keeps pace with the clock: the last answers are not later than the first ones.
    assert np.mean(late[-5:]) - min(late) < 1.0


def test_a_lost_source_is_given_up(
    stream_run: Path,
    server: Callable[..., "subprocess.Popen[bytes]"],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With ``--reconnect 0.2`` the command ends with exit code 1 when the source is lost. No password is shown."""
    port = free_port()
    process = server(f"tcp://127.0.0.1:{port}?listen=1")
    lines = on_first_line(monkeypatch, process.kill)
    time.sleep(0.5)
    assert main([f"tcp://me:secret@127.0.0.1:{port}", "--run", str(stream_run), *CHATTY, "--reconnect", "0.2"]) == 1
    events = events_in("".join(lines))
    assert [event["type"] for event in events][-2:] == ["gap", "eof"] and events[-1]["reason"] == "lost"
    assert "secret" not in "".join(lines) + capsys.readouterr().err and "127.0.0.1" in events[-2]["reason"]


def test_ctrl_c_ends_a_live_stream_well(
    stream_run: Path,
    server: Callable[..., "subprocess.Popen[bytes]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is the usual end of a live source: exit code 0, a last event, a summary, and complete files."""
    address = f"tcp://127.0.0.1:{free_port()}"
    server(f"{address}?listen=1")
    lines = on_first_line(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    time.sleep(0.5)
    outputs = ("--segments", str(tmp_path / "out.srt"), "--overlay", str(tmp_path / "out.mp4"))
    assert main([address, "--run", str(stream_run), *CHATTY, *outputs]) == 0
    events = events_in("".join(lines))
    assert [event["type"] for event in events][-2:] == ["end", "eof"] and events[-1]["reason"] == "interrupted"
    # The action of the only answer lasts as long as its frame.
    assert events[-2]["end"] >= events[-2]["start"] + 1 / FPS - 1e-3
    assert "answers in" in capsys.readouterr().err
    assert (tmp_path / "out.srt").read_text().startswith("1\n00:00:0")
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) >= 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_during_a_file_is_an_interruption(
    video: Path, stream_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was not read to its end has exit code 130."""
    lines = on_first_line(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    assert main([str(video), "--run", str(stream_run), *CHATTY]) == 130
    assert events_in(lines[-1])[0]["reason"] == "interrupted"


def test_a_reader_that_has_enough_ends_the_stream(video: Path, stream_run: Path) -> None:
    """``| head -1`` ends the command without a message or a traceback."""
    command = f"{sys.executable} -m pipeline.stream {video} --run {stream_run} --update 0 --min-duration 0 | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and "rror" not in done.stderr


def test_uniform_sampling_is_refused(video: Path, squares_run: Path, tmp_path: Path) -> None:
    """The message says why, and its commands train a run that can be streamed."""
    copy = copy_run(squares_run, tmp_path / "uniform", {"sampling": "uniform:4"}, sampling="uniform:4")
    with pytest.raises(StreamError, match=r"uniform:4.*no end.*--sampling every:2 --clip-frames") as refused:
        main([str(video), "--run", str(copy)])
    configs = [Path(words.split()[0]) for words in str(refused.value).split("--config ")[1:]]
    assert configs == [Path("configs/stream.yaml"), copy / "config.yaml"]
    assert all((REPOSITORY / path).is_file() for path in configs)


@pytest.mark.parametrize(
    ("arguments", "telling"),
    [
        (["missing.mp4"], "no file missing.mp4"),
        (["tcp://127.0.0.1:1"], "127.0.0.1:1"),
        (["VIDEO", "--background", "lefd"], "left"),
        (["VIDEO", "--horizon", "100"], "clips of 40"),
        (["VIDEO", "--overlay", "out.avi"], ".mp4"),
        (["VIDEO", "--bundle", "a.zip"], "one of them"),
    ],
)
def test_mistakes_are_explained(
    video: Path, stream_run: Path, arguments: list[str], telling: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each message names what is wrong."""
    named = [str(video) if argument == "VIDEO" else argument for argument in arguments]
    with pytest.raises((UserError, SystemExit)) as raised:
        main([*named, "--run", str(stream_run), "--device", "cpu", "--timeout", "2"])
    shown = f"{raised.value} {' '.join(capsys.readouterr().err.replace('│', '').split())}"
    assert telling in shown


def test_help_is_fast() -> None:
    """``--help`` imports neither PyTorch nor OpenCV."""
    code = "import sys; import pipeline.stream.__main__; print({'torch', 'cv2'} & set(sys.modules))"
    assert message(run("-c", code)) == "set()"
