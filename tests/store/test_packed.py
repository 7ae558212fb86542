"""The packed copy of the features: when it is used, when it is remade, and that nothing wrong is read from it."""

import ctypes
import dataclasses
import gc
import multiprocessing
import os
import resource
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from models.cnn.preprocessing import VIEWS
from pipeline.features.recipe import VideoFeatures
from pipeline.store.packed import PackedFeatures, open_packed, pack, stale_files
from pipeline.store.store import FeatureStore, StoreError
from pipeline.training.batches import FeatureTable
from tests.helpers import REPOSITORY
from tests.helpers.synthetic import RECIPE, make_features, make_record

VIDEOS = ("a", "b/c", "d")
NUM_FRAMES = {"a": 3, "b/c": 1, "d": 4}
ONE, TWO = VIEWS[:1], VIEWS[:2]

PACK_IN_A_READ_ONLY_STORE = """
import sys
from pathlib import Path
from pipeline.store.packed import open_packed, pack
from pipeline.store.store import FeatureStore
from tests.helpers.synthetic import RECIPE
from tests.store.test_packed import VIDEOS, TWO, assert_complete

store = FeatureStore(Path(sys.argv[1]), RECIPE)
packed, missing = pack(store, "set", VIDEOS, TWO)
assert_complete(packed)
print(missing, open_packed(store, "set", VIDEOS, TWO))
"""


def features_of(video_id: str, view: str, seed: int = 0) -> VideoFeatures:
    """Numbers that differ by video and view."""
    rng = np.random.default_rng([seed, VIDEOS.index(video_id), VIEWS.index(view)])
    return make_features(rng.standard_normal((NUM_FRAMES[video_id], 5)))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Three videos in two views each."""
    store = FeatureStore(tmp_path, RECIPE)
    for video_id in VIDEOS:
        for view in TWO:
            store.write("set", video_id, features_of(video_id, view), view)
    return store


def of_view(packed: PackedFeatures, video_id: str, view: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and frame indices, by the layout that ``PackedVideo`` documents."""
    video = packed.videos[video_id]
    start = video.start + view * video.num_frames
    rows = slice(start, start + video.num_frames)
    return packed.features[rows], packed.frame_indices[rows]


def assert_complete(packed: PackedFeatures | None, views: tuple[str, ...] = TWO) -> None:
    assert packed is not None
    assert packed.views == views and set(packed.videos) == set(VIDEOS)
    assert packed.features.dtype == np.float16 and packed.frame_indices.dtype == np.int32
    for video_id in VIDEOS:
        for number, view in enumerate(views):
            expected = features_of(video_id, view)
            features, frame_indices = of_view(packed, video_id, number)
            np.testing.assert_array_equal(features, expected.features)
            np.testing.assert_array_equal(frame_indices, expected.frame_indices)
        assert packed.videos[video_id].origin == features_of(video_id, TWO[0]).origin


def packed_files(store: FeatureStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.folder / "packed").iterdir()}


def the_copy(store: FeatureStore) -> Path:
    (path,) = (store.folder / "packed").glob("*.npy")
    return path


def rewrite(store: FeatureStore, video_id: str, view: str, features: VideoFeatures, moment: int) -> None:
    """Replace an entry, and set its modification time to ``moment`` nanoseconds after the old one's."""
    path = store.path("set", video_id, view)
    modified = path.stat().st_mtime_ns
    store.write("set", video_id, features, view)
    os.utime(path, ns=(modified + moment, modified + moment))


def test_packed_features_equal_the_stored_ones(store: FeatureStore) -> None:
    """Every frame of every view is where the layout says: when packing, opening and in memory."""
    packed, missing = pack(store, "set", VIDEOS, TWO)
    assert missing == []
    assert_complete(packed)
    assert_complete(open_packed(store, "set", VIDEOS, TWO))
    stored = {video_id: [features_of(video_id, view) for view in TWO] for video_id in VIDEOS}
    assert_complete(PackedFeatures.in_memory(stored, TWO))


def test_the_copy_is_a_plain_numpy_file(store: FeatureStore) -> None:
    """NumPy alone can open the file of features."""
    packed, _ = pack(store, "set", VIDEOS, TWO)
    np.testing.assert_array_equal(np.load(the_copy(store)), packed.features)
    assert packed.features.shape == (2 * sum(NUM_FRAMES.values()), 5)


