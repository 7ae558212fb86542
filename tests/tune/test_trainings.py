"""Results are logged, and a logged result is used again only for the same training."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from pebble import ProcessExpired

from data.records import VideoDataset
from pipeline.cache.job import FeatureCache
from pipeline.settings.config import Config, ConfigError, FeatureConfig
from pipeline.store.packed import PackedFeatures
from pipeline.tune import trainings as module
from pipeline.tune.trainings import Trainer, Training, open_trainer
from tests.helpers.runs import make_config
from tests.helpers.synthetic import MemoryCache, make_features, make_record, rising_and_falling

RECORDS = tuple(make_record(f"v{number}", number % 2) for number in range(6))
FOLDS = [RECORDS[:2], RECORDS[2:4], RECORDS[4:]]
FEATURES = {"features": "f", "views": 1}
ONE, TWO = (Training(key, Config(), (0,), 0) for key in ("one", "two"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the workers by a stub that returns at once; lists the keys of the trainings that it was given."""
    keys: list[str] = []

    class Done:
        def __init__(self, training: Training) -> None:
            self.training = training

        def result(self) -> dict[str, Any]:
            scores = {fold: {"correct": [1, 0], "probability": [0.9, 0.2]} for fold in self.training.left_out}
            return {"scores": scores, "seconds": 1.5, "diverged": False}

    def stub(workers: object, work: object, tasks: list[Training]) -> Iterator[tuple[Training, Done]]:
        keys.extend(task.key for task in tasks)
        return iter([(task, Done(task)) for task in tasks])

    monkeypatch.setattr(module, "run_all", stub)
    return keys


def make_trainer(log: Path, folds: Any = FOLDS, features: Any = FEATURES) -> Trainer:
    workers: Any = None
    return Trainer(folds, features, log, workers)


def test_a_result_is_reused_for_the_same_training_only(trained: list[str], tmp_path: Path) -> None:
    """Other settings, another seed, other videos, labels or features under the same key are trained again."""
    log = tmp_path / "results.jsonl"
    make_trainer(log).run([ONE], "test")
    result = make_trainer(log).run([ONE], "test")["one"]
    assert trained == ["one"] and result.seconds == 1.5
    assert result.scores[0].correct.tolist() == [True, False] and result.scores[0].probability.tolist() == [0.9, 0.2]
    longer = dataclasses.replace(ONE.config, training=dataclasses.replace(ONE.config.training, epochs=3))
    relabelled = [tuple(dataclasses.replace(record, label=1) for record in fold) for fold in FOLDS]
    others = [
        (make_trainer(log), ONE._replace(config=longer)),
        (make_trainer(log), ONE._replace(seed=1)),
        (make_trainer(log), ONE._replace(left_out=(0, 1))),
        (make_trainer(log, [*FOLDS[:2], FOLDS[2][:1]]), ONE),
        (make_trainer(log, [FOLDS[0][:1], *FOLDS[1:]]), ONE),
        (make_trainer(log, relabelled), ONE),
        (make_trainer(log, features={"features": "other", "views": 1}), ONE),
        (make_trainer(log, features={"features": "f", "views": 2}), ONE),
    ]
    for number, (trainer, training) in enumerate(others):
        trainer.run([training], "test")
        assert len(trained) == number + 2
    make_trainer(log).run([ONE], "test")
    assert len(trained) == len(others) + 1


def test_a_torn_line_costs_one_training(trained: list[str], tmp_path: Path) -> None:
    """A log whose last line was cut off is read up to that line, and new results start on a line of their own."""
    log = tmp_path / "results.jsonl"
    make_trainer(log).run([ONE, TWO], "test")
    log.write_text(log.read_text()[:-40])
    assert make_trainer(log).run([ONE, TWO], "test").keys() == {"one", "two"}
    assert trained == ["one", "two", "two"]
    make_trainer(log).run([ONE, TWO], "test")
    assert len(trained) == 3


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    """A second process that would append to the same log is refused."""
    cache = FeatureCache(FeatureConfig(backbone="imported:mine", cache=tmp_path / "cache"))
    dataset = VideoDataset("made", "made", ("a", "b"), RECORDS, {})
    with open_trainer(FOLDS, dataset, cache, tmp_path / "results", 1):
        second = open_trainer(FOLDS, dataset, cache, tmp_path / "results", 1)
        with pytest.raises(ConfigError, match="results.*--results"), second:
            pass
    with open_trainer(FOLDS, dataset, cache, tmp_path / "results", 1):
        pass


def test_features_imported_again_are_trained_on_again(tmp_path: Path) -> None:
    """The log tells results of other features that were imported under the same name apart."""
    config = FeatureConfig(backbone="imported:mine", cache=tmp_path / "cache")
    dataset = VideoDataset("made", "made", ("a", "b"), RECORDS, {})
    provenance = []
    for value in (1.0, 1.0, 2.0):
        cache = FeatureCache(config)
        for record in RECORDS:
            cache.store.write("made", record.video_id, make_features([[value, 0.0]]))
        with open_trainer(FOLDS, dataset, cache, tmp_path / "results", 1) as trainer:
            provenance.append(trainer._provenance(ONE))
    assert provenance[0] == provenance[1] != provenance[2]


def test_killed_workers_end_the_command_after_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A training whose process was killed is not logged, and the message says how to finish it."""
    killed, done = Future[dict[str, Any]](), Future[dict[str, Any]]()
    killed.set_exception(ProcessExpired("Abnormal termination", 9))
    done.set_result({"scores": {"0": {"correct": [1, 1], "probability": [1, 1]}}, "seconds": 1, "diverged": False})
    monkeypatch.setattr(module, "run_all", lambda *_: iter([(ONE, killed), (TWO, done)]))
    with pytest.raises(SystemExit, match="1 of 2 trainings.*same command again"):
        make_trainer(tmp_path / "results.jsonl").run([ONE, TWO], "test")
    assert [line["key"] for line in module._read(tmp_path / "results.jsonl")] == ["two"]


def test_videos_without_features_are_wrong_answers() -> None:
    """With --allow-missing such a video is not trained on, and scored as wrong with probability 0."""
    table = rising_and_falling(12, seed=0)
    folds = [table.records[:6], (*table.records[6:], make_record("missing", 1)), (make_record("missing too"),)]
    features = {record.video_id: [make_features(table.video(n))] for n, record in enumerate(table.records)}
    dataset = VideoDataset("made", "made", ("rise", "fall"), table.records, {})
    cache = MemoryCache(PackedFeatures.in_memory(features))
    module._worker.update(folds=folds, dataset=dataset, cache=cache)
    config = make_config(Path())
    scores = module._train_and_score(Training("one", config, (1, 2), 0))["scores"]
    assert len(scores[1]["correct"]) == 7 and scores[1]["correct"][6] == scores[1]["probability"][6] == 0
    assert all(0 < probability <= 1 for probability in scores[1]["probability"][:6])
    assert scores[2] == {"correct": [0], "probability": [0.0]}
