"""The classifiers: padding, read-outs, standardisation, dropout, initialisation, and that scores are logits."""

import dataclasses
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from models.classifier import SequenceClassifier
from models.config import Inputs, ModelConfig, ModelConfigError, ModelName, Readout
from models.features import power_normalize
from models.state_networks import STATE_NETWORKS
from tests.helpers import REPOSITORY

MODELS = get_args(ModelName)
READOUTS, INPUTS = get_args(Readout), get_args(Inputs)
FEATURE_DIM, NUM_CLASSES = 5, 3
LENGTHS = torch.tensor([4, 1, 7, 3])

every_classifier = [
    pytest.param(
        ModelConfig(model, 6, layers, readout, inputs=inputs, skip_connection=is_full, power_norm=is_full),
        id=f"{model}-{readout}-{inputs}",
    )
    for model in MODELS
    for readout, layers, inputs, is_full in zip(
        (*READOUTS, "last"),
        (1, 2, 1, 1),
        ("frames", "changes", "changes", "both"),
        (False, True, True, True),
        strict=True,
    )
]


def make_classifier(config: ModelConfig) -> SequenceClassifier:
    """A classifier in evaluation mode whose weights, biases and statistics all differ from their initial values."""
    torch.manual_seed(0)
    model = SequenceClassifier(config, FEATURE_DIM, NUM_CLASSES).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += (0.1 if "weight_hh" in name else 0.3) * torch.randn_like(parameter)
    model.set_feature_statistics(torch.randn(FEATURE_DIM), *torch.rand(2, FEATURE_DIM) + 0.5)
    return model


def padded_batch(padding: float, requires_grad: bool = False) -> Tensor:
    """Features [7, 4, 5] of four sequences of ``LENGTHS``, filled with ``padding`` after each sequence's end."""
    features = torch.randn(7, len(LENGTHS), FEATURE_DIM, generator=torch.Generator().manual_seed(1))
    features[torch.arange(7)[:, None] >= LENGTHS] = padding
    return features.requires_grad_(requires_grad)


