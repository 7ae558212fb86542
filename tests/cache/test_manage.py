"""The commands that manage the feature store: status, verify and gc."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.catalog import DataConfig, load_dataset
from models.cnn.preprocessing import CENTER, VIEWS
from pipeline.cache import manage
from pipeline.cache.garbage import Findings, Garbage, find_garbage, remove_store
from pipeline.features.recipe import FeatureRecipe, imported_recipe
from pipeline.store.packed import open_packed, pack
from pipeline.store.store import FeatureStore, StoreError, find_stores
from tests.data.test_atomic import dead_pid, temporary_of
from tests.helpers import REPOSITORY
from tests.helpers.clips import make_clip
from tests.helpers.commands import call, message
from tests.helpers.synthetic import RECIPE, make_features

SET = "set"
FLIPPED = VIEWS[1]
DAY = 24 * 3600

Command = Callable[..., tuple[int, Any]]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def command(cache: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs one of the commands on ``cache`` with --json; returns its exit code and its output."""

    def run_it(name: str, *flags: object) -> tuple[int, Any]:
        code = manage.COMMANDS[name](["--cache", str(cache), "--json", *map(str, flags)])
        return code, json.loads(capsys.readouterr().out)

    return run_it


def fill(cache: Path, *video_ids: str, recipe: FeatureRecipe = RECIPE, view: str = CENTER) -> FeatureStore:
    """A store with different features for each of these videos."""
    store = FeatureStore(cache, recipe)
    for number, video_id in enumerate(video_ids):
        store.write(SET, video_id, make_features([[number, 1.0], [2.0, 3.0]]), view)
    return store


def class_folders(root: Path, *video_ids: str) -> str:
    """A dataset of these (empty) files; returns its name in the store."""
    for video_id in video_ids:
        (root / video_id).parent.mkdir(parents=True, exist_ok=True)
        (root / video_id).touch()
    return load_dataset(DataConfig("folder", root)).store_name


def age(*paths: Path, days: float) -> None:
    for path in paths:
        for file in [path, *path.rglob("*")]:
            os.utime(file, (time.time() - days * DAY,) * 2)


def make_run(folder: Path, recipe: FeatureRecipe) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(recipe.to_json())
    (folder / "config.yaml").write_text(yaml.safe_dump({"dataset": "demo"}))
    return folder


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def kinds(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(garbage["kind"].partition(":")[0], Path(garbage["path"]).name) for garbage in found["garbage"]]


def test_status_counts_by_store_dataset_and_view(cache: Path, command: Command) -> None:
    """Each store, dataset and view has a row with its entries and bytes; names may be any text."""
    store = fill(cache, "run/a.avi", "walk/größe [red] 1.avi")
    fill(cache, "run/a.avi", view=FLIPPED)
    store.write("other@place", "x", make_features([[1.0]]))
    other = FeatureStore(cache, dataclasses.replace(RECIPE, backbone="resnet50", sampling="every:2"))
    code, output = command("status")
    rows = {(row["fingerprint"], row["dataset"], row["view"]): row for row in output["stores"]}
    ours = store.folder.name
    assert {key: row["num_entries"] for key, row in rows.items()} == {
        (ours, SET, CENTER): 2,
        (ours, SET, FLIPPED): 1,
        (ours, "other@place", CENTER): 1,
        (other.folder.name, "", ""): 0,
    }
    paths = [store.path(SET, video_id) for video_id in ("run/a.avi", "walk/größe [red] 1.avi")]
    assert rows[ours, SET, CENTER]["num_bytes"] == sum(path.stat().st_size for path in paths)
    empty = rows[other.folder.name, "", ""]
    assert (empty["backbone"], empty["sampling"], code) == ("resnet50", "every:2", 0)
    assert rows[ours, SET, CENTER]["done"] is None
    assert (output["packed_bytes"], output["network_bytes"]) == (0, 0)
    for path in (store.folder / "packed" / "copy.npy", cache / "onnx" / "net.onnx"):
        path.parent.mkdir()
        path.write_bytes(bytes(7))
    assert command("status")[1] == output | {"packed_bytes": 7, "network_bytes": 7}


