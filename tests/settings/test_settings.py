"""Settings: which source wins, and that nothing misspelt or unusable passes."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from data.catalog import DataConfig
from data.errors import did_you_mean
from models.config import ModelConfig
from pipeline.settings import parsing as module
from pipeline.settings.config import (
    CacheConfig,
    Config,
    ConfigError,
    EvaluationOverrides,
    FeatureConfig,
    RunConfig,
    TrainingConfig,
)
from pipeline.settings.parsing import from_flat, parse_command_line, read_yaml, to_flat
from tests.helpers import REPOSITORY

WITHOUT_TORCH = """
import runpy, sys

class NoTorch:
    def find_spec(self, name, *_):
        assert name != "torch", "torch was loaded"

sys.meta_path.insert(0, NoTorch())
sys.argv = sys.argv[1:]
"""


@pytest.fixture
def write_yaml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def own_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for configs/, where a dataset's own settings lie."""
    folder = tmp_path / "configs"
    folder.mkdir()
    monkeypatch.setattr(module, "CONFIGS", folder)
    return folder


def test_later_sources_win(own_configs: Path, write_yaml: Callable[[str], Path]) -> None:
    """Defaults < configs/<dataset>.yaml < --config < flags: each goes over the one before, key by key."""
    (own_configs / "demo.yaml").write_text("hidden_size: 1\nepochs: 1\nbatch_size: 1\nsampling: every:3\n")
    file = write_yaml("epochs: 2\nbatch_size: 2\nseeds: [2, 3]\n")
    config = parse_command_line(Config, ["--dataset", "demo", "--config", str(file), "--batch-size", "3"])
    assert config.model.hidden_size == 1
    assert config.training.epochs == 2
    assert config.training.batch_size == 3
    assert config.features.sampling == "every:3"
    assert config.run.seeds == (2, 3)
    assert config.model.num_layers == ModelConfig().num_layers


def test_dataset_named_in_the_file_brings_its_settings(own_configs: Path, write_yaml: Callable[[str], Path]) -> None:
    """configs/<dataset>.yaml is that of the dataset in --config, unless a flag names another."""
    (own_configs / "demo.yaml").write_text("hidden_size: 1\n")
    (own_configs / "hmdb51.yaml").write_text("hidden_size: 2\n")
    file = write_yaml("dataset: demo\n")
    assert parse_command_line(Config, ["--config", str(file)]).model.hidden_size == 1
    other = parse_command_line(Config, [f"--config={file}", "--dataset=hmdb51"])
    assert (other.data.dataset, other.model.hidden_size) == ("hmdb51", 2)


def test_caching_takes_its_part_of_a_training_file(own_configs: Path, write_yaml: Callable[[str], Path]) -> None:
    """One YAML serves training and caching: what caching has no use for is no error there."""
    file = write_yaml("dataset: demo\nsampling: every:2\nhidden_size: 64\n")
    config = parse_command_line(CacheConfig, ["--config", str(file), "--workers", "3"])
    assert (config.data.dataset, config.features.sampling, config.features.workers) == ("demo", "every:2", 3)


def test_a_file_of_settings_is_not_a_dataset(own_configs: Path) -> None:
    """--dataset weizmann, which has a file in configs/ but is no dataset of its own, is answered with --config."""
    (own_configs / "weizmann.yaml").write_text("dataset: folder\n")
    with pytest.raises(ConfigError, match=r"weizmann is no dataset but a file of settings.*--config .*weizmann"):
        parse_command_line(Config, ["--dataset", "weizmann"])


