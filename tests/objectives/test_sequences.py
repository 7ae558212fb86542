"""Runs of the tasks without video: what they learn, what they report, and that they can be broken off anywhere."""

import csv
import dataclasses
import json
import math
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.catalog import DataConfig, load_dataset
from data.sequences import PixelMNIST, load_task
from models.classifier import SequenceClassifier
from models.config import ModelConfig
from pipeline.cache.garbage import stores_used_by
from pipeline.cache.store import FeatureStore
from pipeline.experiment import Tasks, evaluate_run, evaluate_runs, plan_runs, run_experiment
from pipeline.features.recipe import imported_recipe
from pipeline.objectives import sequences as module
from pipeline.objectives.sequences import mean_squared_error, predict_digits, steps_to_solve
from pipeline.reports.sequence_table import write_sequence_table
from pipeline.settings.config import Config, ConfigError, EvaluationOverrides, RunConfig, TrainingConfig
from pipeline.training.loop import TrainingError, fit
from pipeline.training.run import Run, RunError, find_runs
from tests.helpers.commands import finish, run, start
from tests.helpers.idx import NAMES, write_small_mnist
from tests.helpers.synthetic import make_features

CPU = torch.device("cpu")
MODEL = ModelConfig(hidden_size=24, readout="last", dropout=0.0, input_scale="sqrt_hidden", identity_weight=1.0)


def make_config(runs: Path, dataset: str = "addition", root: Path | None = None, **settings: Any) -> Config:
    """A small experiment: sequences of 6 steps, 4 epochs of 20 batches of 32."""
    training = {"epochs": 4, "steps_per_epoch": 20, "batch_size": 32, "learning_rate": 3e-3, "weight_decay": 0.0}
    of_data: dict[str, Any] = {"root": root} if dataset == "pixel_mnist" else {"root": root, "length": 6}
    of_data |= {key: settings.pop(key) for key in ("length", "permuted") if key in settings}
    of_run = {key: settings.pop(key) for key in ("seeds", "name", "resume", "overwrite", "splits") if key in settings}
    return Config(
        data=DataConfig(dataset=dataset, **of_data),
        model=settings.pop("model", MODEL),
        training=TrainingConfig(**(training | settings)),
        run=RunConfig(runs=runs, **of_run),
    )


def planned(config: Config) -> list[tuple[Run, Config]]:
    return plan_runs(config, Tasks(CPU).open(config))


def train_one(config: Config) -> Run:
    """Train the one run of ``config``, or resume it, without evaluating it."""
    ((trained, config),) = planned(config)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, resume=not config.run.overwrite))
    trained.begin(config, recipe=None)
    fit(trained, config, Tasks(CPU).open(config).objective(config), CPU)
    return trained


def weights(run: Run, name: str = "last") -> dict[str, Tensor]:
    checkpoint = run.load_checkpoint(name)
    assert checkpoint is not None
    return dict(checkpoint["model"])


def curves(run: Run) -> list[dict[str, float]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.history()]


def same_run(first: Run, second: Run) -> bool:
    same = [
        torch.equal(value, weights(second, name)[key])
        for name in ("last", "best")
        for key, value in weights(first, name).items()
    ]
    return all(same) and curves(first) == curves(second)


@pytest.mark.parametrize("dataset", ["addition", "multiplication"])
def test_a_network_learns_and_reports_it(tmp_path: Path, dataset: str) -> None:
    """A short task is solved; metrics.json says so, with the facts of the run, and agrees with the curves."""
    config = make_config(tmp_path, dataset, epochs=8, steps_per_epoch=100)
    assert run_experiment(config) == 0
    trained = Run(tmp_path / dataset / "np_rnn-length_6-seed_0")
    metrics = json.loads((trained.evaluation / "metrics.json").read_text())
    assert metrics["mse"] < 0.01 and metrics["solved"] is True
    history = trained.history()
    first = next(line["epoch"] for line in history if line["validation_loss"] < 0.01)
    expected = {"run": trained.name, "dataset": dataset, "length": 6, "seed": 0, "model": "np_rnn"}
    expected |= {"steps_to_solve": 100 * (first + 1), "num_epochs": len(history)}
    expected |= {"num_parameters": 24 * 24 + 24 * 2 + 2 * 24 + 24 + 1}
    assert {key: metrics[key] for key in expected} == expected
    assert metrics["chance_mse"] == pytest.approx({"addition": 0.167, "multiplication": 0.049}[dataset], abs=1e-3)
    assert "hidden_size=24" in metrics["settings"]
    assert {"train_loss", "validation_loss", "learning_rate", "seconds", "epoch"} == history[0].keys()