def test_status_counts_current_failures(cache: Path, command: Command) -> None:
    """A video counts as failed once, and only while it has no features; a partial line of the log is ignored."""
    store = fill(cache, "fixed")
    for video_id in ("fixed", "bad", "bad"):
        store.note_failure(SET, video_id, Path(video_id), "why")
    with store.errors_path(SET).open("a") as log:
        log.write('{"video_id": "torn')
    (row,) = command("status")[1]["stores"]
    assert (row["num_entries"], row["failed"]) == (1, 1)


def test_status_of_a_dataset_counts_done_missing_and_failed(
    cache: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each video of the given dataset is done, missing or failed; other datasets and videos do not count."""
    root = tmp_path / "videos"
    name = class_folders(root, "run/a.avi", "run/b.avi", "run/c.avi", "walk/a.avi")
    store = fill(cache, "run/a.avi")
    for video_id in ("run/a.avi", "walk/a.avi", "gone.avi"):
        store.write(name, video_id, make_features([[1.0]]))
    store.note_failure(name, "run/b.avi", root / "run/b.avi", "why")
    store.note_failure(name, "gone too.avi", root, "why")
    flags = ["--dataset", "folder", "--root", str(root)]
    (row,) = command("status", *flags)[1]["stores"]
    assert (row["dataset"], row["num_entries"]) == (name, 3)
    assert (row["done"], row["missing"], row["failed"]) == (2, 1, 1)
    assert manage.status(["--cache", str(cache), *flags]) == 0
    head, _, line, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[-3:] == ["done", "missing", "failed"] and line.split()[-3:] == ["2", "1", "1"]


def test_status_prints_fingerprints_verbatim(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fingerprint that looks like a number (12e34) is not printed as one."""
    recipes = (dataclasses.replace(RECIPE, weights_sha256=str(number)) for number in itertools.count())
    recipe = next(recipe for recipe in recipes if re.fullmatch(r"\d+e\d+", recipe.fingerprint[:16]))
    fill(cache, "a", recipe=recipe)
    manage.status(["--cache", str(cache)])
    assert recipe.fingerprint[:16] in capsys.readouterr().out


def test_status_does_not_load_pytorch(cache: Path) -> None:
    """Status starts fast, without importing PyTorch."""
    fill(cache, "a")
    code = (
        "import sys; from pipeline.cache import manage as m; m.status(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "--cache", cache], cwd=REPOSITORY, check=True, timeout=60)


def test_status_names_other_folders(cache: Path, command: Command) -> None:
    """A folder that is not a store and a store with a damaged recipe are named, and hide nothing else."""
    store = fill(cache, "a")
    (cache / "notes").mkdir()
    (store.folder / "recipe.json").write_text('{"half')
    output = command("status")[1]
    assert output["others"] == [str(cache / "notes")]
    ((backbone, num_entries),) = [(row["backbone"], row["num_entries"]) for row in output["stores"]]
    assert "damaged" in backbone and num_entries == 1


def test_missing_cache_is_named(tmp_path: Path) -> None:
    """A missing cache is an error that names it, not an empty table."""
    for name in ("status", "verify", "gc"):
        with pytest.raises(StoreError, match=f"{tmp_path / 'nowhere'} is not a folder"):
            manage.COMMANDS[name](["--cache", str(tmp_path / "nowhere")])


def test_a_mistyped_dataset_gets_the_nearest_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A typo in --dataset is an error with exit code 2, and suggests the right name."""
    with pytest.raises(SystemExit, match="2"):
        manage.status(["--cache", str(tmp_path), "--dataset", "demmo"])
    assert "'demmo'. Did you mean 'demo'?" in capsys.readouterr().err


def truncated(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def bit_flipped(path: Path, other: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def of_another_video(path: Path, other: Path) -> None:
    shutil.copy(other, path)


DAMAGES = [truncated, emptied, bit_flipped, of_another_video]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("view", [CENTER, FLIPPED])
def test_verify_finds_and_removes_damage(
    cache: Path, command: Command, damage: Callable[[Path, Path], None], view: str
) -> None:
    """Each kind of damage is found, named and, on request, removed; intact entries of all views are kept."""
    for each in (CENTER, FLIPPED):
        store = fill(cache, "run/a", "walk/a", view=each)
    assert command("verify") == (0, {"num_entries": 4, "damaged": {}, "removed": False})
    bad = store.path(SET, "walk/a", view)
    damage(bad, store.path(SET, "run/a", view))
    before = files_below(cache)
    code, output = command("verify")
    assert (code, list(output["damaged"])) == (1, [str(bad)])
    assert files_below(cache) == before
    code, output = command("verify", "--remove")
    assert (code, list(output["damaged"])) == (0, [str(bad)])
    del before[bad]
    assert files_below(cache) == before
    assert command("verify")[0] == 0


def test_verify_finds_an_entry_of_another_view_or_recipe(cache: Path, command: Command) -> None:
    """Intact files of another view or recipe are damage too."""
    store = fill(cache, "a", "b")
    flipped = fill(cache, "a", view=FLIPPED).path(SET, "a", FLIPPED)
    other = fill(cache, "b", recipe=dataclasses.replace(RECIPE, sampling="every:2"))
    shutil.copy(flipped, store.path(SET, "a"))
    shutil.copy(other.path(SET, "b"), store.path(SET, "b"))
    code, output = command("verify")
    assert code == 1 and set(output["damaged"]) == {str(store.path(SET, "a")), str(store.path(SET, "b"))}
    assert command("verify", "--fingerprint", other.recipe.fingerprint)[1]["num_entries"] == 1
    with pytest.raises(StoreError, match=r"no store's fingerprint starts with 'xyz'. Existing stores: \w{16}, \w{16}"):
        command("verify", "--fingerprint", "xyz")


def test_verify_names_entries_that_cannot_be_opened(
    cache: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that can't be opened is named with its permissions as the reason, and is not removed."""
    store = fill(cache, "a", "b")
    entry = store.path(SET, "a")
    entry.unlink()
    monkeypatch.chdir(entry.parent)
    with socket.socket(socket.AF_UNIX) as unreadable:
        unreadable.bind(entry.name)  # not even root can open a socket file
    code, output = command("verify", "--remove")
    assert code == 1 and list(output["damaged"]) == [str(entry)] and "permissions" in output["damaged"][str(entry)]
    assert entry.exists()


@pytest.mark.parametrize("content", ['{"half', dataclasses.replace(RECIPE, resize=1).to_json()])
def test_verify_finds_a_damaged_recipe(cache: Path, command: Command, content: str) -> None:
    """A store with a partial recipe or another store's recipe is named; no folder is created for the latter."""
    store = fill(cache, "a")
    (store.folder / "recipe.json").write_text(content)
    code, output = command("verify", "--remove")
    assert code == 1 and list(output["damaged"]) == [str(store.folder)]
    assert "cache its videos again" in output["damaged"][str(store.folder)]
    assert [path.name for path in cache.iterdir()] == [store.folder.name]


def test_gc_removes_unused_stores(cache: Path, tmp_path: Path, command: Command) -> None:
    """A store is removed only if no run uses it, it was not written to recently, and --delete is set."""
    used, fresh, unused = (dataclasses.replace(RECIPE, sampling=f"every:{number}") for number in (1, 2, 3))
    stores = [fill(cache, "run/a", "walk/a", recipe=recipe) for recipe in (used, fresh, unused)]
    runs = tmp_path / "runs"
    make_run(runs / "demo" / "a-run", used)
    age(cache, days=8)
    age(stores[1].path(SET, "walk/a"), days=6)
    before = files_below(cache)
    code, output = command("gc", "--runs", runs)
    assert code == 0 and kinds(output) == [("unused store", stores[2].folder.name)]
    assert output["garbage"][0]["num_bytes"] == sum(len(before[path]) for path in files_below(stores[2].folder))
    assert files_below(cache) == before
    code, output = command("gc", "--runs", runs, "--delete")
    assert code == 0 and [garbage["removed"] for garbage in output["garbage"]] == [True]
    assert find_stores(cache) == (sorted(store.folder for store in stores[:2]), [])
    assert command("gc", "--runs", runs)[1] == {"garbage": [], "notes": []}
    assert len(command("gc", "--runs", runs, "--keep-days", 5)[1]["garbage"]) == 1


def test_gc_keeps_imported_features_unless_they_are_named(cache: Path, tmp_path: Path, command: Command) -> None:
    """No job can make imported features again: neither an unused store nor entries without a video are removed."""
    root, runs = tmp_path / "videos", tmp_path / "runs"
    name = class_folders(root, "run/a.avi", "run/b.avi", "walk/a.avi")
    store = fill(cache, "run/a.avi", recipe=imported_recipe("dino"))
    for video_id in ("run/a.avi", "run/gone.avi"):
        store.write(name, video_id, make_features([[1.0]]))
    runs.mkdir()
    before = files_below(cache)
    flags = ["--runs", runs, "--dataset", "folder", "--root", root, "--delete"]
    assert command("gc", *flags)[1] == {"garbage": [], "notes": []}
    age(cache, days=8)
    output = command("gc", *flags, "--imported", "clip")[1]
    assert output["garbage"] == [] and "--imported dino" in output["notes"][0] and files_below(cache) == before
    assert kinds(command("gc", *flags, "--imported", "clip", "dino")[1]) == [("unused store", store.folder.name)]
    assert not store.folder.exists()


@pytest.mark.parametrize("runs", ["missing", "damaged"])
def test_gc_keeps_stores_if_their_use_is_unknown(cache: Path, tmp_path: Path, command: Command, runs: str) -> None:
    """If the folder of runs is missing or a run has no recipe, no store is removed and a note says why."""
    fill(cache, "a")
    age(cache, days=100)
    if runs == "damaged":
        (make_run(tmp_path / "damaged" / "a-run", RECIPE) / "recipe.json").unlink()
    code, output = command("gc", "--runs", tmp_path / runs, "--delete")
    assert (code, output["garbage"]) == (0, [])
    (note,) = output["notes"]
    assert str(tmp_path / runs) in note
    assert len(find_stores(cache)[0]) == 1


def test_gc_ignores_runs_without_video(cache: Path, tmp_path: Path, command: Command) -> None:
    """A run without a recipe uses no store if its config names a task without video, and only then."""
    fill(cache, "a")
    age(cache, days=100)
    run_folder = make_run(tmp_path / "runs" / "a-run", RECIPE)
    (run_folder / "recipe.json").unlink()
    (run_folder / "config.yaml").write_text(yaml.safe_dump({"dataset": "addition"}))
    assert [kind for kind, _ in kinds(command("gc", "--runs", tmp_path / "runs")[1])] == ["unused store"]
    (run_folder / "config.yaml").write_text("dataset: [")
    assert command("gc", "--runs", tmp_path / "runs")[1]["garbage"] == []


def test_gc_keeps_other_folders(cache: Path, tmp_path: Path, command: Command) -> None:
    """Folders that are not stores are kept, also runs (with a recipe.json) and stores with a damaged recipe."""
    make_run(cache / "a-run", RECIPE)
    store = fill(cache, "a")
    (store.folder / "recipe.json").write_text("{")
    (cache / "notes").mkdir()
    (tmp_path / "runs").mkdir()
    age(cache, days=100)
    before = files_below(cache)
    code, output = command("gc", "--runs", tmp_path / "runs", "--delete")
    assert (code, output["garbage"]) == (0, []) and files_below(cache) == before
    for name in ("a-run: not a store", "notes: not a store", f"{store.folder.name}/recipe.json can't be read"):
        assert any(name in note for note in output["notes"])


def test_gc_removes_files_of_killed_jobs(cache: Path, tmp_path: Path, command: Command) -> None:
    """Temporary files of dead processes are removed, in stores and among networks; those of running ones are kept."""
    store = fill(cache, "run/a")
    (cache / "onnx").mkdir()
    host, pid = os.uname().nodename, dead_pid()
    gone = [temporary_of(store.path(SET, "run/a"), host, pid), temporary_of(cache / "onnx" / "net.onnx", host, pid)]
    kept = temporary_of(store.path(SET, "run/b"), host, os.getpid())
    code, output = command("gc", "--runs", tmp_path, "--delete")
    assert code == 0 and kinds(output) == [("left by a killed job", path.name) for path in gone]
    assert kept.exists() and not any(path.exists() for path in gone)
    assert store.path(SET, "run/a").exists()


def test_gc_removes_entries_of_removed_videos(cache: Path, tmp_path: Path, command: Command) -> None:
    """Given a dataset, entries of videos that it lacks are removed in all views and stores; other datasets are kept."""
    root = tmp_path / "videos"
    videos = ["run/a.avi", "run/b.avi", "walk/a.avi"]
    name = class_folders(root, *videos)
    orphans = []
    for recipe in (RECIPE, dataclasses.replace(RECIPE, sampling="every:2")):
        store = fill(cache, "run/gone.avi", recipe=recipe)
        for view, video_id in itertools.product([CENTER, FLIPPED], [*videos, "run/gone.avi"]):
            store.write(name, video_id, make_features([[1.0]]), view)
        orphans += [store.path(name, "run/gone.avi", view) for view in (CENTER, FLIPPED)]
    assert command("gc", "--runs", tmp_path, "--delete")[1]["garbage"] == []
    code, output = command("gc", "--runs", tmp_path, "--dataset", "folder", "--root", root, "--delete")
    assert code == 0 and {garbage["path"] for garbage in output["garbage"]} == set(map(str, orphans))
    assert len(list(cache.rglob("*.safetensors"))) == 14


def test_gc_removes_stale_packed_copies(cache: Path, tmp_path: Path, command: Command) -> None:
    """A packed copy is removed if an entry was written since; a valid copy is kept and usable."""
    store = fill(cache, "a", "b")
    store.write("other", "a", make_features([[1.0]]))
    for dataset, videos in ((SET, ["a", "b"]), ("other", ["a"])):
        pack(store, dataset, videos, (CENTER,))
    unnamed = store.folder / "packed" / "other-0123456789abcdef.npy"
    unnamed.write_bytes(b"from a job that was killed before the index named it")
    assert kinds(command("gc", "--runs", tmp_path)[1]) == [("stale packed copy", unnamed.name)]
    store.write(SET, "b", make_features([[7.0, 8.0]]))
    _, output = command("gc", "--runs", tmp_path, "--delete")
    assert {kind for kind, _ in kinds(output)} == {"stale packed copy"} and len(output["garbage"]) == 3
    assert open_packed(store, "other", ["a"], (CENTER,)) is not None
    assert len(list((store.folder / "packed").iterdir())) == 2


def test_gc_removes_unused_networks(cache: Path, tmp_path: Path, command: Command) -> None:
    """An exported network that was neither written nor read for a week is removed; one that was read is kept."""
    (cache / "onnx").mkdir()
    old, used = cache / "onnx" / "old.onnx", cache / "onnx" / "used.onnx"
    for network in (old, used):
        network.write_bytes(b"network")
        age(network, days=8)
    os.utime(used, (time.time(), used.stat().st_mtime))
    _, output = command("gc", "--runs", tmp_path, "--delete")
    assert kinds(output) == [("unused network", "old.onnx")]
    assert used.exists() and not old.exists()


def test_gc_keeps_the_last_line_of_each_current_failure(cache: Path, tmp_path: Path, command: Command) -> None:
    """A failed video keeps its last line; lines of videos that have features since are removed."""
    store = fill(cache)
    for video_id, reason in [("bad", "first"), ("fixed", "once"), ("replaced", "now"), ("bad", "last")]:
        store.note_failure(SET, video_id, Path(video_id), reason)
    fill(cache, "fixed", "replaced")
    os.utime(store.path(SET, "fixed"), (time.time() + 10,) * 2)
    age(store.path(SET, "replaced"), days=1)  # features of an earlier file than the one that failed
    log = store.errors_path(SET)
    before = log.read_text()
    _, output = command("gc", "--runs", tmp_path)
    assert kinds(output) == [("failures since fixed or repeated", "errors.jsonl")] and log.read_text() == before
    command("gc", "--runs", tmp_path, "--delete")
    kept = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(line["video_id"], line["reason"]) for line in kept} == {("bad", "last"), ("replaced", "now")}
    assert output["garbage"][0]["num_bytes"] == len(before) - len(log.read_text())
    assert command("gc", "--runs", tmp_path)[1]["garbage"] == []


def test_gc_loses_no_failure_noted_meanwhile(cache: Path) -> None:
    """A failure that a job notes between finding and removing is kept."""
    store = fill(cache)
    for _ in range(2):
        store.note_failure(SET, "bad", Path("bad"), "why")
    (garbage,) = find_garbage(cache, [cache], 7.0, None).garbage
    store.note_failure(SET, "new", Path("new"), "why")
    garbage.remove()
    assert len(store.errors_path(SET).read_text().splitlines()) == 3


def test_interrupted_gc_leaves_a_store(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interrupted removal the rest is still a store, so that the next gc can remove it."""
    store = fill(cache, "run/a", "walk/a")

    def killed(path: Path) -> None:
        (path / "run" / "a.safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_store(store.folder)
    assert find_stores(cache)[0] == [store.folder]
    remove_store(store.folder)
    assert not list(cache.iterdir())


def test_gc_names_files_that_it_could_not_remove(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If one removal fails, the others continue, the failure is printed, and the exit code is 1."""
    good, bad = cache / "good", cache / "bad"
    good.touch()

    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted", str(bad))

    found = Findings([Garbage("old", bad, 1, refuse), Garbage("old", good, 5, good.unlink)], [])
    monkeypatch.setattr(manage, "find_garbage", lambda *arguments: found)
    assert manage.gc(["--cache", str(cache), "--delete"]) == 1
    output = capsys.readouterr().out
    assert f"not removed: [Errno 1] Operation not permitted: '{bad}'" in output and "5.00B removed" in output
    assert not good.exists()


def test_gc_lists_a_few_of_many(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Many orphans are summarized in a few lines and a count."""
    root = tmp_path / "videos"
    name = class_folders(root, "run/a.avi", "run/b.avi", "walk/a.avi")
    store = FeatureStore(cache, RECIPE)
    for number in range(30):
        store.write(name, f"gone{number}", make_features([[1.0]]))
    flags = ["--cache", str(cache), "--runs", str(tmp_path), "--dataset", "folder", "--root", str(root)]
    assert manage.gc(flags) == 0
    output = capsys.readouterr().out
    assert output.count("gone") == 5 and "... and 25 more" in output and "nothing was removed. --delete" in output
    with pytest.raises(StoreError, match="--keep-days .*at least 0, not -1"):
        manage.gc([*flags, "--keep-days", "-1"])


def test_real_commands(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """Cache, status, verify, repair and gc through the command line, with exit codes."""
    root, cache = tmp_path / "videos", tmp_path / "cache"
    for number in range(4):
        make_clip(root / ("run", "walk")[number % 2] / f"{number}.avi", 6, number)
    (root / "walk" / "bad.avi").write_text("no video")
    data = ["--dataset", "folder", "--root", root]
    name, weights = tiny_backbone
    job = ["-m", "pipeline.cache", *data, "--backbone", name, "--weights", weights, "--cache", cache]
    job += ["--runtime", "torch", "--workers", 1]
    assert call(*job).returncode == 1

    def manager(command: str, *flags: object, code: int) -> str:
        done = call("-m", "pipeline.cache", command, "--cache", cache, *flags)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        return message(done)

    output = manager("status", *data, code=0)
    assert f"{name} uniform:25" in output and output.split("packed copies")[0].split()[-3:] == ["4", "0", "1"]
    bit_flipped(next(cache.rglob("0.avi.safetensors")), cache)
    assert "0.avi.safetensors" in manager("verify", code=1)
    assert "1 damaged and removed" in manager("verify", "--remove", code=0)
    (root / "walk" / "bad.avi").unlink()
    done = call(*job)
    assert done.returncode == 0 and json.loads(done.stdout)["num_extracted"] == 1
    assert "4 entries in 1 stores, 0 damaged" in manager("verify", code=0)
    (tmp_path / "runs").mkdir()
    output = manager("gc", "--runs", tmp_path / "runs", "--keep-days", 0, "--delete", code=0)
    assert f"unused store: {name}" in output
    assert "contains no features" in manager("status", code=0)
    assert "--removed" in manager("verify", "--removed", code=2)