@pytest.mark.parametrize("config", every_classifier)
@pytest.mark.parametrize("padding", [0.0, 1e30, float("nan")])
def test_a_sequence_scores_the_same_alone_and_padded(config: ModelConfig, padding: float) -> None:
    """Values after a sequence's end, NaN included, do not change its scores."""
    model, features = make_classifier(config), padded_batch(padding)
    batched = model(features, LENGTHS)
    for column, length in enumerate(LENGTHS):
        alone = model(features[:length, column : column + 1], length.view(1))
        torch.testing.assert_close(batched[column : column + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", every_classifier)
@pytest.mark.parametrize("padding", [1e30, float("nan")])
def test_gradients_ignore_padding(config: ModelConfig, padding: float) -> None:
    """Gradients of a padded batch are the sum of those of its sequences alone, and padding receives none."""
    has_gradient = not config.power_norm  # power normalisation works in place
    model, features = make_classifier(config), padded_batch(padding, requires_grad=has_gradient)
    model(features, LENGTHS).square().sum().backward()
    if has_gradient:
        assert features.grad is not None
        is_padding = torch.arange(7)[:, None] >= LENGTHS
        assert (features.grad[is_padding] == 0).all()
        assert (features.grad[0] != 0).any()
    batched = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    for column, length in enumerate(LENGTHS):
        model(features.detach()[:length, column : column + 1], length.view(1)).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(batched[name], parameter.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("config", every_classifier)
def test_no_lengths_means_full_length(config: ModelConfig) -> None:
    """Without ``lengths``, scores and gradients are the same as with length T for every sequence."""
    model, features = make_classifier(config), padded_batch(0.0)
    scores = model(features)
    scores.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    same = model(features, torch.full((len(LENGTHS),), 7))
    same.square().sum().backward()
    torch.testing.assert_close(scores, same)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


@pytest.mark.parametrize("model_name", MODELS)
def test_every_real_frame_counts(model_name: ModelName) -> None:
    """The first and the last real frame of a padded sequence affect its scores, and no other sequence's."""
    model = make_classifier(ModelConfig(model=model_name, readout="last", hidden_size=6))
    features = padded_batch(0.0)
    before = model(features, LENGTHS)
    for column, length in enumerate(LENGTHS):
        for step in (0, int(length) - 1):
            changed = features.clone()
            changed[step, column] += 1
            moved = (model(changed, LENGTHS) - before).abs().amax(1)
            assert moved[column] > 1e-6
            assert moved.sum() == moved[column]


@pytest.mark.parametrize("model_name", [name for name in MODELS if name != "mean"])
def test_read_outs_by_hand(model_name: ModelName) -> None:
    """``last`` is the state after a sequence's last real frame, ``mean`` the mean over its real frames."""
    features = padded_batch(0.0)
    for readout in READOUTS:
        model = make_classifier(ModelConfig(model=model_name, readout=readout, hidden_size=6, skip_connection=False))
        states = model.states(features)
        last = torch.stack([states[length - 1, column] for column, length in enumerate(LENGTHS)])
        mean = torch.stack([states[:length, column].mean(0) for column, length in enumerate(LENGTHS)])
        read = {"last": last, "mean": mean, "last_and_mean": torch.cat([last, mean], 1)}[readout]
        torch.testing.assert_close(model(features, LENGTHS), model.classifier(read))


@pytest.mark.parametrize("model_name", [name for name in MODELS if name != "mean"])
def test_states_are_causal(model_name: ModelName) -> None:
    """A state depends on no later frame, so a network can run frame by frame on a live stream."""
    model = make_classifier(ModelConfig(model=model_name, num_layers=2, hidden_size=6))
    features = padded_batch(0.0)
    changed = features.clone()
    changed[4:] += 1
    before, after = model.states(features), model.states(changed)
    assert torch.equal(before[:4], after[:4])
    assert not torch.equal(before[4:], after[4:])


def test_only_the_mean_classifier_ignores_order() -> None:
    """The frame average, the baseline of the demo, cannot see the order of frames; every recurrent network can."""
    features, lengths = padded_batch(0.0)[:, 2:3], LENGTHS[2:3]
    backwards = features.flip(0)
    for name in MODELS:
        model = make_classifier(ModelConfig(model=name, hidden_size=6))
        same = torch.allclose(model(features, lengths), model(backwards, lengths), atol=1e-5)
        assert same == (name == "mean"), name


@pytest.mark.parametrize("config", every_classifier)
def test_scores_are_logits(config: ModelConfig) -> None:
    """Scores are the linear layer's output: a softmax before the cross-entropy would flatten the gradient."""
    model, features = make_classifier(config), padded_batch(0.0)
    scores = model(features, LENGTHS)
    with torch.no_grad():
        model.classifier.weight *= 10
        model.classifier.bias *= 10
        if model.skip is not None:
            model.skip.weight *= 10
    torch.testing.assert_close(model(features, LENGTHS), 10 * scores, rtol=1e-4, atol=1e-4)


def test_the_mean_classifier_by_hand() -> None:
    """The frame average is power normalisation, standardisation, mean and linear layer, and nothing else."""
    model, features = make_classifier(ModelConfig(model="mean")), padded_batch(0.0)
    weight, bias = model.classifier.weight.detach().numpy(), model.classifier.bias.detach().numpy()
    mean, scale = model.feature_mean.numpy(), model.feature_scale.numpy()
    for column, length in enumerate(LENGTHS.tolist()):
        frames = features[:length, column].numpy()
        frames = np.sign(frames) * np.sqrt(np.abs(frames))
        frames /= np.linalg.norm(frames, axis=1, keepdims=True)
        expected = weight @ ((frames - mean) * scale).mean(0) + bias
        scores = model(features, LENGTHS)[column].detach().numpy()
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_standardisation_undoes_shift_and_scale() -> None:
    """Features in other units score the same with their own statistics; a constant feature is only centred."""
    model = make_classifier(ModelConfig(model="np_rnn", hidden_size=6, power_norm=False))
    model.set_feature_statistics(torch.zeros(FEATURE_DIM), *torch.ones(2, FEATURE_DIM))
    features = padded_batch(0.0)
    features[..., 0] = 0
    scores = model(features, LENGTHS)
    factor, shift = torch.tensor([1.0, 10, 0.1, 3, 200]), torch.tensor([40.0, -5, 0, 1, 1000])
    std = factor * torch.tensor([0.0, 1, 1, 1, 1])
    model.set_feature_statistics(shift, std, std)
    torch.testing.assert_close(model(features * factor + shift, LENGTHS), scores, rtol=1e-3, atol=1e-3)


def test_state_dict_contains_the_statistics() -> None:
    """The state dict alone gives the same scores, so a checkpoint can be used without the training set."""
    config = ModelConfig(model="gru", hidden_size=6)
    model, features = make_classifier(config), padded_batch(0.0)
    fresh = SequenceClassifier(config, FEATURE_DIM, NUM_CLASSES).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(features, LENGTHS), model(features, LENGTHS))


@pytest.mark.parametrize("config", every_classifier)
def test_the_temperature_divides_scores_in_evaluation_only(config: ModelConfig) -> None:
    """Scores are divided in evaluation mode, whole and over time, which keeps the best class; the training loss is not.

    ``test_sharing_frames_changes_no_answer`` has the same check for ``score_projected``.
    """
    model, features = make_classifier(dataclasses.replace(config, dropout=0.0)), padded_batch(0.0)
    scores, over_time = model(features, LENGTHS), model.scores_over_time(features)[0]
    model.temperature.fill_(2.0)
    torch.testing.assert_close(model(features, LENGTHS), scores / 2)
    torch.testing.assert_close(model.scores_over_time(features)[0], over_time / 2)
    assert torch.equal(model(features, LENGTHS).argmax(1), scores.argmax(1))
    torch.testing.assert_close(model.train()(features, LENGTHS), scores)


def test_a_state_dict_without_temperature_loads_with_one() -> None:
    """Checkpoints from before the temperature still load; their scores are not rescaled."""
    model = make_classifier(ModelConfig(hidden_size=6))
    older = {name: tensor for name, tensor in model.state_dict().items() if name != "temperature"}
    model.temperature.fill_(2.0)
    model.load_state_dict(older)
    assert model.temperature == 1
    assert "temperature" not in older and "temperature" in model.state_dict()


def test_scale_of_a_frame_does_not_matter_after_power_normalisation() -> None:
    """A backbone with larger features gives the same scores."""
    model, features = make_classifier(ModelConfig(hidden_size=6)), 10 + padded_batch(0.0)
    torch.testing.assert_close(model(100 * features, LENGTHS), model(features, LENGTHS), rtol=1e-3, atol=1e-4)


def test_the_skip_connection_adds_the_frame_average() -> None:
    """It starts at zero, and then adds the scores of a frame average with the same weights."""
    torch.manual_seed(0)
    config = ModelConfig(hidden_size=6)
    plain = SequenceClassifier(dataclasses.replace(config, skip_connection=False), FEATURE_DIM, NUM_CLASSES).eval()
    model = SequenceClassifier(config, FEATURE_DIM, NUM_CLASSES).eval()
    average = make_classifier(ModelConfig(model="mean"))
    for other in (plain, model):
        other.set_feature_statistics(average.feature_mean, 1 / average.feature_scale, torch.ones(FEATURE_DIM))
    assert not model.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    assert model.skip is not None
    features = padded_batch(0.0)
    torch.testing.assert_close(model(features, LENGTHS), plain(features, LENGTHS))
    with torch.no_grad():
        model.skip.weight.copy_(average.classifier.weight)
        average.classifier.bias.zero_()
    expected = plain(features, LENGTHS) + average(features, LENGTHS)
    torch.testing.assert_close(model(features, LENGTHS), expected, rtol=1e-4, atol=1e-5)


def test_all_frames_of_a_sequence_share_one_dropout_mask() -> None:
    """Dropout zeroes the same features of a sequence in all its frames: a mask per frame would average out."""
    for kind in INPUTS:
        read: list[Tensor] = []
        model = make_classifier(ModelConfig("gru", 6, inputs=kind, dropout=0.5, power_norm=False)).train()
        model.layers[0].register_forward_pre_hook(lambda _, arguments, read=read: read.append(arguments[0]))
        model(torch.randn(4, 3, FEATURE_DIM))
        dropped = read[0][1:].eq(0)  # the first change is zero anyway
        assert (dropped == dropped[0]).all()
        assert 0 < dropped.double().mean() < 1
        assert (dropped[0, 0] != dropped[0, 2]).any()


@pytest.mark.parametrize("power_norm", [False, True])
def test_the_network_reads_scaled_changes(power_norm: bool) -> None:
    """At first nothing has changed; then it reads each frame minus the one before, in units of the usual change."""
    read: list[Tensor] = []
    model, features = make_classifier(ModelConfig("gru", 6, power_norm=power_norm)), padded_batch(0.0)
    model.layers[0].register_forward_pre_hook(lambda _, arguments: read.append(arguments[0]))
    model(features)
    frames = power_normalize(features) if power_norm else features
    assert (read[0][0] == 0).all()
    torch.testing.assert_close(read[0][1:], (frames[1:] - frames[:-1]) * model.change_scale)


@pytest.mark.parametrize("model_name", MODELS)
def test_dropout_is_off_in_evaluation(model_name: ModelName) -> None:
    """Scores vary in training mode and repeat exactly in evaluation mode."""
    model, features = make_classifier(ModelConfig(model=model_name, dropout=0.5)), padded_batch(0.0)
    assert torch.equal(model(features, LENGTHS), model(features, LENGTHS))
    model.train()
    assert not torch.equal(model(features, LENGTHS), model(features, LENGTHS))


def test_every_name_builds_its_network() -> None:
    """Each model name builds the right kind of network with the right initial weights."""
    assert {*STATE_NETWORKS, "mean"} == set(MODELS)
    torch.manual_seed(0)
    layers = {name: make(FEATURE_DIM, ModelConfig(hidden_size=32)) for name, make in STATE_NETWORKS.items()}
    recurrent = {
        name: layer.weight_hh_l0.detach() for name, layer in layers.items() if isinstance(layer, torch.nn.RNNBase)
    }
    eigenvalues = torch.linalg.eigvalsh(recurrent["np_rnn"])
    assert torch.equal(recurrent["np_rnn"], recurrent["np_rnn"].T)
    assert eigenvalues[-1] == pytest.approx(1, abs=1e-5)
    assert eigenvalues[0] > 0 and eigenvalues[-2] < 1
    torch.manual_seed(0)
    nearly_identity = STATE_NETWORKS["np_rnn"](FEATURE_DIM, ModelConfig(hidden_size=32, identity_weight=1000.0))
    assert torch.linalg.eigvalsh(nearly_identity.get_parameter("weight_hh_l0"))[0] > 0.99
    assert torch.equal(recurrent["irnn"], torch.eye(32))
    assert torch.equal(recurrent["scaled_irnn"], 0.99 * torch.eye(32))
    torch.testing.assert_close(recurrent["orthogonal"] @ recurrent["orthogonal"].T, torch.eye(32))
    spectrum = torch.linalg.eigvalsh(recurrent["nrnn"])
    assert spectrum[-1] == pytest.approx(1, abs=1e-5) and spectrum[0] < 0
    assert {name: layer.nonlinearity for name, layer in layers.items() if isinstance(layer, torch.nn.RNN)} == {
        "np_rnn": "relu",
        "irnn": "relu",
        "scaled_irnn": "relu",
        "nrnn": "relu",
        "orthogonal": "relu",
        "rnn_relu": "relu",
        "rnn_tanh": "tanh",
    }
    assert isinstance(layers["lstm"], torch.nn.LSTM) and isinstance(layers["gru"], torch.nn.GRU)
    assert (layers["lstm"].get_parameter("bias_ih_l0")[32:64] == 1).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "np-rnn"},
        {"hidden_size": 0},
        {"num_layers": 0},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"identity_weight": -1.0},
        {"memory_steps": 0},
        {"memory_steps": 10**30},
        {"memory_units": -1},
        {"memory_units": 256},
        {"memory_units": 8, "model": "gru"},
    ],
)
def test_invalid_settings_raise(settings: dict[str, object]) -> None:
    """An invalid setting is an error that names it, before anything is computed."""
    with pytest.raises(ModelConfigError, match=next(iter(settings))):
        ModelConfig(**settings)  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize("config", every_classifier)