def test_flags_overrule_booleans_of_the_file(own_configs: Path, write_yaml: Callable[[str], Path]) -> None:
    """A switch that a file turns on can be turned off by a flag, and the other way round."""
    file = write_yaml("amp: false\nallow_missing: true\n")
    plain = parse_command_line(Config, ["--config", str(file)])
    assert (plain.training.amp, plain.run.allow_missing) == (False, True)
    turned = parse_command_line(Config, ["--config", str(file), "--amp", "--no-allow-missing"])
    assert (turned.training.amp, turned.run.allow_missing) == (True, False)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_in_the_repository_is_usable(path: Path) -> None:
    """No file in configs/ holds a key or a value that is refused."""
    parse_command_line(Config, ["--config", str(path)])


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(
            data=DataConfig("folder", Path("/my videos/x"), "p 1", r"^([^_]+)_'\"$", 2, 5),
            features=FeatureConfig(sampling="every:2", weights=Path("w.pt"), on_short="fail", video_timeout=2.5),
            model=ModelConfig(model="lstm", dropout=0.0),
            training=TrainingConfig(clip_frames=8, learning_rate=1e-5, amp=False, schedule="constant"),
            run=RunConfig(splits=("1", "2"), seeds=(3, 4), name="-odd name", allow_missing=True),
        ),
    ],
    ids=["defaults", "all kinds of values"],
)
def test_config_of_a_run_is_usable_as_config(config: Config, tmp_path: Path, own_configs: Path) -> None:
    """What a run writes down, through YAML and back, is exactly what it was made with: as file and as --config."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_flat(config), sort_keys=False))
    assert from_flat(Config, read_yaml(path), str(path)) == config
    assert replace(parse_command_line(Config, ["--config", str(path)]), config=None) == config


def test_flat_keys_are_those_of_the_command_line() -> None:
    """No two sections share a key, so one level of keys is enough."""
    sections = (DataConfig(), FeatureConfig(), ModelConfig(), TrainingConfig(), RunConfig())
    assert len(to_flat(Config())) == sum(len(to_flat(section)) for section in sections)
    assert "config" not in to_flat(Config())


def test_unknown_key_is_named_with_file_and_nearest(write_yaml: Callable[[str], Path]) -> None:
    """A typo in a YAML key is refused, and the message says where and what was probably meant."""
    path = write_yaml("hiden_size: 3\n")
    with pytest.raises(ConfigError, match=r"settings\.yaml: unknown key 'hiden_size'. Did you mean 'hidden_size'\?"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden_size: [", "not valid YAML"),
        ("- hidden_size", "not a mapping"),
        ("just words", "not a mapping"),
        ("1: 2", "unknown key 1"),
        ("config: other.yaml", "unknown key 'config'"),
    ],
)
def test_file_that_holds_no_settings_is_told(write_yaml: Callable[[str], Path], text: str, message: str) -> None:
    """Broken YAML, a list, or keys that are no settings give one error with the file's name."""
    with pytest.raises(ConfigError, match=message) as raised:
        read_yaml(write_yaml(text))
    assert "settings.yaml" in str(raised.value)


def test_unreadable_file_is_told(tmp_path: Path) -> None:
    """A --config that is missing, a folder, or no text is an error for the user, not a traceback."""
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81" * 10)
    for name in ("missing.yaml", "", "binary.yaml"):
        with pytest.raises(ConfigError, match=str(tmp_path / name)):
            read_yaml(tmp_path / name)


