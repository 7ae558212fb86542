"""An endless sequence is read with constant memory, and recent answers are those of the whole classifier."""

import numpy as np
import pytest
import torch

from models.classifier import SequenceClassifier
from models.config import ModelConfig, ModelName
from pipeline.recognizer.head import ClassifierHead
from pipeline.recognizer.rolling import RollingProbabilities

HORIZON = 6


def make_classifier(name: ModelName, feature_dim: int = 5) -> SequenceClassifier:
    torch.manual_seed(0)
    model = SequenceClassifier(ModelConfig(name, hidden_size=8), feature_dim, num_classes=3).eval()
    model.set_feature_statistics(torch.rand(feature_dim), *torch.rand(2, feature_dim) + 0.5)
    if model.skip is not None:
        torch.nn.init.normal_(model.skip.weight)
    return model


@torch.inference_mode()
@pytest.mark.parametrize("name", ["np_rnn", "lstm", "gru", "mean"])
def test_an_answer_depends_on_the_last_half_to_whole_horizon(name: ModelName) -> None:
    """Answer n is the classifier's for the frames since the older of the two beginnings, for all n."""
    model, features = make_classifier(name), torch.rand(5 * HORIZON, 5)
    rolling = RollingProbabilities(ClassifierHead(model), HORIZON)
    for number in range(1, len(features) + 1):
        half = HORIZON // 2
        first = 0 if number <= HORIZON else (number - 1) // half * half - half
        expected = model.scores_over_time(features[first:number, None])[0][-1, 0].softmax(-1)
        answer = rolling.push(features[number - 1].numpy())
        np.testing.assert_allclose(answer, expected, atol=1e-5)
        assert number <= HORIZON or half < number - first <= HORIZON


@torch.inference_mode()
def test_a_reset_forgets_everything() -> None:
    """After a gap the answers are those of a new stream."""
    rolling, features = RollingProbabilities(ClassifierHead(make_classifier("np_rnn")), HORIZON), np.random.rand(9, 5)
    first = [rolling.push(frame) for frame in features]
    rolling.reset()
    np.testing.assert_array_equal([rolling.push(frame) for frame in features], first)
