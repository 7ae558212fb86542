"""The training loop: what it minimises, what it keeps, when it stops, and that it can be broken off anywhere."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.classifier import SequenceClassifier
from models.config import ModelConfig
from pipeline.settings.config import Config, RunConfig, TrainingConfig
from pipeline.training.batches import FeatureTable
from pipeline.training.loop import TrainingError, fit, learning_rate_factor, load_best
from pipeline.training.run import Run
from tests.helpers.synthetic import make_table, make_task_of_tables, rising_and_falling

CLASSES = ("rise", "fall")
SMALL = ModelConfig(hidden_size=12, dropout=0.3, readout="last", input_scale="sqrt_hidden")
TRAINING, VALIDATION = rising_and_falling(22, seed=0), rising_and_falling(15, seed=1)


def train_small(
    folder: Path,
    training: FeatureTable = TRAINING,
    validation: FeatureTable | None = VALIDATION,
    model: ModelConfig = SMALL,
    seed: int = 0,
    **settings: Any,
) -> Run:
    """Train, or go on training, the run in ``folder``; by default 6 epochs of batches of 8 videos."""
    run = Run(folder)
    chosen = TrainingConfig(**({"epochs": 6, "batch_size": 8, "learning_rate": 3e-3} | settings))
    config = Config(model=model, training=chosen, run=RunConfig(splits=("1",), seeds=(seed,)))
    task = make_task_of_tables(CLASSES, train=training, validation=validation)
    fit(run, config, task.objective(config), task.device)
    return run


def weights(run: Run, name: str = "last") -> dict[str, Tensor]:
    checkpoint = run.load_checkpoint(name)
    assert checkpoint is not None
    return dict(checkpoint["model"])


def curves(run: Run) -> list[dict[str, float]]:
    """``metrics.jsonl`` without the seconds."""
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.history()]


def assert_same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of 6 epochs that nothing interrupted."""
    return train_small(tmp_path_factory.mktemp("unbroken"))


def first_weights(model: ModelConfig = SMALL, seed: int = 0) -> SequenceClassifier:
    """The classifier as training starts it."""
    torch.manual_seed(seed)
    classifier = SequenceClassifier(model, TRAINING.feature_dim, len(CLASSES))
    classifier.set_feature_statistics(*TRAINING.statistics())
    return classifier


def test_a_recurrent_classifier_learns_order_and_the_frame_average_cannot(tmp_path: Path) -> None:
    """The loop trains: time-reversed classes are told apart by np-RNN on unseen videos, and not by the average."""
    settings = {"training": rising_and_falling(60, seed=2), "validation": rising_and_falling(40, seed=3), "epochs": 12}
    accuracy = {}
    for name in ("np_rnn", "mean"):
        run = train_small(tmp_path / name, model=dataclasses.replace(SMALL, model=name), **settings)
        accuracy[name] = max(line["validation_accuracy"] for line in run.history())
    assert accuracy["np_rnn"] >= 0.95
    assert accuracy["mean"] <= 0.7


