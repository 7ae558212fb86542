"""A feature store in an object store, through the real command lines and a real S3 server."""

import itertools
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.catalog import DataConfig, load_dataset
from data.objects import ObjectPath, ObjectStoreError
from pipeline.cache import job
from pipeline.cache.relink import locate
from pipeline.features.recipe import imported_recipe
from pipeline.settings.config import FeatureConfig
from pipeline.store.store import FeatureStore, StoreError
from tests.cache.test_manage import make_run
from tests.helpers.clips import make_clip
from tests.helpers.commands import call, message
from tests.helpers.object_server import ObjectServer
from tests.store.test_store import RECIPE, a_video

SECONDS_PER_HOUR = 3600.0


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Class folders ``run`` and ``walk`` of three good videos each."""
    root = tmp_path / "videos"
    for number in range(6):
        make_clip(root / ("run", "walk")[number % 2] / f"clip{number}.avi", num_frames=6, number=number)
    return root


@pytest.fixture
def cache(bucket: str) -> ObjectPath:
    return ObjectPath.parse(f"{bucket}/some/features")


@pytest.fixture
def flags(videos: Path, cache: ObjectPath, tiny_backbone: tuple[str, Path]) -> list[object]:
    name, weights = tiny_backbone
    features = ["--backbone", name, "--weights", weights, "--runtime", "torch", "--sampling", "uniform:3"]
    return ["--dataset", "folder", "--root", videos, *features, "--cache", cache, "--workers", 1]


@pytest.fixture
def videos_are_older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of the last hour count as older than entries, as those of yesterday do."""
    monkeypatch.setattr(job, "_CLOCK_ERROR", -SECONDS_PER_HOUR)


def entries(cache: ObjectPath) -> list[ObjectPath]:
    return [found.path for found in cache.walk() if found.path.name.endswith(".safetensors")]


def extract(*flags: object) -> dict[str, Any]:
    """The summary of a caching job."""
    done = call("-m", "pipeline.cache", *flags)
    assert done.returncode == 0, message(done)
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def manage(command: str, cache: ObjectPath, *flags: object) -> tuple[int, Any]:
    """The exit code and the JSON of a command on a store."""
    done = call("-m", "pipeline.cache", command, "--cache", cache, "--json", *flags)
    return done.returncode, json.loads(done.stdout)


def dataset_flags(videos: Path) -> list[object]:
    return ["--dataset", "folder", "--root", videos, "--dataset-name", "videos"]


def fill(cache: ObjectPath, *video_ids: str) -> FeatureStore:
    store = FeatureStore(cache, RECIPE)
    for video_id in video_ids:
        store.write("videos", video_id, a_video())
    return store


def test_caching_and_training(
    flags: list[object],
    cache: ObjectPath,
    tmp_path: Path,
    object_server: ObjectServer,
    videos_are_older: None,
    without_pictures: None,
) -> None:
    """Two shards fill the store, training packs it once, and no entry is asked for where a listing is enough."""
    shards = [extract(*flags, "--shard", f"{index}/2") for index in range(2)]
    assert sum(shard["num_extracted"] for shard in shards) == 6
    assert len(entries(cache)) == object_server.count("PUT", ".safetensors") == 6

    object_server.requests.clear()
    assert extract(*flags)["num_cached_before"] == 6
    _, status = manage("status", cache, "--dataset", "folder", "--root", tmp_path / "videos")
    (row,) = status["stores"]
    assert (row["num_entries"], row["done"], row["missing"], row["failed"]) == (6, 6, 0, 0)
    assert object_server.count("GET", ".safetensors") == 0

    train = ["train.py", *flags, "--runs", tmp_path / "runs", "--epochs", 1, "--strips", 0, "--name", "a"]
    done = call(*train)
    assert done.returncode == 0, message(done)
    assert object_server.count("GET", ".safetensors") == 6  # packed
    assert list((tmp_path / "user-cache").rglob("some/features/*/packed/*.npy"))
    object_server.requests.clear()
    config = tmp_path / "runs/videos/a/config.yaml"
    assert f"cache: {cache}\n" in config.read_text()
    done = call("train.py", "--config", config, "--overwrite")
    assert done.returncode == 0, message(done)
    assert object_server.count("GET", ".safetensors") == 0
    _, status = manage("status", cache)
    assert status["packed_bytes"] > 0


