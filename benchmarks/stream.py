"""Measure how well actions are found in streams, how fast a stream is read, and whether its memory grows.

    for model in np_rnn gru mean; do
        python train.py --config configs/stream.yaml --dataset demo --model $model --name stream-$model
    done
    python -m benchmarks.stream runs/demo/stream-np_rnn runs/demo/stream-gru runs/demo/stream-mean

Streams are made of the runs' test videos, in several random orders: one video after another, and after each a pause of
1 to 2 seconds in which its last frame or the next one's first is held. A stream is at least ten times longer than a
training window, if there are enough videos. Every network reads the same streams at its own tempo.

Which probability suits as a threshold differs between networks. So each run is shown twice: with the thresholds of
pipeline.stream, and with those that give the best F1 of segments in streams of its validation videos.

found            share of the videos that a segment of the right class covers with an intersection over union of 0.5
false / minute   segments that find no video
named after      seconds from a video's begin until it is reported; the median over those found
accuracy         share of the frames of actions whose most probable class is right: in windows of the training's length,
                 each begun anew; in the whole stream with the horizon; and without it, with one state for all of it

The first run is then timed on a file of its test videos. *window* is what window models do: the CNN sees the last 16
frames anew for every answer (in one batch), and the classifier reads their features.
"""

import gc
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import psutil
import torch
import tyro
from tabulate import tabulate

from benchmarks.made_streams import Action, MadeStream, make_stream, match
from data.catalog import load_data
from data.records import VideoRecord
from data.video import Frame, read_frames, read_header
from models.cnn.preprocessing import resize_and_crop
from pipeline.objectives.lists import from_json
from pipeline.recognizer.recognizer import Recognizer
from pipeline.recognizer.rolling import RollingProbabilities
from pipeline.settings.config import ConfigError
from pipeline.stream.events import Segment, Segmenter, Started, Thresholds
from pipeline.stream.session import Answer, answers
from pipeline.stream.sources import Source, open_source
from pipeline.training.run import Run

WINDOW = 16  # frames
LONGER = 10  # streams than training windows
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    orders: int = 5
    """random orders of the test videos"""
    frames: int = 90_000
    """frames of the file whose reading is timed; 0: don't time"""
    window_answers: int = 100
    """answers of the window model that are timed"""


@dataclass(frozen=True, eq=False)
class Videos:
    """Test videos, and the features of all their frames."""

    records: tuple[VideoRecord, ...]
    features: tuple[Array, ...]
    fps: float

    def stream(self, seconds: float, orders: int) -> list[MadeStream]:
        """Streams of all videos in each of several orders; each lasts at least so many seconds."""
        lengths, labels = [len(features) for features in self.features], [record.label for record in self.records]
        streams = []
        for number in range(orders):
            rng = np.random.default_rng(number)
            order = rng.permutation(len(lengths)).tolist()
            total = (sum(lengths) / self.fps) + 1.0 * len(lengths)  # with the shortest pauses
            for part in np.array_split(order, max(1, int(total / seconds * 0.9))):
                streams.append(make_stream(part.tolist(), lengths, labels, self.fps, rng))
        return streams


GRID = [
    Thresholds(enter, leave, min_duration)
    for enter in (0.3, 0.4, 0.5, 0.6)
    for leave in (0.2, 0.3, 0.4)
    for min_duration in (0.5, 0.9)
    if leave <= enter
]


@dataclass(frozen=True, eq=False)
class Read:
    """A stream that a network has read: its answers, with the horizon, and when it gave them."""

    stream: MadeStream
    times: npt.NDArray[np.float64]
    probabilities: Array


@dataclass(frozen=True)
class Detection:
    """What was found in several streams, and after how many seconds each action was named."""

    num_actions: int
    num_found: int
    num_false: int
    minutes: float
    delays: tuple[float, ...]

    @property
    def f1(self) -> float:
        return 2 * self.num_found / (self.num_actions + self.num_found + self.num_false)

    def row(self) -> list[float]:
        delay = statistics.median(self.delays) if self.delays else float("nan")
        return [100 * self.num_found / self.num_actions, self.num_false / self.minutes, delay]