def test_nothing_is_copied_for_training(store: FeatureStore) -> None:
    """Training reads from the mapped file itself, without a warning, and can't change the file."""
    pack(store, "set", VIDEOS, TWO)
    packed = open_packed(store, "set", VIDEOS, TWO)
    assert packed is not None and isinstance(packed.features, np.memmap)
    before = packed_files(store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = FeatureTable([make_record("d"), make_record("a")], packed)
    assert table.features.data_ptr() == packed.features.ctypes.data
    table.features.zero_()
    assert not packed.features.any()
    assert packed_files(store) == before


def longer(store: FeatureStore) -> None:
    rewrite(store, "a", TWO[0], make_features(np.ones((9, 5))), moment=0)


def of_the_same_size(store: FeatureStore) -> None:
    rewrite(store, "a", TWO[0], features_of("a", TWO[0], seed=1), moment=1)


def of_the_second_view(store: FeatureStore) -> None:
    rewrite(store, "d", TWO[1], features_of("d", TWO[1], seed=1), moment=-1)


def removed(store: FeatureStore) -> None:
    store.remove("set", "b/c", TWO[1])


@pytest.mark.parametrize("change", [longer, of_the_same_size, of_the_second_view, removed])
def test_a_copy_of_changed_entries_is_not_used(store: FeatureStore, change: Callable[[FeatureStore], None]) -> None:
    """A copy is stale once an entry was rewritten, restored from a backup, or removed."""
    pack(store, "set", VIDEOS, TWO)
    change(store)
    assert open_packed(store, "set", VIDEOS, TWO) is None


def test_a_stale_copy_still_serves_the_videos_that_did_not_change(store: FeatureStore) -> None:
    """A copy is usable if the requested videos and views are unchanged; the stale ones are not returned."""
    pack(store, "set", VIDEOS, TWO)
    of_the_second_view(store)
    assert_complete(open_packed(store, "set", VIDEOS, ONE), ONE)
    packed = open_packed(store, "set", ("b/c", "a"), TWO)
    assert packed is not None and set(packed.videos) == {"a", "b/c"}


def test_packing_again_gives_the_current_features(store: FeatureStore) -> None:
    """The new copy contains the new numbers and the old file is removed; existing mappings of it stay valid."""
    old, _ = pack(store, "set", VIDEOS, TWO)
    old_path = the_copy(store)
    os.utime(old_path, (0, 0))
    of_the_same_size(store)
    packed, _ = pack(store, "set", VIDEOS, TWO)
    np.testing.assert_array_equal(of_view(packed, "a", 0)[0], features_of("a", TWO[0], seed=1).features)
    assert open_packed(store, "set", VIDEOS, TWO) is not None
    assert the_copy(store) != old_path
    assert_complete(old)


def test_an_entry_replaced_during_packing_is_detected(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that is replaced after it was read makes the copy stale, whatever the clock says."""
    read = FeatureStore.read

    def read_and_replace(self: FeatureStore, dataset: str, video_id: str, view: str) -> VideoFeatures | None:
        found = read(self, dataset, video_id, view)
        if video_id == "d":
            rewrite(self, "d", view, features_of("d", view, seed=1), moment=1)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(FeatureStore, "read", read_and_replace)
        pack(store, "set", VIDEOS, TWO)
    assert open_packed(store, "set", ("a", "b/c"), TWO) is not None
    assert open_packed(store, "set", VIDEOS, TWO) is None


def test_a_larger_copy_serves_smaller_requests(store: FeatureStore) -> None:
    """Fewer videos, in any order, and fewer views come from the existing copy; the rest is hidden."""
    pack(store, "set", VIDEOS, TWO)
    before = packed_files(store)
    packed = open_packed(store, "set", ("d", "a"), ONE)
    assert packed is not None
    assert packed.views == ONE and list(packed.videos) == ["d", "a"]
    table = FeatureTable([make_record("d")], packed)
    np.testing.assert_array_equal(table.video(0).numpy(), features_of("d", ONE[0]).features)
    assert packed_files(store) == before


@pytest.mark.parametrize("views", [VIEWS[1:2], VIEWS[:3]])
def test_views_that_were_not_packed_are_missing(store: FeatureStore, views: tuple[str, ...]) -> None:
    """A copy of two views does not serve three, nor the second alone."""
    pack(store, "set", VIDEOS, TWO)
    assert open_packed(store, "set", VIDEOS, views) is None


def test_videos_that_were_not_packed_are_missing(store: FeatureStore) -> None:
    """A video that was added later, or a dataset that was never packed, is not in the copy."""
    pack(store, "set", VIDEOS[:2], TWO)
    assert open_packed(store, "set", VIDEOS, TWO) is None
    assert open_packed(store, "other", VIDEOS, TWO) is None


def test_every_flipped_bit_of_a_copy_is_detected(store: FeatureStore) -> None:
    """A copy with a flipped bit anywhere is not used, or reads unchanged."""
    pack(store, "set", VIDEOS, TWO)
    harmless: dict[str, list[int]] = {".npy": [], ".table": []}
    for path in (store.folder / "packed").iterdir():
        content = path.read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << position % 8
            path.write_bytes(damaged)
            packed = open_packed(store, "set", VIDEOS, TWO)
            if packed is not None:
                assert_complete(packed)
                harmless[path.suffix].append(position)
        path.write_bytes(content)
    assert harmless[".npy"] == list(range(128))  # the header is for other programs; the index has the shape too
    assert len(harmless[".table"]) < 10  # white space


@pytest.mark.parametrize("name", ["*.npy", "*.table"])
@pytest.mark.parametrize("tenth", range(10))
def test_a_truncated_copy_is_packed_again(store: FeatureStore, name: str, tenth: int) -> None:
    """If either file is truncated anywhere, the copy is unusable until it is packed again."""
    pack(store, "set", VIDEOS, TWO)
    (path,) = (store.folder / "packed").glob(name)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    assert open_packed(store, "set", VIDEOS, TWO) is None
    assert_complete(pack(store, "set", VIDEOS, TWO)[0])
    assert_complete(open_packed(store, "set", VIDEOS, TWO))


def test_an_index_without_its_features_is_not_a_copy(store: FeatureStore) -> None:
    """Another process that packs may remove the features after the index was read."""
    pack(store, "set", VIDEOS, TWO)
    the_copy(store).unlink()
    assert open_packed(store, "set", VIDEOS, TWO) is None


def test_videos_without_intact_entries_are_named_and_left_out(
    store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """A video with a missing view or a damaged entry is left out; only the damaged entry is named and removed."""
    store.remove("set", "a", TWO[1])
    damaged = store.path("set", "d", TWO[1])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    packed, missing = pack(store, "set", (*VIDEOS, "never/cached"), TWO)
    assert missing == ["a", "d", "never/cached"]
    assert list(packed.videos) == ["b/c"]
    np.testing.assert_array_equal(of_view(packed, "b/c", 1)[0], features_of("b/c", TWO[1]).features)
    assert f"damaged entry, extracted again: {damaged}" in capsys.readouterr().err
    assert not damaged.exists()
    assert store.path("set", "d").exists() and store.path("set", "a").exists()
    assert open_packed(store, "set", VIDEOS, TWO) is None
    assert open_packed(store, "set", ("b/c",), TWO) is not None


def test_views_of_different_frames_are_damage(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    """If two decoders made a video's views from different frames, all its views are extracted again."""
    other = features_of("d", TWO[1])
    store.write("set", "d", dataclasses.replace(other, frame_indices=other.frame_indices + 1), TWO[1])
    _, missing = pack(store, "set", VIDEOS, TWO)
    assert missing == ["d"]
    assert "the views of d have different frames" in capsys.readouterr().err
    assert not any(store.path("set", "d", view).exists() for view in TWO)


def test_packing_nothing(tmp_path: Path) -> None:
    """If every video failed, the result is empty, not a crash."""
    store = FeatureStore(tmp_path, RECIPE)
    packed, missing = pack(store, "set", VIDEOS, ONE)
    assert (packed.videos, missing) == ({}, list(VIDEOS))
    assert open_packed(store, "set", VIDEOS, ONE) is None


def test_features_of_another_dimension_are_rejected(store: FeatureStore) -> None:
    """Entries of another dimension, written by another program, are named and not packed."""
    for view in TWO:
        store.write("set", "d", make_features(np.ones((2, 7))), view)
    with pytest.raises(StoreError, match="features of d have 7 dimensions, earlier ones 5"):
        pack(store, "set", VIDEOS, TWO)
    assert packed_files(store) == {}


def test_stale_files_are_found(store: FeatureStore) -> None:
    """A stale copy and features without an index are found; a valid copy and unfinished files are not."""
    pack(store, "set", VIDEOS, TWO)
    in_use = {store.folder / "packed" / name for name in packed_files(store)}
    left = store.folder / "packed" / "set-0123456789abcdef.npy"
    left.touch()
    (store.folder / "packed" / ".set-0.npy.here.1.tmp").touch()
    assert stale_files(store) == [left]
    of_the_second_view(store)
    assert set(stale_files(store)) == in_use | {left}


def test_datasets_do_not_remove_copies_of_others(store: FeatureStore) -> None:
    """A dataset whose name starts with another's (`set` and `set-2`) keeps its copy."""
    for dataset in ("set-2", "set"):
        store.write(dataset, "a", features_of("a", ONE[0]))
        pack(store, dataset, ("a",), ONE)
        for path in (store.folder / "packed").iterdir():
            os.utime(path, (0, 0))
    pack(store, "set", ("a",), ONE)
    assert len(list((store.folder / "packed").glob("*.npy"))) == 2
    for dataset in ("set-2", "set"):
        assert open_packed(store, dataset, ("a",), ONE) is not None


def test_a_read_only_store_is_packed_in_memory(store: FeatureStore, tmp_path: Path) -> None:
    """Training from a read-only store works, and one line explains why there is no copy."""

    def obey_permissions() -> None:
        ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE: applies permissions to root

    command = [sys.executable, "-c", PACK_IN_A_READ_ONLY_STORE, str(tmp_path)]
    store.folder.chmod(0o555)
    try:
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, preexec_fn=obey_permissions
        )
    finally:
        store.folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[] None\n"
    (line,) = done.stderr.splitlines()
    assert "no packed copy of set, its features are kept in memory" in line and "Permission denied" in line


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Simulate a full disk: larger files can't be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_bytes", [100, 250, 800])
def test_a_full_disk_leaves_nothing_behind(
    store: FeatureStore, capsys: pytest.CaptureFixture[str], num_bytes: int
) -> None:
    """If there is no room for the features or the index, they are kept in memory and no file is left."""
    with files_of_at_most(num_bytes):
        packed, missing = pack(store, "set", VIDEOS, TWO)
    assert_complete(packed)
    assert missing == []
    error = capsys.readouterr().err
    assert "no packed copy of set, its features are kept in memory" in error and "File too large" in error
    assert ("set.table" in error) == (num_bytes == 800)
    assert packed_files(store) == {}


def test_a_full_disk_keeps_the_existing_copy(store: FeatureStore, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed attempt leaves the copy that others use."""
    pack(store, "set", VIDEOS[:2], TWO)
    before = packed_files(store)
    with files_of_at_most(100):
        assert_complete(pack(store, "set", VIDEOS, TWO)[0])
    assert packed_files(store) == before
    assert open_packed(store, "set", VIDEOS[:2], TWO) is not None


def pack_and_open(folder: Path, seed: int) -> None:
    """Pack varying videos repeatedly, as trainings that start together do."""
    store, rng = FeatureStore(folder, RECIPE), np.random.default_rng(seed)
    for _ in range(30):
        video_ids = [video_id for video_id in VIDEOS if rng.random() < 0.7]
        packed, missing = pack(store, "set", video_ids, TWO)
        assert missing == []
        for found in (packed, open_packed(store, "set", video_ids, TWO)):
            for video_id in found.videos if found is not None else ():
                assert found is not None
                np.testing.assert_array_equal(of_view(found, video_id, 1)[0], features_of(video_id, TWO[1]).features)


def test_two_processes_can_pack_at_once(store: FeatureStore, tmp_path: Path) -> None:
    """Both always read correct numbers, and afterwards one valid copy can be made."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=pack_and_open, args=(tmp_path, seed)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert_complete(pack(store, "set", VIDEOS, TWO)[0])
    assert_complete(open_packed(store, "set", VIDEOS, TWO))
    assert len(packed_files(store)) == 2


def test_packing_needs_the_memory_of_one_video(tmp_path: Path) -> None:
    """Packing or opening 60 MB of features needs less than 8 MB, unlike keeping them in memory."""
    store = FeatureStore(tmp_path, RECIPE)
    video_ids = [f"v{number}" for number in range(60)]
    for video_id in video_ids:
        store.write("set", video_id, make_features(np.ones((500, 1000))))

    def peak(work: Callable[[], object]) -> float:
        gc.collect()
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1] / 2**20
        finally:
            tracemalloc.stop()

    assert peak(lambda: pack(store, "set", video_ids, ONE)) < 8
    assert peak(lambda: open_packed(store, "set", video_ids, ONE)) < 8
    everything = {video_id: [make_features(np.ones((500, 1000)))] for video_id in video_ids}
    assert peak(lambda: PackedFeatures.in_memory(everything)) > 50
