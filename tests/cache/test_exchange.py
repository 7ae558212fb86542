"""Features as .npy files: a round trip is exact, and other tools' files are imported only if unambiguous."""

import dataclasses
import json
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.catalog import DataConfig, load_dataset
from data.identity import identify
from data.records import VideoDataset
from pipeline.cache.exchange import ExchangeError, read_npy
from pipeline.cache.exports import export_command, export_features, find_store
from pipeline.cache.imports import import_command, import_features, match_files
from pipeline.cache.job import FeatureCache
from pipeline.features.recipe import FeatureRecipe, Origin, VideoFeatures, imported_recipe
from pipeline.settings.config import ConfigError, FeatureConfig
from pipeline.store.store import FeatureStore, StoreError
from tests.helpers.clips import make_clip
from tests.helpers.commands import call, message
from tests.helpers.synthetic import RECIPE, make_features, make_record

VIDEOS = ("run/a.avi", "run/größe 1.avi", "walk/a.avi", "walk/b.c.avi")


@pytest.fixture
def dataset(tmp_path: Path) -> VideoDataset:
    """Four videos (files of 7 bytes), two with the same stem, one with a dot in its name."""
    for video_id in VIDEOS:
        path = tmp_path / "videos" / video_id
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"a video")
    return load_dataset(DataConfig("folder", tmp_path / "videos"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with float32 features of dimension 6 for all four videos, one file each."""
    folder = tmp_path / "made-elsewhere"
    for number, video_id in enumerate(VIDEOS):
        save(folder / f"{video_id}.npy", values_of(number))
    return folder


def values_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(3 + number, 6)).astype(np.float32)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def stored(cache: Path, dataset: VideoDataset, video_id: str, name: str = "dino") -> np.ndarray | None:
    found = FeatureStore(cache, imported_recipe(name)).read(dataset.store_name, video_id)
    return None if found is None else found.features


def test_round_trip_gives_equal_features(tmp_path: Path, dataset: VideoDataset) -> None:
    """Exported and re-imported features are bit-equal, for any video name, with their origin recorded."""
    store = FeatureStore(tmp_path / "cache", RECIPE)
    for number, video_id in enumerate(VIDEOS):
        store.write(dataset.store_name, video_id, make_features(values_of(number)))
    out = tmp_path / "out"
    summary = export_features(find_store(tmp_path / "cache", dataset), dataset, out)
    assert (summary.num_exported, summary.missing, summary.damaged) == (4, (), {})
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        "recipe.json",
        *(f"{video_id}.npy" for video_id in VIDEOS),
    }
    assert (out / "recipe.json").read_text() == RECIPE.to_json()
    imported = import_features(out, dataset, "ours", tmp_path / "cache")
    assert (imported.num_imported, imported.feature_dim, imported.missing, imported.refused) == (4, 6, (), {})
    again = FeatureStore(tmp_path / "cache", imported_recipe("ours"))
    for number, video_id in enumerate(VIDEOS):
        array = np.load(out / f"{video_id}.npy")
        assert array.dtype == np.float16
        found = again.read(dataset.store_name, video_id)
        assert found is not None
        np.testing.assert_array_equal(found.features, values_of(number).astype(np.float16))
        np.testing.assert_array_equal(found.features, array)
        np.testing.assert_array_equal(found.frame_indices, np.arange(3 + number))
        origin = Origin(0.0, 3 + number, 3 + number, 0, "imported", "imported")
        assert found.origin == origin.of_file(identify(dataset.videos[number].path))
        assert not found.origin.is_short


def test_export_names_missing_and_damaged_features(
    tmp_path: Path, dataset: VideoDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged and missing entries are named with exit code 1; the others are written, and a later export completes."""
    cache, out = tmp_path / "cache", tmp_path / "out"
    store = FeatureStore(cache, RECIPE)
    for video_id in VIDEOS[:3]:
        store.write(dataset.store_name, video_id, make_features([[1.0]]))
    bad = store.path(dataset.store_name, VIDEOS[0])
    bad.write_bytes(bad.read_bytes()[:-1])
    command = ["--dataset", "folder", "--root", str(tmp_path / "videos"), "--cache", str(cache), "--to", str(out)]
    assert export_command(command) == 1
    output = capsys.readouterr()
    assert json.loads(output.out) == {
        "num_exported": 2,
        "num_missing": 1,
        "num_damaged": 1,
        "store": str(store.folder),
    }
    assert f"damaged: {VIDEOS[0]}: {bad}" in output.err and f"1 videos ({VIDEOS[3]}): no features" in output.err
    assert {path.stem for path in out.rglob("*.npy")} == {Path(video_id).name for video_id in VIDEOS[1:3]}
    for video_id in VIDEOS:
        store.write(dataset.store_name, video_id, make_features([[1.0]]))
    assert export_command(command) == 0


def test_a_stock_reader_opens_the_parquet_file(
    tmp_path: Path, dataset: VideoDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has one row per video, in order, with the numbers of the store; videos without features are named."""
    parquet = pytest.importorskip("pyarrow.parquet")
    store = FeatureStore(tmp_path / "cache", RECIPE)
    for number, video_id in enumerate(VIDEOS[:3]):
        store.write(dataset.store_name, video_id, make_features([[number, 0.1, -2]] * (number + 1)))
    path = tmp_path / "out" / "features.parquet"
    place = ["--dataset", "folder", "--root", str(tmp_path / "videos"), "--cache", str(tmp_path / "cache")]
    assert export_command([*place, "--to", str(path), "--format", "parquet"]) == 1
    assert f"1 videos ({VIDEOS[3]}): no features" in capsys.readouterr().err
    table = parquet.read_table(path)
    assert FeatureRecipe.from_json(table.schema.metadata[b"recipe"].decode()) == RECIPE
    rows = table.to_pylist()
    assert [row["video_id"] for row in rows] == list(VIDEOS[:3])
    assert [row["label"] for row in rows] == [dataset.classes[video.label] for video in dataset.videos[:3]]
    for number, row in enumerate(rows):
        assert row["frame_indices"] == list(range(number + 1))
        expected = np.float16([[number, 0.1, -2]] * (number + 1)).astype(np.float32)
        np.testing.assert_array_equal(np.float32(row["features"]), expected)


def test_export_needs_one_kind_of_features(tmp_path: Path, dataset: VideoDataset) -> None:
    """If no or several kinds are cached, or the folder contains another kind, the error says what to do."""
    cache = tmp_path / "cache"
    empty = FeatureStore(cache, dataclasses.replace(RECIPE, sampling="every:3"))
    empty.note_failure(dataset.store_name, VIDEOS[0], Path("a"), "why")
    with pytest.raises(ExchangeError, match="no features of videos-.* Cache them first"):
        find_store(cache, dataset)
    stores = [FeatureStore(cache, dataclasses.replace(RECIPE, sampling=f"every:{number}")) for number in (1, 2)]
    for store in stores:
        store.write(dataset.store_name, VIDEOS[0], make_features([[1.0]]))
    with pytest.raises(ExchangeError, match=r"--fingerprint to one of \w{16} \(none every:\d\), \w{16}"):
        find_store(cache, dataset)
    chosen = find_store(cache, dataset, stores[1].recipe.fingerprint[:8])
    assert chosen.recipe == stores[1].recipe
    with pytest.raises(StoreError, match="no store's fingerprint starts with 'xyz'"):
        find_store(cache, dataset, "xyz")
    export_features(stores[0], dataset, tmp_path / "out")
    with pytest.raises(ExchangeError, match="features of another recipe.*another --to"):
        export_features(stores[1], dataset, tmp_path / "out")


def matched(source: Path, *video_ids: str) -> dict[str, str]:
    """The file of each video, by its id; all videos are of class "run"."""
    videos = tuple(make_record(video_id) for video_id in video_ids)
    files = match_files(source, VideoDataset("set", "set", ("run",), videos, {}))
    return {video_id: path.relative_to(source).as_posix() for video_id, path in files.items()}


def test_files_are_found_by_id_then_by_shorter_names(tmp_path: Path) -> None:
    """The full name precedes the one without extension, which precedes the bare stem; other videos have no file."""
    for name in ("run/a.avi", "run/a", "a", "run/b", "b", "c"):
        save(tmp_path / f"{name}.npy", np.ones((1, 2)))
    assert matched(tmp_path, "run/a.avi", "run/b.avi", "walk/c.avi", "walk/d.avi") == {
        "run/a.avi": "run/a.avi.npy",
        "run/b.avi": "run/b.npy",
        "walk/c.avi": "c.npy",
    }


def test_files_in_class_folders_are_found(tmp_path: Path) -> None:
    """The file of a video whose id has no folder may be in the folder of its class, unless two videos match it."""
    for name in ("run/v_a", "run/b", "run/c"):
        save(tmp_path / f"{name}.npy", np.ones((1, 2)))
    assert matched(tmp_path, "v_a", "b.avi", "walk/c.avi") == {"v_a": "run/v_a.npy", "b.avi": "run/b.npy"}
    assert matched(tmp_path, "b.avi", "b.mp4") == {}


def test_many_videos_without_a_file_are_one_line(
    action_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """UCF101's official lists with the features of 14 classes: 11,979 videos without a file are named in one line."""
    subprocess.run([sys.executable, action_data / "ucf14" / "unpack.py", tmp_path / "made"], check=True)
    where = ["--dataset", "ucf101", "--root", str(action_data / "ucf101"), "--cache", str(tmp_path / "cache")]
    assert import_command([*where, "--from", str(tmp_path / "made"), "--name", "lite"]) == 1
    output = capsys.readouterr()
    summary = json.loads(output.out)
    assert (summary["num_imported"], summary["num_missing"], summary["feature_dim"]) == (1341, 11_979, 1280)
    (line,) = (line for line in output.err.splitlines() if "11979 videos" in line)
    assert "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.npy" in line and len(output.err.splitlines()) < 5


def test_ambiguous_file_is_not_used(tmp_path: Path) -> None:
    """Videos with the same stem never share a file; a file with a video's full name is that video's."""
    for name in ("a", "b", "c.d"):
        save(tmp_path / f"{name}.npy", np.ones((1, 2)))
    assert matched(tmp_path, "run/a.avi", "walk/a.avi") == {}
    assert matched(tmp_path, "b.avi", "b.mp4") == {}
    assert matched(tmp_path, "c.d", "c.d.avi") == {"c.d": "c.d.npy"}


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array.astype(np.float16),
        lambda array: array.astype(np.float64),
        lambda array: array.astype(">f4"),
        np.asfortranarray,
        lambda array: np.repeat(array, 2, axis=0)[::2],
    ],
)
def test_any_float_type_and_layout_is_accepted(
    tmp_path: Path, dataset: VideoDataset, source: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Half, single and double precision, either byte order and any memory layout give the same numbers."""
    array = change(values_of(0))
    save(source / f"{VIDEOS[0]}.npy", array)
    import_features(source, dataset, "dino", tmp_path / "cache")
    features = stored(tmp_path / "cache", dataset, VIDEOS[0])
    assert features is not None
    np.testing.assert_array_equal(features, values_of(0).astype(np.float16))


def test_one_vector_is_one_frame(tmp_path: Path, dataset: VideoDataset, source: Path) -> None:
    """[features] is a video of one frame, beside others of many."""
    save(source / f"{VIDEOS[0]}.npy", values_of(0)[1])
    import_features(source, dataset, "dino", tmp_path / "cache")
    features = stored(tmp_path / "cache", dataset, VIDEOS[0])
    assert features is not None and features.shape == (1, 6)
    np.testing.assert_array_equal(features[0], values_of(0)[1].astype(np.float16))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 6), np.int32), "int32, but features are floating point"),
        (np.array([[None, "x"]], dtype=object), "can't be read as .npy: .*objects"),
        (np.ones((2, 6, 1), np.float32), r"shape \[2, 6, 1\], but features are \[frames, features\]"),
        (np.float32(1), r"shape \[\], but features are"),
        (np.ones((0, 6), np.float32), r"can't be read|shape \[0, 6\]"),
        (np.ones((2, 5), np.float32), r"same size, but these have 5 \(in 1, e.g. .*\), 6 \(in 3, e.g."),
    ],
)
def test_wrong_array_stops_the_import_before_it_starts(
    tmp_path: Path, dataset: VideoDataset, source: Path, array: np.ndarray, message: str
) -> None:
    """A wrong type, shape or size in one file is an error that names it, and nothing is stored."""
    save(source / f"{VIDEOS[0]}.npy", array)
    with pytest.raises(ExchangeError, match=message) as raised:
        import_features(source, dataset, "dino", tmp_path / "cache")
    assert str(source / f"{VIDEOS[0]}.npy") in str(raised.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])
def test_damaged_file_stops_the_import_before_it_starts(
    tmp_path: Path, dataset: VideoDataset, source: Path, content: bytes
) -> None:
    """A file that is not .npy, or is truncated, is named, and nothing is stored."""
    (source / f"{VIDEOS[1]}.npy").write_bytes(content)
    with pytest.raises(ExchangeError, match=f"{VIDEOS[1]}.npy can't be read as .npy"):
        import_features(source, dataset, "dino", tmp_path / "cache")
    whole = source / f"{VIDEOS[1]}.npy"
    save(whole, values_of(1))
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(ExchangeError, match="can't be read as .npy"):
        import_features(source, dataset, "dino", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_every_unusable_file_is_named(tmp_path: Path, dataset: VideoDataset, source: Path) -> None:
    """One message names all unusable files with their reasons, not only the first, and says that nothing is stored."""
    save(source / f"{VIDEOS[0]}.npy", np.ones((2, 6), np.int32))
    (source / f"{VIDEOS[3]}.npy").write_bytes(b"no array")
    with pytest.raises(ExchangeError, match=r"(?s)Nothing was imported. Correct or remove 2 of 4 files") as raised:
        import_features(source, dataset, "dino", tmp_path / "cache")
    for video_id, reason in ((VIDEOS[0], "int32"), (VIDEOS[3], "can't be read")):
        assert any(f"{video_id}.npy" in line and reason in line for line in str(raised.value).splitlines())


@pytest.mark.parametrize("descr", ["<f4", "<f8"])
def test_a_header_that_promises_less_than_the_file_has(tmp_path: Path, descr: str) -> None:
    """A damaged shape or type never gives a part of the array, or other numbers."""
    path = tmp_path / "a.npy"
    np.save(path, np.ones((30, 6), np.float64))
    path.write_bytes(path.read_bytes().replace(b"(30, 6)", b"(20, 6)").replace(b"<f8", descr.encode()))
    with pytest.raises(
        ExchangeError, match=r"bytes more than its header's float\d\d \[20, 6\] needs: the header is damaged"
    ):
        read_npy(path)


NUM_MUTATIONS = 1000
FRAGMENTS = [*b"()[]{},'\"#-\0\n\xff", *(b"9" * 30, b"True", b"\\x", b"O", b"|V8", b"<M8[s]", b"1e9", b"(" * 900)]


def damaged_header(content: bytes, rng: random.Random) -> bytes:
    """The content with one to four bytes of its first 128 flipped, replaced, inserted or removed."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        position, fragment = rng.randrange(128), rng.choice(FRAGMENTS)
        inserted = fragment if isinstance(fragment, bytes) else bytes([fragment])
        kind = rng.randrange(4)
        if kind == 0:
            damaged[position] ^= 1 << rng.randrange(8)
        else:
            removed = (0, len(inserted), rng.randint(1, 12))[kind - 1]
            damaged[position : position + removed] = b"" if kind == 3 else inserted
    return bytes(damaged)


def test_damaged_headers_are_refused(tmp_path: Path) -> None:
    """Whatever a header contains, the array is read whole, or the file is refused by name, without a warning."""
    rng, num_refused, path = random.Random(0), 0, tmp_path / "a.npy"
    intact = []
    for descr in ("<f2", ">f4", "<f8"):
        np.save(path, np.ones((3, 6), descr))
        intact.append(path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(NUM_MUTATIONS):
            path.write_bytes(damaged_header(intact[number % 3], rng))
            try:
                assert read_npy(path).size == 18
            except ExchangeError as error:
                num_refused += 1
                assert str(path) in str(error) and len(str(error)) < 500
    assert num_refused > 0.9 * NUM_MUTATIONS


@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "NaN or infinity"), (-np.inf, "NaN or infinity"), (7e4, "70000, beyond float16")]
)
def test_number_beyond_float16_fails_that_video(
    tmp_path: Path, dataset: VideoDataset, source: Path, value: float, reason: str
) -> None:
    """The video is refused, recorded as failed and loses its earlier features; all others are stored."""
    cache = tmp_path / "cache"
    import_features(source, dataset, "dino", cache)
    array = values_of(0)
    array[1, 2] = value
    save(source / f"{VIDEOS[0]}.npy", array)
    summary = import_features(source, dataset, "dino", cache)
    assert summary.num_imported == 3 and list(summary.refused) == [VIDEOS[0]]
    assert reason in summary.refused[VIDEOS[0]]
    assert stored(cache, dataset, VIDEOS[0]) is None and stored(cache, dataset, VIDEOS[1]) is not None
    log = FeatureStore(cache, imported_recipe("dino")).errors_path(dataset.store_name)
    assert reason in json.loads(log.read_text())["reason"]
    save(source / f"{VIDEOS[0]}.npy", np.full((1, 6), 65504.0))
    assert not import_features(source, dataset, "dino", cache).refused


