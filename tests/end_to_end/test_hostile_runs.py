"""evaluate.py on run folders that somebody made to break it: each is named, and the good run beside is evaluated."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data.sequences import ArithmeticTask
from pipeline.evaluation.predictions import FILE_NAME
from pipeline.experiment import Tasks, evaluate_runs, write_tables
from pipeline.reports import report
from pipeline.settings.config import EvaluationOverrides
from pipeline.settings.parsing import read_yaml
from pipeline.training.run import Run
from tests.helpers import mutations
from tests.helpers.commands import call
from tests.helpers.runs import CPU, make_moves, make_sequence_config, train_moves, train_sequence_run

Damage = Callable[[Path], object]


def write(folder: Path, name: str, content: str | bytes) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def setting(folder: Path, **values: object) -> None:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def checkpoint(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    state = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    change(state)
    torch.save(state, folder / "checkpoints" / "best.pt")


def replaced(folder: Path, name: str, make: Damage) -> None:
    shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    make(folder / name)


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**8)


def expand(state: dict[str, Any]) -> None:
    """Weights that claim 10^12 numbers and take four bytes."""
    state["model"] = {name: torch.zeros(1).expand(10**6, 10**6) for name in state["model"]}


ALIASES = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in pairwise("abcdefghi"))
SETTINGS: dict[str, dict[str, object]] = {
    "many layers": {"num_layers": 100_000},
    "large layers": {"hidden_size": 10**9},
    "long sequences": {"length": 10**9},
    "long and wide": {"length": 10**4, "hidden_size": 8192},
    "another size": {"hidden_size": 4096, "num_layers": 9},
    "many clips": {"clips_per_video": 10**30},
    "infinite rate": {"learning_rate": float("inf")},
    "no number": {"identity_weight": float("nan")},
    "large seed": {"seeds": [10**30]},
    "two seeds": {"seeds": [0, 1]},
    "a split": {"splits": ["1", "2"]},
    "mapping for a number": {"hidden_size": {"a": 1}},
    "list for a number": {"hidden_size": [[1]]},
    "nothing": {"hidden_size": None},
    "NUL": {"cache": "a\0b", "dataset": "folder", "length": 100, "splits": ["1"]},
    "lone surrogate": {"name": "\ud800"},
    "unknown dataset": {"dataset": "\x1b[31m"},
    "no videos": {"dataset": "folder", "length": 100, "splits": ["1"], "root": "/nowhere"},
    "pipe as root": {"dataset": "folder", "length": 100, "splits": ["1"], "root": "/dev/null"},
    "unknown key": {"no_such_key": 1},
}
HOSTILE: dict[str, Damage] = {
    **{name: partial(setting, **values) for name, values in SETTINGS.items()},
    "aliases": partial(write, name="config.yaml", content=ALIASES),
    "nested list": partial(write, name="config.yaml", content="dataset: " + "[" * 20_000),
    "nested mapping": partial(write, name="config.yaml", content="dataset: " + "{a: " * 9_000),
    "own type": partial(write, name="config.yaml", content="dataset: !!python/object/apply:os.system [id]"),
    "many digits": partial(write, name="config.yaml", content="hidden_size: " + "9" * 10_000),
    "no date": partial(write, name="config.yaml", content="name: 2025-02-30"),
    "list as key": partial(write, name="config.yaml", content="? [a]\n: 1"),
    "only a list": partial(write, name="config.yaml", content="- 1"),
    "empty settings": partial(write, name="config.yaml", content=""),
    "bytes": partial(write, name="config.yaml", content=b"name: \xff\xfe"),
    "long settings": partial(write, name="config.yaml", content="# " + "x" * 2**20),
    "settings are a folder": partial(replaced, name="config.yaml", make=Path.mkdir),
    "settings are a pipe": partial(replaced, name="config.yaml", make=os.mkfifo),
    "settings are a device": partial(replaced, name="config.yaml", make=lambda path: path.symlink_to("/dev/zero")),
    "history is a list": partial(write, name="metrics.jsonl", content="[1]\n"),
    "history has texts": partial(write, name="metrics.jsonl", content='{"epoch": 0, "seconds": "x"}\n'),
    "history is nested": partial(write, name="metrics.jsonl", content="[" * 100_000),
    "history is a pipe": partial(replaced, name="metrics.jsonl", make=os.mkfifo),
    "history is huge": partial(replaced, name="metrics.jsonl", make=huge),
    "no checkpoint": partial(replaced, name="checkpoints", make=Path.mkdir),
    "checkpoint is text": partial(write, name="checkpoints/best.pt", content="x"),
    "checkpoint is a pickle": partial(write, name="checkpoints/best.pt", content=b"cos\nsystem\n(S'id'\ntR."),
    "checkpoint is a bomb": partial(replaced, name="checkpoints/best.pt", make=zip_bomb),
    "checkpoint is a pipe": partial(replaced, name="checkpoints/best.pt", make=os.mkfifo),
    "checkpoint is huge": partial(replaced, name="checkpoints/best.pt", make=huge),
    "checkpoint is a folder": partial(replaced, name="checkpoints/best.pt", make=Path.mkdir),
    "checkpoint is a list": partial(checkpoint, change=lambda state: state.update(model=[1, 2])),
    "keys are numbers": partial(checkpoint, change=lambda state: state.update(model={1: torch.ones(1)})),
    "classes are numbers": partial(checkpoint, change=lambda state: state.update(classes=[1])),
    "many classes": partial(checkpoint, change=lambda state: state.update(classes=["x"] * 10**6)),
    "epoch without curves": partial(checkpoint, change=lambda state: state.update(epoch=9)),
    "negative temperature": partial(
        checkpoint, change=lambda state: state["model"].update(temperature=torch.tensor(-1.0))
    ),
    "epoch is a text": partial(checkpoint, change=lambda state: state.update(epoch="x")),
    "expanded weights": partial(checkpoint, change=expand),
    "complex weights": partial(
        checkpoint, change=lambda state: state.update(model={k: v.cfloat() for k, v in state["model"].items()})
    ),
    "link": lambda folder: (folder / "evaluation").symlink_to("/tmp"),
    "socket": lambda folder: os.mkfifo(folder / "tensorboard" / "pipe"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the addition task that is not evaluated yet."""
    config = make_sequence_config(tmp_path_factory.mktemp("good"), epochs=1)
    return train_sequence_run(config).folder


