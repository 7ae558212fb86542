"""The caching job: cached features are kept, damaged ones are recomputed, and a bad video affects no other."""

import dataclasses
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.records import VideoRecord
from pipeline.cache.job import FeatureCache
from pipeline.settings.config import FeatureConfig
from pipeline.store.packed import PackedFeatures
from pipeline.store.store import DamagedEntry, FeatureStore
from tests.features.test_extract import cut_clip
from tests.helpers import REPOSITORY
from tests.helpers.clips import make_clip

SET = "set"

OpenCache = Callable[..., FeatureCache]


@pytest.fixture
def open_cache(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> OpenCache:
    """Opens the store at ``tmp_path/cache``, as another run would."""

    def open_it(**settings: Any) -> FeatureCache:
        name, weights = tiny_backbone
        values: dict[str, Any] = {
            "backbone": name,
            "weights": weights,
            "sampling": "uniform:4",
            "cache": tmp_path / "cache",
            "runtime": "torch",
            "workers": 1,
        }
        return FeatureCache(FeatureConfig(**values | settings))

    return open_it


@pytest.fixture
def records(tmp_path: Path) -> list[VideoRecord]:
    """Three videos, two of them with the same stem."""
    names = ["run/a.avi", "walk/a.avi", "walk/b.avi"]
    return [
        VideoRecord(name, make_clip(tmp_path / "videos" / name, 8, number), label=number % 2, group=name)
        for number, name in enumerate(names)
    ]


def features_of(packed: PackedFeatures, records: Sequence[VideoRecord], view: int = 0) -> list[np.ndarray]:
    """The features of each video, in the order of ``records``."""
    features = []
    for record in records:
        video = packed.videos[record.video_id]
        start = video.start + view * video.num_frames
        features.append(packed.features[start : start + video.num_frames])
    return features


def failures(store: FeatureStore) -> dict[str, str]:
    """Reasons by video, from ``errors.jsonl``."""
    lines = map(json.loads, store.errors_path(SET).read_text().splitlines())
    return {line["video_id"]: line["reason"] for line in lines}


def forbid_extraction(monkeypatch: pytest.MonkeyPatch) -> None:
    def extract(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("nothing must be decoded")

    monkeypatch.setattr("pipeline.features.extract.extract", extract)


def test_second_run_decodes_nothing(
    open_cache: OpenCache, records: list[VideoRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached features are not recomputed, by fill or by load, and are returned in the requested order."""
    summary = open_cache().fill(SET, records)
    assert (summary.num_cached_before, summary.num_extracted, summary.num_failed) == (0, 3, 0)
    assert summary.num_frames == 12
    forbid_extraction(monkeypatch)
    again = open_cache().fill(SET, records)
    assert (again.num_cached_before, again.num_extracted, again.num_failed) == (3, 0, 0)
    loaded, summary = open_cache().load(SET, records)
    assert summary.num_extracted == 0
    backwards, _ = open_cache().load(SET, records[::-1])
    for ours, theirs in zip(features_of(loaded, records), features_of(backwards, records), strict=True):
        assert ours.shape == (4, 96) and ours.dtype == np.float16
        np.testing.assert_array_equal(ours, theirs)


def test_load_extracts_what_is_missing(open_cache: OpenCache, records: list[VideoRecord]) -> None:
    """Load extracts only the video that the store lacks; the same stem in two folders means two videos."""
    open_cache().fill(SET, records[1:])
    loaded, summary = open_cache().load(SET, records)
    assert (summary.num_cached_before, summary.num_extracted) == (2, 1)
    first, second, third = features_of(loaded, records)
    assert not np.array_equal(first, second) and not np.array_equal(second, third)


def test_the_cache_ignores_labels_and_groups(
    open_cache: OpenCache, records: list[VideoRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cache serves every split and labelling, and videos that have moved."""
    open_cache().fill(SET, records)
    forbid_extraction(monkeypatch)
    moved = [
        dataclasses.replace(record, label=7, group="other", path=record.path.rename(record.path.with_suffix(".AVI")))
        for record in records
    ]
    assert open_cache().fill(SET, moved).num_cached_before == 3


def test_other_sampling_is_extracted_separately(open_cache: OpenCache, records: list[VideoRecord]) -> None:
    """Features of another recipe are not used, and are kept beside the new ones."""
    open_cache().fill(SET, records)
    assert open_cache(sampling="uniform:2").fill(SET, records).num_extracted == 3
    assert open_cache().fill(SET, records).num_extracted == 0


def test_runtime_and_workers_are_not_part_of_the_recipe(open_cache: OpenCache) -> None:
    """Settings that only change the speed do not change the fingerprint."""
    assert open_cache(runtime="onnx", workers=3, video_timeout=5.0).store.recipe == open_cache().store.recipe


def truncated(content: bytes, other: bytes) -> bytes:
    return content[: len(content) // 2]


def bit_flipped(content: bytes, other: bytes) -> bytes:
    return content[:-20] + bytes([content[-20] ^ 4]) + content[-19:]


def emptied(content: bytes, other: bytes) -> bytes:
    return b""


def of_another_recipe(content: bytes, other: bytes) -> bytes:
    return other


@pytest.mark.parametrize("damage", [truncated, bit_flipped, emptied, of_another_recipe])
def test_damaged_entry_is_recomputed(
    open_cache: OpenCache,
    records: list[VideoRecord],
    damage: Callable[[bytes, bytes], bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An entry that was damaged on disk is detected when it is read, and recomputed once.

    If only the checksum reveals it, the user gets a message: that disk is not to be trusted.
    """
    cache = open_cache()
    before, _ = cache.load(SET, records)
    other = open_cache(sampling="uniform:2")
    other.fill(SET, records[1:2])
    path = cache.store.path(SET, records[1].video_id)
    path.write_bytes(damage(path.read_bytes(), other.store.path(SET, records[1].video_id).read_bytes()))
    with pytest.raises(DamagedEntry):
        cache.store.read(SET, records[1].video_id)
    capsys.readouterr()
    after, summary = open_cache().load(SET, records)
    assert (summary.num_cached_before, summary.num_extracted, summary.num_failed) == (2, 1, 0)
    if damage is bit_flipped:
        assert f"damaged entry, extracted again: {path}" in capsys.readouterr().err
    for ours, theirs in zip(features_of(before, records), features_of(after, records), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert open_cache().load(SET, records)[1].num_extracted == 0


def test_replaced_video_is_extracted_again(open_cache: OpenCache, records: list[VideoRecord]) -> None:
    """A video that was replaced by another, even of the same size, is extracted again; the others are not."""
    before, _ = open_cache().load(SET, records)
    make_clip(records[0].path, 30, number=9)
    after, summary = open_cache().load(SET, records)
    assert summary.num_extracted == 1
    same = [
        np.array_equal(ours, theirs)
        for ours, theirs in zip(features_of(before, records), features_of(after, records), strict=True)
    ]
    assert same == [False, True, True]
    make_clip(records[0].path, 8, number=9)
    assert open_cache().fill(SET, records).num_extracted == 1
    content = records[0].path.read_bytes()
    records[0].path.write_bytes(content[:-1] + b"x")
    assert open_cache().fill(SET, records).num_extracted == 1
    os.utime(records[0].path)
    assert open_cache().fill(SET, records).num_extracted == 0


def test_features_outlive_their_videos(
    open_cache: OpenCache, records: list[VideoRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cached features are usable without the video files."""
    open_cache().fill(SET, records)
    for record in records:
        record.path.unlink()
    forbid_extraction(monkeypatch)
    assert open_cache().load(SET, records)[1].num_cached_before == 3


def test_failed_video_does_not_affect_the_others(
    open_cache: OpenCache, records: list[VideoRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad video is named with its reason and has no features; the next run retries it alone."""
    good = records[1].path.read_bytes()
    records[1].path.write_bytes(b"no video")
    loaded, summary = open_cache().load(SET, records)
    assert (summary.num_extracted, summary.num_failed) == (2, 1)
    assert set(loaded.videos) == {"run/a.avi", "walk/b.avi"}
    (video_id, reason), *others = failures(open_cache().store).items()
    assert video_id == "walk/a.avi" and "not a video" in reason and not others
    assert "failed: walk/a.avi: " in capsys.readouterr().err
    records[1].path.write_bytes(good)
    again = open_cache().fill(SET, records)
    assert (again.num_cached_before, again.num_extracted, again.num_failed) == (2, 1, 0)


def test_on_short_applies_to_stored_features_too(
    open_cache: OpenCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A short file is kept with a message; --on-short fail rejects the file and its earlier entry."""
    record = VideoRecord("cut.avi", cut_clip(tmp_path), 0, "g")
    assert open_cache().fill(SET, [record]).num_extracted == 1
    assert "short: cut.avi: 9 of 40 frames decode" in capsys.readouterr().err
    strict = open_cache(on_short="fail")
    assert strict.fill(SET, [record]).num_failed == 1
    assert "short" in failures(strict.store)["cut.avi"]
    assert not strict.load(SET, [record])[0].videos
    assert open_cache().fill(SET, [record]).num_cached_before == 1


def test_views_are_stored_beside_the_centre_view(open_cache: OpenCache, records: list[VideoRecord]) -> None:
    """More views add entries and leave the existing ones unchanged; fewer views are all cached."""
    open_cache().fill(SET, records)
    store = open_cache().store
    before = [store.path(SET, record.video_id).stat() for record in records]
    loaded, summary = open_cache(views=2).load(SET, records)
    assert summary.num_extracted == 3 and summary.num_frames == 12
    assert [store.path(SET, record.video_id).stat().st_mtime_ns for record in records] == [
        status.st_mtime_ns for status in before
    ]
    assert loaded.views == ("center", "center-flipped")
    pairs = zip(features_of(loaded, records, view=0), features_of(loaded, records, view=1), strict=True)
    assert all(ours.shape == theirs.shape and not np.array_equal(ours, theirs) for ours, theirs in pairs)
    store.remove(SET, records[0].video_id, "center-flipped")
    assert open_cache(views=2).fill(SET, records).num_extracted == 1
    assert open_cache().fill(SET, records).num_cached_before == 3


def test_video_stored_by_another_job_is_skipped(open_cache: OpenCache, records: list[VideoRecord]) -> None:
    """A video that another job stores before its turn is neither decoded nor written again."""
    cache, other = open_cache(), open_cache()

    def records_while_another_job_works() -> Iterator[VideoRecord]:
        yield records[0]
        other.fill(SET, records[1:])
        yield from records[1:]

    outcomes = {outcome.record.video_id: outcome for outcome in cache.extract(SET, records_while_another_job_works())}
    assert len(outcomes) == 3
    assert [outcomes[record.video_id].made_elsewhere for record in records] == [False, True, True]


def test_next_run_removes_the_files_of_a_killed_one(open_cache: OpenCache, records: list[VideoRecord]) -> None:
    """Unfinished entries, recipes and networks of a dead process do not accumulate."""
    cache = open_cache()
    cache.fill(SET, records)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    folders = [cache.store.folder, cache.store.folder / SET / "run", cache.config.cache / "onnx"]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / f".x.{socket.gethostname()}.{process.pid}.tmp").touch()
    open_cache().fill(SET, records)
    assert not list(cache.config.cache.rglob("*.tmp"))


def test_name_too_long_to_store_fails_one_video(open_cache: OpenCache, records: list[VideoRecord]) -> None:
    """A video whose name leaves no room for the suffix fails with advice; a slightly shorter one is stored."""
    videos = [dataclasses.replace(records[0], video_id="x" * (length - 4) + ".avi") for length in (243, 255)]
    cache = open_cache()
    summary = cache.fill(SET, [*videos, *records])
    assert (summary.num_extracted, summary.num_failed) == (4, 1)
    assert "Rename the video" in failures(cache.store)[videos[1].video_id]


def test_hanging_video_is_given_up(open_cache: OpenCache, records: list[VideoRecord], tmp_path: Path) -> None:
    """A video that hangs its reader fails; all others are cached."""
    os.mkfifo(tmp_path / "hanging.avi")
    hanging = VideoRecord("hanging.avi", tmp_path / "hanging.avi", 0, "g")
    cache = open_cache(video_timeout=2.0)
    summary = cache.fill(SET, [hanging, *records])
    assert (summary.num_extracted, summary.num_failed) == (3, 1)
    assert "hung" in failures(cache.store)["hanging.avi"]


class Job:
    """``python -m pipeline.cache`` on a folder of videos."""

    def __init__(self, root: Path, tiny_backbone: tuple[str, Path], *flags: str) -> None:
        name, weights = tiny_backbone
        self.cache = root.parent / "cache"
        self.command = [sys.executable, "-m", "pipeline.cache", "--dataset", "folder", "--root", str(root)]
        self.command += ["--backbone", name, "--weights", str(weights), "--cache", str(self.cache)]
        self.command += ["--runtime", "torch", "--workers", "2", *flags]

    def run(self, **settings: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, **settings)

    def entries(self) -> list[Path]:
        return list(self.cache.rglob("*.safetensors"))


def two_classes(root: Path, num_videos: int, num_frames: int = 8) -> None:
    for number in range(num_videos):
        make_clip(root / ("run", "walk")[number % 2] / f"{number}.avi", num_frames, number)


def session_is_empty(leader: int) -> bool:
    """Whether no process of the session is left, except zombies."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session, *_ = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == leader and state != "Z":
            return False
    return True


def test_command_names_each_bad_file_and_exits_with_1(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """With bad files in the folder: exit code 1, reasons in errors.jsonl, all other videos cached, a summary."""
    root = tmp_path / "videos"
    two_classes(root, 4)
    (root / "run" / "zero.avi").touch()
    (root / "walk" / "text.avi").write_text("this is not a video\n" * 50)
    os.mkfifo(root / "walk" / "pipe.avi")
    cut_clip(root / "walk")
    done = Job(root, tiny_backbone, "--video-timeout", "3").run()
    assert done.returncode == 1, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["num_videos"], summary["num_extracted"], summary["num_failed"]) == (8, 5, 3)
    (log,) = (tmp_path / "cache").rglob("errors.jsonl")
    reasons = {line["path"]: line["reason"] for line in map(json.loads, log.read_text().splitlines())}
    for name, reason in [("run/zero", "is empty"), ("walk/text", "not a video"), ("walk/pipe", "hung")]:
        assert reason in reasons.pop(str(root / f"{name}.avi"))
    assert not reasons
    assert str(log) in done.stderr and "short: " in done.stderr
    assert "Traceback" not in done.stderr


def test_interrupted_and_killed_job_resumes(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """Ctrl-C gives code 130 without a traceback or a remaining process; neither it nor kill -9 loses work."""
    root = tmp_path / "videos"
    two_classes(root, 40)
    job = Job(root, tiny_backbone, "--sampling", "every:1")

    def start_and_signal(number: int, num_entries: int) -> tuple[subprocess.Popen[str], str]:
        """Run the job until there are so many entries, then signal its whole process group, as a terminal does."""
        process = subprocess.Popen(
            job.command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        while len(job.entries()) < num_entries:
            assert process.poll() is None, "the job ended too soon for the test to show anything"
            time.sleep(0.01)
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=30)
        deadline = time.monotonic() + 10
        while not session_is_empty(process.pid):
            assert time.monotonic() < deadline, "readers are left running"
            time.sleep(0.02)
        return process, errors

    interrupted, errors = start_and_signal(signal.SIGINT, 5)
    assert interrupted.returncode == 130
    assert "Traceback" not in errors and "finished work is kept" in errors
    kept = {path: path.stat().st_mtime_ns for path in job.entries()}
    assert not list(job.cache.rglob("*.tmp"))
    killed, _ = start_and_signal(signal.SIGKILL, len(kept) + 5)
    assert killed.returncode == -signal.SIGKILL
    num_kept = len(job.entries())
    done = job.run()
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["num_cached_before"], summary["num_extracted"]) == (num_kept, 40 - num_kept)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert len(job.entries()) == 40 and not list(job.cache.rglob("*.tmp"))


def test_full_disk_gives_a_clear_error_and_exit_code_2(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """If the disk is full, the command says so and what to do, and leaves no partial file."""
    root = tmp_path / "videos"
    two_classes(root, 4, num_frames=40)
    job = Job(root, tiny_backbone, "--sampling", "every:1")

    def fill_the_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    done = job.run(preexec_fn=fill_the_disk)
    assert done.returncode == 2
    assert "error: the feature store can't be written" in done.stderr and "make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in job.cache.rglob("*") if path.is_file()] == ["recipe.json"]
