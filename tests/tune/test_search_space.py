"""Every model gets the same number of candidates, and unusable options and variants are errors that name the value."""

from pathlib import Path
from typing import Any

import pytest

from models.config import ModelConfig
from pipeline.settings.config import Config, ConfigError, TrainingConfig
from pipeline.settings.parsing import to_flat
from pipeline.tune.options import TuneConfig, TuneSettings
from pipeline.tune.search_space import SEARCH_SPACES, draw_candidates, make_contenders, read_variants
from tests.helpers import REPOSITORY


def test_every_model_tries_the_given_settings_and_equally_many_others() -> None:
    """The first candidate is the given settings, the others are distinct, and each changes only what it says."""
    base = Config(model=ModelConfig(hidden_size=7), training=TrainingConfig(batch_size=5))
    contenders = make_contenders(base, ("np_rnn", "gru", "mean"), 6)
    for contender in contenders:
        assert len(contender.configs) == len({str(changes) for changes in contender.changes}) == 6
        for changes, config in zip(contender.changes, contender.configs, strict=True):
            assert to_flat(config) == to_flat(base) | {"model": contender.name} | changes
        assert contender.changes[0] == {}
    assert len({str(contender.changes) for contender in contenders}) == 3


def test_a_network_with_memory_units_is_compared_with_models_that_have_none() -> None:
    """The settings of a run with a memory can be tuned beside the frame average."""
    np_rnn, mean = make_contenders(Config(model=ModelConfig(memory_units=4)), ("np_rnn", "mean"), 1)
    assert [contender.configs[0].model.memory_units for contender in (np_rnn, mean)] == [4, 0]


def test_candidates_do_not_depend_on_their_number() -> None:
    """A larger --candidates continues a search instead of starting another one."""
    assert draw_candidates("lstm", 9)[:4] == draw_candidates("lstm", 4)


@pytest.mark.parametrize("model", SEARCH_SPACES)
def test_candidates_are_in_the_search_space(model: str) -> None:
    """Learning rates are spread over their range on a logarithmic scale, and the frame average has no read-out."""
    candidates = draw_candidates(model, 200)
    rates = [candidate["learning_rate"] for candidate in candidates]
    assert 3e-4 <= min(rates) < 4e-4 and 2e-3 < max(rates) <= 3e-3
    assert 60 < sum(rate < 9.5e-4 for rate in rates) < 140
    assert all(("readout" in candidate) == (model != "mean") for candidate in candidates)
    make_contenders(Config(), (model,), 20)


def test_variants_start_from_the_given_settings(tmp_path: Path) -> None:
    """A variant changes only what it says, and a model can be one of the changes."""
    base = Config(model=ModelConfig(hidden_size=7))
    (tmp_path / "variants.yaml").write_text("as it is: {}\nslow gru: {model: gru, learning_rate: 1e-5}\n")
    first, second = read_variants(tmp_path / "variants.yaml", base)
    assert (first.name, first.configs) == ("as it is", (base,))
    assert to_flat(second.configs[0]) == to_flat(base) | {"model": "gru", "learning_rate": 1e-5}


@pytest.mark.parametrize("name", ["choices.yaml", "rivals.yaml"])
def test_the_variants_of_the_repository_are_valid(name: str) -> None:
    """The files of docs/choices.md fit the present settings."""
    variants = read_variants(REPOSITORY / "benchmarks" / name, Config())
    assert variants[0].configs == (Config(),) and len({variant.configs for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("two layers: {num_layer: 2}", "'two layers'.*'num_layer'.*'num_layers'"),
        ("short: {sampling: 'uniform:5'}", "'short'.*'sampling'"),
        ("fast: {learning_rate: quick}", "'fast'.*learning_rate.*'quick'"),
        ("none: {num_layers: 0}", "'none'.*num_layers.*0"),
        ("other: {model: npp_rnn}", "'other'.*npp_rnn"),
        ("empty:", "'empty'.*None"),
        ("- a\n- b", "not a mapping"),
        ("", "not a mapping"),
        ("a: {b: [", "not valid YAML"),
    ],
)
def test_unusable_variants_are_refused(text: str, message: str, tmp_path: Path) -> None:
    """The message names the file, the variant and the setting."""
    path = tmp_path / "variants.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"variants.yaml.*{message}"):
        read_variants(path, Config())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 2}, "folds .* at least 3, not 2"),
        ({"candidates": 0}, "candidates .* at least 1, not 0"),
        ({"budget": "10"}, "budget .*10m.*'10'"),
        ({"budget": "-1m"}, "budget .*'-1m'"),
        ({"budget": "1.5 h"}, "budget .*'1.5 h'"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds .* different"),
        ({"seeds": (-1,)}, "seeds"),
        ({"models": ()}, "models .* none"),
        ({"models": ("gru", "gru")}, "models .*gru gru"),
        ({"splits": ("1", "2")}, "splits .*1 2"),
        ({"models": ("gru",), "variants": Path("variants.yaml")}, "--models and --variants"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], message: str) -> None:
    """A value out of range is an error that names the option and the value."""
    with pytest.raises(ConfigError, match=message):
        TuneConfig(**options)


def test_a_model_that_is_not_compared_is_refused() -> None:
    """--model lstm without lstm among --models would be ignored."""
    with pytest.raises(ConfigError, match="--model lstm.*--models np_rnn rank_pooling mean"):
        TuneSettings(model=ModelConfig(model="lstm"))


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_budgets(text: str, seconds: float) -> None:
    """Seconds, minutes and hours, also with a fraction."""
    assert TuneConfig(budget=text).budget_seconds == seconds
