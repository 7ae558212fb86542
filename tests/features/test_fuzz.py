"""Thousands of damaged files in the caching job: each fails or has its loss recorded, and none stops the job.

pytest tests/features/test_fuzz.py -m slow -s                      # 2,000 files
FUZZ_FILES=20000 FUZZ_SEED=7 pytest tests/features/test_fuzz.py -m slow -s
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.records import VideoRecord
from data.video import USUAL_OVERCOUNT, FrameCount, count_frames
from pipeline.cache.job import FeatureCache
from pipeline.features.recipe import VideoFeatures
from pipeline.settings.config import FeatureConfig
from tests.data.test_video import plain_frames, write_clip
from tests.helpers import REPOSITORY
from tests.helpers.mutations import CUTS, MUTATIONS, NO_VIDEO

SECONDS_WITHOUT_A_FRAME = 10.0
FILES_AT_A_TIME = 100
# Fraction of a file's frames that may be missing at its end without being detected: AVI and MP4 count their frames,
# Matroska has a duration only, which may be that of a sound track. Other containers have neither.
UNNOTICED = {".avi": 0.0, ".mp4": 0.0, ".mov": 0.0, ".mkv": 0.1, ".webm": 0.1}


@dataclass(frozen=True)
class Source:
    """An intact file."""

    path: Path
    count: FrameCount


@dataclass(frozen=True)
class Damaged:
    """A damaged copy of a file."""

    mutation: str
    source: Source
    record: VideoRecord


OpenCache = Callable[[str, str], FeatureCache]


@pytest.fixture(scope="module")
def open_cache(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: tuple[str, Path]) -> OpenCache:
    """Opens the store with a sampling and a policy for short files."""
    name, weights = tiny_backbone
    cache = tmp_path_factory.mktemp("cache")

    def open_it(sampling: str, on_short: str) -> FeatureCache:
        settings = FeatureConfig(
            backbone=name,
            weights=weights,
            sampling=sampling,
            cache=cache,
            runtime="torch",
            workers=2,
            video_timeout=SECONDS_WITHOUT_A_FRAME,
            on_short=on_short,  # type: ignore[arg-type]
        )
        return FeatureCache(settings)

    return open_it


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Small clips in every container that OpenCV can write, and the real clips if they are available."""
    folder = tmp_path_factory.mktemp("sources")
    codecs = {"divx.avi": "XVID", "motion.avi": "MJPG", "a.mp4": "mp4v", "a.mov": "mp4v", "a.mkv": "mp4v"}
    codecs |= {"a.webm": "VP80", "a.wmv": "WMV2", "a.mpg": "MPEG"}
    paths = [write_clip(folder / name, plain_frames(40, 96, 128), codec) for name, codec in codecs.items()]
    real = Path(os.environ.get("ACTION_DATA", REPOSITORY.parent / "shared" / "data")) / "clips"
    paths += sorted(real.iterdir()) if real.is_dir() else []
    return [Source(path, count_frames(path)) for path in paths]


def damaged_files(sources: list[Source], folder: Path, num_files: int, seed: int) -> Iterator[Damaged]:
    """Apply all mutations in turn to random sources, and write the files lazily."""
    rng = np.random.default_rng(seed)
    for number in range(num_files):
        mutation = list(MUTATIONS)[number % len(MUTATIONS)]
        content = damaged = b""
        while damaged == content:  # the mutation does not apply to this file: try another
            source = sources[rng.integers(len(sources))]
            content = source.path.read_bytes()
            damaged = MUTATIONS[mutation](content, rng)
        path = folder / f"{number}{source.path.suffix}"
        path.write_bytes(damaged)
        yield Damaged(mutation, source, VideoRecord(path.name, path, label=0, group=path.name))


def reasons(cache: FeatureCache, dataset: str) -> dict[str, str]:
    """Reasons by path, from ``errors.jsonl``."""
    log = cache.store.errors_path(dataset)
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines()) if log.exists() else ()
    return {line["path"]: line["reason"] for line in lines}