def test_the_loss_is_the_cross_entropy_of_logits_and_a_short_batch_weighs_what_it_holds(tmp_path: Path) -> None:
    """The epoch's loss and accuracy are means over videos: 22 videos in batches of 8, 8 and 6, computed by hand."""
    model = ModelConfig(model="mean", dropout=0)
    (line,) = train_small(tmp_path, model=model, epochs=1, learning_rate=1e-30).history()
    classifier = first_weights(model)
    losses, right = [], []
    for video, label in enumerate(TRAINING.labels.tolist()):
        frames = TRAINING.video(video).float()
        standardised = (frames - classifier.feature_mean) * classifier.feature_scale
        logits = (standardised.mean(0) @ classifier.classifier.weight.T).tolist()
        losses.append(math.log(sum(map(math.exp, logits))) - logits[label])
        right.append(logits.index(max(logits)) == label)
    assert line["train_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert line["train_accuracy"] == np.mean(right)


def test_every_epoch_draws_its_own_clips(tmp_path: Path) -> None:
    """With weights that stay as they are the loss still differs from epoch to epoch: each sees other clips."""
    model = ModelConfig(model="mean", dropout=0)
    run = train_small(tmp_path, model=model, validation=None, epochs=4, clip_frames=2, learning_rate=1e-30)
    assert len({line["train_loss"] for line in run.history()}) == 4


def test_statistics_come_from_training_frames_and_live_in_the_checkpoint(unbroken: Run) -> None:
    """Standardisation knows nothing of validation videos, and the best checkpoint alone holds it."""
    mean, std = TRAINING.statistics()
    assert torch.equal(weights(unbroken, "best")["feature_mean"], mean)
    torch.testing.assert_close(weights(unbroken, "best")["feature_scale"], 1 / std)


def test_validation_videos_choose_the_epoch_and_nothing_else(tmp_path: Path, unbroken: Run) -> None:
    """Other validation features leave every weight of every epoch bit-equal; only which epoch is best may change."""
    other = train_small(tmp_path, validation=make_table([[[9.0, -9, 9, -9]] * 3] * 5, [0, 1, 1, 0, 1]))
    assert_same_weights(weights(other), weights(unbroken))
    losses = [[line["train_loss"] for line in run.history()] for run in (other, unbroken)]
    assert losses[0] == losses[1]


def test_the_best_epoch_has_the_highest_validation_accuracy_then_the_lowest_loss(unbroken: Run) -> None:
    """``best.pt`` is chosen by validation, holds that epoch's weights, and is what is loaded for use."""
    history = unbroken.history()
    expected = min(history, key=lambda line: (-line["validation_accuracy"], line["validation_loss"]))
    best, last = unbroken.load_checkpoint("best"), unbroken.load_checkpoint("last")
    assert best is not None and last is not None
    assert best["epoch"] == last["best"]["epoch"] == expected["epoch"]
    model, classes = load_best(unbroken, Config(model=SMALL))
    assert classes == CLASSES
    assert not model.training
    assert_same_weights(model.state_dict(), weights(unbroken, "best"))


def test_the_best_epoch_can_be_an_early_one(tmp_path: Path) -> None:
    """Where validation gets worse, the best checkpoint stays behind: it is not simply the last."""
    swapped = make_table(
        [VALIDATION.video(number).numpy() for number in range(len(VALIDATION))],
        (1 - VALIDATION.labels).tolist(),
    )
    run = train_small(tmp_path, validation=swapped, epochs=12, learning_rate=1e-2)
    best = run.load_checkpoint("best")
    assert best is not None
    assert best["epoch"] < 6
    assert len(run.history()) == 12


def test_without_validation_the_last_epoch_counts(tmp_path: Path, unbroken: Run) -> None:
    """No validation videos: no early stop, no choice, the same training, and the last epoch's weights are the best."""
    run = train_small(tmp_path, validation=None, patience=1)
    assert_same_weights(weights(run, "best"), weights(run, "last"))
    assert_same_weights(weights(run), weights(unbroken))
    assert "validation_accuracy" not in run.history()[-1]


def test_training_stops_once_patience_is_spent(tmp_path: Path) -> None:
    """With nothing to learn from, exactly ``patience`` epochs follow the best; resuming then adds none."""
    nothing = make_table([[[1.0, 1, 1, 1]] * 4] * 8, [0, 1] * 4)
    settings = {"training": nothing, "validation": nothing, "epochs": 50, "patience": 3, "learning_rate": 1e-30}
    run = train_small(tmp_path, **settings)
    best = run.load_checkpoint("best")
    assert best is not None
    assert len(run.history()) == best["epoch"] + 1 + 3
    before = curves(run)
    assert curves(train_small(tmp_path, **settings)) == before


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


# Each epoch writes best.pt (if better), metrics.jsonl, last.pt. A number counts these writes.
@pytest.mark.parametrize("writes_before", [0, 1, 2, 3, 5, 8, 11, 13])
@pytest.mark.parametrize("is_torn", [False, True], ids=["before the write", "in the middle of it"])
def test_a_run_broken_off_anywhere_ends_as_the_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Run, writes_before: int, is_torn: bool
) -> None:
    """Broken off before or while any file is written and resumed: the same weights bit for bit, the same curves."""
    import data.atomic
    import pipeline.training.run

    remaining = writes_before

    def breaking_write(path: Path, write: Any) -> None:
        nonlocal remaining
        if remaining == 0:
            if is_torn:
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path.with_name(f".{path.name}.tmp"))
                torn = path.with_name(f".{path.name}.tmp").read_bytes()
                path.with_name(f".{path.name}.tmp").write_bytes(torn[: len(torn) // 2])
            raise Killed
        remaining -= 1
        data.atomic.write_atomically(path, write)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.training.run, "write_atomically", breaking_write)
        patched.setattr(
            pipeline.training.run,
            "write_text_atomically",
            lambda path, text: breaking_write(path, lambda temporary: temporary.write_text(text)),
        )
        with pytest.raises(Killed):
            train_small(tmp_path)
    torch.manual_seed(123)  # a new process knows nothing of the old one's random numbers
    resumed = train_small(tmp_path)
    assert curves(resumed) == curves(unbroken)
    for name in ("last", "best"):
        assert_same_weights(weights(resumed, name), weights(unbroken, name))
        assert {**(resumed.load_checkpoint(name) or {}), "model": 0, "optimizer": 0} == {
            **(unbroken.load_checkpoint(name) or {}),
            "model": 0,
            "optimizer": 0,
        }


def test_broken_off_in_the_middle_of_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Run) -> None:
    """An epoch that did not come to its end is done again from its beginning, batches and dropout included."""
    steps = 0

    def breaking_step(self: torch.optim.lr_scheduler.LambdaLR) -> None:
        nonlocal steps
        steps += 1
        if steps == 12:  # the third of three steps of the fourth epoch, and one for the schedule's own first
            raise Killed
        original(self)

    original = torch.optim.lr_scheduler.LambdaLR.step
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.lr_scheduler.LambdaLR, "step", breaking_step)
        with pytest.raises(Killed):
            train_small(tmp_path)
    assert 0 < len(Run(tmp_path).history()) < 6
    resumed = train_small(tmp_path)
    assert curves(resumed) == curves(unbroken)
    assert_same_weights(weights(resumed), weights(unbroken))


