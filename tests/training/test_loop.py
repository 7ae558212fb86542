"""The training loop: what it minimizes, which weights it keeps, when it stops, and that it can be killed anywhere."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.classifier import SequenceClassifier
from models.config import ModelConfig
from pipeline.evaluation.metrics import negative_log_likelihood
from pipeline.evaluation.scoring import predict
from pipeline.settings.config import Config, RunConfig, TrainingConfig
from pipeline.training.batches import FeatureTable
from pipeline.training.clips import ClipSampling
from pipeline.training.loop import (
    TrainingError,
    fit,
    learning_rate_factor,
    load_best,
    new_optimizer,
    overfitting_warning,
)
from pipeline.training.run import Run
from tests.helpers.runs import Killed, assert_same_run, curves, killed_at_step, unequal_weights, weights
from tests.helpers.synthetic import make_table, make_task_of_tables, rising_and_falling

CLASSES = ("rise", "fall")
SMALL = ModelConfig(power_norm=False, hidden_size=12, dropout=0.3, readout="last", input_scale="sqrt_hidden")
TRAINING, VALIDATION = rising_and_falling(22, seed=0), rising_and_falling(15, seed=1)


def train_small(
    folder: Path,
    training: FeatureTable = TRAINING,
    validation: FeatureTable | None = VALIDATION,
    model: ModelConfig = SMALL,
    seed: int = 0,
    **settings: Any,
) -> Run:
    """Train or resume the run in ``folder``; by default 6 epochs with batches of 8 videos."""
    run = Run(folder)
    training_config = TrainingConfig(**({"epochs": 6, "batch_size": 8, "learning_rate": 3e-3} | settings))
    config = Config(model=model, training=training_config, run=RunConfig(splits=("1",), seeds=(seed,)))
    task = make_task_of_tables(CLASSES, train=training, validation=validation)
    fit(run, config, task.objective(config), task.device)
    return run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 6 epochs that was not interrupted."""
    return train_small(tmp_path_factory.mktemp("uninterrupted"))


def initial_classifier(model: ModelConfig = SMALL, seed: int = 0) -> SequenceClassifier:
    """The classifier before training."""
    torch.manual_seed(seed)
    classifier = SequenceClassifier(model, TRAINING.feature_dim, len(CLASSES))
    classifier.set_feature_statistics(*TRAINING.statistics())
    return classifier


def test_only_a_recurrent_classifier_learns_order(tmp_path: Path) -> None:
    """np-RNN learns to distinguish time-reversed classes on new videos; the frame average can't."""
    settings = {"training": rising_and_falling(60, seed=2), "validation": rising_and_falling(40, seed=3), "epochs": 12}
    accuracy = {}
    for name in ("np_rnn", "mean"):
        run = train_small(tmp_path / name, model=dataclasses.replace(SMALL, model=name), **settings)
        accuracy[name] = max(line["validation_accuracy"] for line in run.history())
    assert accuracy["np_rnn"] >= 0.95
    assert accuracy["mean"] <= 0.7


