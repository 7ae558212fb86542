"""The dynamics benchmark agrees with networks whose dynamics are known, and its command draws and writes them."""

import csv
import dataclasses
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.dynamics import (
    AFTER,
    BEFORE,
    RECURRENT,
    Arguments,
    column_of_run,
    main,
    random_probe,
    short_names,
)
from benchmarks.stepping import Probe, SteppedNetwork, cell_of, measure, relu_gain
from data.catalog import DataConfig
from models.classifier import SequenceClassifier
from models.config import ModelConfig, ModelName
from models.initializers import np_rnn_
from models.state_networks import STATE_NETWORKS
from pipeline.experiment import Tasks
from pipeline.settings.config import Config, ConfigError, RunConfig, TrainingConfig
from pipeline.training.loop import fit
from pipeline.training.run import Run
from tests.helpers.idx import write_small_mnist


def make_model(name: ModelName, num_inputs: int = 3, num_classes: int = 4, **settings: Any) -> SequenceClassifier:
    torch.manual_seed(0)
    plain = {"readout": "last", "inputs": "frames", "skip_connection": False, "power_norm": False}
    config = ModelConfig(model=name, hidden_size=7, **plain | settings)  # type: ignore[arg-type]
    model = SequenceClassifier(config, num_inputs, num_classes).eval()
    model.set_feature_statistics(torch.rand(num_inputs), torch.rand(num_inputs) + 0.5)
    return model


def make_probe(num_steps: int = 6, batch: int = 5, num_inputs: int = 3) -> Probe:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(num_steps, batch, num_inputs, generator=generator, dtype=torch.float64)
    return Probe(inputs, torch.arange(batch) % 4)


def save_run(folder: Path, data: DataConfig, model: SequenceClassifier, classes: tuple[str, ...]) -> Run:
    """Write the parts of a trained run that the figure reads."""
    run = Run(folder)
    splits = ("1",) if data.has_video else ()
    run.begin(Config(data=data, model=model.config, run=RunConfig(splits=splits, seeds=(0,))), recipe=None)
    run.save_checkpoint("best", {"model": model.state_dict(), "classes": list(classes), "epoch": 0})
    return run


@pytest.mark.parametrize("readout", ["last", "mean"])
@pytest.mark.parametrize("name", RECURRENT)
def test_step_by_step_is_the_classifier_itself(name: ModelName, readout: Any) -> None:
    """Stepping through two layers gives the states and scores that the classifier itself computes."""
    model, probe = make_model(name, num_layers=2, readout=readout), make_probe()
    network = SteppedNetwork(model)
    states = [network.start(5)]
    for inputs in probe.inputs:
        states.append(network.step(inputs, states[-1]))
    top = torch.stack([network.units(state)[:, 7:] for state in states[1:]])
    scores = network.scores(states[1:])
    with torch.no_grad():
        torch.testing.assert_close(top.float(), model.states(probe.inputs.float()), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scores.float(), model(probe.inputs.float()), atol=1e-5, rtol=1e-4)


def test_every_recurrent_model_is_in_the_figure() -> None:
    """Every model in STATE_NETWORKS is drawn by default, unless it has no cell to step through."""
    assert {*RECURRENT} < {*STATE_NETWORKS}
    without_cell = [name for name in get_args(ModelName) if name in {*STATE_NETWORKS} - {*RECURRENT}]
    for name in without_cell:
        with pytest.raises(ConfigError, match="only unidirectional RNN, LSTM and GRU"):
            SteppedNetwork(make_model(name))


@torch.no_grad()
def identity_network(scale: float, drive: float) -> SequenceClassifier:
    """A network that computes h <- relu(scale * h + drive * x) from one input x."""
    model = SequenceClassifier(
        ModelConfig(
            "scaled_irnn",
            7,
            readout="last",
            inputs="frames",
            skip_connection=False,
            power_norm=False,
            identity_scale=scale,
        ),
        1,
        1,
    )
    model.layers[0].weight_ih_l0.fill_(drive)  # type: ignore[union-attr, operator]
    return model


def test_a_network_with_all_units_active_follows_its_matrix() -> None:
    """While every ReLU is active, change and gradient shrink by W's eigenvalue at each step."""
    probe = Probe(torch.ones(30, 4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))
    found = measure(identity_network(0.9, drive=1.0), probe)
    np.testing.assert_allclose(found.growth, 0.9 ** np.arange(31)[:, None] * np.ones(4), rtol=1e-5)
    np.testing.assert_allclose(found.gradient, 0.9 ** np.arange(30)[:, None] * np.ones(4), rtol=1e-5)
    np.testing.assert_allclose(found.eigenvalues, np.full(7, 0.9), rtol=1e-6)
    np.testing.assert_allclose(found.step_eigenvalues, np.full((4, 7), 0.9), rtol=1e-6)
    assert found.relu_gain == pytest.approx(0.9)
    assert found.active.tolist() == [1.0] * 30 and found.dead.tolist() == [0.0] * 30