def assert_sound(video: VideoFeatures) -> None:
    """Check that the entry is consistent."""
    assert video.features.shape == (len(video.frame_indices), 96)
    assert 1 <= len(video.frame_indices) <= 4 and np.isfinite(video.features).all()
    assert (np.diff(video.frame_indices) > 0).all()
    assert video.frame_indices[0] >= 0 and video.frame_indices[-1] < video.origin.decoded_frames


def outcome_of(file: Damaged, video: VideoFeatures | None, reason: str | None) -> str:
    """``whole``, ``short``, ``failed``, ``hung`` or ``crashed``; fails if it can't be right for this damage."""
    case = f"{file.mutation} of {file.source.path.name}: {video.origin if video else reason}"
    assert (video is None) != (reason is None), f"neither stored nor named, or both: {case}"
    if video is None:
        assert reason, case
        return next((word for word in ("hung", "crashed") if word in reason), "failed")
    assert_sound(video)
    assert video.origin.decoded_frames <= video.origin.header_frames + USUAL_OVERCOUNT, f"frames not sampled: {case}"
    assert file.mutation not in NO_VIDEO, case
    before, num_decoded = file.source.count, video.origin.decoded_frames
    assert num_decoded <= before.header_frames or file.mutation == "block repeated", f"too many frames: {case}"
    if file.mutation in CUTS and file.source.path.suffix in UNNOTICED:
        unnoticed = USUAL_OVERCOUNT + UNNOTICED[file.source.path.suffix] * before.header_frames
        assert video.origin.is_short or before.header_frames - num_decoded <= unnoticed, f"undetected: {case}"
    return "short" if video.origin.is_short else "whole"


def fuzz(open_cache: OpenCache, sources: list[Source], folder: Path, num_files: int, seed: int) -> Counter[str]:
    """Number of files by outcome; each file is checked and then deleted."""
    outcomes: Counter[str] = Counter()
    originals = [VideoRecord(source.path.name, source.path, 0, source.path.name) for source in sources]
    files = damaged_files(sources, folder, num_files, seed)
    for number in range(0, num_files, FILES_AT_A_TIME):
        dataset = f"fuzz-{seed}-{number}"
        chunk = [next(files) for _ in range(min(FILES_AT_A_TIME, num_files - number))]
        records = [file.record for file in chunk]
        cache = open_cache("uniform:4", "keep")
        summary = cache.fill(dataset, [*originals, *records])
        assert summary.num_extracted + summary.num_failed == len(originals) + len(chunk)
        named = reasons(cache, dataset)
        assert len(named) == summary.num_failed
        assert not [record for record in originals if str(record.path) in named], "a good video failed among bad ones"

        short = []
        for file in chunk:
            video = cache.store.read(dataset, file.record.video_id)
            outcome = outcome_of(file, video, named.get(str(file.record.path)))
            outcomes[outcome] += 1
            short += [file.record] if outcome == "short" else []
            if video is not None and file.mutation in CUTS:
                assert_begins_like(video, cache.store.read(dataset, file.source.path.name))

        strict = open_cache("uniform:4", "fail")
        assert strict.fill(dataset, short).num_failed == len(short)
        named = reasons(strict, dataset)
        assert all("short" in named[str(record.path)] for record in short)
        for record in records:
            record.path.unlink()
        shutil.rmtree(cache.store.folder / dataset)
    return outcomes


def assert_begins_like(truncated: VideoFeatures, whole: VideoFeatures | None) -> None:
    """Check that the frames of a truncated file equal the frames of the whole file at these indices.

    The last ones before the cut may be partial pictures, or depend on one.
    """
    assert whole is not None
    expected = dict(zip(whole.frame_indices.tolist(), whole.features, strict=True))
    for index, features in zip(truncated.frame_indices.tolist(), truncated.features, strict=True):
        if index in expected and index < truncated.origin.decoded_frames - 4:
            np.testing.assert_allclose(features, expected[index], rtol=2e-2, atol=2e-2)