def main(
    runs: tyro.conf.Positional[tuple[Path, ...]],
    amount: tyro.conf.OmitArgPrefixes[Amount] = Amount(),  # noqa: B008
) -> None:
    """Print the figures of runs that were trained for streams on the same videos; the first one is also timed."""
    torch.set_flush_denormal(True)
    recognizers = {run.name: Recognizer.load(run, "cpu") for run in runs}
    first = next(iter(recognizers.values()))
    validation, test = encode_videos(Run(runs[0]), first)
    seconds = LONGER * longest_window(list(recognizers.values()), test.fps)
    streams = test.stream(seconds, amount.orders)
    lengths = [stream.seconds for stream in streams]
    print(
        f"{len(streams)} streams of {min(lengths):.0f} to {max(lengths):.0f} s, {amount.orders} orders of "
        f"{len(test.records)} videos"
    )
    rows = []
    for name, recognizer in recognizers.items():
        practice = [read_stream(recognizer, validation, stream) for stream in validation.stream(seconds, amount.orders)]
        reads = [read_stream(recognizer, test, stream) for stream in streams]
        chosen = max(GRID, key=lambda thresholds: detect(practice, thresholds).f1)
        shares = accuracies(recognizer, test, reads)
        rows.append([name, "default", *detect(reads, Thresholds()).row(), *shares])
        listed = f"{chosen.enter:g}, {chosen.leave:g}, {chosen.min_duration:g} s"
        rows.append([name, listed, *detect(reads, chosen).row(), *shares])
    names = "found, %|false / minute|named after, s|accuracy: window, %|with horizon, %|without, %"
    header = ["run", "enter, leave, min. duration", *names.split("|")]
    print(tabulate(rows, header, "github", floatfmt=".2f"))
    if amount.frames:
        with tempfile.TemporaryDirectory() as folder:
            path = write_stream(Path(folder) / "stream.mpg", test.records, amount.frames)
            print(f"\n{path.name}: {amount.frames} frames, {first.sampling}, on {torch.get_num_threads()} threads")
            for line in timing(path, first, amount.window_answers):
                print(line)


def encode_videos(run: Run, recognizer: Recognizer) -> tuple[Videos, Videos]:
    """The validation and the test videos of a run, with the features of all their frames."""
    config, saved = run.config(), run.split()
    assert saved is not None
    split = from_json(saved, load_data(config.data))
    rates = {read_header(record.path).fps for record in split.validation + split.test}
    if len(rates) > 1:
        raise ConfigError(f"the videos of {run.folder} have several frame rates ({rates}): streams need one")

    def encode(records: tuple[VideoRecord, ...]) -> Videos:
        features = [recognizer.encode([frame for _, frame in read_frames(record.path)]) for record in records]
        return Videos(records, tuple(features), *rates)

    return encode(split.validation), encode(split.test)


def longest_window(recognizers: Sequence[Recognizer], fps: float) -> float:
    """Seconds of the longest training window."""
    return max(steps_of(one) / (one.tempo(fps).steps_per_second or 1) for one in recognizers)


def steps_of(recognizer: Recognizer) -> int:
    return recognizer.tempo().horizon(None, recognizer.clips.frames)


def read_stream(recognizer: Recognizer, videos: Videos, stream: MadeStream) -> Read:
    indices = sampled(recognizer, stream)
    features = features_of(videos, stream, indices)
    return Read(stream, indices / stream.fps, read(recognizer, features, steps_of(recognizer)))


def sampled(recognizer: Recognizer, stream: MadeStream) -> npt.NDArray[np.integer]:
    """The frames of a stream that a network reads."""
    return recognizer.sampling.indices(len(stream.labels), stream.fps)[:: recognizer.clips.stride]


def features_of(videos: Videos, stream: MadeStream, indices: npt.NDArray[np.integer]) -> Array:
    return np.stack([videos.features[video][frame] for video, frame in stream.frames[indices]])


def detect(reads: Sequence[Read], thresholds: Thresholds) -> Detection:
    """Find the actions of all streams."""
    num_actions = num_found = num_false = 0
    delays: list[float] = []
    for one in reads:
        named = find(one.times, one.probabilities, thresholds, one.stream.seconds)
        matched = match(one.stream.actions, [action for action, _ in named])
        num_actions += len(one.stream.actions)
        num_found += len(matched)
        num_false += len(named) - len(matched)
        delays += [named[found][1] - one.stream.actions[shown].begin for shown, found in matched.items()]
    minutes = sum(one.stream.seconds for one in reads) / 60
    return Detection(num_actions, num_found, num_false, minutes, tuple(delays))


def accuracies(recognizer: Recognizer, videos: Videos, reads: Sequence[Read]) -> list[float]:
    """Accuracy of single answers, in percent: in windows, with the horizon, without it."""
    correct: dict[str, list[npt.NDArray[np.bool_]]] = {"window": [], "horizon": [], "endless": []}
    for one in reads:
        indices = sampled(recognizer, one.stream)
        features, labels = features_of(videos, one.stream, indices), one.stream.labels[indices]
        windows = [read(recognizer, part) for part in split(features, steps_of(recognizer))]
        for name, probabilities in (
            ("window", np.concatenate(windows)),
            ("horizon", one.probabilities),
            ("endless", read(recognizer, features)),
        ):
            correct[name].append((probabilities.argmax(1) == labels)[labels >= 0])
    return [100 * float(np.concatenate(parts).mean()) for parts in correct.values()]


