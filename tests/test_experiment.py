"""Experiments in process: which runs are planned, what training may see, and what an evaluation reports."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.records import DatasetError, VideoRecord
from pipeline import experiment
from pipeline.experiment import Tasks, evaluate_run, evaluate_runs, plan_runs
from pipeline.objectives.videos import VideoTask
from pipeline.settings.config import Config, ConfigError, EvaluationOverrides
from pipeline.store.packed import PackedFeatures
from pipeline.training.batches import FeatureTable
from pipeline.training.run import Run, RunError, find_runs
from tests.helpers import REPOSITORY
from tests.helpers.idx import NAMES, write_small_mnist
from tests.helpers.runs import (
    CPU,
    assert_same_run,
    make_config,
    make_moves,
    make_sequence_config,
    train_moves,
    train_sequence_run,
    unequal_weights,
    weights,
)
from tests.helpers.synthetic import RECIPE, make_features, make_task


def plan_sequence_runs(config: Config) -> list[tuple[Run, Config]]:
    return plan_runs(config, Tasks(CPU).open(config))


def with_resume(config: Config) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, resume=True))


def replace_features(task: VideoTask, records: tuple[VideoRecord, ...], value: float) -> VideoTask:
    """The same task, except that all features of ``records`` are ``value``."""
    changed = {record.video_id for record in records}
    table = FeatureTable(task.dataset.videos, task.features)
    values = {
        record.video_id: [make_features(np.full((3, 4), value) if record.video_id in changed else table.video(number))]
        for number, record in enumerate(table.records)
    }
    return make_task(task.dataset, PackedFeatures.in_memory(values))


def remove_features(task: VideoTask, video_ids: set[str]) -> VideoTask:
    """The same task, as if these videos had failed."""
    videos = {video_id: video for video_id, video in task.features.videos.items() if video_id not in video_ids}
    return make_task(task.dataset, dataclasses.replace(task.features, videos=videos))


def test_each_split_and_seed_is_a_run(tmp_path: Path) -> None:
    """--splits 1 2 --seeds 0 1 makes four runs, each with its own name, split, seed and folder."""
    runs = plan_runs(make_config(tmp_path, splits=("1", "2"), seeds=(0, 1)), make_moves())
    assert [(run.name, config.run.splits, config.run.seeds) for run, config in runs] == [
        ("np_rnn-split_1-seed_0", ("1",), (0,)),
        ("np_rnn-split_1-seed_1", ("1",), (1,)),
        ("np_rnn-split_2-seed_0", ("2",), (0,)),
        ("np_rnn-split_2-seed_1", ("2",), (1,)),
    ]
    assert {run.folder.parent for run, _ in runs} == {tmp_path / "moves"}


def test_a_run_without_video_is_named_by_model_variant_and_seed(tmp_path: Path) -> None:
    """A chosen name is kept for a single run, and is a prefix for several; --splits is refused."""

    def names(**run: object) -> list[str]:
        planned = plan_sequence_runs(make_sequence_config(tmp_path, run=run))
        return [run.folder.relative_to(tmp_path).as_posix() for run, _ in planned]

    assert names(seeds=(0, 3)) == ["addition/np_rnn-length_6-seed_0", "addition/np_rnn-length_6-seed_3"]
    assert names(name="mine") == ["addition/mine"]
    assert names(name="mine", seeds=(0, 1)) == ["addition/mine-length_6-seed_0", "addition/mine-length_6-seed_1"]
    with pytest.raises(ConfigError, match=r"addition .*--splits 1"):
        names(splits=("1",))
    digits = make_sequence_config(tmp_path, "pixel_mnist", write_small_mnist(tmp_path / "mnist"))
    ((run, _),) = plan_sequence_runs(digits)
    assert run.folder == tmp_path / "pixel_mnist" / "np_rnn-seed_0"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"name": "mine"},
        {"name": "mine", "splits": ("1", "2")},
        {"seeds": (0, 3)},
        {"splits": ("2",), "seeds": (1,)},
    ],
)
def test_a_saved_config_reproduces_its_run(tmp_path: Path, options: dict[str, object]) -> None:
    """--config RUN/config.yaml --resume resumes that run and plans no other, whatever options it was made with."""
    task = make_moves()
    for run, config in plan_runs(make_config(tmp_path, **options), task):
        run.begin(config, RECIPE)
        ((same_run, same_config),) = plan_runs(run.config(), task)
        assert same_run.folder == run.folder
        same_run.begin(with_resume(same_config), RECIPE)


def test_a_saved_config_reproduces_its_run_without_video(tmp_path: Path) -> None:
    """A run of several seeds can be resumed alone; it is not overwritten silently or resumed with other settings."""
    ((run, config), _) = plan_sequence_runs(make_sequence_config(tmp_path, run={"seeds": (0, 1)}))
    run.begin(config, recipe=None)
    ((same_run, same_config),) = plan_sequence_runs(run.config())
    assert same_run.folder == run.folder
    with pytest.raises(RunError, match="exists"):
        same_run.check(same_config)
    resumed = with_resume(same_config)
    same_run.check(resumed)
    longer = dataclasses.replace(resumed, data=dataclasses.replace(same_config.data, length=7))
    with pytest.raises(RunError, match="length: 6 then, 7 now"):
        same_run.check(longer)


def test_resuming_a_run_that_does_not_exist_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--resume with another model, for example, trains a new run: silently, it would look like the old one."""
    config = with_resume(make_sequence_config(tmp_path, epochs=1))
    assert experiment.run_experiment(config) == 0
    assert "nothing to resume in" in capsys.readouterr().err
    assert experiment.run_experiment(config) == 0
    assert "nothing to resume" not in capsys.readouterr().err