def test_a_seed_is_the_run(tmp_path: Path, unbroken: Run) -> None:
    """The same seed gives the same weights and curves, another one others."""
    assert_same_weights(weights(train_small(tmp_path / "same")), weights(unbroken))
    other = train_small(tmp_path / "other", seed=1)
    assert not torch.equal(weights(other)["classifier.weight"], weights(unbroken)["classifier.weight"])


def test_a_loss_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    """A run that diverges says so, what to change, and keeps no poisoned weights."""
    with pytest.raises(TrainingError, match=r"in epoch \d+ the loss is (nan|inf).*--overwrite.*--learning-rate"):
        train_small(tmp_path, validation=None, learning_rate=1e30, weight_decay=0.0)
    run = Run(tmp_path)
    if (tmp_path / "checkpoints" / "last.pt").exists():
        assert all(tensor.isfinite().all() for tensor in weights(run).values())


def test_a_gradient_that_is_not_finite_reaches_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite loss with a gradient of NaN stops the run before the step that would make every weight NaN."""
    original = nn.functional.cross_entropy

    def with_broken_gradient(scores: Tensor, *arguments: Any, **options: Any) -> Tensor:
        scores.register_hook(lambda gradient: gradient * float("nan"))
        return original(scores, *arguments, **options)

    monkeypatch.setattr(nn.functional, "cross_entropy", with_broken_gradient)
    with pytest.raises(TrainingError, match="its gradient's norm nan"):
        train_small(tmp_path)
    assert Run(tmp_path).load_checkpoint("last") is None


def test_weight_decay_spares_the_recurrent_matrix_and_biases(tmp_path: Path) -> None:
    """Where no gradient flows only decay moves weights: input and output matrices shrink, W_hh stays bit-equal."""
    constant = make_table([[[1.0, 1, 1, 1]] * 4] * 8, [0, 1] * 4)
    settings = {"training": constant, "validation": None, "epochs": 5, "weight_decay": 10.0}
    after = weights(train_small(tmp_path, **settings))
    before = first_weights().state_dict()
    assert torch.equal(after["layers.0.weight_hh_l0"], before["layers.0.weight_hh_l0"])
    for name in ("layers.0.weight_ih_l0", "classifier.weight"):
        assert (after[name].abs() < 0.95 * before[name].abs()).all(), name


def test_the_recurrent_matrix_has_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    """Where it is set next to nothing W_hh stays where it was and the other weights learn as before."""
    before = first_weights().state_dict()
    after = weights(train_small(tmp_path, recurrent_learning_rate=1e-12, weight_decay=0.0, epochs=1))
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert moved["layers.0.weight_hh_l0"] < 1e-9
    assert moved["layers.0.weight_ih_l0"] > 1e-5 and moved["classifier.weight"] > 1e-5


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    """With the norm clipped to nearly nothing no weight moves, though the same run without moves them all."""
    before = first_weights().state_dict()
    for clip_gradient, moves in ((1e-14, False), (1.0, True)):
        run = train_small(tmp_path / str(moves), clip_gradient=clip_gradient, weight_decay=0.0, epochs=1)
        moved = (weights(run)["classifier.weight"] - before["classifier.weight"]).abs()
        assert (moved > 1e-5).all() == moves


def test_label_smoothing_reaches_the_loss(tmp_path: Path, unbroken: Run) -> None:
    """Smoothed targets can't be met: the loss stays above their entropy."""
    run = train_small(tmp_path, label_smoothing=0.5, epochs=6)
    assert run.history()[-1]["train_loss"] > -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert run.history()[-1]["train_loss"] != unbroken.history()[-1]["train_loss"]


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("cosine", [0.2, 0.4, 1.0, 1.0, 0.5, 0.0]), ("constant", [0.2, 0.4, 1.0, 1.0, 1.0, 1.0])],
)
def test_the_learning_rate_warms_up_and_fades(schedule: str, factors: list[float]) -> None:
    """Linear over the first 5 % of 100 steps, then half a cosine to zero, or constant."""
    steps = (0, 1, 4, 5, 52.5, 100)
    assert [learning_rate_factor(step, 100, schedule) for step in steps] == pytest.approx(factors)  # type: ignore[arg-type]


