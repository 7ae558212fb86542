"""The settings of a classifier. Imports no slow module, so that command lines start quickly."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from data.errors import UserError, did_you_mean

InputScale = Literal["sqrt_hidden", "hidden", "fan_in", "sqrt_fan_in"]
ModelName = Literal[
    "np_rnn",
    "irnn",
    "scaled_irnn",
    "nrnn",
    "orthogonal",
    "rnn_relu",
    "rnn_tanh",
    "lstm",
    "gru",
    "min_gru",
    "min_lstm",
    "indrnn",
    "lru",
    "lem",
    "orthogonal_kept",
    "attentive",
    "rank_pooling",
    "mean",
]
Readout = Literal["last", "mean", "last_and_mean"]
Inputs = Literal["changes", "frames", "both"]
MAX_UNITS, MAX_LAYERS, MAX_STEPS = 8192, 32, 10**9


class ModelConfigError(UserError):
    """A setting of a classifier is invalid. The message names it and says what is valid."""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and initialisation of a classifier."""

    model: ModelName = "np_rnn"
    """np_rnn (default), irnn, scaled_irnn, nrnn, orthogonal, rnn_relu (ReLU networks that differ in their initial
    weights), rnn_tanh, lstm, gru, min_gru and min_lstm (gates that read the inputs only), indrnn (ReLU units
    that do not read each other), lru (a linear recurrence with complex eigenvalues), lem (two states with learned time
    steps), orthogonal_kept (a matrix that stays orthogonal), attentive (a learned query attends to the frames),
    rank_pooling (frame average and linear trend of the frames; ignores inputs), or mean (frame average and a
    linear layer)"""
    hidden_size: int = 256
    """units of each recurrent layer"""
    num_layers: int = 1
    """number of stacked recurrent layers"""
    readout: Readout = "last_and_mean"
    """input of the linear layer: the last state, the mean of the clip's states, or both concatenated"""
    inputs: Inputs = "changes"
    """recurrent models but rank_pooling: what the network reads, the change from each frame to the next, the frames
    themselves, or both side by side"""
    skip_connection: bool = True
    """recurrent models: add the scores of a linear layer on the frame average, which starts at zero"""
    power_norm: bool = True
    """before standardisation, take the signed square root of each feature and scale each frame to unit length"""
    dropout: float = 0.5
    """dropout probability for the features and for the input of the linear layer"""
    input_scale: InputScale = "hidden"
    """np_rnn, nrnn: divisor of the input weights' standard deviation (see models/initializers.py)"""
    identity_weight: float = 100.0
    """np_rnn: c in W = (A + c I) / lambda_max; 1 in the paper. The untrained network remembers for about c + 4 steps"""
    identity_scale: float = 0.99
    """scaled_irnn: factor of the identity in the recurrent matrix"""
    memory_units: int = 0
    """np_rnn: number of units that forget nothing. Each adds up what the other units send it (docs/np_rnn.md)"""
    memory_steps: int = 100
    """about the length T of the sequences. indrnn: the recurrent weights are at most 2^(1/T). np_rnn with memory units:
    what these get is divided by T"""

    @property
    def reads(self) -> Inputs:
        """What the network reads: ``inputs``, but rank_pooling always reads the frames."""
        return "frames" if self.model == "rank_pooling" else self.inputs

    def __post_init__(self) -> None:
        if self.model not in get_args(ModelName):
            raise ModelConfigError(f"unknown model {self.model!r}.{did_you_mean(self.model, get_args(ModelName))}")
        for name in ("hidden_size", "num_layers"):
            if getattr(self, name) < 1:
                raise ModelConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        # A config.yaml may come from anybody, and must not exhaust the machine that reads it.
        if self.num_layers > MAX_LAYERS or self.hidden_size > MAX_UNITS:
            raise ModelConfigError(
                f"hidden_size must be at most {MAX_UNITS} and num_layers at most {MAX_LAYERS}, not {self.hidden_size} "
                f"and {self.num_layers}"
            )
        if not 1 <= self.memory_steps <= MAX_STEPS:
            raise ModelConfigError(f"memory_steps must be from 1 to {MAX_STEPS:,}, not {self.memory_steps}")
        if not 0 <= self.memory_units < self.hidden_size:
            raise ModelConfigError(
                f"memory_units must be at least 0 and less than hidden_size ({self.hidden_size}), not "
                f"{self.memory_units}"
            )
        if self.memory_units and self.model != "np_rnn":
            raise ModelConfigError(f"memory_units need --model np_rnn; {self.model} has none")
        for name in ("identity_weight", "identity_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ModelConfigError(f"{name} must be at least 0 and finite, not {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ModelConfigError(f"dropout must be at least 0 and below 1, not {self.dropout}")