def test_a_name_that_is_too_long_fails_that_video(tmp_path: Path, source: Path) -> None:
    """A video whose features would need a name of more than 255 bytes is refused or missing, the others are not."""
    ids = ("a.avi", f"{'b' * 245}.avi", f"{'c' * 250}.avi")
    for video_id in ids[:2]:
        save(source / f"{video_id}.npy", values_of(0))
    dataset = VideoDataset("set", "set", ("run",), tuple(make_record(video_id) for video_id in ids), {})
    summary = import_features(source, dataset, "dino", tmp_path / "cache")
    assert (summary.num_imported, list(summary.refused), summary.missing) == (1, [ids[1]], (ids[2],))


def test_imports_accumulate_but_do_not_mix(tmp_path: Path, dataset: VideoDataset, source: Path) -> None:
    """Features of an earlier import are kept if there is no new file, unless their size differs."""
    cache = tmp_path / "cache"
    import_features(source, dataset, "dino", cache)
    (source / f"{VIDEOS[0]}.npy").unlink()
    save(source / f"{VIDEOS[1]}.npy", values_of(9))
    assert import_features(source, dataset, "dino", cache).missing == (VIDEOS[0],)
    features = stored(cache, dataset, VIDEOS[0]), stored(cache, dataset, VIDEOS[1])
    assert [len(each) for each in features if each is not None] == [3, 12]
    for number, video_id in enumerate(VIDEOS[1:]):
        save(source / f"{video_id}.npy", values_of(number)[:, :4])
    with pytest.raises(ExchangeError, match=f"{VIDEOS[0]} has features of size 6 .* size 4. Choose another --name"):
        import_features(source, dataset, "dino", cache)
    assert import_features(source, dataset, "other", cache).feature_dim == 4


