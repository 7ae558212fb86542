"""Small runs that train in a second, interrupted runs, and comparison of two runs."""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from data.catalog import DataConfig
from data.records import Split, VideoDataset
from models.config import ModelConfig
from pipeline.experiment import Tasks, evaluate_run, open_objective, plan_runs
from pipeline.objectives.videos import VideoTask
from pipeline.settings.config import Config, RunConfig, TrainingConfig
from pipeline.store.packed import PackedFeatures
from pipeline.training.loop import fit
from pipeline.training.run import Run
from tests.helpers.synthetic import RECIPE, make_features, make_task, rising_and_falling

CPU = torch.device("cpu")
SEQUENCE_MODEL = ModelConfig(
    hidden_size=24,
    readout="last",
    inputs="frames",
    skip_connection=False,
    power_norm=False,
    dropout=0.0,
    input_scale="sqrt_hidden",
    identity_weight=1.0,
)


def make_moves() -> VideoTask:
    """The video task "moves": two classes that differ in the order of frames only.

    Splits "1" and "2" have 24 training, 12 validation and 12 test videos.
    """
    table = rising_and_falling(60, seed=0)
    videos = table.records
    features = {record.video_id: [make_features(table.video(number))] for number, record in enumerate(videos)}
    splits = {
        "1": Split("1", videos[:24], videos[24:36], videos[36:48]),
        "2": Split("2", videos[:24], videos[24:36], videos[48:]),
    }
    dataset = VideoDataset("moves", "moves", ("rise", "fall"), videos, splits)
    return make_task(dataset, PackedFeatures.in_memory(features))


def make_config(runs: Path, **run: object) -> Config:
    """Settings for ``make_moves``; ``run`` are fields of ``RunConfig``."""
    return Config(
        model=ModelConfig(hidden_size=12, input_scale="sqrt_hidden", power_norm=False),
        training=TrainingConfig(epochs=4, batch_size=8, learning_rate=3e-3),
        run=RunConfig(**{"runs": runs, "strips": 0, **run}),  # type: ignore[arg-type]
    )


def train_moves(folder: Path, task: VideoTask) -> tuple[Run, dict[str, Any]]:
    """Train and evaluate the run of split 1 and seed 0; also returns its metrics."""
    ((run, config),) = plan_runs(make_config(folder), task)
    objective = task.objective(config)
    run.begin(config, RECIPE, objective.split)
    fit(run, config, objective, CPU)
    return run, evaluate_run(run, objective, CPU).metrics


def make_sequence_config(
    runs: Path,
    dataset: str = "addition",
    root: Path | None = None,
    *,
    permuted: bool = False,
    length: int = 6,
    model: ModelConfig = SEQUENCE_MODEL,
    run: dict[str, Any] | None = None,
    **training: Any,
) -> Config:
    """Settings of a task without video: 4 epochs of 20 batches of 32; ``length`` is for addition and multiplication.

    ``run`` are fields of ``RunConfig``, ``training`` of ``TrainingConfig``.
    """
    default = {"epochs": 4, "steps_per_epoch": 20, "batch_size": 32, "learning_rate": 3e-3, "weight_decay": 0.0}
    if dataset == "pixel_mnist":
        data = DataConfig(dataset, root, permuted=permuted)
    else:
        data = DataConfig(dataset, root, length=length)
    return Config(
        data=data,
        model=model,
        training=TrainingConfig(**(default | training)),
        run=RunConfig(runs=runs, **(run or {})),
    )


def train_sequence_run(config: Config) -> Run:
    """Train the one run of a task without video, or resume it; no evaluation."""
    task = Tasks(CPU).open(config)
    ((run, config),) = plan_runs(config, task)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, resume=True))
    objective = open_objective(task, run, config)
    run.begin(config, None, objective.split)
    fit(run, config, objective, CPU)
    return run


def copy_run(run: Path, copy: Path, recipe: Mapping[str, object] | None = None, **settings: object) -> Path:
    """Copy a run's folder as if it had been trained with other settings, and on features of another recipe."""
    shutil.copytree(run, copy)
    config = (copy / "config.yaml").read_text()
    for name, value in settings.items():
        config, found = re.subn(rf"^{name}: .*$", f"{name}: {value}", config, flags=re.MULTILINE)
        assert found == 1, name
    (copy / "config.yaml").write_text(config[: config.rstrip().rindex("\n") + 1])  # without the checksum
    values = json.loads((copy / "recipe.json").read_text()) | (recipe or {})
    del values["crc32"]
    (copy / "recipe.json").write_text(json.dumps(values))
    return copy


def weights(run: Run, name: str = "last") -> dict[str, Tensor]:
    """The model's weights in the checkpoint ``last`` or ``best``."""
    checkpoint = run.load_checkpoint(name)
    assert checkpoint is not None
    return dict(checkpoint["model"])


def curves(run: Run) -> list[dict[str, float]]:
    """``metrics.jsonl`` without the durations."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.history()]


def unequal_weights(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of the weights that are not bit-equal in both."""
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def assert_same_run(first: Run, second: Run) -> None:
    """Check that both checkpoints and the curves are bit-equal."""
    for name in ("last", "best"):
        assert unequal_weights(weights(first, name), weights(second, name)) == [], name
    assert curves(first) == curves(second)


class Killed(BaseException):
    """Simulates a kill: no ``except`` clause of the project catches it."""


@contextmanager
def killed_at_step(step: int) -> Iterator[None]:
    """Kill the training in this context at the scheduler's ``step``-th step. The first is its constructor's."""
    original, count = LambdaLR.step, 0

    def counting_step(self: LambdaLR) -> None:
        nonlocal count
        count += 1
        if count == step:
            raise Killed
        original(self)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Killed):
        patched.setattr(LambdaLR, "step", counting_step)
        yield
