"""The run folder: its settings, when it may be written, and the errors for damaged files."""

import dataclasses
import os
import random
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from data.catalog import DataConfig
from data.errors import UserError
from models.config import ModelConfig
from pipeline.settings.config import Config, FeatureConfig, RunConfig
from pipeline.settings.parsing import parse_command_line
from pipeline.training.run import Run, RunError, find_runs
from tests.helpers.synthetic import RECIPE

CONFIG = Config(
    data=DataConfig(dataset="folder", root=Path("videos"), group_pattern="^([^_]+)_", validation_groups=0),
    features=FeatureConfig(sampling="every:3"),
    model=ModelConfig(model="gru", hidden_size=17, dropout=0.25),
    run=RunConfig(splits=("seed0",), seeds=(3,), name="a"),
)
SPLIT = {"split": "seed0", "classes": ["a", "b"], "train": [["a/v.avi", "a", "g"], ["b/v\udcff.avi", "b", "g"]]}


def with_options(**options: bool) -> Config:
    """``CONFIG`` with ``resume`` or ``overwrite``."""
    return dataclasses.replace(CONFIG, run=dataclasses.replace(CONFIG.run, **options))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with one checkpoint and five epochs of curves."""
    run = Run(tmp_path / "runs" / "a")
    run.begin(CONFIG, RECIPE, SPLIT)
    run.save_checkpoint("last", {"epoch": 4, "model": {"weight": torch.ones(3)}})
    run.write_history([{"epoch": epoch, "train_loss": 1.0} for epoch in range(5)])
    return run


def test_config_yaml_reproduces_the_settings(run: Run) -> None:
    """config.yaml has all settings, and --config config.yaml gives the same settings again."""
    assert run.config() == CONFIG
    path = run.folder / "config.yaml"
    parsed = parse_command_line(Config, ["--config", str(path)])
    assert dataclasses.replace(parsed, config=None) == CONFIG
    flagged = parse_command_line(Config, ["--config", str(path), "--hidden-size", "18"])
    assert flagged.model == dataclasses.replace(CONFIG.model, hidden_size=18)


def test_a_run_from_before_a_setting_keeps_the_old_behaviour(run: Run) -> None:
    """Older config.yaml files do not name the skip connection: their networks have none, and still load."""
    path = run.folder / "config.yaml"
    new_settings = ("skip_connection", "power_norm", "base_fan_in", "best_by", "#")
    path.write_text("".join(line for line in path.open() if not line.startswith(new_settings)))
    config = run.config()
    assert not config.model.skip_connection and not config.model.power_norm
    assert config.training.base_fan_in >= 10**6 and config.training.best_by == "accuracy"


def test_config_yaml_neither_overwrites_nor_resumes(tmp_path: Path) -> None:
    """--overwrite and --resume are not saved: a saved --overwrite would delete the run when its settings are reused."""
    for option in ("overwrite", "resume"):
        run = Run(tmp_path / option)
        run.begin(with_options(**{option: True}), RECIPE)
        assert run.config() == CONFIG


def test_an_existing_run_is_not_overwritten_silently(run: Run) -> None:
    """Without --resume or --overwrite no file changes, and the error names all three options."""
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"exists.*--resume.*--overwrite.*--name"):
        run.begin(CONFIG, RECIPE)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_resume_keeps_finished_work(run: Run) -> None:
    """--resume keeps checkpoints and curves, and removes files that a killed process left half-written."""
    code = "import os, socket; print(socket.gethostname(), os.getpid())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    host, dead = process.stdout.split()
    torn = run.folder / "checkpoints" / f".last.pt.{host}.{dead}.tmp"
    torn.write_bytes(b"half a checkpoint")
    run.begin(with_options(resume=True), RECIPE)
    assert (run.load_checkpoint("last") or {})["epoch"] == 4
    assert len(run.history()) == 5
    assert not torn.exists()


def test_resume_of_a_missing_run_begins_it(tmp_path: Path) -> None:
    """The same command with --resume can be repeated until the run is finished, from the first time on."""
    run = Run(tmp_path / "a")
    run.begin(with_options(resume=True), RECIPE)
    assert run.load_checkpoint("last") is None


def test_overwrite_removes_the_old_run(run: Run) -> None:
    """--overwrite keeps nothing of the old run but the lock, because a new file would be another lock."""
    (run.folder / "evaluation").mkdir()
    with run.lock("training"):
        run.begin(with_options(overwrite=True), RECIPE)
    assert sorted(path.name for path in run.folder.rglob("*")) == [".lock", "config.yaml", "recipe.json"]


def test_a_new_run_ignores_leftover_checkpoints(run: Run) -> None:
    """Checkpoints without settings, left by a process that was killed while it overwrote a run, are removed."""
    (run.folder / "config.yaml").unlink()
    run.begin(CONFIG, RECIPE)
    assert run.load_checkpoint("last") is None


@pytest.mark.parametrize("option", ["overwrite", "resume", "strips"])
def test_a_folder_of_other_files_is_never_emptied(tmp_path: Path, option: str) -> None:
    """A name that is by mistake that of a folder with videos costs none of them, not even with --overwrite."""
    (tmp_path / "a" / "video.avi").parent.mkdir()
    (tmp_path / "a" / "video.avi").touch()
    with pytest.raises(RunError, match=r"is not a run, and contains video\.avi.*--name"):
        Run(tmp_path / "a").begin(with_options(**{option: True}), RECIPE)
    assert (tmp_path / "a" / "video.avi").exists()


def test_resume_with_other_settings_is_refused(run: Run) -> None:
    """The error names each setting with both values, and the command that resumes the run."""
    other = dataclasses.replace(
        with_options(resume=True),
        model=dataclasses.replace(CONFIG.model, hidden_size=99),
        training=dataclasses.replace(CONFIG.training, learning_rate=0.5),
    )
    with pytest.raises(RunError) as error:
        run.begin(other, RECIPE)
    assert "hidden_size: 17 then, 99 now; learning_rate: 0.001 then, 0.5 now" in str(error.value)
    assert f"--config {run.folder / 'config.yaml'} --resume" in str(error.value)


def test_resume_with_other_paths_and_workers_is_allowed(run: Run) -> None:
    """Paths, numbers of processes and time limits do not change a run's results."""
    features = dataclasses.replace(CONFIG.features, cache=Path("/elsewhere"), workers=7, video_timeout=5.0)
    moved = dataclasses.replace(CONFIG.data, root=Path("/other/disk/videos"))
    run.begin(dataclasses.replace(with_options(resume=True), features=features, data=moved), RECIPE)


