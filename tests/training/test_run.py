"""The run folder: what it says, that nothing in it is lost unasked, and what becomes of a damaged one."""

import dataclasses
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


def asking(config: Config = CONFIG, **wishes: bool) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **wishes))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has begun and saved one checkpoint."""
    run = Run(tmp_path / "runs" / "a")
    run.begin(CONFIG, RECIPE)
    run.save_checkpoint("last", {"epoch": 4, "model": {"weight": torch.ones(3)}})
    run.write_history([{"epoch": epoch, "train_loss": 1.0} for epoch in range(5)])
    return run


def test_config_yaml_is_the_config_again(run: Run) -> None:
    """All settings are in config.yaml, and given as --config they are the same settings."""
    assert run.config() == CONFIG
    path = run.folder / "config.yaml"
    parsed = parse_command_line(Config, ["--config", str(path)])
    assert dataclasses.replace(parsed, config=None) == CONFIG
    flagged = parse_command_line(Config, ["--config", str(path), "--hidden-size", "18"])
    assert flagged.model == dataclasses.replace(CONFIG.model, hidden_size=18)


def test_a_run_does_not_ask_to_be_overwritten_by_its_own_settings(tmp_path: Path) -> None:
    """A run begun with --overwrite or --resume does not say so in config.yaml: used again it would delete itself."""
    for wish in ("overwrite", "resume"):
        run = Run(tmp_path / wish)
        run.begin(asking(**{wish: True}), RECIPE)
        assert run.config() == CONFIG


def test_an_existing_run_is_never_begun_again_unasked(run: Run) -> None:
    """Without --resume or --overwrite nothing of a run changes, and the message names all three ways on."""
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"exists\. .*--resume.*--overwrite.*--name"):
        run.begin(CONFIG, RECIPE)
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before


def test_resume_keeps_what_there_is(run: Run) -> None:
    """--resume opens the run as it was left, without what a killed process left half-written."""
    code = "import os, socket; print(socket.gethostname(), os.getpid())"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    host, dead = process.stdout.split()
    torn = run.folder / "checkpoints" / f".last.pt.{host}.{dead}.tmp"
    torn.write_bytes(b"half a checkpoint")
    run.begin(asking(resume=True), RECIPE)
    assert (run.load_checkpoint("last") or {})["epoch"] == 4
    assert len(run.history()) == 5
    assert not torn.exists()


def test_resume_of_a_run_that_is_not_there_begins_it(tmp_path: Path) -> None:
    """One command with --resume can be repeated until it is through: the first time it begins."""
    run = Run(tmp_path / "a")
    run.begin(asking(resume=True), RECIPE)
    assert run.load_checkpoint("last") is None


def test_overwrite_leaves_nothing_of_the_old_run(run: Run) -> None:
    """--overwrite begins from nothing: no checkpoint, no curve, no report of the run before."""
    (run.folder / "evaluation").mkdir()
    run.begin(asking(overwrite=True), RECIPE)
    assert sorted(path.name for path in run.folder.rglob("*")) == ["config.yaml", "recipe.json"]


def test_a_new_run_never_takes_over_checkpoints_without_settings(run: Run) -> None:
    """Where an overwriting process was killed half-way, its leftovers are not taken for the new run's progress."""
    (run.folder / "config.yaml").unlink()
    run.begin(CONFIG, RECIPE)
    assert run.load_checkpoint("last") is None


def test_resume_with_other_settings_names_them(run: Run) -> None:
    """Going on with other settings would make a run that neither config describes; each is named with both values."""
    other = dataclasses.replace(
        asking(resume=True),
        model=dataclasses.replace(CONFIG.model, hidden_size=99),
        training=dataclasses.replace(CONFIG.training, learning_rate=0.5),
    )
    with pytest.raises(RunError) as error:
        run.begin(other, RECIPE)
    assert "hidden_size: 17 then, 99 now; learning_rate: 0.001 then, 0.5 now" in str(error.value)
    assert f"--config {run.folder / 'config.yaml'} --resume" in str(error.value)


