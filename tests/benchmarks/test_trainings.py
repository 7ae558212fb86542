"""Trainings of a benchmark are logged, and a logged result is reused only for the same training."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from benchmarks import trainings as module
from benchmarks.trainings import Training, run_trainings
from data.records import Split
from pipeline.settings.config import Config, FeatureConfig
from tests.helpers.synthetic import make_record

RECORDS = tuple(make_record(f"v{number}", number % 2) for number in range(6))
SPLIT = Split("", RECORDS[:4], (), RECORDS[4:])


@pytest.fixture
def base(tiny_backbone: tuple[str, Path], tmp_path: Path) -> Config:
    name, weights = tiny_backbone
    return Config(features=FeatureConfig(backbone=name, weights=weights, cache=tmp_path / "cache"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the workers by a stub that returns at once; lists the keys of the trainings that it was given."""
    keys: list[str] = []

    class Done:
        def result(self) -> dict[str, Any]:
            return {"right": 1, "videos": 2, "loss": 0.5}

    def stub(work: object, tasks: list[Training], *_: object) -> list[tuple[Training, Done]]:
        keys.extend(task.key for task in tasks)
        return [(task, Done()) for task in tasks]

    monkeypatch.setattr(module, "in_workers", stub)
    return keys


def test_a_result_is_reused_for_the_same_training_only(base: Config, trained: list[str], tmp_path: Path) -> None:
    """Other settings, other training or test videos, or other features under the same key are trained again."""
    log = tmp_path / "results.jsonl"
    first = Training("one", base, SPLIT, 0)
    run_trainings([first], base, 1, log, "test")
    run_trainings([first], base, 1, log, "test")
    assert trained == ["one"]
    other_features = dataclasses.replace(base, features=dataclasses.replace(base.features, sampling="uniform:7"))
    others = [
        (base, first._replace(config=dataclasses.replace(base, training=dataclasses.replace(base.training, epochs=3)))),
        (base, first._replace(split=dataclasses.replace(SPLIT, train=RECORDS[:3]))),
        (base, first._replace(split=dataclasses.replace(SPLIT, test=RECORDS[5:]))),
        (other_features, first),
    ]
    for number, (config, training) in enumerate(others):
        run_trainings([training], config, 1, log, "test")
        assert len(trained) == number + 2
    assert len(run_trainings([first], base, 1, log, "test")) == 1 and len(trained) == len(others) + 1


def test_a_torn_line_costs_one_training(base: Config, trained: list[str], tmp_path: Path) -> None:
    """A log whose last line was cut off is read up to that line, and new results start on a line of their own."""
    log = tmp_path / "results.jsonl"
    both = [Training(key, base, SPLIT, 0) for key in ("one", "two")]
    whole = run_trainings(both, base, 1, log, "test")
    log.write_text(log.read_text()[:-40])
    assert run_trainings(both, base, 1, log, "test") == whole
    assert trained == ["one", "two", "two"]
    assert run_trainings(both, base, 1, log, "test") == whole and len(trained) == 3
