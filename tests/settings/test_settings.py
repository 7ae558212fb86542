"""Which source of settings wins, which settings are refused, and what the help shows."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tyro
import yaml

from data.catalog import DataConfig
from data.command import parse_arguments
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
def configs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of configs/."""
    folder = tmp_path / "configs"
    folder.mkdir()
    monkeypatch.setattr(module, "CONFIGS", folder)
    return folder


def test_later_sources_win(configs_folder: Path, write_yaml: Callable[[str], Path]) -> None:
    """Defaults < configs/<dataset>.yaml < --config < flags: each overrides the one before, key by key."""
    (configs_folder / "demo.yaml").write_text("hidden_size: 1\nepochs: 1\nbatch_size: 1\nsampling: every:3\n")
    file = write_yaml("epochs: 2\nbatch_size: 2\nseeds: [2, 3]\n")
    config = parse_command_line(Config, ["--dataset", "demo", "--config", str(file), "--batch-size", "3"])
    assert config.model.hidden_size == 1
    assert config.training.epochs == 2
    assert config.training.batch_size == 3
    assert config.features.sampling == "every:3"
    assert config.run.seeds == (2, 3)
    assert config.model.num_layers == ModelConfig().num_layers


def test_dataset_in_the_file_selects_its_settings(configs_folder: Path, write_yaml: Callable[[str], Path]) -> None:
    """The dataset in --config selects configs/<dataset>.yaml, unless a flag names another dataset."""
    (configs_folder / "demo.yaml").write_text("hidden_size: 1\n")
    (configs_folder / "hmdb51.yaml").write_text("hidden_size: 2\n")
    file = write_yaml("dataset: demo\n")
    assert parse_command_line(Config, ["--config", str(file)]).model.hidden_size == 1
    other = parse_command_line(Config, [f"--config={file}", "--dataset=hmdb51"])
    assert (other.data.dataset, other.model.hidden_size) == ("hmdb51", 2)


def test_caching_ignores_the_training_settings_of_a_file(
    configs_folder: Path, write_yaml: Callable[[str], Path]
) -> None:
    """One YAML file serves training and caching: caching ignores the other settings."""
    file = write_yaml("dataset: demo\nsampling: every:2\nhidden_size: 64\n")
    config = parse_command_line(CacheConfig, ["--config", str(file), "--workers", "3"])
    assert (config.data.dataset, config.features.sampling, config.features.workers) == ("demo", "every:2", 3)


def test_a_file_of_settings_is_not_a_dataset(configs_folder: Path) -> None:
    """--dataset weizmann, which has a file in configs/ but is not a dataset, is an error that names --config."""
    (configs_folder / "weizmann.yaml").write_text("dataset: folder\n")
    with pytest.raises(ConfigError, match=r"weizmann is not a dataset .*--config .*weizmann\.yaml"):
        parse_command_line(Config, ["--dataset", "weizmann"])


