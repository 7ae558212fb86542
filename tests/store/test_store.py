"""The feature store: its fingerprint, complete entries, and the detection of damage."""

import ctypes
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from pipeline.features.recipe import FeatureRecipe, Origin, VideoFeatures
from pipeline.store.store import DamagedEntry, FeatureStore, StoreError
from tests.helpers import REPOSITORY

RECIPE = FeatureRecipe(
    backbone="efficientnet_lite0",
    weights_sha256="0" * 64,
    resize=256,
    crop=224,
    interpolation="bicubic",
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    keep_aspect_ratio=True,
    sampling="uniform:25",
)
OTHER_VALUES = {
    "backbone": "resnet50",
    "weights_sha256": "1" * 64,
    "resize": 257,
    "crop": 225,
    "interpolation": "bilinear",
    "mean": (0.5, 0.5, 0.4),
    "std": (0.25, 0.25, 0.2),
    "keep_aspect_ratio": False,
    "sampling": "every:1",
    "layer": "logits",
    "channel_order": "BGR",
    "dtype": "float32",
    "format_version": 0,
}
ORIGIN = Origin(25.0, header_frames=40, decoded_frames=40, source_bytes=1234, decoder="decord", runtime="torch-2")

WRITE_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from tests.store.test_store import RECIPE, a_video
from pipeline.store.store import FeatureStore, StoreError

store = FeatureStore(Path(sys.argv[1]), RECIPE)
store.write("set", "small", a_video(num_frames=1))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    store.write("set", "large", a_video(num_frames=1000))
except StoreError as error:
    print(error)
"""

USE_A_READ_ONLY_STORE = """
import sys
from pathlib import Path
from tests.store.test_store import RECIPE, a_video
from data.atomic import remove_abandoned
from pipeline.store.store import FeatureStore, StoreError

store = FeatureStore(Path(sys.argv[1]), RECIPE)
print(remove_abandoned(store.folder), store.read("set", "a").features.shape)
for use in (
    lambda: store.write("set", "b", a_video()),
    lambda: store.note_failure("set", "b", Path("b.avi"), "why"),
    lambda: FeatureStore(Path(sys.argv[1]) / "locked", RECIPE),
):
    try:
        use()
    except StoreError as error:
        print(error)
"""


def a_video(num_frames: int = 3, seed: int = 0) -> VideoFeatures:
    features = np.random.default_rng(seed).normal(size=(num_frames, 8)).astype(np.float16)
    return VideoFeatures(features, np.arange(num_frames, dtype=np.int32) * 7, ORIGIN)


def assert_same(found: VideoFeatures | None, expected: VideoFeatures) -> None:
    assert found is not None
    np.testing.assert_array_equal(found.features, expected.features)
    np.testing.assert_array_equal(found.frame_indices, expected.frame_indices)
    assert found.origin == expected.origin


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path, RECIPE)


def test_what_is_written_is_read(store: FeatureStore, tmp_path: Path) -> None:
    """Features, frame indices and origin are read back unchanged, also by a newly opened store."""
    store.write("set", "Class/v_a", a_video())
    again = FeatureStore(tmp_path, RECIPE)
    assert_same(again.read("set", "Class/v_a"), a_video())
    assert again.origin("set", "Class/v_a") == ORIGIN


def test_features_are_stored_as_float16(store: FeatureStore) -> None:
    """An entry contains float16 features and int32 indices, with little overhead."""
    store.write("set", "v", a_video(num_frames=1000))
    path = store.path("set", "v")
    with safe_open(path, framework="numpy") as file:
        assert file.get_tensor("features").dtype == np.float16
        assert file.get_tensor("frame_indices").dtype == np.int32
    assert path.stat().st_size < 1000 * (8 * 2 + 4) + 1000


def test_entry_can_be_read_by_whoever_may_read_new_files(store: FeatureStore) -> None:
    """A store is shared: entries have the permissions of any new file, not their owner's alone."""
    store.write("set", "v", a_video())
    usual = store.folder / "usual"
    usual.touch()
    assert store.path("set", "v").stat().st_mode == usual.stat().st_mode


def test_absent_entry_is_none(store: FeatureStore) -> None:
    """A video that was never stored is absent, not damaged."""
    assert store.read("set", "v") is None
    assert store.origin("set", "v") is None