def test_a_store_in_archives(
    flags: list[object],
    cache: ObjectPath,
    videos: Path,
    tmp_path: Path,
    object_server: ObjectServer,
    videos_are_older: None,
    without_pictures: None,
) -> None:
    """compact leaves one archive instead of six entries; jobs, training, verify and gc find the features there."""
    extract(*flags)
    faults = itertools.cycle([None, (503, "SlowDown"), "torn", None])
    object_server.fault = lambda method, path: next(faults)
    done = call("-m", "pipeline.cache", "compact", "--cache", cache)
    object_server.fault = None
    assert (done.returncode, json.loads(done.stdout)) == (0, {"entries": 6, "archives": 1, "damaged": 0})
    assert entries(cache) == [] and len([found for found in cache.walk() if found.path.name.endswith(".tar")]) == 1
    assert extract(*flags)["num_cached_before"] == 6
    assert manage("verify", cache) == (0, {"num_entries": 6, "damaged": {}, "removed": False})
    train = ["train.py", *flags, "--runs", tmp_path / "runs", "--epochs", 1, "--strips", 0, "--name", "a"]
    done = call(*train)
    assert done.returncode == 0, message(done)
    make_clip(videos / "run" / "clip6.avi", num_frames=6, number=6)
    assert extract(*flags)["num_extracted"] == 1
    (videos / "run" / "clip0.avi").unlink()
    dataset = ["--dataset", "folder", "--root", videos, "--runs", tmp_path / "runs"]
    _, found = manage("gc", cache, *dataset, "--delete")
    assert [one["kind"] for one in found["garbage"] if "videos" in one["kind"]] == ["1 videos no longer in the dataset"]
    assert manage("verify", cache)[1]["num_entries"] == 6


