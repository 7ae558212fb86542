"""Training for streams: what counts at a step, and that a run can be trained, chosen and tested that way."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from models.classifier import SequenceClassifier
from models.config import ModelConfig
from pipeline.experiment import evaluate_run, plan_runs
from pipeline.objectives.streams import stepwise_cross_entropy, stream_validation
from pipeline.training.batches import Batch
from pipeline.training.loop import fit, load_best
from pipeline.training.streams import NO_CLASS
from tests.helpers.runs import CPU, SEQUENCE_MODEL, make_config, make_moves
from tests.helpers.synthetic import RECIPE

MODEL = ModelConfig(hidden_size=4, power_norm=False, dropout=0.0)


def made_batch(num_steps: int, labels: list[list[int]]) -> Batch:
    inputs = torch.randn(num_steps, len(labels[0]), 3, generator=torch.Generator().manual_seed(0))
    return Batch(inputs, torch.tensor(labels))


def test_every_step_counts_and_no_class_is_right_in_a_pause() -> None:
    """The loss is the mean over all steps; in a pause it is lowest, log C, where all C classes are equally probable."""
    model, batch = SequenceClassifier(MODEL, 3, 5), made_batch(3, [[2, 0], [NO_CLASS, 0], [1, NO_CLASS]])
    outcome = stepwise_cross_entropy(model, batch)
    logs = model.scores_over_time(batch.inputs)[0].log_softmax(-1)
    expected = [-logs[step, row, label] for step, row, label in ((0, 0, 2), (0, 1, 0), (1, 1, 0), (2, 0, 1))]
    expected += [-logs[step, row].mean() for step, row in ((1, 0), (2, 1))]
    torch.testing.assert_close(outcome.loss, torch.stack(expected).mean())
    num_correct = int((logs.argmax(-1) == batch.targets).sum())
    assert (outcome.size, outcome.num_correct) == (4, num_correct)
    torch.nn.init.zeros_(model.classifier.weight)
    assert stepwise_cross_entropy(model, batch).loss.item() == pytest.approx(math.log(5))


def test_validation_weighs_steps_alike() -> None:
    """The loss does not depend on how the windows are dealt into batches; the accuracy leaves pauses out."""
    model, batch = SequenceClassifier(MODEL, 3, 5), made_batch(2, [[2, 0, 1], [NO_CLASS, 0, NO_CLASS]])
    parts = [Batch(batch.inputs[:, part], batch.targets[:, part]) for part in (slice(0, 1), slice(1, 3))]
    whole, dealt = (stream_validation(model, batches, CPU, "loss") for batches in ([batch], parts))
    assert dealt.metrics == pytest.approx(whole.metrics)
    assert whole.metrics["validation_accuracy"] == stepwise_cross_entropy(model, batch).num_correct / 4
    assert stream_validation(model, parts, CPU, "accuracy").rank == pytest.approx(
        tuple(reversed((dealt.metrics["validation_loss"], -dealt.metrics["validation_accuracy"])))
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SequenceClassifier, list[dict[str, float]], float]:
    """A classifier of rising and falling videos that was trained for streams, its curves, and its test accuracy."""
    task, config = make_moves(), make_config(tmp_path_factory.mktemp("runs"))
    training = dataclasses.replace(
        config.training, epochs=40, clip_frames=12, stream_pause=3, weight_decay=0.0, learning_rate=1e-2
    )
    model = dataclasses.replace(SEQUENCE_MODEL, dropout=0.1)
    ((run, config),) = plan_runs(dataclasses.replace(config, training=training, model=model), task)
    objective = task.objective(config)
    run.begin(config, RECIPE, objective.split)
    fit(run, config, objective, CPU)
    accuracy = evaluate_run(run, objective, CPU).metrics["video_top1"]
    return load_best(run, config)[0], run.history(), accuracy


def test_a_run_is_trained_and_chosen_on_streams_and_tested_on_videos(
    trained: tuple[SequenceClassifier, list[dict[str, float]], float],
) -> None:
    """The validation loss falls, the temperature stays 1, and whole videos are recognised."""
    model, history, accuracy = trained
    losses = [line["validation_loss"] for line in history]
    assert min(losses) < 0.8 * losses[0]
    assert model.temperature == 1
    assert accuracy > 0.8


def test_steps_per_epoch_are_the_batches_of_an_epoch(tmp_path: Path) -> None:
    """The learning rate schedule counts the batches that there are, also if windows are too long for a whole batch."""
    for clip_frames in (12, 2000):
        config = make_config(tmp_path)
        training = dataclasses.replace(config.training, clip_frames=clip_frames, stream_pause=2, batch_size=20)
        ((_, config),) = plan_runs(dataclasses.replace(config, training=training), make_moves())
        objective = make_moves().objective(config)
        assert objective.steps_per_epoch == len(list(objective.batches(0)))