def test_the_error_by_hand() -> None:
    """A model that always answers 1 has the mean squared distance from 1, over all sequences of unequal batches."""
    task = load_task(DataConfig("addition", length=5))
    batches = [task.training_batch(0, step, size) for step, size in enumerate((3, 50, 7))]  # type: ignore[union-attr]
    model = SequenceClassifier(MODEL, 2, 1)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.ones_(model.classifier.bias)
    expected = np.mean((np.concatenate([batch.targets for batch in batches]) - 1) ** 2)
    assert mean_squared_error(model, batches, CPU) == pytest.approx(expected, rel=1e-5)


def test_steps_to_solve_is_the_first_validation_below_a_hundredth() -> None:
    """The first epoch counts, not the last; one that never gets there has no number."""
    history = [{"epoch": epoch, "validation_loss": loss} for epoch, loss in enumerate((0.2, 0.0099, 0.3, 0.001))]
    assert steps_to_solve(history, 500) == 1000
    assert steps_to_solve(history[:1] + history[2:3], 500) is None


def test_training_ends_once_nothing_is_left_to_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three validations in a row below the limit end it, one above in between does not; resuming adds no epoch."""
    losses = iter([1e-4, 1e-4, 0.2, 4e-4, 3e-4, 2e-4])
    monkeypatch.setattr(module, "mean_squared_error", lambda *_: next(losses))
    config = make_config(tmp_path, epochs=30, steps_per_epoch=2)
    trained = train_one(config)
    assert [line["validation_loss"] for line in trained.history()] == [1e-4, 1e-4, 0.2, 4e-4, 3e-4, 2e-4]
    before = curves(trained)
    assert curves(train_one(config)) == before


def test_the_best_epoch_has_the_lowest_validation_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``best.pt`` stays behind where validation gets worse, and patience counts from it."""
    losses = iter([0.3, 0.1, 0.2, 0.15, 0.3, 0.3])
    monkeypatch.setattr(module, "mean_squared_error", lambda *_: next(losses))
    trained = train_one(make_config(tmp_path, epochs=6, steps_per_epoch=2, patience=3))
    checkpoint = trained.load_checkpoint("best")
    assert checkpoint is not None and checkpoint["epoch"] == 1
    assert len(trained.history()) == 1 + 1 + 3


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("dataset", ["addition", "pixel_mnist"])
@pytest.mark.parametrize("step", [7, 50])
def test_a_run_broken_off_ends_as_the_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, step: int
) -> None:
    """Broken off within an epoch, the first or a later one, and resumed: the same weights bit for bit, same curves."""
    root = write_small_mnist(tmp_path / "mnist", num_train=700) if dataset == "pixel_mnist" else None
    model = dataclasses.replace(MODEL, dropout=0.2)
    unbroken = train_one(make_config(tmp_path / "unbroken", dataset, root, model=model))
    config = make_config(tmp_path / "broken", dataset, root, model=model)
    original, steps = torch.optim.lr_scheduler.LambdaLR.step, 0

    def breaking_step(self: torch.optim.lr_scheduler.LambdaLR) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            raise Killed
        original(self)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.lr_scheduler.LambdaLR, "step", breaking_step)
        with pytest.raises(Killed):
            train_one(config)
    torch.manual_seed(123)  # a new process knows nothing of the old one's random numbers
    resumed = train_one(config)
    assert len(resumed.history()) == 4
    assert same_run(resumed, unbroken)


def test_a_seed_is_the_run(tmp_path: Path) -> None:
    """The same seed gives the same run, another one other first weights and other sequences."""
    first = train_one(make_config(tmp_path / "a"))
    assert same_run(train_one(make_config(tmp_path / "b")), first)
    assert not same_run(train_one(make_config(tmp_path / "c", seeds=(1,))), first)


