"""The step of every classifier is exported, without a recurrent operator."""

from typing import get_args

import numpy as np
import onnx
import pytest
import torch

from models.classifier import SequenceClassifier
from models.config import ModelConfig, ModelName
from pipeline.export.graphs import step_graph
from pipeline.features.encoders import open_network
from pipeline.recognizer.bundle import answers_over_time
from pipeline.recognizer.head import ClassifierHead, OnnxHead

RECURRENT = {"RNN", "GRU", "LSTM", "Loop", "Scan", "If"}


@pytest.mark.parametrize(
    "config",
    [
        *(ModelConfig(name, hidden_size=8) for name in get_args(ModelName)),
        *(ModelConfig(name, hidden_size=8, num_layers=3) for name in ("np_rnn", "lstm", "gru")),
        *(ModelConfig(name, hidden_size=32, num_layers=2) for name in ("lem", "attentive")),
        ModelConfig(hidden_size=8, readout="last", inputs="frames"),
        ModelConfig(hidden_size=8, readout="mean", skip_connection=False, power_norm=False),
    ],
    ids=lambda config: f"{config.model}-{config.num_layers}-{config.readout}",
)
def test_the_graph_steps_as_the_classifier(config: ModelConfig) -> None:
    """For any number of sequences, the probabilities and every array of the state are the classifier's."""
    model = make_classifier(config)
    content = step_graph(model, {"labels": "[]"})
    assert not RECURRENT & {node.op_type for node in onnx.load_model_from_string(content).graph.node}
    state = model.initial_state(1)
    theirs, ours = ClassifierHead(model), OnnxHead(open_network(content), {n: v.shape[1] for n, v in state.items()})
    one, other = ours.initial_state(3), theirs.initial_state(3)
    for features in np.random.default_rng(0).random((6, 3, 5), dtype=np.float32):
        found, one = ours.step(features, one)
        expected, other = theirs.step(features, other)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], atol=1e-5, err_msg=name)


def make_classifier(config: ModelConfig) -> SequenceClassifier:
    torch.manual_seed(0)
    model = SequenceClassifier(config, feature_dim=5, num_classes=3).eval()
    model.set_feature_statistics(torch.rand(5), torch.rand(5) + 0.5, torch.rand(5) + 0.5)
    if model.skip is not None:
        torch.nn.init.normal_(model.skip.weight)
    return model


@pytest.mark.parametrize("name", ["np_rnn", "gru", "mean"])
def test_a_sequence_does_not_see_its_neighbours(name: ModelName) -> None:
    """A row of zeros is a sequence that begins, whatever the other rows are: streams rely on it."""
    model = make_classifier(ModelConfig(name, hidden_size=8))
    head = OnnxHead(
        open_network(step_graph(model, {})), {key: value.shape[1] for key, value in model.initial_state(1).items()}
    )
    features = np.random.default_rng(0).random((4, 5), dtype=np.float32)
    state = head.initial_state(2)
    _, state = head.step(np.stack([features[0]] * 2), state)
    for value in state.values():
        value[1] = 0
    found, _ = head.step(np.stack([features[1]] * 2), state)
    np.testing.assert_allclose(found[1], answers_over_time(head, features[1:2])[0], atol=1e-6)
    np.testing.assert_allclose(found[0], answers_over_time(head, features[:2])[1], atol=1e-6)