def test_the_loss_of_an_epoch_is_the_mean_cross_entropy_over_videos(tmp_path: Path) -> None:
    """Loss and accuracy of 22 videos in batches of 8, 8 and 6 are those computed by hand, video by video."""
    model = ModelConfig(model="mean", power_norm=False, dropout=0)
    (line,) = train_small(tmp_path, model=model, epochs=1, learning_rate=1e-30).history()
    classifier = initial_classifier(model)
    losses, correct = [], []
    for video, label in enumerate(TRAINING.labels.tolist()):
        frames = TRAINING.video(video).float()
        standardized = (frames - classifier.feature_mean) * classifier.feature_scale
        logits = (standardized.mean(0) @ classifier.classifier.weight.T).tolist()
        losses.append(math.log(sum(map(math.exp, logits))) - logits[label])
        correct.append(logits.index(max(logits)) == label)
    assert line["train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert line["train_accuracy"] == np.mean(correct)


def test_every_epoch_draws_new_clips(tmp_path: Path) -> None:
    """With constant weights the loss still differs between epochs, because each sees other clips."""
    model = ModelConfig(model="mean", power_norm=False, dropout=0)
    run = train_small(tmp_path, model=model, validation=None, epochs=4, clip_frames=2, learning_rate=1e-30)
    assert len({line["train_loss"] for line in run.history()}) == 4


def test_the_checkpoint_has_the_statistics_of_training_frames(uninterrupted: Run) -> None:
    """Standardization ignores validation videos, and is part of the best checkpoint."""
    mean, std, change = TRAINING.statistics()
    assert torch.equal(weights(uninterrupted, "best")["feature_mean"], mean)
    torch.testing.assert_close(weights(uninterrupted, "best")["feature_scale"], 1 / std)
    torch.testing.assert_close(weights(uninterrupted, "best")["change_scale"], 1 / change)


def test_validation_videos_only_select_the_epoch(tmp_path: Path, uninterrupted: Run) -> None:
    """With other validation features all final weights and losses are bit-equal; only the best epoch may change."""
    other = train_small(tmp_path, validation=make_table([[[9.0, -9, 9, -9]] * 3] * 5, [0, 1, 1, 0, 1]))
    assert unequal_weights(weights(other), weights(uninterrupted)) == []
    losses = [[line["train_loss"] for line in run.history()] for run in (other, uninterrupted)]
    assert losses[0] == losses[1]


def test_the_best_epoch_has_the_highest_validation_accuracy_then_the_lowest_loss(uninterrupted: Run) -> None:
    """``best.pt`` has the weights of the best epoch, and ``load_best`` loads it in evaluation mode."""
    history = uninterrupted.history()
    expected = min(history, key=lambda line: (-line["validation_accuracy"], line["validation_loss"]))
    best, last = uninterrupted.load_checkpoint("best"), uninterrupted.load_checkpoint("last")
    assert best is not None and last is not None
    assert best["epoch"] == last["best"]["epoch"] == expected["epoch"]
    model, classes = load_best(uninterrupted, Config(model=SMALL))
    assert classes == CLASSES
    assert not model.training
    assert unequal_weights(model.state_dict(), weights(uninterrupted, "best")) == []


def test_the_best_checkpoint_is_calibrated(uninterrupted: Run) -> None:
    """Only ``best.pt`` has a temperature: it improves the validation likelihood and leaves each clip's best class."""
    best, last = uninterrupted.load_checkpoint("best"), uninterrupted.load_checkpoint("last")
    assert best is not None and last is not None
    assert best["model"]["temperature"] != 1
    assert last["model"]["temperature"] == 1
    model, _ = load_best(uninterrupted, Config(model=SMALL))
    calibrated = predict(model, VALIDATION, ClipSampling(), CLASSES, torch.device("cpu"))["forward"]
    model.temperature.fill_(1.0)
    uncalibrated = predict(model, VALIDATION, ClipSampling(), CLASSES, torch.device("cpu"))["forward"]
    before, after = negative_log_likelihood(uncalibrated), negative_log_likelihood(calibrated)
    assert before is not None and after is not None and after < before
    assert (calibrated.predicted == uncalibrated.predicted).all()


def test_the_best_epoch_can_be_an_early_one(tmp_path: Path) -> None:
    """If validation gets worse, the best checkpoint is not the last one."""
    swapped = make_table(
        [VALIDATION.video(number).numpy() for number in range(len(VALIDATION))],
        (1 - VALIDATION.labels).tolist(),
    )
    run = train_small(tmp_path, validation=swapped, epochs=12, learning_rate=1e-2)
    best = run.load_checkpoint("best")
    assert best is not None
    assert best["epoch"] < 6
    assert len(run.history()) == 12


def test_without_validation_the_last_epoch_is_the_best(tmp_path: Path, uninterrupted: Run) -> None:
    """Without validation videos the training is the same, and patience does not end it."""
    run = train_small(tmp_path, validation=None, patience=1)
    assert unequal_weights(weights(run, "best"), weights(run, "last")) == []
    assert unequal_weights(weights(run), weights(uninterrupted)) == []
    assert "validation_accuracy" not in run.history()[-1]


def test_training_stops_when_patience_runs_out(tmp_path: Path) -> None:
    """If nothing can be learned, exactly ``patience`` epochs follow the best; resuming adds no epoch."""
    nothing = make_table([[[1.0, 1, 1, 1]] * 4] * 8, [0, 1] * 4)
    settings = {"training": nothing, "validation": nothing, "epochs": 50, "patience": 3, "learning_rate": 1e-30}
    run = train_small(tmp_path, **settings)
    best = run.load_checkpoint("best")
    assert best is not None
    assert len(run.history()) == best["epoch"] + 1 + 3
    before = curves(run)
    assert curves(train_small(tmp_path, **settings)) == before


# Each epoch writes best.pt (if it is the best), metrics.jsonl and last.pt.
@pytest.mark.parametrize("writes_before", [0, 1, 2, 3, 5, 8, 11, 13])
@pytest.mark.parametrize("is_partial", [False, True], ids=["before the write", "during the write"])
def test_a_run_killed_at_any_write_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: Run, writes_before: int, is_partial: bool
) -> None:
    """A run that is killed before or during a write and resumed has bit-equal weights and the same curves."""
    import data.atomic
    import pipeline.training.run

    remaining = writes_before

    def killed_write(path: Path, write: Any) -> None:
        nonlocal remaining
        if remaining == 0:
            if is_partial:
                temporary = path.with_name(f".{path.name}.tmp")
                temporary.parent.mkdir(parents=True, exist_ok=True)
                write(temporary)
                temporary.write_bytes(temporary.read_bytes()[: temporary.stat().st_size // 2])
            raise Killed
        remaining -= 1
        data.atomic.write_atomically(path, write)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.training.run, "write_atomically", killed_write)
        with pytest.raises(Killed):
            train_small(tmp_path)
    torch.manual_seed(123)  # a new process does not have the old one's random state
    resumed = train_small(tmp_path)
    assert_same_run(resumed, uninterrupted)
    for name in ("last", "best"):
        assert {**(resumed.load_checkpoint(name) or {}), "model": 0, "optimizer": 0} == {
            **(uninterrupted.load_checkpoint(name) or {}),
            "model": 0,
            "optimizer": 0,
        }


def test_a_run_killed_within_an_epoch_equals_an_uninterrupted_one(tmp_path: Path, uninterrupted: Run) -> None:
    """An unfinished epoch is repeated from its beginning, with the same batches and dropout."""
    with killed_at_step(12):  # in the fourth epoch, which has three steps
        train_small(tmp_path)
    assert 0 < len(Run(tmp_path).history()) < 6
    resumed = train_small(tmp_path)
    assert_same_run(resumed, uninterrupted)


def test_the_seed_determines_the_run(tmp_path: Path, uninterrupted: Run) -> None:
    """The same seed gives the same weights, another seed gives others."""
    assert unequal_weights(weights(train_small(tmp_path / "same")), weights(uninterrupted)) == []
    other = train_small(tmp_path / "other", seed=1)
    assert not torch.equal(weights(other)["classifier.weight"], weights(uninterrupted)["classifier.weight"])


def test_a_loss_that_is_not_finite_ends_training(tmp_path: Path) -> None:
    """The error says what to change, and no checkpoint has weights that are not finite."""
    with pytest.raises(TrainingError, match=r"in epoch \d+ the loss is (nan|inf).*--overwrite.*--learning-rate"):
        train_small(tmp_path, validation=None, learning_rate=1e30, weight_decay=0.0)
    run = Run(tmp_path)
    if (tmp_path / "checkpoints" / "last.pt").exists():
        assert all(tensor.isfinite().all() for tensor in weights(run).values())


def test_a_gradient_that_is_not_finite_reaches_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite loss with a gradient of NaN ends training before the step that would make every weight NaN."""
    original = nn.functional.cross_entropy

    def with_broken_gradient(scores: Tensor, *arguments: Any, **options: Any) -> Tensor:
        scores.register_hook(lambda gradient: gradient * float("nan"))
        return original(scores, *arguments, **options)

    monkeypatch.setattr(nn.functional, "cross_entropy", with_broken_gradient)
    with pytest.raises(TrainingError, match="gradient.* nan"):
        train_small(tmp_path)
    assert Run(tmp_path).load_checkpoint("last") is None


def test_weight_decay_skips_the_recurrent_matrix(tmp_path: Path) -> None:
    """Without a gradient only decay changes weights: input and output matrices shrink, W_hh stays bit-equal."""
    constant = make_table([[[1.0, 1, 1, 1]] * 4] * 8, [0, 1] * 4)
    settings = {"training": constant, "validation": None, "epochs": 5, "weight_decay": 10.0}
    after = weights(train_small(tmp_path, **settings))
    before = initial_classifier().state_dict()
    assert torch.equal(after["layers.0.weight_hh_l0"], before["layers.0.weight_hh_l0"])
    for name in ("layers.0.weight_ih_l0", "classifier.weight"):
        assert (after[name].abs() < 0.95 * before[name].abs()).all(), name


def test_the_recurrent_matrix_has_its_own_learning_rate(tmp_path: Path) -> None:
    """If its rate is almost zero, W_hh does not change while the other weights learn."""
    before = initial_classifier().state_dict()
    after = weights(train_small(tmp_path, recurrent_learning_rate=1e-12, weight_decay=0.0, epochs=1))
    change = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert change["layers.0.weight_hh_l0"] < 1e-9
    assert change["layers.0.weight_ih_l0"] > 1e-5 and change["classifier.weight"] > 1e-5


def test_the_rate_of_a_recurrent_layer_falls_with_its_inputs(tmp_path: Path) -> None:
    """Adam's first step moves every weight by its rate: lower in a layer of 4 features and 12 states, if wide."""
    before = initial_classifier().state_dict()
    settings = {"epochs": 1, "batch_size": 22, "weight_decay": 0.0, "learning_rate": 1e-3}
    for base, factor in ((8, 0.5), (16, 1.0), (128, 1.0)):
        after = weights(train_small(tmp_path / str(base), base_fan_in=base, **settings))
        change = {name: float((after[name] - before[name]).abs().max()) for name in before}
        assert change["layers.0.weight_ih_l0"] == pytest.approx(factor * 1e-3, rel=0.01)
        assert change["layers.0.weight_hh_l0"] == pytest.approx(factor * 1e-3, rel=0.01)
        assert change["classifier.weight"] == pytest.approx(1e-3, rel=0.01)
        assert change["layers.0.bias_ih_l0"] == pytest.approx(1e-3, rel=0.01)


def test_the_rate_of_a_layer_of_ours_falls_with_its_inputs() -> None:
    """A matrix has the rate of its own number of inputs; biases have the full rate, and no recurrent weight decays."""
    model = SequenceClassifier(ModelConfig("min_gru", 12, 2), 40, 3)
    optimizer, _ = new_optimizer(model, TrainingConfig(learning_rate=1e-3, base_fan_in=20), 100, num_epochs=1)
    rates = {
        name: (group["initial_lr"], group["weight_decay"] > 0)
        for (name, _), group in zip(model.named_parameters(), optimizer.param_groups, strict=True)
    }
    assert rates["layers.0.weight_ih"] == (0.5e-3, True)
    assert rates["layers.1.weight_ih"] == (1e-3, True)
    assert rates["layers.0.bias_ih"] == (1e-3, False)


def test_a_small_dataset_trains_for_more_epochs() -> None:
    """Unless the number of epochs is given, a training has at least 600 steps."""
    assert TrainingConfig().num_epochs(steps_per_epoch=150) == 60
    assert TrainingConfig().num_epochs(steps_per_epoch=7) == 86
    assert TrainingConfig(epochs=3).num_epochs(steps_per_epoch=7) == 3


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    """Weights do not change with a maximum norm of almost zero, but do with the default."""
    before = initial_classifier().state_dict()
    for clip_gradient, changes in ((1e-14, False), (1.0, True)):
        run = train_small(tmp_path / str(changes), clip_gradient=clip_gradient, weight_decay=0.0, epochs=1)
        change = (weights(run)["classifier.weight"] - before["classifier.weight"]).abs()
        assert (change > 1e-5).all() == changes


def test_label_smoothing_changes_the_loss(tmp_path: Path, uninterrupted: Run) -> None:
    """The loss can't fall below the entropy of smoothed targets."""
    run = train_small(tmp_path, label_smoothing=0.5, epochs=6)
    assert run.history()[-1]["train_loss"] > -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert run.history()[-1]["train_loss"] != uninterrupted.history()[-1]["train_loss"]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("cosine", [0.2, 0.4, 1.0, 1.0, 0.5, 0.0]), ("constant", [0.2, 0.4, 1.0, 1.0, 1.0, 1.0])],
)
def test_the_learning_rate_warms_up_and_decays(schedule: str, factors: list[float]) -> None:
    """The factor is linear over the first 5 % of 100 steps, then half a cosine to zero, or constant."""
    steps = (0, 1, 4, 5, 52.5, 100)
    assert [learning_rate_factor(step, 100, schedule) for step in steps] == pytest.approx(factors)  # type: ignore[arg-type]