def test_a_run_that_diverges_says_so_and_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite ends training with advice; the checkpoint of the epoch before stays as it was."""
    config = make_config(tmp_path, epochs=3)
    original, calls = torch.nn.functional.mse_loss, 0

    def poisoned(answers: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return original(answers, targets) * (math.nan if calls > 30 else 1)

    monkeypatch.setattr(torch.nn.functional, "mse_loss", poisoned)
    with pytest.raises(TrainingError, match=r"in epoch 1 the loss is nan.*--overwrite.*--learning-rate"):
        train_one(config)
    trained = Run(tmp_path / "addition" / "np_rnn-length_6-seed_0")
    checkpoint = trained.load_checkpoint("last")
    assert checkpoint is not None and checkpoint["epoch"] == 0
    assert all(tensor.isfinite().all() for tensor in weights(trained).values())


def test_a_validation_that_is_not_finite_stops_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer or other sequences may explode where training's did not: no such epoch is ever the best."""
    monkeypatch.setattr(module, "mean_squared_error", lambda *_: math.inf)
    with pytest.raises(TrainingError, match="in epoch 0 the validation gives {'validation_loss': inf}"):
        train_one(make_config(tmp_path))
    assert Run(tmp_path / "addition" / "np_rnn-length_6-seed_0").load_checkpoint("last") is None


def test_pixel_mnist_is_learnt_and_reported(tmp_path: Path) -> None:
    """Digits told by where they are bright: learnt from pixels one at a time, with the report of a classifier."""
    root = write_small_mnist(tmp_path / "mnist", num_train=700)
    config = make_config(tmp_path / "runs", "pixel_mnist", root, epochs=12)
    run_experiment(config)
    trained = Run(tmp_path / "runs" / "pixel_mnist" / "np_rnn-seed_0")
    metrics = json.loads((trained.evaluation / "metrics.json").read_text())
    assert metrics["accuracy"] > 0.9
    assert metrics["accuracy"] == metrics["video_top1"] and metrics["num_videos"] == 40
    assert (metrics["length"], metrics["num_classes"], metrics["permuted"]) == (16, 10, False)
    with (trained.evaluation / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["video_id"] for row in rows] == [f"t10k-{number:05d}" for number in range(40)]
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert right / 40 == metrics["accuracy"]
    assert (trained.evaluation / "confusion.csv").exists() and (trained.evaluation / "report.html").exists()
    assert {"validation_accuracy", "validation_loss", "train_accuracy"} <= trained.history()[0].keys()


def test_permuted_pixels_are_a_run_of_their_own(tmp_path: Path) -> None:
    """--permuted has its own folder, and says in metrics.json by which seed the order was drawn."""
    root = write_small_mnist(tmp_path / "mnist")
    config = make_config(tmp_path / "runs", "pixel_mnist", root, epochs=1, permuted=True)
    run_experiment(config)
    evaluation = tmp_path / "runs" / "pixel_mnist" / "np_rnn-permuted-seed_0" / "evaluation"
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert (metrics["permuted"], metrics["permutation_seed"]) == (True, 0)


def test_test_images_never_influence_training(tmp_path: Path) -> None:
    """With other test images every weight and curve is bit-equal; with other validation images the weights are too."""
    roots = {name: write_small_mnist(tmp_path / name) for name in ("a", "test", "training")}
    test = roots["test"] / NAMES[2]
    test.write_bytes(test.read_bytes()[:16] + bytes(40 * 16))
    training = roots["training"] / NAMES[0]
    training.write_bytes(training.read_bytes()[:16] + bytes(16) + training.read_bytes()[32:])
    trained = {
        name: train_one(make_config(tmp_path / "runs" / name, "pixel_mnist", root)) for name, root in roots.items()
    }
    assert same_run(trained["test"], trained["a"])
    assert not same_run(trained["training"], trained["a"])