def test_hostile_runs_do_not_stop_a_batch(good: Path, tmp_path: Path) -> None:
    """Fifty hostile runs and more beside a good one: it is evaluated, each of them is named, no traceback, exit 1."""
    assert len(HOSTILE) >= 50
    shutil.copytree(good, tmp_path / "good")
    for name, damage in HOSTILE.items():
        folder = Path(shutil.copytree(good, tmp_path / name.replace(" ", "_")))
        damage(folder)
    done = call("evaluate.py", tmp_path)
    assert "Traceback" not in done.stderr and "defect" not in done.stderr, done.stderr[-3000:]
    assert done.returncode == 1
    failed = {line.split(": ")[1] for line in done.stderr.splitlines() if line.startswith("failed: ")}
    assert failed == {str(tmp_path / name.replace(" ", "_")) for name in HOSTILE}
    assert (tmp_path / "good" / "evaluation" / "metrics.json").exists()


METRICS: dict[str, Callable[[dict[str, Any]], object]] = {
    "not a number": lambda metrics: metrics.update(mse=float("nan")),
    "text for a number": lambda metrics: metrics.update(mse="x"),
    "list for a text": lambda metrics: metrics.update(settings=[]),
    "mapping for a text": lambda metrics: metrics.update(run={}),
    "nothing else": lambda metrics: [metrics.pop(key) for key in set(metrics) - {"provenance"}],
    "nested": lambda metrics: metrics.update(extra=json.loads("[" * 900 + "]" * 900)),
}