def test_empty_file_sets_nothing(write_yaml: Callable[[str], Path]) -> None:
    """A file of comments only is a file without settings."""
    assert read_yaml(write_yaml("# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden_size: many", "hidden_size can't be 'many': it is int"),
        ("epochs: true", "epochs can't be True: it is int"),
        ("batch_size: 1.5", "batch_size can't be 1.5: it is int"),
        ("learning_rate:", "learning_rate can't be None: it is float"),
        ("amp: maybe", "amp can't be 'maybe': it is bool"),
        ("seeds: [1, two]", r"seeds can't be \[1, 'two'\]: it is tuple"),
        ("schedule: cosin", r"schedule can't be 'cosin': it is Literal\['cosine', 'constant'\]"),
        ("clip_frames: few", r"clip_frames can't be 'few': it is int \| None"),
        ("hidden_size: 0", "hidden_size and num_layers must be at least 1"),
        ("dataset: ufc101", "unknown dataset 'ufc101'. Did you mean 'ucf101'"),
        ("workers: 0", "workers is at least 1, not 0"),
        ("video_timeout: .nan", "video_timeout is at least 1, not nan"),
        ("epochs: 0", "epochs is at least 1, not 0"),
        ("recurrent_learning_rate: 0", "recurrent_learning_rate is above 0, not 0"),
        ("clip_gradient: 0", "clip_gradient is above 0, not 0"),
        ("label_smoothing: 1.0", r"label_smoothing lies in \[0, 1\), not 1.0"),
        ("weight_decay: -0.1", "weight_decay is at least 0, not -0.1"),
        ("dataset: ucf101\nholdout_group: anna", "holdout_group is for folder; ucf101 has no use for it"),
        ("dataset: demo\nlength: 7", "length is for addition and multiplication; demo has no use for it"),
        ("steps_per_epoch: 0", "steps_per_epoch is at least 1, not 0"),
        ("dataset: addition\nlength: 1", "length is at least 2, not 1"),
        ("dataset: pixel_minst", "unknown dataset 'pixel_minst'. Did you mean 'pixel_mnist'"),
        ("resume: true\noverwrite: true", "--resume goes on with a run, .*: give one of them"),
    ],
)
def test_unusable_value_is_named_with_key_and_file(
    write_yaml: Callable[[str], Path], own_configs: Path, text: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A wrong type or an impossible value in a file is refused in one line: which file, which key, what it takes."""
    path = write_yaml(text + "\nnum_layers: 1\n")
    with pytest.raises(ConfigError, match=rf"settings\.yaml: {message}"):
        parse_command_line(Config, ["--config", str(path)])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--hiden-size", "3"], "--hidden-size"),
        (["--hidden-size", "many"], "--hidden-size"),
        (["--schedule", "cosin"], "cosine"),
        (["--hidden-size"], "--hidden-size"),
        (["stray"], "stray"),
    ],
)
def test_typo_in_a_flag_ends_with_code_2(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that does not exist, or takes no such value, ends the command with code 2 and names the right one."""
    with pytest.raises(SystemExit) as ended:
        parse_command_line(Config, ["--dataset", "demo", *flags])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("program", [["train.py"], ["-m", "pipeline.cache"]])
def test_real_command_answers_a_typo_at_once(program: list[str], tmp_path: Path) -> None:
    """The commands themselves end with code 2 and the nearest name, without a traceback and before loading torch."""
    (tmp_path / "settings.yaml").write_text("bakbone: resnet50\n")
    script = WITHOUT_TORCH + run_as_main(program)
    for flags, told in [
        (["--bakbone", "resnet50"], "--backbone"),
        (["--config", str(tmp_path / "settings.yaml")], "Did you mean 'backbone'?"),
        (["--dataset", "ufc101"], "Did you mean 'ucf101'?"),
    ]:
        command = [sys.executable, "-c", script, program[-1], *flags]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stderr
        assert told in done.stderr and "Traceback" not in done.stderr


def run_as_main(program: list[str]) -> str:
    if program[0] == "-m":
        return f"runpy.run_module({program[1]!r}, run_name='__main__')"
    return f"runpy.run_path({program[0]!r}, run_name='__main__')"


def test_nearest_lists_all_where_nothing_is_near() -> None:
    """Where no name is near, the error tells which there are."""
    assert did_you_mean("zzz", ["b", "a"]) == " There are: a, b."


def test_evaluation_overrides_change_only_what_they_name() -> None:
    """What evaluate.py is not told stays as the run had it."""
    config = Config(features=FeatureConfig(sampling="every:2"), training=TrainingConfig(clips_per_video=4))
    assert EvaluationOverrides().apply(config) == config
    changed = EvaluationOverrides(clips=7, cache=Path("elsewhere")).apply(config)
    assert changed.training.clips_per_video == 7 and changed.features.cache == Path("elsewhere")
    assert changed.features.sampling == "every:2" and changed.model == config.model