def test_digits_are_scored_in_order_and_in_batches_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of the batches changes no probability, and each image has one clip, its own."""
    data = load_task(make_config(tmp_path, "pixel_mnist", write_small_mnist(tmp_path / "mnist")).data)
    assert isinstance(data, PixelMNIST)
    digits = data.validation
    torch.manual_seed(0)
    model = SequenceClassifier(MODEL, 1, 10)
    whole = predict_digits(model, digits, CPU)
    monkeypatch.setattr("data.sequences.EVALUATION_BATCH", 7)
    parts = predict_digits(model, digits, CPU)
    np.testing.assert_allclose(parts.clip_probabilities, whole.clip_probabilities, rtol=1e-5)
    assert whole.video_ids[0] == "train-00220" and whole.clip_videos.tolist() == list(range(20))


def test_one_run_for_each_seed(tmp_path: Path) -> None:
    """Each seed is a folder whose name says model, variant and seed; a name of one's own is kept."""

    def names(**settings: Any) -> list[str]:
        return [run.folder.relative_to(tmp_path).as_posix() for run, _ in planned(make_config(tmp_path, **settings))]

    assert names(seeds=(0, 3)) == ["addition/np_rnn-length_6-seed_0", "addition/np_rnn-length_6-seed_3"]
    assert names(name="mine") == ["addition/mine"]
    assert names(name="mine", seeds=(0, 1)) == ["addition/mine-length_6-seed_0", "addition/mine-length_6-seed_1"]
    root = write_small_mnist(tmp_path / "mnist")
    assert names(dataset="pixel_mnist", root=root) == ["pixel_mnist/np_rnn-seed_0"]
    with pytest.raises(ConfigError, match="addition has one fixed split: leave out --splits 1"):
        names(splits=("1",))


def test_a_run_s_own_settings_lead_back_to_it(tmp_path: Path) -> None:
    """--config RUN/config.yaml goes on with that run; an existing one is refused unasked, another length named."""
    ((trained, own), _) = planned(make_config(tmp_path, seeds=(0, 1)))
    trained.begin(own, recipe=None)
    ((again, same),) = planned(trained.config())
    assert again.folder == trained.folder
    with pytest.raises(RunError, match="exists. Continue it"):
        again.check(same, recipe=None)
    asking = dataclasses.replace(same, run=dataclasses.replace(same.run, resume=True))
    again.check(asking, recipe=None)
    longer = dataclasses.replace(asking, data=dataclasses.replace(same.data, length=7))
    with pytest.raises(RunError, match="length: 6 then, 7 now"):
        again.check(longer, recipe=None)


def test_a_run_without_features_holds_no_store(tmp_path: Path) -> None:
    """Clearing the feature store goes past runs that have no recipe because their task has no video."""
    ((trained, own),) = planned(make_config(tmp_path))
    trained.begin(own, recipe=None)
    assert not (trained.folder / "recipe.json").exists()
    assert stores_used_by([tmp_path]) == set()