def test_flags_override_booleans_of_the_file(configs_folder: Path, write_yaml: Callable[[str], Path]) -> None:
    """A flag turns off what a file turns on, and the other way round."""
    file = write_yaml("amp: false\nallow_missing: true\n")
    plain = parse_command_line(Config, ["--config", str(file)])
    assert (plain.training.amp, plain.run.allow_missing) == (False, True)
    turned = parse_command_line(Config, ["--config", str(file), "--amp", "--no-allow-missing"])
    assert (turned.training.amp, turned.run.allow_missing) == (True, False)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_in_the_repository_is_usable(path: Path) -> None:
    """No file in configs/ has a key or a value that is refused."""
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
def test_config_of_a_run_is_usable_as_config(config: Config, tmp_path: Path, configs_folder: Path) -> None:
    """A run's config.yaml gives exactly the settings of the run, when read back and as --config."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_flat(config), sort_keys=False))
    assert from_flat(Config, read_yaml(path), str(path)) == config
    assert replace(parse_command_line(Config, ["--config", str(path)]), config=None) == config


def test_flat_keys_are_those_of_the_command_line() -> None:
    """No two sections share a key, so one level of keys is enough."""
    sections = (DataConfig(), FeatureConfig(), ModelConfig(), TrainingConfig(), RunConfig())
    assert len(to_flat(Config())) == sum(len(to_flat(section)) for section in sections)
    assert "config" not in to_flat(Config(config=Path("a.yaml")))


def test_unknown_key_is_named_with_file_and_nearest(write_yaml: Callable[[str], Path]) -> None:
    """A typo in a YAML key is an error that names the file and the nearest key."""
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
def test_file_without_a_mapping_of_settings_is_refused(
    write_yaml: Callable[[str], Path], text: str, message: str
) -> None:
    """Broken YAML, a list, and keys that are not settings are errors that name the file."""
    with pytest.raises(ConfigError, match=message) as raised:
        read_yaml(write_yaml(text))
    assert "settings.yaml" in str(raised.value)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    """A --config that is missing, a folder, or not text is a user error, not a traceback."""
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81" * 10)
    for name in ("missing.yaml", "", "binary.yaml"):
        with pytest.raises(ConfigError, match=str(tmp_path / name)):
            read_yaml(tmp_path / name)


def test_empty_file_sets_nothing(write_yaml: Callable[[str], Path]) -> None:
    """A file with only comments is valid and has no settings."""
    assert read_yaml(write_yaml("# nothing yet\n")) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden_size: many", "hidden_size can't be 'many': it must be a valid integer"),
        ("hidden_size: ", "hidden_size can't be None: it must be a valid integer"),
        ("epochs: true", "epochs can't be True: it must be a valid integer"),
        ("batch_size: 1.5", "batch_size can't be 1.5: it must be a valid integer"),
        ("learning_rate:", "learning_rate can't be None: it must be a valid number"),
        ("dropout: true", "dropout can't be True: it must be a valid number"),
        ("amp: maybe", "amp can't be 'maybe': it must be a valid boolean"),
        ("amp: 1", "amp can't be 1: it must be a valid boolean"),
        ("name: true", "name can't be True: it must be a valid string"),
        ("seeds: [1, two]", r"seeds can't be \[1, 'two'\]: it must be a valid integer"),
        ("seeds: [true]", r"seeds can't be \[True\]"),
        ("schedule: cosin", "schedule can't be 'cosin': it must be 'cosine' or 'constant'"),
        ("clip_frames: few", "clip_frames can't be 'few': it must be a valid integer"),
        ("hidden_size: 0", "hidden_size .*at least 1"),
        ("dataset: ufc101", "unknown dataset 'ufc101'. Did you mean 'ucf101'"),
        ("workers: 0", "workers must be at least 1, not 0"),
        ("views: 11", r"views must be 1 to 10 \(center, .*\), not 11"),
        ("video_timeout: .nan", "video_timeout must be at least 1, not nan"),
        ("epochs: 0", "epochs must be at least 1, not 0"),
        ("recurrent_learning_rate: 0", "recurrent_learning_rate must be above 0, not 0"),
        ("clip_gradient: 0", "clip_gradient must be above 0, not 0"),
        ("label_smoothing: 1.0", r"label_smoothing must be in \[0, 1\), not 1.0"),
        ("weight_decay: -0.1", "weight_decay must be at least 0, not -0.1"),
        ("dataset: ucf101\nholdout_group: anna", "holdout_group .*folder"),
        ("dataset: demo\nlength: 7", "length .*addition and multiplication"),
        ("steps_per_epoch: 0", "steps_per_epoch must be at least 1, not 0"),
        ("clip_step: 4", "clip_step needs a clip length"),
        ("stream_pause: 4", "stream_pause needs clip_frames"),
        ("stream_pause: 4\nclip_frames: 8\nclip_stride: 2", "stream_pause needs .*clip_stride of 1"),
        ("stream_pause: -1\nclip_frames: 8", "stream_pause must be at least 0"),
        ("dataset: addition\nlength: 1", "length .* at least 2, not 1"),
        ("dataset: pixel_minst", "unknown dataset 'pixel_minst'. Did you mean 'pixel_mnist'"),
        ("resume: true\noverwrite: true", "--resume and --overwrite exclude each other"),
    ],
)
def test_unusable_value_is_named_with_key_and_file(
    write_yaml: Callable[[str], Path], configs_folder: Path, text: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A wrong type or value in a file is a one-line error: which file, which key, what it must be."""
    path = write_yaml(text + "\nnum_layers: 1\n")
    with pytest.raises(ConfigError, match=rf"settings\.yaml: {message}"):
        parse_command_line(Config, ["--config", str(path)])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate: 1e-3", 1e-3),
        ("learning_rate: 1", 1.0),
        ("epochs: '12'", 12),
        ("splits: [1, 2]", ("1", "2")),
        ("splits: 1", ("1",)),
        ("seeds: 3", (3,)),
        ("name: 5", "5"),
        ("runs: 2024", Path("2024")),
        ("clip_frames: null", None),
    ],
)
def test_yaml_value_is_converted_to_the_type_of_its_setting(
    write_yaml: Callable[[str], Path], text: str, expected: object
) -> None:
    """YAML's own choice of a type does not matter where the meaning is clear."""
    path = write_yaml(text)
    config = from_flat(Config, read_yaml(path), str(path))
    key = text.partition(":")[0]
    section = config.training if hasattr(config.training, key) else config.run
    value = getattr(section, key)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--hiden-size", "3"], "--hidden-size"),
        (["--hidden-size", "many"], "--hidden-size"),
        (["--schedule", "cosin"], "cosine"),
        (["--hidden-size"], "--hidden-size"),
        (["stray"], "stray"),
    ],
)
def test_typo_in_a_flag_ends_with_code_2(flags: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown flag or an unusable value exits with code 2 and names the right one."""
    with pytest.raises(SystemExit) as ended:
        parse_command_line(Config, ["--dataset", "demo", *flags])
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("program", [["train.py"], ["-m", "pipeline.cache"]])
def test_command_refuses_a_typo_before_it_loads_torch(program: list[str], tmp_path: Path) -> None:
    """The real commands exit with code 2 and the nearest name, without a traceback and before they load torch."""
    (tmp_path / "settings.yaml").write_text("bakbone: resnet50\n")
    script = WITHOUT_TORCH + run_as_main(program)
    for flags, expected in [
        (["--bakbone", "resnet50"], "--backbone"),
        (["--config", str(tmp_path / "settings.yaml")], "Did you mean 'backbone'?"),
        (["--dataset", "ufc101"], "Did you mean 'ucf101'?"),
    ]:
        command = [sys.executable, "-c", script, program[-1], *flags]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done.stderr
        assert expected in done.stderr and "Traceback" not in done.stderr


def run_as_main(program: list[str]) -> str:
    if program[0] == "-m":
        return f"runpy.run_module({program[1]!r}, run_name='__main__')"
    return f"runpy.run_path({program[0]!r}, run_name='__main__')"


def test_all_names_are_listed_if_none_is_near() -> None:
    """If no name is near, the error lists all."""
    assert did_you_mean("zzz", ["b", "a"]) == " There are: a, b."


def test_evaluation_overrides_change_only_what_they_name() -> None:
    """What is not overridden stays as the run had it."""
    config = Config(features=FeatureConfig(sampling="every:2"), training=TrainingConfig(clips_per_video=4))
    assert EvaluationOverrides().apply(config) == config
    changed = EvaluationOverrides(clips=7, cache=Path("elsewhere")).apply(config)
    assert changed.training.clips_per_video == 7 and changed.features.cache == Path("elsewhere")
    assert changed.features.sampling == "every:2" and changed.model == config.model
    assert EvaluationOverrides(allow_missing=True).apply(config).run.allow_missing


def help_of(parse: Callable[[], object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as ended:
        parse()
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", [Config, CacheConfig])
def test_help_shows_groups_and_only_real_defaults(
    kind: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each section is a group, no default is None or empty, and a percent sign is one character."""
    text = help_of(lambda: parse_command_line(kind, ["--help"]), monkeypatch, capsys)
    groups = ("data", "features", "model", "training", "output") if kind is Config else ("data", "features", "job")
    positions = [text.index(f" {group} options ") for group in groups]
    assert positions == sorted(positions)
    assert "default: None" not in text and "{None}" not in text and "(default: )" not in text and "%%" not in text
    assert "--root PATH" in text and "(default: uniform:25)" in text


def test_help_says_which_files_its_defaults_come_from(
    configs_folder: Path,
    write_yaml: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The help names configs/<dataset>.yaml and --config FILE, and shows their values as defaults."""
    (configs_folder / "demo.yaml").write_text("hidden_size: 77\n")
    file = write_yaml("dataset: demo\nepochs: 99\n")
    text = help_of(lambda: parse_command_line(Config, ["--config", str(file), "--help"]), monkeypatch, capsys)
    assert "configs/demo.yaml and" in text and str(file) in text
    assert "(default: 77)" in text and "(default: 99)" in text
    text = help_of(lambda: parse_command_line(Config, ["--dataset", "folder", "--help"]), monkeypatch, capsys)
    assert "built in" in text and "demo.yaml" not in text and "(default: 77)" not in text


@dataclass(frozen=True)
class Arguments:
    """Arguments of a command."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """video
    files"""
    run: Path
    """a run"""
    overrides: EvaluationOverrides
    top: int | None = None
    """classes"""


def test_arguments_of_a_command_have_the_same_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Positional, required, optional and nested arguments are parsed, and their help has no empty default."""
    parsed = parse_arguments(Arguments, ["a", "b", "--run", "r", "--clips", "3"])
    assert parsed == Arguments((Path("a"), Path("b")), Path("r"), EvaluationOverrides(clips=3))
    assert parse_arguments(Arguments, ["--run", "r", "--top", "None"], default=replace(parsed, top=3)).top is None
    text = help_of(lambda: parse_arguments(Arguments, ["--help"], "a-program", "What it does."), monkeypatch, capsys)
    assert "usage: a-program" in text and "What it does." in text and "video files" in text
    assert "--run PATH" in text and "(required)" in text and "--top INT" in text
    assert "default: None" not in text and "{None}" not in text and "(default: )" not in text