def test_a_split_name_with_slashes_stays_one_folder(tmp_path: Path) -> None:
    """A held-out group may be named by a path, like run/a.avi; the run's folder stays below the dataset's."""
    task = make_moves()
    split = dataclasses.replace(task.dataset.splits["1"], name="holdout-../../run/a.avi")
    dataset = dataclasses.replace(task.dataset, splits={split.name: split})
    ((run, _),) = plan_runs(make_config(tmp_path), make_task(dataset, task.features))
    assert run.folder.parent == tmp_path / "moves"


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    """The error names the splits of the dataset."""
    with pytest.raises(DatasetError, match=r"'4'.*1, 2"):
        plan_runs(make_config(tmp_path, splits=("1", "4")), make_moves())


def test_test_videos_never_influence_training(tmp_path: Path) -> None:
    """With completely different test videos all weights, statistics and curves are bit-equal; predictions differ."""
    task = make_moves()
    run, _ = train_moves(tmp_path / "a", task)
    test = task.dataset.splits["1"].test
    other_run, _ = train_moves(tmp_path / "b", replace_features(task, test, 1000.0))
    assert_same_run(run, other_run)
    predictions = [(each.evaluation / "predictions.csv").read_text() for each in (run, other_run)]
    assert predictions[0] != predictions[1]


def test_training_videos_do_influence_training(tmp_path: Path) -> None:
    """The test above can fail: one different training video changes the weights."""
    task = make_moves()
    run, _ = train_moves(tmp_path / "a", task)
    other_run, _ = train_moves(tmp_path / "b", replace_features(task, task.dataset.splits["1"].train[:1], 1000.0))
    assert unequal_weights(weights(run), weights(other_run))


def test_metrics_json_has_the_documented_keys(tmp_path: Path) -> None:
    """metrics.json contains what other programs read from it, and identifies the run."""
    run, metrics = train_moves(tmp_path, make_moves())
    written = json.loads((run.evaluation / "metrics.json").read_text())
    assert written.pop("crc32")
    assert written == json.loads(json.dumps(metrics, default=str))
    scores = {"clip_top1", "clip_top5", "video_top1", "video_top5", "mean_class_accuracy"}
    assert all(0 <= written[name] <= 1 for name in scores)
    assert written["intervals"].keys() == scores
    assert written["order"].keys() == {"reversed", "shuffled"}
    for order in written["order"].values():
        assert order.keys() == {"video_top1", "drop", "interval"}
        assert order["drop"] == pytest.approx(written["video_top1"] - order["video_top1"])
        assert order["interval"][0] <= order["drop"] <= order["interval"][1]
    expected = {"num_clips": 12, "num_videos": 12, "num_classes": 2, "split": "1", "seed": 0}
    expected |= {"dataset": "moves", "model": "np_rnn", "run": run.name, "fingerprint": RECIPE.fingerprint}
    assert {key: written[key] for key in expected} == expected


