"""Archives and the command that makes them: nothing is lost, and everything is read as from files."""

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from data.objects import ObjectPath, Place
from data.texts import Texts
from models.cnn.preprocessing import CENTER
from pipeline.cache import compact
from pipeline.cache.compact import Compacted
from pipeline.features.recipe import VideoFeatures
from pipeline.store import archives, indices
from pipeline.store.archives import ARCHIVES, Archives, stray_indices
from pipeline.store.listing import DatasetFolder, list_entries
from pipeline.store.packed import open_packed, pack
from pipeline.store.store import DamagedEntry, FeatureStore, StoreError
from tests.helpers.clips import make_clip
from tests.helpers.commands import call
from tests.helpers.synthetic import RECIPE, make_features

VIDEOS = ("a.avi", "b/größe [1].avi", "b/c.avi", "d" * 200)
SMALL = 1200  # bytes: two entries per archive


def features_of(number: int, seed: int = 0) -> VideoFeatures:
    return make_features(np.random.default_rng([seed, number]).standard_normal((3, 4)))


@pytest.fixture(params=["folder", "objects"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return tmp_path
    return ObjectPath.parse(f"{request.getfixturevalue('bucket')}/features")


@pytest.fixture
def store(cache: Place) -> FeatureStore:
    return fill(FeatureStore(cache, RECIPE))


@pytest.fixture
def local(tmp_path: Path) -> FeatureStore:
    return fill(FeatureStore(tmp_path, RECIPE))


def fill(store: FeatureStore) -> FeatureStore:
    for number, video_id in enumerate(VIDEOS):
        store.write("set", video_id, features_of(number))
    return store


def folder_of(store: FeatureStore) -> DatasetFolder:
    return DatasetFolder("set", CENTER, store.folder / "set")


def run(store: FeatureStore, archive_bytes: int = compact.ARCHIVE_BYTES) -> Compacted:
    return compact.compact(store, folder_of(store), archive_bytes)


def again(store: FeatureStore) -> FeatureStore:
    """The store as another process sees it."""
    return FeatureStore(store.folder.parent, store.recipe)


def assert_complete(store: FeatureStore) -> None:
    for number, video_id in enumerate(VIDEOS):
        found = store.read("set", video_id)
        assert found is not None, video_id
        expected = features_of(number)
        np.testing.assert_array_equal(found.features, expected.features)
        np.testing.assert_array_equal(found.frame_indices, expected.frame_indices)
        assert found.origin == expected.origin == store.origin("set", video_id)


def tars(store: FeatureStore) -> list[Path]:
    return sorted((store.folder / "set" / ARCHIVES).glob("*.tar"))


def files(store: FeatureStore) -> list[Path]:
    return sorted((store.folder / "set").rglob("*.safetensors"))


def test_everything_is_read_from_archives_as_from_files(store: FeatureStore) -> None:
    """Features, origins, lists and versions are the same after entries have moved; the reader needn't be a new one."""
    folder = folder_of(store)
    listed = {entry.video_id: (entry.num_bytes, entry.version, entry.written) for entry in list_entries(folder)}
    assert listed.keys() == set(VIDEOS)
    reader = again(store)
    assert_complete(reader)
    assert run(store, SMALL) == Compacted(4, 2)
    for each in (reader, again(store)):
        assert_complete(each)
    after = list(list_entries(folder))
    assert {entry.video_id: (entry.num_bytes, entry.version, entry.written) for entry in after} == listed
    assert all(entry.archive is not None for entry in after)
    assert again(store).read("set", "missing.avi") is None and again(store).origin("set", "b") is None


def test_packed_copies_stay_valid(store: FeatureStore) -> None:
    """Entries that only moved are not copied again; a packed copy is made from archives, too."""
    pack(store, "set", VIDEOS, (CENTER,))
    run(store)
    assert open_packed(again(store), "set", VIDEOS, (CENTER,)) is not None
    shutil.rmtree(store.packed)
    packed, missing = pack(again(store), "set", VIDEOS, (CENTER,))
    assert not missing and packed.videos.keys() == set(VIDEOS)
    assert open_packed(again(store), "set", VIDEOS, (CENTER,)) is not None


def test_newer_features_replace_archived_ones(store: FeatureStore) -> None:
    """What is written after a compact is read, is listed once, and wins when it is archived too."""
    run(store)
    store.write("set", "a.avi", features_of(0, seed=1))
    expected = features_of(0, seed=1).features
    for _ in range(2):
        found = again(store).read("set", "a.avi")
        assert found is not None
        np.testing.assert_array_equal(found.features, expected)
        assert [entry.video_id for entry in list_entries(folder_of(store))].count("a.avi") == 1
        run(store, SMALL)


def test_removed_entries_stay_removed(store: FeatureStore) -> None:
    """An entry that is removed from an archive is gone for every reader, and the others are not."""
    run(store)
    reader = again(store)
    assert reader.read("set", "b/c.avi") is not None
    again(store).remove("set", "b/c.avi")
    assert again(store).read("set", "b/c.avi") is None
    assert {entry.video_id for entry in list_entries(folder_of(store))} == set(VIDEOS) - {"b/c.avi"}
    run(store)
    assert again(store).read("set", "b/c.avi") is None


def test_small_archives_are_merged(store: FeatureStore) -> None:
    """Archives of less than half the size become one, gaps disappear, and a second compact has nothing to do."""
    run(store, SMALL)
    reader = again(store)
    assert_complete(reader)
    assert run(store).num_entries == len(VIDEOS)
    assert_complete(reader)
    assert_complete(again(store))
    assert run(store) == Compacted()


def test_gaps_are_closed(store: FeatureStore) -> None:
    """An archive of which most entries were removed is written again without the gaps, once."""
    for number in range(40):
        store.write("set", f"gone/{number}", features_of(number))
    run(store)
    store.archives("set").remove(*(f"gone/{number}" for number in range(40)))
    assert run(store) == Compacted(4, 1)
    assert_complete(again(store))
    assert run(store) == Compacted()


def test_a_killed_compact_loses_nothing(local: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is killed, everything is read, and the next compact finishes the work."""

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    steps: list[tuple[object, str]] = [
        (archives, "write_atomically"),
        (compact, "_remove_file"),
        (Archives, "remove_archive"),
    ]
    run(local, SMALL)
    local.write("set", "new.avi", features_of(9))
    for module, name in steps:
        with monkeypatch.context() as context, pytest.raises(Killed):
            context.setattr(module, name, killed)
            run(local)
        assert_complete(again(local))
        assert again(local).read("set", "new.avi") is not None
        assert len(list(list_entries(folder_of(local)))) == len(VIDEOS) + 1
    run(local)
    assert len(tars(local)) == 1 and not files(local) and not stray_indices(folder_of(local).path)
    assert_complete(again(local))


def test_a_file_that_changes_meanwhile_is_kept(local: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that a job writes while the archive is written are not removed as those that were archived."""
    write = Archives.write

    def written_meanwhile(self: Archives, contents: Iterable[tuple[str, bytes, int, float]]) -> None:
        write(self, contents)
        local.write("set", "a.avi", features_of(0, seed=1))

    monkeypatch.setattr(Archives, "write", written_meanwhile)
    run(local)
    assert [path.name for path in files(local)] == ["a.avi.safetensors"]
    found = again(local).read("set", "a.avi")
    assert found is not None
    np.testing.assert_array_equal(found.features, features_of(0, seed=1).features)


def test_damaged_entries_are_not_archived(local: FeatureStore) -> None:
    """A damaged file stays where it is and is counted; the others move."""
    path = local.path("set", "a.avi")
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert run(local) == Compacted(len(VIDEOS) - 1, 1, 1)
    assert files(local) == [path]


@pytest.mark.parametrize("num_bytes_kept", [0, 300, 1900])
def test_damage_of_an_archive_is_noticed(local: FeatureStore, num_bytes_kept: int) -> None:
    """A flipped or missing byte in an archive is a damaged entry of one video, never wrong features."""
    run(local)
    (tar,) = tars(local)
    content = tar.read_bytes()
    tar.write_bytes(content[:num_bytes_kept] + b"\xff" + content[num_bytes_kept + 1 :])
    num_damaged = 0
    for number, video_id in enumerate(VIDEOS):
        try:
            found = again(local).read("set", video_id)
        except DamagedEntry as error:
            num_damaged += 1
            assert str(tar) in str(error)
        else:
            assert found is not None
            np.testing.assert_array_equal(found.features, features_of(number).features)
    assert num_damaged <= 1
    tar.write_bytes(content[:1000])
    with pytest.raises(DamagedEntry, match="tar/a.avi|tar/b|tar/d"):
        for video_id in VIDEOS:
            again(local).read("set", video_id)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff" * 100])
def test_a_lost_index_is_made_again(
    local: FeatureStore, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index that is missing or damaged is found again in the archive, with a message."""
    run(local)
    (tar,) = tars(local)
    index = tar.with_suffix(".index")
    index.unlink()
    if content is not None:
        index.write_bytes(content)
    assert_complete(again(local))
    assert f"{index} was missing or damaged: 4 entries" in capsys.readouterr().err
    assert_complete(again(local))
    assert not capsys.readouterr().err


@pytest.mark.parametrize("place", [(-1, 600, 0), (0, -5, 0)])
def test_an_impossible_index_is_made_again(local: FeatureStore, place: tuple[int, int, int]) -> None:
    """An index with impossible numbers is not used, whatever its checksum says."""
    write_index(local, VIDEOS, place)
    assert_complete(again(local))


@pytest.mark.parametrize("place", [(0, 2**40, 0), (2**62, 2**62, 0), (512, 10, 0)])
def test_an_index_with_wrong_places_yields_damaged_entries(local: FeatureStore, place: tuple[int, int, int]) -> None:
    """A stranger's index can make the reader neither take all memory nor return features of another video."""
    write_index(local, VIDEOS, place)
    for video_id in VIDEOS:
        with pytest.raises(DamagedEntry):
            again(local).read("set", video_id)


def write_index(store: FeatureStore, video_ids: Sequence[str], place: tuple[int, int, int]) -> Path:
    """Archive the store's entries, and replace the index by one with a valid checksum; returns the tar."""
    run(store)
    (tar,) = tars(store)
    rows = len(video_ids)
    arrays = {"places": np.array([place] * rows, np.int64), "written": np.zeros(rows)}
    tar.with_suffix(".index").write_bytes(indices.to_bytes(names_of(*video_ids).to_arrays() | arrays))
    return tar


@pytest.mark.parametrize("video_id", ["../../x", "b/../../x", "/x"])
def test_names_outside_the_folder_are_not_used(local: FeatureStore, video_id: str) -> None:
    """Neither an index nor a tar can name an entry outside the dataset's folder, so that none is removed there."""
    content = local.path("set", "a.avi").read_bytes()
    tar = write_index(local, [video_id], (512, 600, 0))
    assert {entry.video_id for entry in list_entries(folder_of(local))} == set(VIDEOS)
    with tarfile.open(tar, "w") as file:
        info = tarfile.TarInfo(f"{video_id}.safetensors")
        info.size = len(content)
        file.addfile(info, io.BytesIO(content))
    tar.with_suffix(".index").unlink()
    assert list(list_entries(folder_of(local))) == []


def test_tar_restores_the_files(local: FeatureStore, tmp_path: Path) -> None:
    """The way back needs no tool of ours: tar -xf in the dataset's folder."""
    before = {path: path.read_bytes() for path in files(local)}
    run(local)
    for tar in tars(local):
        subprocess.run(["tar", "-xf", tar, "-C", local.folder / "set"], check=True)
    shutil.rmtree(local.folder / "set" / ARCHIVES)
    assert {path: path.read_bytes() for path in files(local)} == before
    assert_complete(again(local))


def test_the_commands_work_on_archives(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """A real job's features are archived, found, exported and verified; a changed video is extracted again."""
    root, cache = tmp_path / "videos", tmp_path / "cache"
    clips = [make_clip(root / name, 8, number) for number, name in enumerate(("run/a.avi", "walk/a.avi", "walk/b.avi"))]
    name, weights = tiny_backbone
    dataset = ["--dataset", "folder", "--root", root, "--cache", cache]
    job = ["-m", "pipeline.cache", *dataset, "--backbone", name, "--weights", weights, "--runtime", "torch"]
    assert json.loads(call(*job, "--workers", 1).stdout)["num_extracted"] == len(clips)
    done = call("-m", "pipeline.cache", "compact", "--cache", cache)
    assert json.loads(done.stdout) == {"entries": len(clips), "archives": 1, "damaged": 0}
    assert not list(cache.rglob("*.safetensors"))
    assert json.loads(call(*job, "--workers", 1).stdout)["num_cached_before"] == len(clips)
    done = call("-m", "pipeline.cache", "export", *dataset, "--to", tmp_path / "npy")
    assert json.loads(done.stdout)["num_exported"] == len(clips)
    make_clip(clips[0], num_frames=9, number=77)
    assert json.loads(call(*job, "--workers", 1).stdout)["num_extracted"] == 1
    status = json.loads(call("-m", "pipeline.cache", "status", *dataset, "--json").stdout)["stores"][0]
    assert (status["num_entries"], status["done"], status["missing"]) == (len(clips), len(clips), 0)
    done = call("-m", "pipeline.cache", "compact", "--cache", cache)
    assert json.loads(done.stdout)["entries"] == len(clips) and len(list(cache.rglob("*.tar"))) == 1
    assert call("-m", "pipeline.cache", "verify", "--cache", cache).returncode == 0
    assert json.loads(call(*job, "--workers", 1).stdout)["num_cached_before"] == len(clips)


def test_only_one_process_compacts_a_store(local: FeatureStore) -> None:
    """A second one says so, instead of doing the same work."""
    with FileLock(local.folder / ".compact.lock"), pytest.raises(StoreError, match="another process compacts"):
        run(local)


def test_nothing_is_archived_while_an_import_is_unfinished(local: FeatureStore) -> None:
    """Features of which some may be replaced are left alone."""
    (local.folder / "set" / ".unfinished-import").touch()
    with pytest.raises(StoreError, match="interrupted"):
        run(local)


def test_names_are_found_by_number_and_numbers_by_name() -> None:
    """The table of names behaves as a list and a dictionary do."""
    listed = ["b", "", "a/ü", "b", "\udcff"]
    table = names_of(*listed)
    assert list(table.texts) == listed and len(table) == 5
    assert table.find("b") == [0, 3] and table.find("c") == [] and table.find("\udcff") == [4]
    assert table.repeated() == [[0, 3]]
    assert list(table.select(np.array([False, True, True, True, False])).texts) == ["", "a/ü", "b"]
    both = indices.Names.concatenate([table, names_of("c")])
    assert list(both.texts) == [*listed, "c"] and both.find("c") == [5]
    again = indices.Names.from_arrays(both.to_arrays())
    assert list(again.texts) == list(both.texts) and again.find("a/ü") == [2]
    assert list(names_of().texts) == [] and names_of().find("a") == []


def names_of(*names: str) -> indices.Names:
    return indices.Names(Texts(names))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: b"",
        lambda content: content + b"\0",
        lambda content: content.replace(b"\x02", b"\x03"),
    ],
)
def test_damaged_arrays_are_not_read(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Arrays with a wrong length or checksum are no arrays."""
    path = tmp_path / "arrays"
    path.write_bytes(indices.to_bytes({"a": np.arange(3)}))
    found = indices.read(path)
    assert found is not None and found["a"].tolist() == [0, 1, 2]
    path.write_bytes(damage(path.read_bytes()))
    assert indices.read(path) is None


def test_archives_of_a_missing_folder_are_empty(tmp_path: Path) -> None:
    """A dataset without archives has none, and says so without an error."""
    none = Archives(tmp_path / "nothing")
    assert list(none) == [] and none.find("a") is None and none.sizes() == []
    none.remove("a")