@pytest.mark.parametrize("change", METRICS.values(), ids=METRICS.keys())
def test_damaged_metrics_are_measured_again(good: Path, tmp_path: Path, change: Any) -> None:
    """A finished evaluation whose metrics.json can't be right is not believed: the run is evaluated again."""
    folder = Path(shutil.copytree(good, tmp_path / "run"))
    (first,) = evaluate_runs([Run(folder)], CPU, EvaluationOverrides())
    metrics = dict(first.metrics)
    change(metrics)
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    (again,) = evaluate_runs([Run(folder)], CPU, EvaluationOverrides())
    assert not again.was_finished and again.metrics["mse"] == first.metrics["mse"]
    assert evaluate_runs([Run(folder)], CPU, EvaluationOverrides())[0].was_finished


TOKENS = (
    b"[]",
    b"{}",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"9" * 30,
    b"9" * 5000,
    b'"x"',
    b"[" * 2000,
    b"&a [*a]",
    b"\0",
    b"\xff",
)
MUTATIONS = (
    mutations.cut_anywhere,
    mutations.zeroed,
    mutations.left_out,
    mutations.repeated,
    mutations.swapped,
    partial(mutations.flipped, start=0, stop=None),
)
NUMBERS = [60, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Damaged bytes, or a value that is replaced by a strange one."""
    if len(content) > 60 and rng.random() < 0.5:
        return MUTATIONS[rng.integers(len(MUTATIONS))](content, rng)
    words = content.split(b" ")
    words[rng.integers(len(words))] = TOKENS[rng.integers(len(TOKENS))]
    return b" ".join(words)


@pytest.mark.parametrize("number", NUMBERS)
def test_no_mutation_of_a_settings_file_ends_in_a_traceback(good: Path, tmp_path: Path, number: int) -> None:
    """A damaged YAML file is read as settings, or is a ``UserError``."""
    from data.errors import UserError

    # Without the last line, the checksum, which would refuse nearly all of them.
    lines = (good / "config.yaml").read_bytes().splitlines(keepends=True)
    content, rng = b"".join(lines[:-1]), np.random.default_rng(number)
    num_refused = 0
    for _ in range(number):
        write(tmp_path, "config.yaml", mutated(content, rng))
        try:
            read_yaml(tmp_path / "config.yaml")
            Run(tmp_path).config()
        except UserError:
            num_refused += 1
    assert 0 < num_refused < number


@pytest.fixture(scope="module")
def moves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run on videos."""
    return train_moves(tmp_path_factory.mktemp("moves"), make_moves())[0].folder


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", ["addition", "videos"])
def test_no_mutation_of_a_run_ends_in_a_traceback(
    kind: str,
    number: int,
    good: Path,
    moves: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    without_pictures: None,
) -> None:
    """A run with one damaged file is evaluated or named as failed, and the tables can be written."""
    task = make_moves()
    if kind == "videos":
        monkeypatch.setattr(Tasks, "open", lambda *_: task)
    # What is written is not the question here, and takes long.
    monkeypatch.setattr(ArithmeticTask, "test_batches", lambda task: islice(task.validation_batches(), 1))
    monkeypatch.setattr(report, "_page", lambda *_, **__: "")
    source = moves if kind == "videos" else good
    evaluate_runs([Run(source)], CPU, EvaluationOverrides())
    names = ["config.yaml", "metrics.jsonl", "checkpoints/best.pt", "evaluation/metrics.json"]
    names += ["recipe.json", f"evaluation/{FILE_NAME}"] if kind == "videos" else []
    folder = Path(shutil.copytree(source, tmp_path / "run"))
    rng = np.random.default_rng(number)
    for _ in range(number):
        name = names[rng.integers(len(names))]
        write(folder, name, mutated((source / name).read_bytes(), rng))
        evaluated = evaluate_runs([Run(folder)], CPU, EvaluationOverrides())
        if evaluated and evaluated[0].was_finished:
            write_tables(tmp_path, evaluated)
        error = capsys.readouterr().err
        assert "Traceback" not in error and "defect" not in error, error
        for changed in (name, "evaluation/metrics.json"):
            shutil.copy(source / changed, folder / changed)