def test_videos_without_a_file_are_named(
    tmp_path: Path, dataset: VideoDataset, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A video without a file is named with the names that were tried, and the exit code is 1."""
    (source / f"{VIDEOS[3]}.npy").unlink()
    where = ["--dataset", "folder", "--root", str(tmp_path / "videos"), "--cache", str(tmp_path / "cache")]
    assert import_command([*where, "--from", str(source), "--name", "dino"]) == 1
    output = capsys.readouterr()
    assert f"1 videos ({VIDEOS[3]}): no file in {source}" in output.err
    assert "Looked for walk/b.c.avi.npy, walk/b.c.npy, b.c.npy" in output.err
    summary = json.loads(output.out)
    assert (summary["num_imported"], summary["num_missing"], summary["num_refused"]) == (3, 1, 0)
    with pytest.raises(ExchangeError, match=f"no file of any video of videos in {tmp_path}. Looked for run/a.avi.npy"):
        import_features(tmp_path, dataset, "dino", tmp_path / "cache")
    with pytest.raises(ExchangeError, match="nowhere is not a folder"):
        import_features(tmp_path / "nowhere", dataset, "dino", tmp_path / "cache")


def test_an_interrupted_import_is_not_used(
    tmp_path: Path, dataset: VideoDataset, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier features are not mixed with new ones: an interrupted import must be repeated before they are read. Two
    imports at once are refused."""
    config = FeatureConfig(backbone="imported:dino", cache=tmp_path / "cache")
    import_features(source, dataset, "dino", config.cache)
    save(source / f"{VIDEOS[0]}.npy", values_of(7))
    write = FeatureStore.write

    def interrupted(self: FeatureStore, folder: str, video_id: str, features: VideoFeatures) -> None:
        if video_id == VIDEOS[2]:
            raise KeyboardInterrupt
        with pytest.raises(StoreError, match="another process is importing into .*imported:dino"):
            import_features(source, dataset, "dino", config.cache)
        write(self, folder, video_id, features)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_features(source, dataset, "dino", config.cache)
    for use in (FeatureCache(config).load, FeatureCache(config).fill):
        with pytest.raises(StoreError, match="import of videos-.* as imported:dino .* was interrupted"):
            use(dataset.store_name, dataset.videos)
    with pytest.raises(StoreError, match="was interrupted"):
        export_features(find_store(config.cache, dataset), dataset, tmp_path / "out")
    import_features(source, dataset, "dino", config.cache)
    packed, _ = FeatureCache(config).load(dataset.store_name, dataset.videos)
    assert len(packed.videos) == 4 and packed.videos[VIDEOS[0]].num_frames == 10


def test_contents_tell_imports_apart(tmp_path: Path, dataset: VideoDataset, source: Path) -> None:
    """The digest of a video changes with any of its numbers or its shape, and with nothing else."""
    cache = FeatureCache(FeatureConfig(backbone="imported:dino", cache=tmp_path / "cache"))

    def contents() -> dict[str, str]:
        import_features(source, dataset, "dino", cache.config.cache)
        return cache.load(dataset.store_name, dataset.videos)[0].digests()

    before = contents()
    assert len(set(before.values())) == 4
    save(source / f"{VIDEOS[0]}.npy", values_of(0).astype(np.float16).astype(np.float64))
    assert contents() == before
    for changed in (values_of(0)[::-1], values_of(0)[:2], np.nextafter(values_of(0).astype(np.float16), np.float16(9))):
        save(source / f"{VIDEOS[0]}.npy", changed)
        now = contents()
        assert [video_id for video_id in before if now[video_id] != before[video_id]] == [VIDEOS[0]]
        assert imported_with(before).differences(imported_with(now)) == [
            f"imported:dino: 1 videos were imported again, such as {VIDEOS[0]}"
        ]
    del now[VIDEOS[0]]  # a video that is missing now is no difference, nor is one that was missing
    assert not imported_with(before).differences(imported_with(now))
    assert not imported_with({}).differences(imported_with(before))


def imported_with(contents: dict[str, str]) -> FeatureRecipe:
    return dataclasses.replace(imported_recipe("dino"), contents=contents)


def test_contents_are_part_of_the_fingerprint_only(tmp_path: Path) -> None:
    """A recipe keeps its contents in JSON and its fingerprint; the store's folder, and all without them, stay as is."""
    plain, full = imported_recipe("dino"), imported_with({"a": "0" * 32})
    assert FeatureRecipe.from_json(full.to_json()).contents == full.contents and "contents" not in plain.to_json()
    assert full.folder_name == plain.folder_name and full.fingerprint != plain.fingerprint
    assert plain.folder_name == "a5e6cc113f737c2b"
    path = tmp_path / "recipe.json"
    for damaged in ('{"contents": 5}', "[" * 100_000, plain.to_json().replace("{", '{"contents": ["a"],', 1), "[]"):
        path.write_text(damaged)
        with pytest.raises(ConfigError, match=r"recipe.json can't be read"):
            FeatureRecipe.read(path)


def test_imports_are_identified_by_name(tmp_path: Path) -> None:
    """The store's recipe depends on the name alone, and is written and read like any recipe."""
    assert imported_recipe("dino") == imported_recipe("dino") != imported_recipe("clip")
    assert imported_recipe("dino").backbone == "imported:dino"
    for _ in range(2):
        assert FeatureStore(tmp_path, imported_recipe("a name, größe")).recipe == imported_recipe("a name, größe")
    with pytest.raises(ConfigError, match="need a name"):
        imported_recipe(" ")


def test_training_on_imported_features_equals_training_on_ours(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """Cache, train, export, import and train again on the command line: every prediction is the same."""
    root, cache, out = tmp_path / "videos", tmp_path / "cache", tmp_path / "out"
    for number in range(12):
        make_clip(root / ("run", "walk")[number % 2] / f"{number}.avi", 6, number)
    data = ["--dataset", "folder", "--root", root, "--cache", cache]
    name, weights = tiny_backbone
    training = [*data, "--epochs", 2, "--hidden-size", 8, "--device", "cpu"]
    ours = ["--backbone", name, "--weights", weights, "--runtime", "torch", "--workers", 1, "--sampling", "every:1"]

    def train(*flags: object, runs: str, code: int = 0) -> str:
        done = call("train.py", *training, *flags, "--runs", tmp_path / runs)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        return message(done)

    def predictions(runs: str) -> str:
        (path,) = (tmp_path / runs).rglob("predictions.csv")
        return path.read_text()

    train(*ours, runs="ours")
    done = call("-m", "pipeline.cache", "export", *data, "--to", out)
    assert done.returncode == 0 and json.loads(done.stdout)["num_exported"] == 12, done.stderr
    (out / "walk" / "1.avi.npy").rename(tmp_path / "1.avi.npy")
    done = call("-m", "pipeline.cache", "import", *data, "--from", out, "--name", "dino")
    assert done.returncode == 1 and "1 videos (walk/1.avi): no file" in done.stderr
    output = train("--backbone", "imported:dino", runs="imported", code=2)
    assert "1 of 12 videos have no features (walk/1.avi)" in output and "pipeline.cache import" in output
    (tmp_path / "1.avi.npy").rename(out / "walk" / "1.avi.npy")
    done = call("-m", "pipeline.cache", "import", *data, "--from", out, "--name", "dino")
    assert done.returncode == 0, done.stderr
    train("--backbone", "imported:dino", runs="imported")
    assert predictions("imported") == predictions("ours")
    done = call("evaluate.py", tmp_path / "imported")
    assert done.returncode == 0, done.stderr