def test_resume_with_other_features_is_refused(run: Run) -> None:
    """The same settings with other backbone weights give other features."""
    with pytest.raises(RunError, match="other features .*weights_sha256: 0000"):
        run.begin(with_options(resume=True), dataclasses.replace(RECIPE, weights_sha256="1" * 64))


def test_check_changes_nothing(tmp_path: Path) -> None:
    """Checking whether a run may begin makes no folder."""
    run = Run(tmp_path / "a")
    run.check(CONFIG)
    assert not run.folder.exists()


def test_a_failed_write_keeps_the_old_checkpoint(run: Run) -> None:
    """A full disk is an ``OSError``; it costs the new checkpoint only and leaves no partial file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            run.save_checkpoint("last", {"epoch": 5, "model": {"weight": torch.rand(3000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run.load_checkpoint("last") or {})["epoch"] == 4
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["last.pt"]


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    path.write_text("this is something else\n")


def run_code_when_loaded(path: Path) -> None:
    torch.save({"model": re.compile("x")}, path)


@pytest.mark.parametrize("damage", [halve, empty, scribble, run_code_when_loaded])
def test_a_damaged_checkpoint_is_named(run: Run, damage: Callable[[Path], None]) -> None:
    """A truncated file, an empty one, a text and a pickle with more than tensors are refused with advice."""
    path = run.folder / "checkpoints" / "last.pt"
    damage(path)
    with pytest.raises(RunError, match=r"last\.pt is damaged.*--overwrite"):
        run.load_checkpoint("last")


def test_a_checkpoint_truncated_anywhere_is_named(run: Run) -> None:
    """At any length, PyTorch's many exceptions become one error that says what to do."""
    path = run.folder / "checkpoints" / "last.pt"
    run.save_checkpoint("last", {"model": {"weight": torch.rand(3000)}})
    whole = path.read_bytes()
    for length in range(0, len(whole), 499):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match=r"last\.pt is damaged"):
            run.load_checkpoint("last")


def test_a_file_that_is_not_a_checkpoint_is_named(run: Run) -> None:
    """A file that loads but has other contents is an error here, and not a traceback later."""
    torch.save(torch.ones(3), run.folder / "checkpoints" / "last.pt")
    with pytest.raises(RunError, match="is not a checkpoint"):
        run.load_checkpoint("last")


@pytest.mark.parametrize("damage", [halve, empty, scribble, Path.unlink])
def test_a_damaged_recipe_is_named(run: Run, damage: Callable[[Path], None]) -> None:
    """A run can't be used without its recipe; the error names the file."""
    damage(run.folder / "recipe.json")
    with pytest.raises(RunError, match=r"recipe\.json"):
        run.recipe()


def test_damaged_curves_are_named(run: Run) -> None:
    """A truncated line of metrics.jsonl is an error that names the file."""
    halve(run.folder / "metrics.jsonl")
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged"):
        run.history()


@pytest.mark.parametrize(
    "line", ["3", "null", "[]", "[" * 10**5, '{"epoch": [0]}', '{"epoch": 0, "loss": "low"}', "{}"]
)
def test_curves_of_anything_but_numbers_are_named(run: Run, line: str) -> None:
    """Valid JSON that is no epoch is an error that names the file, and no traceback."""
    (run.folder / "metrics.jsonl").write_text(f"{line}\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged"):
        run.history()


def read_all(run: Run) -> tuple[object, ...]:
    """Everything that is read back from a run, in a form that can be compared."""
    checkpoint = run.load_checkpoint("last") or {}
    checkpoint["model"] = {name: tensor.tolist() for name, tensor in checkpoint["model"].items()}
    return run.config(), run.recipe(), run.split(), run.history(), checkpoint