def split(features: Array, length: int) -> list[Array]:
    return [features[start : start + length] for start in range(0, len(features), length)]


def read(recognizer: Recognizer, features: Array, steps: int | None = None) -> Array:
    """Class probabilities after each step; ``steps``: the horizon, ``None``: from the first step on."""
    rolling = RollingProbabilities(recognizer.head, steps or 2 * len(features) + 2)
    return np.stack([rolling.push(row) for row in features])


def find(
    times: npt.NDArray[np.float64], probabilities: Array, thresholds: Thresholds, end: float
) -> list[tuple[Action, float]]:
    """The actions that are found, and when each was reported."""
    segmenter, found, reported = Segmenter(thresholds), [], 0.0

    def take(event: Started | Segment, time: float) -> None:
        nonlocal reported
        if isinstance(event, Started):
            reported = time
        else:
            found.append((Action(event.start, event.end, event.label), reported))

    for time_, row in zip(times.tolist(), probabilities, strict=True):
        for event in segmenter.push(time_, row):
            take(event, time_)
    for event in segmenter.cut(end):
        take(event, end)
    return found


def write_stream(path: Path, records: Sequence[VideoRecord], num_frames: int) -> Path:
    """A file of so many frames: the videos one after another, again and again."""
    # An MPEG stream has no index, so it can be repeated by repeating its bytes.
    header, part, count = read_header(records[0].path), path.with_suffix(".m2v"), 0
    size = (header.width, header.height)
    writer = cv2.VideoWriter(str(part), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mpg2"), header.fps, size)
    per_part = min(num_frames, 4500)
    while count < per_part:
        for record in records:
            for _, frame in read_frames(record.path):
                if count < per_part:
                    writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
                    count += 1
    writer.release()
    with path.open("wb") as file:
        for _ in range(num_frames // per_part):
            file.write(part.read_bytes())
    return path


def timing(path: Path, recognizer: Recognizer, window_answers: int) -> Iterator[str]:
    """Lines about reading the file."""
    process = psutil.Process()
    memory: list[float] = []
    lags: list[float] = []
    opened = open_source(Source("file", str(path)), recognizer.tempo())
    steps = steps_of(recognizer)
    started = time.perf_counter()
    last = 0.0
    with closing(answers(opened, recognizer, steps)) as items:
        for item in items:
            if isinstance(item, Answer):
                lags.append(1000 * item.lag)
                if len(lags) % 100 == 0:
                    gc.collect()
                    memory.append(process.memory_info().rss / 2**20)
            else:
                last = item.time
    elapsed = time.perf_counter() - started
    rate = len(lags) / elapsed
    yield f"frames per second: {last * (opened.tempo.fps or 0) / elapsed:.0f} decoded, {rate:.1f} answered"
    median, slowest = np.percentile(lags, [50, 99])
    yield f"latency, from decoded to answered: p50 {median:.1f} ms, p99 {slowest:.1f} ms"
    if len(memory) > 1:
        yield (
            f"resident memory: {memory[0]:.0f} MiB after 100 answers, {memory[-1]:.0f} MiB after {len(lags)} "
            f"({100 * (memory[-1] / memory[0] - 1):+.1f} %), at most {max(memory):.0f} MiB"
        )
    window = window_rate(path, recognizer, window_answers)
    yield f"window model: {window:.2f} answers per second; the stream gives {rate / window:.1f} times as many"


def window_rate(path: Path, recognizer: Recognizer, num_answers: int) -> float:
    """Answers per second of a model that sees the last 16 sampled frames anew for each answer."""
    frames: list[Frame] = []
    started, count = time.perf_counter(), 0
    for _, frame in read_frames(path, recognizer.sampling.indices):
        if len(frames) < WINDOW - 1:
            frames.append(frame)
            started = time.perf_counter()
            continue
        frames = [*frames[1 - WINDOW :], frame]
        if recognizer.encoder.takes_whole_frames:
            features = recognizer.encode(frames)
        else:
            pixels = np.concatenate([resize_and_crop(one, recognizer.preprocessing) for one in frames])
            features = recognizer.encoder.encode(pixels).astype(np.float32)
        read(recognizer, features)
        count += 1
        if count == num_answers:
            break
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    tyro.cli(main)