def test_missing_videos_are_skipped_in_training_and_wrong_in_testing(tmp_path: Path) -> None:
    """Videos without features shrink the training set, never the list of videos that is scored."""
    task = make_moves()
    split = task.dataset.splits["1"]
    missing = {split.test[0].video_id, split.test[5].video_id, split.train[3].video_id}
    _, metrics = train_moves(tmp_path, remove_features(task, missing))
    assert (metrics["num_videos"], metrics["num_missing"], metrics["num_clips"]) == (12, 2, 10)
    assert metrics["video_top1"] <= 10 / 12


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_list_without_any_features_is_an_error(tmp_path: Path, part: str) -> None:
    """With nothing to train on, or nothing to score, there is an error and no score of 0 or NaN."""
    task = make_moves()
    missing = {record.video_id for record in getattr(task.dataset.splits["1"], part)}
    with pytest.raises(DatasetError, match=f"split 1 of moves has no {part}"):
        train_moves(tmp_path, remove_features(task, missing))


def test_a_run_is_not_evaluated_on_other_classes(tmp_path: Path) -> None:
    """A class that was renamed or added since training would shift every label: the error shows both lists."""
    task = make_moves()
    run, _ = train_moves(tmp_path, task)
    renamed = dataclasses.replace(task.dataset, classes=("fall", "rise"))
    with pytest.raises(DatasetError, match=r"trained on .*\(rise, fall.*now .*\(fall, rise"):
        evaluate_run(run, make_task(renamed, task.features).objective(run.config()), CPU)


def test_evaluation_continues_after_a_run_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run without a checkpoint and one whose images are missing are named; the good run gives its metrics again."""
    root = write_small_mnist(tmp_path / "mnist")
    good = train_sequence_run(make_sequence_config(tmp_path / "runs"))
    metrics = evaluate_run(good, Tasks(CPU).open(good.config()).objective(good.config()), CPU).metrics
    digits = train_sequence_run(make_sequence_config(tmp_path / "runs", "pixel_mnist", root, epochs=1))
    (root / NAMES[2]).unlink()
    ((empty, config),) = plan_sequence_runs(make_sequence_config(tmp_path / "runs", run={"name": "empty"}))
    empty.begin(config, recipe=None)
    evaluated = evaluate_runs(find_runs([tmp_path / "runs"]), CPU, EvaluationOverrides(), again=True)
    assert [(one.folder, one.metrics) for one in evaluated] == [(good.evaluation, metrics)]
    stderr = capsys.readouterr().err
    for run, reason in ((empty, "no checkpoint"), (digits, NAMES[2])):
        (line,) = (line for line in stderr.splitlines() if line.startswith(f"failed: {run.folder}: "))
        assert reason in line
    moved = evaluate_runs([digits], CPU, EvaluationOverrides(root=write_small_mnist(tmp_path / "moved")))
    assert [one.metrics["num_videos"] for one in moved] == [40]


def test_a_defect_keeps_its_traceback_and_the_other_runs_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unexpected exception in one evaluation is shown in full, and does not end the evaluation of other runs."""
    config = make_sequence_config(tmp_path, epochs=1)
    good = train_sequence_run(config)
    broken = train_sequence_run(make_sequence_config(tmp_path, epochs=1, run={"name": "broken"}))
    original = experiment.load_best

    def load_best(run: Run, config: Config) -> object:
        return {}["missing"] if run.folder == broken.folder else original(run, config)

    monkeypatch.setattr(experiment, "load_best", load_best)
    evaluated = evaluate_runs([broken, good], CPU, EvaluationOverrides())
    assert [one.folder for one in evaluated] == [good.evaluation]
    stderr = capsys.readouterr().err
    assert f"failed: {broken.folder}" in stderr and "Traceback" in stderr and "KeyError: 'missing'" in stderr


def test_starts_without_what_only_a_report_needs() -> None:
    """A training reaches its first step seconds earlier if these are imported when they are used."""
    modules = ("matplotlib", "scipy", "sklearn", "timm", "torchvision", "onnxruntime")
    code = f"import sys, pipeline.experiment; print([m for m in {modules} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