def test_a_run_of_one_step_has_a_learning_rate() -> None:
    """The shortest run is not spent in warming up from zero."""
    assert learning_rate_factor(0, 1, "cosine") == 1


def test_mixed_precision_is_never_used_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 on a CPU can be five times slower, and results would depend on the kind of CPU."""
    seen = []
    original = nn.functional.cross_entropy

    def watched(scores: Tensor, *arguments: Any, **options: Any) -> Tensor:
        seen.append((scores.dtype, torch.is_autocast_enabled("cpu")))
        return original(scores, *arguments, **options)

    monkeypatch.setattr(nn.functional, "cross_entropy", watched)
    train_small(tmp_path, amp=True, epochs=1)
    assert set(seen) == {(torch.float32, False)}


def test_curves_are_written_for_tensorboard_too(unbroken: Run) -> None:
    """The run folder holds the event file that TensorBoard reads."""
    assert [path.name for path in unbroken.tensorboard.iterdir() if path.name.startswith("events.out.tfevents")]


def test_a_checkpoint_of_another_shape_is_refused(unbroken: Run) -> None:
    """config.yaml and checkpoint that do not belong together are an error that names both, not a traceback."""
    with pytest.raises(TrainingError, match=r"best\.pt does not contain the classifier .*config\.yaml"):
        load_best(unbroken, Config(model=dataclasses.replace(SMALL, hidden_size=13)))
    with pytest.raises(TrainingError, match="has no checkpoint yet"):
        load_best(Run(unbroken.folder / "nothing"), Config())
