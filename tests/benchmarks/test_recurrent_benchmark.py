"""The benchmark of training measures real steps and real epochs, next to the matrix products that they need."""

import re

import pytest

from benchmarks.recurrent import Size, compare_classifiers, compare_epochs
from models.config import ModelConfig
from pipeline.settings.config import Config, TrainingConfig


def test_whole_steps_are_compared_with_their_products(capsys: pytest.CaptureFixture[str]) -> None:
    """Every model has a row with a finite ratio, and the parts of a step add up to about the step."""
    compare_classifiers(Size(4, 6, 20, 8), num_videos=15, seconds=0)
    printed = capsys.readouterr().out
    rows = dict(re.findall(r"^(np_rnn|lstm|gru|mean) +[\d.]+ +[\d.]+ +([\d.]+)", printed, re.MULTILINE))
    assert rows.keys() == {"np_rnn", "lstm", "gru", "mean"}
    assert all(float(ratio) > 1 for ratio in rows.values())
    assert re.search(r"batch [\d.]+, forward [\d.]+, update [\d.]+", printed)


def test_epochs_are_compared_with_their_products(capsys: pytest.CaptureFixture[str]) -> None:
    """An epoch trains and validates; its products are those of all its steps and of the validation clips."""
    config = Config(model=ModelConfig(hidden_size=8), training=TrainingConfig(clip_frames=16, batch_size=8))
    compare_epochs(config, num_training=20, num_validation=6, epochs=2)
    ratio = re.search(r"epoch / products: ([\d.]+)", capsys.readouterr().out)
    assert ratio is not None and float(ratio[1]) > 1