def test_resume_elsewhere_and_with_other_means_is_allowed(run: Run) -> None:
    """Where things lie and how many processes decode is no part of a run."""
    features = dataclasses.replace(CONFIG.features, cache=Path("/elsewhere"), workers=7, video_timeout=5.0)
    moved = dataclasses.replace(CONFIG.data, root=Path("/other/disk/videos"))
    run.begin(dataclasses.replace(asking(resume=True), features=features, data=moved), RECIPE)


def test_resume_with_other_features_is_refused(run: Run) -> None:
    """The same settings with other backbone weights are other features, and no way to go on."""
    with pytest.raises(RunError, match="trained on other features .*weights_sha256: 0000"):
        run.begin(asking(resume=True), dataclasses.replace(RECIPE, weights_sha256="1" * 64))


def test_check_changes_nothing(tmp_path: Path) -> None:
    """Asking whether a run may begin leaves no folder behind."""
    run = Run(tmp_path / "a")
    run.check(CONFIG, RECIPE)
    assert not run.folder.exists()


def test_a_checkpoint_that_could_not_be_written_leaves_the_old_one(run: Run) -> None:
    """Where the disk ends in the middle of a checkpoint that is an ``OSError``, and costs this checkpoint only."""
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
    """Half a checkpoint, an empty one, a text and a pickle of more than tensors are refused, with the way out."""
    path = run.folder / "checkpoints" / "last.pt"
    damage(path)
    with pytest.raises(RunError, match=r"last\.pt is damaged or not a checkpoint .*--overwrite"):
        run.load_checkpoint("last")


def test_a_checkpoint_cut_off_anywhere_is_named(run: Run) -> None:
    """Wherever a copy stopped, PyTorch's many ways of failing become one error that says what to do."""
    path = run.folder / "checkpoints" / "last.pt"
    run.save_checkpoint("last", {"model": {"weight": torch.rand(3000)}})
    whole = path.read_bytes()
    for length in range(0, len(whole), 499):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match=r"last\.pt is damaged"):
            run.load_checkpoint("last")


def test_a_checkpoint_of_something_else_is_named(run: Run) -> None:
    """A file that loads but is no checkpoint of ours is no traceback later."""
    torch.save(torch.ones(3), run.folder / "checkpoints" / "last.pt")
    with pytest.raises(RunError, match="is not a checkpoint"):
        run.load_checkpoint("last")


@pytest.mark.parametrize("damage", [halve, empty, scribble, Path.unlink])
def test_a_damaged_recipe_is_named(run: Run, damage: Callable[[Path], None]) -> None:
    """What made the features is needed; where it is lost, the run and the file are named."""
    damage(run.folder / "recipe.json")
    with pytest.raises(RunError, match=r"recipe\.json can't be read"):
        run.recipe()


def test_damaged_curves_are_named(run: Run) -> None:
    """A torn line of metrics.jsonl is an error that names the file."""
    halve(run.folder / "metrics.jsonl")
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged"):
        run.history()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hiden_size", 3, "unknown key 'hiden_size'. Did you mean 'hidden_size'?"),
        ("hidden_size", "many", r"config\.yaml: hidden_size can't be 'many'"),
        ("dataset", "ucf100", r"unknown dataset 'ucf100'\. Did you mean 'ucf101'\?"),
        ("dropout", 2.0, "dropout must be"),
    ],
)
def test_a_config_that_was_edited_wrongly_is_an_error_of_that_run(
    run: Run, key: str, value: object, message: str
) -> None:
    """A bad key or value in one run's config.yaml is raised, never the end of a process that evaluates many runs."""
    path = run.folder / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), key: value}))
    with pytest.raises(RunError, match=message):
        run.config()


def test_runs_are_found_by_name_and_in_folders(tmp_path: Path) -> None:
    """A run, a folder of runs, and folders of those; a run named twice is one."""
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
def test_where_there_is_no_run_the_error_says_what_one_is(tmp_path: Path, paths: list[str], message: str) -> None:
    """Nothing named, a wrong name, and a folder without runs each say what was expected."""
    with pytest.raises(RunError, match=message):
        find_runs([tmp_path / path for path in paths])


def test_a_folder_that_is_no_run_is_not_read_as_one(tmp_path: Path) -> None:
    """A folder without config.yaml is told apart from a damaged run."""
    with pytest.raises(RunError, match="is not a run: it has no config.yaml"):
        Run(tmp_path).config()