def test_changed_videos_are_extracted_again(
    flags: list[object],
    videos: Path,
    cache: ObjectPath,
    tiny_backbone: tuple[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Features of another video are never trained on: the job looks into old entries, training into all."""
    extract(*flags)
    make_clip(videos / "run" / "clip0.avi", num_frames=8, number=40)
    assert extract(*flags)["num_extracted"] == 1
    monkeypatch.setattr(job, "_CLOCK_ERROR", -SECONDS_PER_HOUR)  # as if it had changed before the entry was put
    make_clip(videos / "run" / "clip0.avi", num_frames=9, number=41)
    assert extract(*flags)["num_extracted"] == 0
    name, weights = tiny_backbone
    store = job.FeatureCache(FeatureConfig(name, weights, "uniform:3", cache=cache, runtime="torch", workers=1))
    dataset = load_dataset(DataConfig(dataset="folder", root=videos))
    packed, summary = store.load(locate(store.store, dataset), dataset.videos)
    assert summary.num_extracted == 1
    assert packed.videos["run/clip0.avi"].origin.decoded_frames == 9


def test_a_job_outlasts_failures(flags: list[object], cache: ObjectPath, object_server: ObjectServer) -> None:
    """A store that is busy or cut off for a while costs no video."""
    kinds = [(503, "SlowDown"), None, "cut", "torn", *[None] * 8]
    faults, served = itertools.cycle(kinds), []
    object_server.fault = lambda method, path: (served.append(next(faults)), served[-1])[1]  # type: ignore[func-returns-value]
    assert extract(*flags)["num_extracted"] == 6
    object_server.fault = None
    assert {*served} == {*kinds}
    assert manage("verify", cache) == (0, {"num_entries": 6, "damaged": {}, "removed": False})


def test_a_job_ends_when_its_token_expires_and_resumes(
    flags: list[object], cache: ObjectPath, object_server: ObjectServer, videos_are_older: None
) -> None:
    """The message names the reason; what is there is whole, and the next job makes the rest."""
    puts = iter(range(99))
    object_server.fault = lambda method, path: (
        (400, "ExpiredToken") if method == "PUT" and ".safetensors" in path and next(puts) >= 2 else None
    )
    done = call("-m", "pipeline.cache", *flags)
    assert done.returncode == 2
    assert "AWS_SESSION_TOKEN" in done.stderr and "ExpiredToken" in done.stderr
    object_server.fault = None
    assert manage("verify", cache) == (0, {"num_entries": 2, "damaged": {}, "removed": False})
    summary = extract(*flags)
    assert (summary["num_cached_before"], summary["num_extracted"]) == (2, 4)


def test_a_failed_video_is_listed_with_its_reason_until_it_is_mended(
    flags: list[object], videos: Path, cache: ObjectPath, tmp_path: Path
) -> None:
    """One object per failed video: nothing is appended to, so that shards can't lose each other's lines."""
    (videos / "run" / "clip0.avi").write_bytes(b"no video")
    done = call("-m", "pipeline.cache", *flags)
    assert done.returncode == 1
    assert "/.failures/videos-" in done.stderr
    (failure,) = (found.path for found in cache.walk() if "/.failures/" in found.path.key)
    assert "clip0.avi" in json.loads(failure.read_bytes())["reason"]
    row = manage("status", cache, "--dataset", "folder", "--root", videos)[1]["stores"][0]
    assert (row["done"], row["missing"], row["failed"]) == (5, 0, 1)
    make_clip(videos / "run" / "clip0.avi", num_frames=6)
    time.sleep(1.0)  # objects' times are whole seconds
    extract(*flags)
    _, found = manage("gc", cache, "--runs", tmp_path, "--delete")
    assert [(one["kind"], one["path"]) for one in found["garbage"]] == [
        ("failures since fixed or repeated", str(failure))
    ]
    assert not failure.exists()


@pytest.mark.parametrize("content", [b"", b"torn", "half"], ids=str)
def test_verify_finds_what_another_tool_tore(cache: ObjectPath, content: bytes | str) -> None:
    """A damaged object is found, removed, and never read as features."""
    store = fill(cache, "a", "b")
    path = store.path("videos", "a")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    assert store.origin("videos", "b") is not None
    code, found = manage("verify", cache)
    assert (code, found["num_entries"], list(found["damaged"])) == (1, 2, [str(path)])
    assert manage("verify", cache, "--remove")[0] == 0
    assert entries(cache) == [store.path("videos", "b")]
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    path.write_bytes(bytes(flipped))
    assert manage("verify", cache)[0] == 1


def test_an_expired_token_damages_and_removes_nothing(cache: ObjectPath, object_server: ObjectServer) -> None:
    """An entry that can't be read is neither missing nor damaged."""
    store = fill(cache, "a", "b")
    object_server.fail(999, (403, "ExpiredToken"), "GET", ".safetensors")
    done = call("-m", "pipeline.cache", "verify", "--cache", cache, "--remove")
    assert done.returncode == 2 and "AWS_SESSION_TOKEN" in done.stderr
    for ask in (store.origin, store.read):
        with pytest.raises(ObjectStoreError, match="ExpiredToken"):
            ask("videos", "a")
    assert len(entries(cache)) == 2 and not object_server.count("DELETE") and not object_server.count("POST")


def test_gc_removes_what_nothing_needs(cache: ObjectPath, videos: Path, tmp_path: Path) -> None:
    """Entries of removed videos and unused stores, and nothing else."""
    make_run(tmp_path / "runs" / "one", RECIPE)
    fill(cache, "run/clip0.avi", "walk/gone.avi")
    dataset = [*dataset_flags(videos), "--runs", tmp_path / "runs"]
    assert [one["kind"] for one in manage("gc", cache, *dataset)[1]["garbage"]] == ["video no longer in the dataset"]
    assert manage("gc", cache, *dataset, "--delete")[0] == 0
    assert [path.name for path in entries(cache)] == ["clip0.avi.safetensors"]
    (tmp_path / "none").mkdir()
    _, found = manage("gc", cache, "--runs", tmp_path / "none", "--keep-days", 0, "--delete")
    assert [(one["path"], one["removed"]) for one in found["garbage"]] == [(str(cache / RECIPE.folder_name), True)]
    assert not cache.is_dir()


def test_features_are_exported_and_imported(cache: ObjectPath, videos: Path, tmp_path: Path) -> None:
    """As files of other tools, out of the object store and into it."""
    fill(cache, *(str(path.relative_to(videos)) for path in videos.rglob("*.avi")))
    dataset = [*dataset_flags(videos), "--cache", cache]
    done = call("-m", "pipeline.cache", "export", *dataset, "--to", tmp_path / "npy")
    assert done.returncode == 0, message(done)
    done = call("-m", "pipeline.cache", "import", *dataset, "--from", tmp_path / "npy", "--name", "other")
    assert done.returncode == 0, message(done)
    store = FeatureStore(cache, imported_recipe("other"))
    store.check_import("videos")
    found = store.read("videos", "walk/clip1.avi")
    assert found is not None
    assert np.array_equal(found.features, np.load(tmp_path / "npy" / "walk" / "clip1.avi.npy"))


@pytest.mark.parametrize("first", [0, 1])
def test_imports_at_the_same_time_are_found(cache: ObjectPath, first: int) -> None:
    """Without a lock, the features of both are mixed: they are not trained on until one import is repeated."""
    store = FeatureStore(cache, RECIPE)
    imports = [store.importing("videos"), store.importing("videos")]
    for one in imports:
        one.__enter__()
    with suppress(StoreError):
        imports[first].__exit__(None, None, None)
    with pytest.raises(StoreError, match="at the same time"):
        imports[1 - first].__exit__(None, None, None)
    with pytest.raises(StoreError, match="interrupted"):
        store.check_import("videos")
    with store.importing("videos"):
        pass
    store.check_import("videos")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["relink", "--dataset", "demo"], "relink works in a folder only"),
        (["status"], "is not a folder"),
    ],
    ids=lambda value: value[0],
)
def test_what_makes_no_sense_is_refused(command: list[str], expected: str, cache: ObjectPath) -> None:
    """A command that can't work says so."""
    done = call("-m", "pipeline.cache", *command, "--cache", cache)
    assert done.returncode == 2 and expected in done.stderr


@pytest.mark.parametrize(
    ("address", "expected"), [("s3://no-such-bucket/x", "no bucket"), ("ftp://x/y", "s3://BUCKET")]
)
def test_a_wrong_address_ends_the_job_at_once(
    flags: list[object], object_server: ObjectServer, address: str, expected: str
) -> None:
    """Before any video is decoded, with one message and exit code 2."""
    done = call("-m", "pipeline.cache", *flags, "--cache", address)
    assert done.returncode == 2 and expected in message(done)