def test_same_stem_in_two_folders_or_sets_does_not_collide(store: FeatureStore) -> None:
    """Videos with the same stem in two class folders, with two suffixes, or in two datasets have separate entries."""
    places = [("set", "run/a.avi"), ("set", "walk/a.avi"), ("set", "run/a.mp4"), ("set", "a.avi"), ("other", "a.avi")]
    for seed, (dataset, video_id) in enumerate(places):
        store.write(dataset, video_id, a_video(seed=seed))
    for seed, (dataset, video_id) in enumerate(places):
        assert_same(store.read(dataset, video_id), a_video(seed=seed))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(FeatureRecipe) if field.compare])
def test_fingerprint_changes_with_every_field(name: str) -> None:
    """Everything that can change a number in the features changes the fingerprint."""
    assert name in OTHER_VALUES, f"add another value of {name}"
    other = dataclasses.replace(RECIPE, **{name: OTHER_VALUES[name]})
    assert other.fingerprint != RECIPE.fingerprint
    assert other.differences(RECIPE) == [f"{name}: {OTHER_VALUES[name]} / {getattr(RECIPE, name)}"]


def test_fingerprint_ignores_everything_else() -> None:
    """No label, split, path, dataset, runtime or number of workers is part of the recipe."""
    assert set(OTHER_VALUES) == set(json.loads(RECIPE.to_json()))


def test_fingerprint_is_the_same_everywhere() -> None:
    """The fingerprint depends on the recipe alone, not on the process or a JSON round trip."""
    assert RECIPE.fingerprint == "8e6bffcc612e48e9d01e3784f271897d146daaea0e4627a3a9840a486c575b1b"
    assert FeatureRecipe.from_json(RECIPE.to_json()) == RECIPE


def test_recipe_is_readable_beside_the_features(store: FeatureStore) -> None:
    """The store's folder contains the recipe as readable JSON."""
    assert FeatureRecipe.from_json((store.folder / "recipe.json").read_text()) == RECIPE
    assert RECIPE.fingerprint.startswith(store.folder.name)


def test_other_recipe_opens_another_folder(store: FeatureStore, tmp_path: Path) -> None:
    """Features of another backbone have a folder of their own."""
    store.write("set", "v", a_video())
    other = FeatureStore(tmp_path, dataclasses.replace(RECIPE, backbone="resnet50"))
    assert other.read("set", "v") is None
    assert other.folder != store.folder


def test_mismatch_names_the_keys_that_differ(store: FeatureStore, tmp_path: Path) -> None:
    """A folder that contains another recipe is rejected, with the differing keys and what to do."""
    found = dataclasses.replace(RECIPE, crop=112, sampling="every:2")
    (store.folder / "recipe.json").write_text(found.to_json())
    with pytest.raises(StoreError, match=r"crop: 224 / 112; sampling: uniform:25 / every:2.*Move the folder away"):
        FeatureStore(tmp_path, RECIPE)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"backbone": 1}'])
def test_unreadable_recipe_is_an_error(store: FeatureStore, tmp_path: Path, text: str) -> None:
    """A damaged recipe gives a clear error, not a traceback or a guess."""
    (store.folder / "recipe.json").write_text(text)
    with pytest.raises(StoreError, match=r"recipe\.json can't be read"):
        FeatureStore(tmp_path, RECIPE)


@pytest.mark.parametrize("tenth", range(10))
def test_truncated_entry_is_detected(store: FeatureStore, tenth: int) -> None:
    """An entry truncated anywhere is damaged when read, and missing for the job."""
    store.write("set", "v", a_video(num_frames=50))
    path = store.path("set", "v")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    with pytest.raises(DamagedEntry, match=r"v\.safetensors"):
        store.read("set", "v")
    assert store.origin("set", "v") is None


def test_every_flipped_bit_is_detected(store: FeatureStore) -> None:
    """An entry with a flipped bit anywhere is damaged, or reads unchanged.

    (A few bits, such as white space in the header, have no meaning.)
    """
    store.write("set", "v", a_video())
    path = store.path("set", "v")
    content = path.read_bytes()
    num_harmless = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            assert_same(store.read("set", "v"), a_video())
            num_harmless += 1
        except DamagedEntry:
            pass
    assert num_harmless < 10