@pytest.mark.parametrize(
    "name", ["config.yaml", "recipe.json", "split.json", "metrics.jsonl", "checkpoints/last.pt", "checkpoints/best.pt"]
)
def test_a_flipped_bit_is_found(run: Run, name: str) -> None:
    """Whichever bit of a file is flipped, it is an error, and never another value."""
    run.save_checkpoint("best", {"epoch": 3, "model": {"weight": torch.rand(40)}})
    path = run.folder / name
    whole, silent = path.read_bytes(), []
    for bit in random.Random(0).sample(range(8 * len(whole)), 100):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            run.config(), run.recipe(), run.split(), run.history(), run.load_checkpoint(path.stem)
        except RunError as error:
            assert name.rpartition("/")[2] in str(error)
        else:
            silent.append(bit)
    assert not silent


def test_old_files_without_checksums_are_read(run: Run) -> None:
    """Files of older versions have no checksums: their values are read as before, and so is an edited config.yaml."""
    before = read_all(run)
    torch.save(run.load_checkpoint("last"), run.folder / "checkpoints" / "last.pt")
    config = run.folder / "config.yaml"
    config.write_text("".join(line for line in config.open() if not line.startswith("#")))
    (run.folder / "recipe.json").write_text(RECIPE.to_json())
    curves = run.folder / "metrics.jsonl"
    curves.write_text(re.sub(', "crc32": "[0-9a-f]{8}"', "", curves.read_text()))
    assert read_all(run) == before
    (run.folder / "split.json").unlink()
    assert run.split() is None


def test_an_edited_config_is_refused_with_advice(run: Run) -> None:
    """A setting that was changed by hand is named as a change; without the checksum line it is accepted."""
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("hidden_size: 17", "hidden_size: 18"))
    with pytest.raises(RunError, match=r"config\.yaml is damaged or was edited.*remove the last line"):
        run.config()


@pytest.mark.parametrize("name", ["config.yaml", "split.json", "metrics.jsonl", "checkpoints/last.pt"])
def test_a_pipe_or_folder_instead_of_a_file_is_named(run: Run, name: str) -> None:
    """A received run may contain a pipe, which would block its reader for ever, or a folder."""
    path = run.folder / name
    for make, remove in ((os.mkfifo, os.unlink), (os.mkdir, os.rmdir)):
        path.unlink(missing_ok=True)
        make(path)
        with pytest.raises(UserError, match=f"{path.name} is not a (plain )?file"):
            read_all(run)
        remove(path)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_folder_that_is_no_longer_the_runs_is_not_written(run: Run, is_replaced: bool) -> None:
    """If the folder is moved or deleted while a process trains in it, that process ends and mixes into no new run."""
    with run.lock("training"):
        run.folder.rename(run.folder.with_name("elsewhere"))
        if is_replaced:
            with Run(run.folder).lock("training"):
                Run(run.folder).begin(CONFIG, RECIPE, SPLIT)
        with pytest.raises(RunError, match=r"was moved, deleted or replaced.*--resume"):
            run.save_checkpoint("last", {"epoch": 5})
    assert not run.checkpoints.exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hiden_size", 3, "'hiden_size'.*'hidden_size'"),
        ("hidden_size", "many", r"config\.yaml: hidden_size .*'many'"),
        ("dataset", "ucf100", "'ucf100'.*'ucf101'"),
        ("dropout", 2.0, "dropout .*2.0"),
    ],
)
def test_a_bad_setting_in_config_yaml_is_a_run_error(run: Run, key: str, value: object, message: str) -> None:
    """A bad key or value is a ``RunError``, so an evaluation of many runs can continue with the others."""
    path = run.folder / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), key: value}))  # without a checksum
    with pytest.raises(RunError, match=message):
        run.config()


def test_runs_are_found_by_name_and_in_folders(tmp_path: Path) -> None:
    """A path is a run or a folder with runs at any depth; a run that is named twice is found once."""
    for name in ("ucf101/a", "ucf101/b", "demo/a"):
        Run(tmp_path / name).begin(CONFIG, RECIPE)
    found = find_runs([tmp_path / "ucf101" / "b", tmp_path, tmp_path / "demo" / ".." / "ucf101" / "a"])
    assert sorted(run.folder.resolve().relative_to(tmp_path).as_posix() for run in found) == [
        "demo/a",
        "ucf101/a",
        "ucf101/b",
    ]


@pytest.mark.parametrize(
    ("paths", "message"),
    [([], "name at least one run"), (["nowhere"], "is not a folder"), (["."], "there is no run in")],
)
def test_paths_without_runs_are_refused(tmp_path: Path, paths: list[str], message: str) -> None:
    """No path, a wrong path and a folder without runs each have their own error."""
    with pytest.raises(RunError, match=message):
        find_runs([tmp_path / path for path in paths])


def test_a_folder_that_is_not_a_run_is_named(tmp_path: Path) -> None:
    """A folder without config.yaml has another error than a damaged run."""
    with pytest.raises(RunError, match=r"is not a run.*config\.yaml"):
        Run(tmp_path).config()