def test_a_run_of_one_step_has_a_learning_rate() -> None:
    """The shortest run is not lost to a warm-up from zero."""
    assert learning_rate_factor(0, 1, "cosine") == 1


def test_mixed_precision_is_never_used_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 can be five times slower on a CPU, and results would depend on the CPU model."""
    seen = []
    original = nn.functional.cross_entropy

    def recorded(scores: Tensor, *arguments: Any, **options: Any) -> Tensor:
        seen.append((scores.dtype, torch.is_autocast_enabled("cpu")))
        return original(scores, *arguments, **options)

    monkeypatch.setattr(nn.functional, "cross_entropy", recorded)
    train_small(tmp_path, amp=True, epochs=1)
    assert set(seen) == {(torch.float32, False)}


def test_curves_are_written_for_tensorboard(uninterrupted: Run) -> None:
    """The run folder has an event file for TensorBoard."""
    assert [path.name for path in uninterrupted.tensorboard.iterdir() if path.name.startswith("events.out.tfevents")]


def test_a_checkpoint_that_does_not_match_the_config_is_refused(uninterrupted: Run) -> None:
    """The error names the checkpoint and config.yaml; a run without a checkpoint has another error."""
    with pytest.raises(TrainingError, match=r"best\.pt .*config\.yaml"):
        load_best(uninterrupted, Config(model=dataclasses.replace(SMALL, hidden_size=13)))
    with pytest.raises(TrainingError, match="no checkpoint"):
        load_best(Run(uninterrupted.folder / "nothing"), Config())


@pytest.mark.parametrize("key", ["model", "optimizer", "schedule", "epoch", "best"])
def test_a_run_is_not_resumed_from_another_checkpoint(tmp_path: Path, key: str) -> None:
    """A checkpoint without some part, or with an empty one, is named; training does not go on from half of it."""
    run = train_small(tmp_path, epochs=1)
    last = run.load_checkpoint("last") or {}
    for content in ({name: value for name, value in last.items() if name != key}, last | {key: {}}):
        run.save_checkpoint("last", content)
        with pytest.raises(TrainingError, match=r"last\.pt does not contain the classifier"):
            train_small(tmp_path)


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "negative epoch": lambda last: last.update(epoch=-5),
    "epoch is no number": lambda last: last.update(epoch=float("nan")),
    "best epoch is a text": lambda last: last["best"].update(epoch="x"),
    "best rank is a text": lambda last: last["best"].update(rank=["x"]),
    "step is a text": lambda last: last["schedule"].update(last_epoch="x"),
    "other shapes": lambda last: last["optimizer"]["state"][0].update(exp_avg=torch.zeros(1)),
    "half a state": lambda last: last["optimizer"]["state"][0].pop("exp_avg"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_run_is_not_resumed_from_strange_values(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Values that would fail in the middle of an epoch, or train something else, are refused before the first step."""
    run = train_small(tmp_path, epochs=1)
    last = run.load_checkpoint("last") or {}
    change(last)
    run.save_checkpoint("last", last)
    with pytest.raises(TrainingError, match=r"last\.pt does not contain the classifier"):
        train_small(tmp_path)


