"""Which settings are compared: random candidates for each model, or the variants of a file.

Candidates are drawn independently of each other. With at most ten or so of them, samplers that learn from earlier ones
(Optuna's, for example) are still random search.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import yaml

from data.errors import did_you_mean
from models.config import ModelName
from pipeline.settings.config import BASELINE, Config, ConfigError
from pipeline.settings.parsing import from_flat, to_flat

Changes = dict[str, Any]
"""Settings that a candidate sets differently from the given ones."""


class LogUniform(NamedTuple):
    """A number from ``low`` to ``high`` whose logarithm is uniform."""

    low: float
    high: float


SearchSpace = Mapping[str, LogUniform | list[Any]]
"""By setting: a range of numbers, or a list of equally probable values."""

_ALL_MODELS: SearchSpace = {
    "learning_rate": LogUniform(3e-4, 3e-3),
    "weight_decay": LogUniform(1e-4, 1.0),
    "dropout": [0.3, 0.5, 0.7],
}
_RECURRENT: SearchSpace = {**_ALL_MODELS, "readout": ["mean", "last_and_mean"]}
# Its last state is the rank pooling of the whole clip. The mean of its states alone would not be rank pooling.
_RANK_POOLING: SearchSpace = {**_ALL_MODELS, "readout": ["last", "last_and_mean"]}
# The frame average has no read-out. To search another setting, add it here; to give a model its own space, name it.
SEARCH_SPACES: dict[str, SearchSpace] = dict.fromkeys(get_args(ModelName), _RECURRENT) | {
    "rank_pooling": _RANK_POOLING,
    BASELINE: _ALL_MODELS,
}


@dataclass(frozen=True)
class Contender:
    """A row of the table: a model with its candidates, or a variant with its only one.

    Attributes:
        changes: what each candidate changes; the first are the given settings.
        configs: all settings of each candidate.
    """

    name: str
    changes: tuple[Changes, ...]
    configs: tuple[Config, ...]


def make_contenders(base: Config, models: tuple[str, ...], num_candidates: int) -> list[Contender]:
    """Each model with the same number of candidates. Memory units, which only np_rnn has, are left out for others."""
    contenders = []
    for model in models:
        only = {"model": model} if model == "np_rnn" else {"model": model, "memory_units": 0}
        changes = ({}, *draw_candidates(model, num_candidates - 1))
        configs = tuple(_with_changes(base, {**only, **one}, f"{model} in the search") for one in changes)
        contenders.append(Contender(model, changes, configs))
    return contenders


def draw_candidates(model: str, count: int) -> list[Changes]:
    """Random settings from a model's search space. The first ones stay the same if ``count`` grows."""
    rng = np.random.default_rng(zlib.crc32(model.encode()))
    candidates = []
    for _ in range(count):
        changes: Changes = {}
        for name, values in SEARCH_SPACES[model].items():
            if isinstance(values, LogUniform):
                changes[name] = float(f"{np.exp(rng.uniform(*np.log(values))):.2g}")
            else:
                changes[name] = values[rng.integers(len(values))]
        candidates.append(changes)
    return candidates


def read_variants(path: Path, base: Config) -> list[Contender]:
    """The variants of a YAML file, which maps names to settings of the model and of training.

    Raises ``ConfigError`` if the file is unreadable, or a setting is unknown, unusable or of another kind.
    """
    try:
        variants = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--variants {path} can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(variants, dict) or not variants:
        raise ConfigError(f"{path} is not a mapping from names to settings, like 'two layers: {{num_layers: 2}}'")
    known = [*to_flat(base.model), *to_flat(base.training)]
    contenders = []
    for name, changes in variants.items():
        where = f"{path}, variant {name!r}"
        if not isinstance(changes, dict):
            raise ConfigError(f"{where}: not a mapping of settings but {changes!r}. Write {{}} for the given settings")
        for key in changes:
            if key not in known:
                raise ConfigError(f"{where}: unknown model or training setting {key!r}.{did_you_mean(str(key), known)}")
        contenders.append(Contender(str(name), (changes,), (_with_changes(base, changes, where),)))
    return contenders


def _with_changes(base: Config, changes: Changes, where: str) -> Config:
    """``base`` with some settings replaced; errors name ``where`` as their source."""
    return from_flat(Config, to_flat(base) | changes, where)
