"""Classify new videos with a trained run: python -m pipeline.predict clip.mp4 --run runs/demo/np_rnn-split_1-seed_0

In Python:

    from pipeline.predict import Recognizer
    recognizer = Recognizer.load("runs/demo/np_rnn-split_1-seed_0")
    recognizer.predict("clip.mp4")
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import tyro

from data.command import parse_arguments, run_command
from data.listing import find_videos
from data.objects import Place
from data.processes import available_cores
from data.progress import Progress

if TYPE_CHECKING:
    from pipeline.recognizer.recognizer import Recognizer as Recognizer


@dataclass(frozen=True)
class Arguments:
    """Classify videos with a trained run. The results come in the order of the videos, as they become complete."""

    videos: tyro.conf.Positional[tuple[str, ...]]
    """video files, folders of videos at any depth, and patterns in quotes ('clips/*.mp4')"""
    run: Path | None = None
    """folder of a run, made by train.py"""
    bundle: Path | None = None
    """model exported by pipeline.export, instead of a run"""
    top: int = 3
    """number of classes to print per video"""
    json: Path | None = None
    """write one JSON object per video and line to this file, with the probabilities of all classes; - is stdout"""
    csv: Path | None = None
    """write a table with one row per video to this file, with the probabilities of all classes; - is stdout"""
    cache: Place | None = None
    """feature store (a folder or s3://bucket/prefix) that keeps the features, so that the next prediction decodes
    nothing"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses a GPU if there is one"""
    workers: int = available_cores()
    """number of decoding processes"""
    video_timeout: float = 60.0
    """seconds without a new frame after which a video fails"""


@dataclass(frozen=True)
class Result:
    """What is written about one video: its classes, the most probable first, or the reason why it has none."""

    video: Path
    probabilities: Mapping[str, float]
    error: str | None = None


def main(arguments: Sequence[str]) -> int:
    """Return 0 on success, 1 if some videos failed; each is named."""
    options = parse_arguments(Arguments, arguments, prog="python -m pipeline.predict")
    from pipeline.features.extract import ExtractionFailure
    from pipeline.recognizer.kept import extract_and_keep
    from pipeline.recognizer.prediction import ranked
    from pipeline.recognizer.recognizer import Recognizer
    from pipeline.settings.config import ConfigError

    source = options.run or options.bundle
    if not options.videos:
        raise ConfigError("name at least one video file: python -m pipeline.predict clip.mp4 --run RUN")
    if source is None or (options.run and options.bundle):
        raise ConfigError("name either a run (--run RUN) or an exported model (--bundle FILE)")
    for name in ("top", "workers", "video_timeout"):
        if getattr(options, name) < 1:
            raise ConfigError(f"{name} must be at least 1, not {getattr(options, name):g}")
    if options.json == options.csv == Path("-"):
        raise ConfigError("--json - and --csv - both write to stdout: name a file for one of them")
    videos = find_videos(options.videos)
    recognizer = Recognizer.load(source, options.device)
    workers = min(options.workers, len(videos))
    if options.cache is None:
        extracted = recognizer.extract(videos, workers, options.video_timeout)
    else:
        extracted = extract_and_keep(recognizer, videos, options.cache, workers, options.video_timeout)
    num_failed = 0
    with ExitStack() as stack:
        # The bar is closed last, so that lines that are written while it is shown are above it.
        progress = stack.enter_context(closing(Progress(len(videos), "video", what="predicting")))
        sinks = _open_sinks(options, recognizer.labels, stack)
        stack.enter_context(closing(extracted))
        results: dict[int, Result] = {}
        num_written = 0
        for position, views in extracted:
            video = videos[position]
            if isinstance(views, ExtractionFailure):
                num_failed += 1
                progress.note(f"failed: {video}: {views.reason}")
                results[position] = Result(video, {}, views.reason)
            else:
                results[position] = Result(video, ranked(recognizer.labels, recognizer.probabilities(views)))
            while (result := results.pop(num_written, None)) is not None:
                num_written += 1
                for write in sinks:
                    write(result)
            progress.advance(failed=num_failed)
    return 1 if num_failed else 0


def _open_sinks(options: Arguments, labels: Sequence[str], stack: ExitStack) -> list[Callable[[Result], None]]:
    """What to do with each result: print it, and write it to the files that were asked for."""
    from tqdm import tqdm

    from pipeline.reports.pages import csv_bytes

    def open_file(path: Path) -> TextIO:
        if path == Path("-"):
            return sys.stdout
        return stack.enter_context(path.open("w", encoding="utf-8", errors="surrogateescape", newline=""))

    def write_text(result: Result) -> None:
        if result.error is None:
            best = list(result.probabilities.items())[: options.top]
            line = f"{result.video}: " + ", ".join(f"{name} {probability:.3f}" for name, probability in best)
            tqdm.write(line, file=sys.stdout)  # above the bar, where both are on a terminal

    sinks: list[Callable[[Result], None]] = [] if Path("-") in (options.json, options.csv) else [write_text]
    if options.json is not None:
        json_file = open_file(options.json)

        def write_json(result: Result) -> None:
            values: dict[str, Any] = {"video": str(result.video)}
            if result.error is None:
                values |= {"label": next(iter(result.probabilities)), "probabilities": result.probabilities}
            else:
                values["error"] = result.error
            print(json.dumps(values), file=json_file, flush=True)

        sinks.append(write_json)
    if options.csv is not None:
        csv_file = open_file(options.csv)

        def write_row(row: Sequence[object]) -> None:
            csv_file.write(csv_bytes([row]).decode(errors="surrogateescape"))
            csv_file.flush()

        def write_csv(result: Result) -> None:
            # Nine digits identify a float32 exactly.
            cells = {name: f"{probability:.9g}" for name, probability in result.probabilities.items()}
            label = next(iter(cells), "")
            write_row([str(result.video), label, cells.get(label), result.error, *(cells.get(name) for name in labels)])

        write_row(["video", "predicted", "confidence", "error", *(f"p:{name}" for name in labels)])
        sinks.append(write_csv)
    return sinks


def __getattr__(name: str) -> Any:
    """Import ``Recognizer`` when it is asked for, because it takes seconds and ``--help`` does not need it."""
    if name != "Recognizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.recognizer.recognizer import Recognizer

    return Recognizer


if __name__ == "__main__":
    sys.exit(run_command(main))