def test_the_settings_of_the_optimizer_are_the_runs_own(tmp_path: Path) -> None:
    """A checkpoint can't bring its own learning rates and schedule."""
    whole, changed = (train_small(tmp_path / name, epochs=1) for name in ("whole", "changed"))
    last = changed.load_checkpoint("last") or {}
    for group in last["optimizer"]["param_groups"]:
        group.update(lr=9.0, initial_lr=9.0, betas=(0.0, 0.0))
    last["schedule"].update(base_lrs=[9.0], step="no method")
    changed.save_checkpoint("last", last)
    assert_same_run(train_small(tmp_path / "whole"), train_small(tmp_path / "changed"))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_temperature_is_refused(tmp_path: Path, temperature: float) -> None:
    """A negative temperature would turn every answer around, and the others are no fault of the features."""
    run = train_small(tmp_path, epochs=1)
    best = run.load_checkpoint("best") or {}
    best["model"]["temperature"] = torch.tensor(temperature)
    run.save_checkpoint("best", best)
    with pytest.raises(TrainingError, match=r"best\.pt does not contain .*the temperature is"):
        load_best(run, Config(model=SMALL))


def test_curves_of_another_run_are_refused(tmp_path: Path) -> None:
    """A run whose metrics.jsonl lacks epochs of its last checkpoint is not resumed with half of its curves."""
    run = train_small(tmp_path, epochs=2)
    run.write_history(run.history()[1:])
    with pytest.raises(TrainingError, match=r"metrics\.jsonl does not have one line for each of the 2 epochs"):
        train_small(tmp_path)


@pytest.mark.parametrize(
    ("train_accuracy", "validation_loss", "warns"),
    [
        ((0.5, 1.0, 0.9), (0.7, 0.4, 0.6), True),
        ((0.5, 0.9, 0.9), (0.7, 0.4, 0.6), False),
        ((0.5, 1.0, 1.0), (0.7, 0.4, 0.44), False),
        ((0.5, 1.0, 1.0), (), False),
    ],
)
def test_overfitting_is_reported(
    train_accuracy: tuple[float, ...], validation_loss: tuple[float, ...], warns: bool
) -> None:
    """The warning needs a training accuracy of 1 and a clear rise of the validation loss, and names both losses."""
    history = [{"epoch": epoch, "train_accuracy": value} for epoch, value in enumerate(train_accuracy)]
    for line, value in zip(history, validation_loss, strict=False):
        line["validation_loss"] = value
    warning = overfitting_warning(history)
    assert (warning is not None) == warns
    if warning is not None:
        assert "from 0.40 (epoch 1) to 0.60 (epoch 2)" in warning and "--weight-decay" in warning