def test_the_table_of_several_runs(tmp_path: Path) -> None:
    """One row per run by task, length, model and seed; whether it was solved, and when; the CSV with all digits."""
    row = {"dataset": "addition", "model": "np_rnn", "settings": "", "chance_mse": 1 / 6, "num_parameters": 9}
    rows: list[dict[str, Any]] = [
        {**row, "run": "c", "length": 400, "seed": 0, "mse": 0.16666, "solved": False, "steps_to_solve": None},
        {**row, "run": "b", "length": 100, "seed": 1, "mse": 1 / 300, "solved": True, "steps_to_solve": 1500},
        {**row, "run": "a", "length": 100, "seed": 0, "mse": 0.001, "solved": True, "steps_to_solve": 1000},
    ]
    markdown = write_sequence_table(tmp_path, rows)
    lines = [re.sub(" +", " ", line) for line in markdown.splitlines()]
    assert lines[0] == "| run | dataset | length | model | seed | mse | solved | steps_to_solve |"
    assert lines[3:] == [
        "| b | addition | 100 | np_rnn | 1 | 0.00333 | yes | 1500 |",
        "| c | addition | 400 | np_rnn | 0 | 0.167 | no | |",
    ]
    with (tmp_path / "sequences.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["run"] for line in table] == ["a", "b", "c"] and float(table[1]["mse"]) == 1 / 300
    other = write_sequence_table(tmp_path, [rows[0], {**rows[1], "settings": "learning_rate=0.1"}])
    assert "learning_rate=0.1" in other
    summary = module.Regression.summarize(module.Regression, rows[0])  # type: ignore[arg-type]
    assert "test MSE 0.167 (chance 0.167), validation below 0.01 never" in summary


def test_evaluation_goes_past_a_run_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run without a checkpoint and one whose images are gone are named; the good one gives its numbers again."""
    root = write_small_mnist(tmp_path / "mnist")
    good = train_one(make_config(tmp_path / "runs"))
    metrics = evaluate_run(good, good.config(), Tasks(CPU).open(good.config()).objective(good.config()), CPU).metrics
    digits = train_one(make_config(tmp_path / "runs", "pixel_mnist", root, epochs=1))
    (root / NAMES[2]).unlink()
    ((empty, own),) = planned(make_config(tmp_path / "runs", name="empty"))
    empty.begin(own, recipe=None)
    evaluated = evaluate_runs(find_runs([tmp_path / "runs"]), CPU, EvaluationOverrides(), again=True)
    assert [(one.folder, one.metrics) for one in evaluated] == [(good.evaluation, metrics)]
    told = capsys.readouterr().err
    assert f"failed: {empty.folder}: {empty.folder} has no checkpoint yet" in told
    assert f"failed: {digits.folder}: {root} lacks {NAMES[2]}" in told
    again = evaluate_runs([digits], CPU, EvaluationOverrides(root=write_small_mnist(tmp_path / "moved")))
    assert [each.metrics["num_videos"] for each in again] == [40]


def write_video_features(root: Path, cache: Path) -> None:
    """A dataset of files that no one opens, with features of two classes in the store."""
    for number in range(12):
        path = root / ("run", "walk")[number % 2] / f"{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")  # as many bytes as the features say that they were made from
    dataset, store = load_dataset(DataConfig("folder", root)), FeatureStore(cache, imported_recipe("made_up"))
    for number, video in enumerate(dataset.videos):
        store.write(dataset.store_name, video.video_id, make_features([[video.label, 1.0], [0.5, number / 12]]))


def test_through_the_command_lines(tmp_path: Path) -> None:
    """train.py killed and resumed ends as the unbroken one; several seeds make a table; evaluate.py takes addition,
    digits and video in one call and gives the same numbers again."""
    runs, root, cache = tmp_path / "runs", tmp_path / "videos", tmp_path / "cache"
    small = ["--hidden-size", 12, "--epochs", 15, "--steps-per-epoch", 60, "--batch-size", 20, "--runs"]
    addition = ["train.py", "--dataset", "addition", "--length", 5, *small]
    done = run(*addition, runs, "--seeds", 0, 1)
    assert done.returncode == 0, done.stderr
    assert (runs / "addition" / "sequences.csv").exists() and "| steps_to_solve" in done.stdout

    process = start(*addition, tmp_path / "killed")
    killed = Run(tmp_path / "killed" / "addition" / "np_rnn-length_5-seed_0")
    give_up = time.monotonic() + 120
    while process.poll() is None and not (killed.checkpoints / "last.pt").exists() and time.monotonic() < give_up:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert finish(process).returncode == -signal.SIGKILL
    done = run("train.py", "--config", killed.folder / "config.yaml", "--resume")
    assert done.returncode == 0, done.stderr
    assert same_run(killed, Run(runs / "addition" / killed.name))

    mnist = write_small_mnist(tmp_path / "mnist")
    digits = ["--dataset", "pixel_mnist", "--root", mnist, "--hidden-size", 12, "--epochs", 2, "--runs", runs]
    done = run("train.py", *digits)
    assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr
    write_video_features(root, cache)
    video = ["--dataset", "folder", "--root", root, "--cache", cache, "--backbone", "imported:made_up"]
    done = run("train.py", *video, "--epochs", 2, "--hidden-size", 8, "--runs", runs)
    assert done.returncode == 0, done.stderr

    before = {path: json.loads(path.read_text()) for path in runs.rglob("metrics.json")}
    assert len(before) == 4
    done = run("evaluate.py", runs)
    assert done.returncode == 0, done.stderr
    assert {path: json.loads(path.read_text()) for path in runs.rglob("metrics.json")} == before
    with (runs / "leaderboard.csv").open() as file:
        assert {row["dataset"] for row in csv.DictReader(file)} == {"pixel_mnist", "videos"}
    with (runs / "sequences.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1"]
    done = run("-m", "pipeline.predict", "clip.avi", "--run", killed.folder)
    assert done.returncode == 2 and "was trained on addition, not on video" in done.stderr
