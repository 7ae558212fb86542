"""The trainings of a benchmark: a result is kept, and taken again for the very same training only."""

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
    """The keys of what was trained, in a stand-in for the workers that answers at once."""
    keys: list[str] = []

    class Done:
        def result(self) -> dict[str, Any]:
            return {"right": 1, "videos": 2, "loss": 0.5}

    def at_once(work: object, tasks: list[Training], *_: object) -> list[tuple[Training, Done]]:
        keys.extend(task.key for task in tasks)
        return [(task, Done()) for task in tasks]

    monkeypatch.setattr(module, "in_workers", at_once)
    return keys


def test_a_result_is_taken_for_the_same_training_only(base: Config, trained: list[str], tmp_path: Path) -> None:
    """Other settings, other videos on either side and other features are trained anew under the same name."""
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
    for number, (own_base, training) in enumerate(others):
        run_trainings([training], own_base, 1, log, "test")
        assert len(trained) == number + 2
    assert len(run_trainings([first], base, 1, log, "test")) == 1 and len(trained) == len(others) + 1


def test_a_torn_line_costs_one_training(base: Config, trained: list[str], tmp_path: Path) -> None:
    """A log whose last line a full disk cut off is read up to there, and what follows does not stick to it."""
    log = tmp_path / "results.jsonl"
    both = [Training(key, base, SPLIT, 0) for key in ("one", "two")]
    whole = run_trainings(both, base, 1, log, "test")
    log.write_text(log.read_text()[:-40])
    assert run_trainings(both, base, 1, log, "test") == whole
    assert trained == ["one", "two", "two"]
    assert run_trainings(both, base, 1, log, "test") == whole and len(trained) == 3