def test_a_dead_network_passes_nothing_on() -> None:
    """With every unit off, change and gradient vanish after one step, whatever W's eigenvalues are."""
    probe = Probe(torch.ones(5, 4, 1, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    found = measure(identity_network(0.9, drive=-1.0), probe)
    assert not found.growth[1:].any() and not found.gradient[1:].any() and not found.step_eigenvalues.any()
    np.testing.assert_allclose(found.eigenvalues, np.full(7, 0.9), rtol=1e-6)
    assert found.active.tolist() == [0.0] * 5 and found.dead.tolist() == [1.0] * 5


def test_a_dead_unit_is_zero_in_every_sequence() -> None:
    """A unit that is active in one sequence of the batch is not dead."""
    inputs = torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=torch.float64).reshape(1, 4, 1)
    found = measure(identity_network(0.9, drive=1.0), Probe(inputs, torch.zeros(4, dtype=torch.float64)))
    assert found.active.tolist() == [0.25] and found.dead.tolist() == [0.0]


@pytest.mark.parametrize("name", ["np_rnn", "rnn_tanh", "lstm", "gru"])
def test_change_and_gradient_are_products_of_the_steps(name: ModelName) -> None:
    """Over several steps, both follow from the one-step Jacobians, including the cell state of an LSTM."""
    model, probe = make_model(name), make_probe(num_steps=4, batch=1)
    found, network = measure(model, probe, seed=3), SteppedNetwork(model)
    states = [network.start(1)]
    for inputs in probe.inputs:
        states.append(network.step(inputs, states[-1]))
    jacobians = [network.jacobian(probe.inputs[t, 0], states[t][0]) for t in range(4)]
    change = torch.randn(1, len(states[0][0]), generator=torch.Generator().manual_seed(3), dtype=torch.float64)[0]
    changes = [change / change.norm()]
    for jacobian in jacobians:
        changes.append(jacobian @ changes[-1])
    np.testing.assert_allclose(found.growth[:, 0], [float(each.norm()) for each in changes], rtol=1e-3)

    last = states[-1].clone().requires_grad_()
    loss = nn.functional.cross_entropy(network.scores([last]), probe.targets)
    gradients = [torch.autograd.grad(loss, last)[0][0]]
    for jacobian in reversed(jacobians[1:]):
        gradients.append(jacobian.T @ gradients[-1])
    norms = [float(each.norm() / gradients[0].norm()) for each in gradients]
    np.testing.assert_allclose(found.gradient[:, 0], norms, rtol=1e-6)


def test_relu_gain_is_the_largest_eigenvalue_after_the_relu() -> None:
    """The gain is the whole eigenvalue if no entry is negative and 0 if every unit silences the others; an np-RNN, with
    largest eigenvalue 1, loses a fifth because its leading eigenvector has both signs."""
    positive = torch.rand(20, 20, dtype=torch.float64)
    assert relu_gain(positive) == pytest.approx(float(torch.linalg.eigvals(positive).abs().max()))
    assert relu_gain(-positive) < 1e-6
    weight = np_rnn_(torch.empty(256, 256, dtype=torch.float64), torch.Generator().manual_seed(0))
    leading = torch.linalg.eigh(weight).eigenvectors[:, -1]
    assert 0.3 < (leading > 0).double().mean() < 0.7
    assert 0.7 < relu_gain(weight) < 0.9


@pytest.mark.parametrize("learning_rate", [1e-30, 1e-2])
def test_before_training_is_the_initial_network_of_the_run(tmp_path: Path, learning_rate: float) -> None:
    """The network initialised from a run's seed equals the trained one if, and only if, the run learns nothing."""
    training = TrainingConfig(epochs=1, steps_per_epoch=5, learning_rate=learning_rate)
    config = Config(
        data=DataConfig(dataset="addition", length=6),
        model=ModelConfig(hidden_size=8),
        training=training,
        run=RunConfig(seeds=(3,)),
    )
    run = Run(tmp_path / "addition" / "np_rnn")
    run.begin(config, recipe=None)
    device = torch.device("cpu")
    fit(run, config, Tasks(device).open(config).objective(config), device)
    column = column_of_run(run, Arguments(sequences=3))
    before, after = (column.models[stage].state_dict() for stage in (BEFORE, AFTER))
    same = [torch.allclose(before[name], after[name], rtol=0, atol=1e-20) for name in after]
    assert all(same) == (learning_rate == 1e-30)
    assert column.probe.inputs.shape == (6, 3, 2) and column.source == "addition, 6 steps"


def test_random_features_are_standard_normal_to_the_network() -> None:
    """The random features have mean 0 and standard deviation 1 after the run's own standardisation."""
    model = make_model("np_rnn")
    probe, _ = random_probe(model, 4, 100, Arguments(sequences=50))
    standardised = (probe.inputs - model.feature_mean) * model.feature_scale
    assert standardised.shape == (100, 50, 3)
    assert standardised.mean((0, 1)).abs().max() < 0.1 and (standardised.std((0, 1)) - 1).abs().max() < 0.1
    assert set(probe.targets.tolist()) == {0, 1, 2, 3}


def test_the_figure_and_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs on video, pixel MNIST and addition share one figure with untrained networks. A row per network and stage is
    printed and written as CSV, with gaps where a network has no such number."""
    runs, classes = tmp_path / "runs", ("run", "walk", "jump", "sit")
    save_run(runs / "videos" / "lstm", DataConfig(dataset="folder"), make_model("lstm"), classes)
    digits = DataConfig(dataset="pixel_mnist", root=write_small_mnist(tmp_path / "mnist"))
    save_run(runs / "pixel_mnist" / "irnn", digits, make_model("irnn", 1, 10), tuple("0123456789"))
    save_run(runs / "addition" / "np_rnn", DataConfig(dataset="addition", length=12), make_model("np_rnn", 2, 1), ("",))
    output = tmp_path / "docs" / "figure.png"
    flags = ["--run", runs, "--init", "gru", "rnn_relu", "--length", 12, "--hidden", 6, "--sequences", 9]
    assert main([*map(str, flags), "--output", str(output)]) == 0
    with Image.open(output) as picture:
        assert picture.width > 600 and len(picture.getcolors() or []) > 10
    with output.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["network"], row["stage"]) for row in rows] == [
        ("addition/np_rnn", BEFORE),
        ("addition/np_rnn", AFTER),
        ("pixel_mnist/irnn", BEFORE),
        ("pixel_mnist/irnn", AFTER),
        ("rnn_relu", BEFORE),
        ("videos/lstm", BEFORE),
        ("videos/lstm", AFTER),
        ("gru", BEFORE),
    ]
    assert float(rows[0]["|eig W| max"]) == pytest.approx(1, abs=1e-5)
    assert rows[-1]["|eig W| max"] == rows[-1]["relu gain"] == "" != rows[-1]["|eig step| max"]
    assert rows[0]["change 10"] != "" and rows[0]["change 50"] == ""
    printed = capsys.readouterr().out
    assert "pixel_mnist/irnn" in printed and f"{output}\n{output.with_suffix('.csv')}" in printed


def test_short_names_drop_shared_parts() -> None:
    """Parts that all columns share are dropped, so that nine names fit; a single name stays complete."""
    names = ["addition/np_rnn-length_100-seed_0", "addition/irnn-length_100-seed_1"]
    assert short_names(names) == ["np_rnn\nseed_0", "irnn\nseed_1"]
    assert short_names(names[:1]) == ["addition\nnp_rnn\nlength_100\nseed_0"]


def test_unsupported_models_and_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A frame average, as a model or a run, and an unsupported layer are errors; so is a typo, with exit code 2."""
    with pytest.raises(ConfigError, match="--init mean has no cell"):
        Arguments(init=("mean",))
    run = save_run(tmp_path / "mean", DataConfig(dataset="folder"), make_model("mean"), ("a", "b", "c", "d"))
    with pytest.raises(ConfigError, match="is a mean, which has no cell"):
        column_of_run(run, Arguments())
    with pytest.raises(ConfigError, match="not Linear"):
        cell_of(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="bidirectional=True"):
        cell_of(nn.RNN(2, 2, bidirectional=True))
    for wrong in ({"length": 1}, {"hidden": 1}, {"sequences": 251}, {"output": Path("figure.jpg")}):
        with pytest.raises(ConfigError):
            dataclasses.replace(Arguments(), **wrong)
    with pytest.raises(SystemExit, match="2"):
        main(["--init", "np_rn"])
    assert "np_rnn" in capsys.readouterr().err
