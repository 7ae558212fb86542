"""From a config to evaluated runs, on features that are already there."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.records import DatasetError, Split, VideoDataset, VideoRecord
from models.config import ModelConfig
from pipeline.cache.packed import PackedFeatures
from pipeline.experiment import evaluate_run, plan_runs
from pipeline.objectives.videos import VideoTask
from pipeline.settings.config import Config, ConfigError, RunConfig, TrainingConfig
from pipeline.training.batches import FeatureTable
from pipeline.training.loop import fit
from pipeline.training.run import Run
from tests.helpers import commands
from tests.helpers.synthetic import RECIPE, make_features, make_task, rising_and_falling

CPU = torch.device("cpu")


def make_moves(name: str = "moves") -> VideoTask:
    """Two classes, told apart by order alone; splits "1" and "2" have 24 training, 12 validation and 12 test videos."""
    table = rising_and_falling(60, seed=0)
    videos = table.records
    features = {record.video_id: [make_features(table.video(number))] for number, record in enumerate(videos)}
    splits = {
        "1": Split("1", videos[:24], videos[24:36], videos[36:48]),
        "2": Split("2", videos[:24], videos[24:36], videos[48:]),
    }
    dataset = VideoDataset(name, name, ("rise", "fall"), videos, splits)
    return make_task(dataset, PackedFeatures.in_memory(features))


def make_config(runs: Path, **run: object) -> Config:
    return Config(
        model=ModelConfig(hidden_size=12, input_scale="sqrt_hidden"),
        training=TrainingConfig(epochs=4, batch_size=8, learning_rate=3e-3),
        run=RunConfig(**{"runs": runs, "strips": 0, **run}),  # type: ignore[arg-type]
    )


def train_one(folder: Path, task: VideoTask) -> tuple[Run, dict[str, object]]:
    """Train and evaluate the run of split 1 and seed 0."""
    ((run, config),) = plan_runs(make_config(folder), task)
    run.begin(config, RECIPE)
    objective = task.objective(config)
    fit(run, config, objective, CPU)
    return run, evaluate_run(run, config, objective, CPU).metrics


def same_checkpoints(first: Run, second: Run) -> bool:
    pairs = [(first.load_checkpoint(name), second.load_checkpoint(name)) for name in ("last", "best")]
    return all(a and b and all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"]) for a, b in pairs)


def with_features(task: VideoTask, records: tuple[VideoRecord, ...], value: float) -> VideoTask:
    """The same features, except that those of ``records`` are all ``value``."""
    changed = {record.video_id for record in records}
    table = FeatureTable(task.dataset.videos, task.features)
    values = {
        record.video_id: [make_features(np.full((3, 4), value) if record.video_id in changed else table.video(number))]
        for number, record in enumerate(table.records)
    }
    return make_task(task.dataset, PackedFeatures.in_memory(values))


def without_features(task: VideoTask, video_ids: set[str]) -> VideoTask:
    """The same task after these videos have failed."""
    videos = {video_id: video for video_id, video in task.features.videos.items() if video_id not in video_ids}
    return make_task(task.dataset, dataclasses.replace(task.features, videos=videos))


def test_test_videos_never_influence_training(tmp_path: Path) -> None:
    """With wholly different test videos every weight, statistic and curve is bit-equal; only answers differ."""
    task = make_moves()
    run, _ = train_one(tmp_path / "a", task)
    test = task.dataset.splits["1"].test
    other_run, _ = train_one(tmp_path / "b", with_features(task, test, value=1000.0))
    assert same_checkpoints(run, other_run)
    curves = [[{**line, "seconds": 0} for line in each.history()] for each in (run, other_run)]
    assert curves[0] == curves[1]
    predictions = [(each.evaluation / "predictions.csv").read_text() for each in (run, other_run)]
    assert predictions[0] != predictions[1]


def test_training_videos_do_influence_training(tmp_path: Path) -> None:
    """The comparison above can fail: one other training video gives other weights."""
    task = make_moves()
    run, _ = train_one(tmp_path / "a", task)
    other_run, _ = train_one(tmp_path / "b", with_features(task, task.dataset.splits["1"].train[:1], 1000.0))
    assert not same_checkpoints(run, other_run)


def test_metrics_json_has_the_keys_of_the_contract(tmp_path: Path) -> None:
    """What other programs read from metrics.json is there, and says which run it was."""
    run, metrics = train_one(tmp_path, make_moves())
    written = json.loads((run.evaluation / "metrics.json").read_text())
    assert written == json.loads(json.dumps(metrics, default=str))
    scores = {"clip_top1", "clip_top5", "video_top1", "video_top5", "mean_class_accuracy"}
    assert all(0 <= written[name] <= 1 for name in scores)
    assert written["intervals"].keys() == scores
    expected = {"num_clips": 12, "num_videos": 12, "num_classes": 2, "split": "1", "seed": 0}
    expected |= {"dataset": "moves", "model": "np_rnn", "run": run.name, "fingerprint": RECIPE.fingerprint}
    assert {key: written[key] for key in expected} == expected


def test_a_missing_test_video_is_a_wrong_answer_and_a_missing_training_video_is_left_out(tmp_path: Path) -> None:
    """Videos without features shrink the training set, never the list that is scored."""
    task = make_moves()
    split = task.dataset.splits["1"]
    lost = {split.test[0].video_id, split.test[5].video_id, split.train[3].video_id}
    _, metrics = train_one(tmp_path, without_features(task, lost))
    assert (metrics["num_videos"], metrics["num_missing"], metrics["num_clips"]) == (12, 2, 10)
    assert float(str(metrics["video_top1"])) <= 10 / 12


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_list_without_any_features_is_an_error(tmp_path: Path, part: str) -> None:
    """Nothing to train on, or nothing to score, is said; it is no score of 0 or NaN."""
    task = make_moves()
    lost = {record.video_id for record in getattr(task.dataset.splits["1"], part)}
    with pytest.raises(DatasetError, match=f"split 1 of moves has no {part}"):
        train_one(tmp_path, without_features(task, lost))


def test_a_run_is_not_evaluated_on_other_classes(tmp_path: Path) -> None:
    """A class folder renamed or added since training would shift every label: refused, with both lists."""
    task = make_moves()
    run, _ = train_one(tmp_path, task)
    renamed = dataclasses.replace(task.dataset, classes=("fall", "rise"))
    with pytest.raises(DatasetError, match=r"trained on 2 classes \(rise, fall .*now has 2 \(fall, rise"):
        evaluate_run(run, run.config(), make_task(renamed, task.features).objective(run.config()), CPU)


def test_one_run_for_each_split_and_seed(tmp_path: Path) -> None:
    """--splits 1 2 --seeds 0 1 makes four runs of their own name, split and seed, each a folder of its own."""
    runs = plan_runs(make_config(tmp_path, splits=("1", "2"), seeds=(0, 1)), make_moves())
    assert [(run.name, config.run.splits, config.run.seeds) for run, config in runs] == [
        ("np_rnn-split_1-seed_0", ("1",), (0,)),
        ("np_rnn-split_1-seed_1", ("1",), (1,)),
        ("np_rnn-split_2-seed_0", ("2",), (0,)),
        ("np_rnn-split_2-seed_1", ("2",), (1,)),
    ]
    assert {run.folder.parent for run, _ in runs} == {tmp_path / "moves"}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"name": "mine"},
        {"name": "mine", "splits": ("1", "2")},
        {"seeds": (0, 3)},
        {"splits": ("2",), "seeds": (1,)},
    ],
)
def test_a_run_s_own_settings_lead_back_to_it(tmp_path: Path, asked: dict[str, object]) -> None:
    """--config RUN/config.yaml --resume goes on with that run and makes no other, however it was begun."""
    task = make_moves()
    for run, config in plan_runs(make_config(tmp_path, **asked), task):
        run.begin(config, RECIPE)
        ((again, same),) = plan_runs(run.config(), task)
        assert again.folder == run.folder
        again.begin(dataclasses.replace(same, run=dataclasses.replace(same.run, resume=True)), RECIPE)


def test_a_split_named_by_a_path_stays_one_folder(tmp_path: Path) -> None:
    """Where each video is its own group, holding out run/a.avi must not make folders inside folders, or outside."""
    task = make_moves()
    split = dataclasses.replace(task.dataset.splits["1"], name="holdout-../../run/a.avi")
    dataset = dataclasses.replace(task.dataset, splits={split.name: split})
    ((run, _),) = plan_runs(make_config(tmp_path), make_task(dataset, task.features))
    assert run.folder.parent == tmp_path / "moves"


def test_an_unknown_split_is_named_with_those_there_are(tmp_path: Path) -> None:
    """--splits 4 says which splits the dataset has."""
    with pytest.raises(DatasetError, match=r"no split '4'\. Splits: 1, 2"):
        plan_runs(make_config(tmp_path, splits=("1", "4")), make_moves())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seeds": (0, 1, 0)}, r"seeds must be all different, not \(0, 1, 0\)"),
        ({"splits": ("1", "1")}, "splits must be all different"),
        ({"seeds": ()}, "seeds must be one or more"),
        ({"seeds": (-1,)}, "seeds must be one or more numbers of at least 0"),
        ({"name": "../b"}, "name must be a folder name"),
        ({"name": ""}, "name must be a folder name"),
        ({"resume": True, "overwrite": True}, "give one of them"),
    ],
)
def test_plans_that_would_collide_or_stray_are_refused(asked: dict[str, object], message: str) -> None:
    """Two runs in one folder, no run at all, and a name that leads elsewhere are errors before any work."""
    with pytest.raises(ConfigError, match=message):
        RunConfig(**asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environment", "trains"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, True),
        ({"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}, False),
    ],
)
def test_a_launcher_does_not_multiply_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], trains: bool
) -> None:
    """RANK and WORLD_SIZE are ignored with one line; of torchrun's processes only the first trains, and none waits."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    small = ("--length", 4, "--epochs", 1, "--steps-per-epoch", 2, "--batch-size", 4, "--hidden-size", 4)
    done = commands.run("train.py", "--dataset", "addition", *small, "--runs", tmp_path, time_limit=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("a classifier trains in one process on one device") == 1
    assert (tmp_path / "addition" / "np_rnn-length_4-seed_0" / "evaluation" / "metrics.json").exists() == trains