def test_chained_steps_give_the_scores_over_time(config: ModelConfig) -> None:
    """A stream that is read frame by frame gets the scores of the same frames read at once."""
    model, features = make_classifier(config), padded_batch(0.0)
    model.temperature.fill_(1.7)
    state = model.initial_state(len(LENGTHS))
    shapes = {name: value.shape for name, value in state.items()}
    for frames, expected in zip(features, model.scores_over_time(features)[0], strict=True):
        scores, state = model.step(frames, state)
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
        assert {name: value.shape for name, value in state.items()} == shapes


@pytest.mark.parametrize("config", every_classifier)
def test_all_steps_of_a_sequence_share_the_masks_of_dropout(config: ModelConfig) -> None:
    """In training, a step's scores do not depend on how many steps follow: masks of single steps would average out."""
    model, features = make_classifier(dataclasses.replace(config, dropout=0.5)).train(), padded_batch(0.0)
    scores = []
    for num_steps in (len(features), 3):
        torch.manual_seed(0)
        scores.append(model.scores_over_time(features[:num_steps])[0])
    torch.testing.assert_close(scores[0][:3], scores[1])
    assert not torch.allclose(scores[0], model.scores_over_time(features)[0])
    scores[0].sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@torch.inference_mode()
@pytest.mark.parametrize("config", every_classifier)
def test_a_sequence_can_be_read_in_pieces_and_steps(config: ModelConfig) -> None:
    """Pieces and single steps continue each other, because they keep the same state."""
    model, features = make_classifier(config), padded_batch(0.0)
    whole, after = model.scores_over_time(features)
    first, state = model.scores_over_time(features[:3])
    step, state = model.step(features[3], state)
    last, state = model.scores_over_time(features[4:], state)
    torch.testing.assert_close(torch.cat([first, step[None], last]), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, after, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("config", every_classifier)
def test_a_row_of_zeros_is_a_new_sequence(config: ModelConfig) -> None:
    """A sequence whose row of the state is set to zero begins anew, and the other rows go on."""
    model, features = make_classifier(config), padded_batch(0.0)
    state = model.initial_state(len(LENGTHS))
    for frames in features[:3]:
        _, state = model.step(frames, state)
    for value in state.values():
        value[1] = 0
    scores, _ = model.step(features[3], state)
    expected = model.scores_over_time(features[:4])[0][-1]
    expected[1] = model.scores_over_time(features[3:4, 1:2])[0][0, 0]
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_loading_does_not_import_the_compiler() -> None:
    """evaluate, predict and stream would start a second later. (A few rivals' initialisation does import it.)"""
    code = (
        "import sys; from models.classifier import without_memory; from models.config import ModelConfig\n"
        "for name in sys.argv[1:]:\n"
        "    model = without_memory(ModelConfig(name), 5, 3)\n"
        "    assert all(tensor.is_meta for tensor in model.state_dict().values()), name\n"
        "    assert 'torch._dynamo' not in sys.modules, name"
    )
    names = {*MODELS} - {"lru", "orthogonal_kept", "attentive"}
    subprocess.run([sys.executable, "-c", code, *sorted(names)], cwd=REPOSITORY, check=True)