@pytest.mark.parametrize("content", [b"x" * 1000, b"RIFF" + bytes(1000), b"\x93NUMPY\x01\x00" + bytes(500)])
def test_foreign_content_is_detected(store: FeatureStore, content: bytes) -> None:
    """A file of another format under an entry's name is damage, not a crash."""
    store.write("set", "v", a_video())
    store.path("set", "v").write_bytes(content)
    with pytest.raises(DamagedEntry):
        store.read("set", "v")
    assert store.origin("set", "v") is None


def test_entry_of_another_recipe_is_detected(store: FeatureStore, tmp_path: Path) -> None:
    """An intact entry copied from another recipe's folder is damage."""
    other = FeatureStore(tmp_path, dataclasses.replace(RECIPE, crop=112))
    other.write("set", "v", a_video())
    store.path("set", "v").parent.mkdir()
    store.path("set", "v").write_bytes(other.path("set", "v").read_bytes())
    with pytest.raises(DamagedEntry):
        store.read("set", "v")
    assert store.origin("set", "v") is None


def test_entry_of_another_video_is_detected(store: FeatureStore) -> None:
    """An intact entry under another video's name is damage."""
    store.write("set", "a", a_video())
    store.path("set", "a").rename(store.path("set", "b"))
    with pytest.raises(DamagedEntry):
        store.read("set", "b")
    assert store.origin("set", "b") is None


def test_damaged_entry_is_replaced(store: FeatureStore) -> None:
    """Writing again replaces a damaged entry; removing a missing one is not an error."""
    store.write("set", "v", a_video())
    store.path("set", "v").write_bytes(b"")
    store.write("set", "v", a_video(seed=1))
    assert_same(store.read("set", "v"), a_video(seed=1))
    store.remove("set", "v")
    store.remove("set", "v")
    assert store.read("set", "v") is None


def test_failures_are_appended_as_json_lines(store: FeatureStore) -> None:
    """Each failure is one line with the video, its path, the reason and the time; any name is kept."""
    store.note_failure("set", "a/ü", Path("/x/a/ü.avi"), "has\nno frame")
    store.note_failure("set", "b", Path("/x/b\udcff.avi"), "is empty")  # a name that is not valid UTF-8
    first, second = map(json.loads, store.errors_path("set").read_text().splitlines())
    assert (first["video_id"], first["path"], first["reason"]) == ("a/ü", "/x/a/ü.avi", "has\nno frame")
    assert second["reason"] == "is empty" and second["time"]


def test_shortfall_is_recorded(store: FeatureStore) -> None:
    """The entry shows that a file is short; a header that counts one or two frames too many is accepted."""
    for decoded_frames, is_short in [(40, False), (38, False), (37, True), (1, True)]:
        origin = dataclasses.replace(ORIGIN, decoded_frames=decoded_frames)
        store.write("set", "v", dataclasses.replace(a_video(), origin=origin))
        found = store.origin("set", "v")
        assert found is not None and found.is_short == is_short


def test_full_disk_leaves_no_partial_entry(tmp_path: Path) -> None:
    """If the disk is full, the error says so and what to do; neither an entry nor a temporary file is left."""
    command = [sys.executable, "-c", WRITE_ON_A_FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "can't be written" in done.stdout and "make room" in done.stdout and "large.safetensors" in done.stdout
    assert [path.name for path in tmp_path.rglob("*") if "recipe" not in path.name and path.is_file()] == [
        "small.safetensors"
    ]


def test_read_only_store_can_be_read(store: FeatureStore, tmp_path: Path) -> None:
    """A read-only store can be read; each attempt to write fails with a clear error."""
    store.write("set", "a", a_video())
    folders = [tmp_path, store.folder, store.folder / "set"]
    abandoned = store.folder / "set" / ".b.safetensors.elsewhere.1.tmp"
    abandoned.touch()
    os.utime(abandoned, (0, 0))

    def obey_permissions() -> None:
        ctypes.CDLL(None).prctl(24, 1)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE: applies permissions to root

    for folder in folders:
        folder.chmod(0o555)
    try:
        command = [sys.executable, "-c", USE_A_READ_ONLY_STORE, str(tmp_path)]
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, preexec_fn=obey_permissions
        )
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    first, *refusals = done.stdout.splitlines()
    assert first == "0 (3, 8)"
    assert len(refusals) == 3 and all("can't be written" in line and "Permission denied" in line for line in refusals)


def test_file_in_place_of_the_store_is_an_error(tmp_path: Path) -> None:
    """A file as --cache gives a clear error."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(StoreError, match="cache"):
        FeatureStore(tmp_path / "cache", RECIPE)