def test_every_mutation_is_found_or_recorded(open_cache: OpenCache, sources: list[Source], tmp_path: Path) -> None:
    """Each kind of damage is applied twice: no file is skipped, and none affects the job or an intact video."""
    outcomes = fuzz(open_cache, sources, tmp_path, 2 * len(MUTATIONS), seed=0)
    assert outcomes.total() == 2 * len(MUTATIONS)
    assert min(outcomes[name] for name in ("whole", "short", "failed")) > 5, outcomes
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_thousands_of_damaged_files(
    open_cache: OpenCache, sources: list[Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same for many files: rare damage that makes a decoder hang or crash fails one video each."""
    num_files = int(os.environ.get("FUZZ_FILES", "2000"))
    outcomes = fuzz(open_cache, sources, tmp_path, num_files, seed=int(os.environ.get("FUZZ_SEED", "1")))
    with capsys.disabled():
        print(f"\n{num_files} damaged files:", ", ".join(f"{count} {name}" for name, count in outcomes.most_common()))
    assert outcomes.total() == num_files


def variable_rate(path: Path) -> Path:
    """20 frames with increasing durations."""
    options = [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 50, (64, 48), options)
    for index, frame in enumerate(plain_frames(20)):
        writer.set(cv2.VIDEOWRITER_PROP_PTS, index**2)
        writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, 1)
        writer.write(cv2.imencode(".jpg", frame[..., ::-1])[1].reshape(-1))
    writer.release()
    return path


def grayscale(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"FFV1"), 25, (64, 48), isColor=False)
    for frame in plain_frames(20):
        writer.write(frame[..., 0])
    writer.release()
    return path


ODD: dict[str, tuple[Callable[[Path], Path], int]] = {
    "odd-size.avi": (lambda path: write_clip(path, plain_frames(20, 47, 61), "HFYU"), 20),
    "two-pixels-wide.avi": (lambda path: write_clip(path, plain_frames(20, 30, 2), "HFYU"), 20),
    "two-pixels-high.avi": (lambda path: write_clip(path, plain_frames(20, 2, 64), "HFYU"), 20),
    "one-frame.avi": (lambda path: write_clip(path, plain_frames(1), "XVID"), 1),
    "one-frame.mp4": (lambda path: write_clip(path, plain_frames(1), "mp4v"), 1),
    "one-frame.mkv": (lambda path: write_clip(path, plain_frames(1), "mp4v"), 1),
    "4k.mp4": (lambda path: write_clip(path, plain_frames(5, 2160, 3840), "mp4v"), 5),
    "portrait.mp4": (lambda path: write_clip(path, plain_frames(20, 426, 240), "mp4v"), 20),
    "variable-rate.mkv": (lambda path: variable_rate(path), 20),
    "grayscale.avi": (lambda path: grayscale(path), 20),
}


def test_unusual_files_lose_no_frame(open_cache: OpenCache, tmp_path: Path) -> None:
    """Odd sizes, one frame, 4K, portrait, variable rate and grayscale give every frame."""
    records = [VideoRecord(name, make(tmp_path / name), 0, name) for name, (make, _) in ODD.items()]
    cache = open_cache("every:1", "fail")
    summary = cache.fill("odd", records)
    assert summary.num_failed == 0, reasons(cache, "odd")
    for record in records:
        _, num_frames = ODD[record.video_id]
        video = cache.store.read("odd", record.video_id)
        assert video is not None
        assert (video.origin.header_frames, video.origin.decoded_frames) == (num_frames, num_frames), record.video_id
        assert video.frame_indices.tolist() == list(range(num_frames))


def test_rotated_files_lose_no_frame(open_cache: OpenCache, action_data: Path) -> None:
    """Videos from phones, rotated by 0, 90, 180 and 270 degrees, give every frame."""
    paths = sorted((action_data / "clips").glob("rotated_*.mov"))
    records = [VideoRecord(path.name, path, 0, path.name) for path in paths]
    cache = open_cache("every:1", "fail")
    assert cache.fill("rotated", records).num_extracted == len(records) == 4
    for record in records:
        video = cache.store.read("rotated", record.video_id)
        assert video is not None and video.frame_indices.tolist() == [0, 1, 2]
