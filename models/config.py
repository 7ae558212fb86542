"""The settings of a classifier. Imports nothing slow, so that a command line can answer at once."""

from dataclasses import dataclass
from typing import Literal, get_args

from data.errors import UserError

InputScale = Literal["sqrt_hidden", "hidden", "fan_in", "sqrt_fan_in"]
ModelName = Literal[
    "np_rnn", "irnn", "scaled_irnn", "nrnn", "orthogonal", "rnn_relu", "rnn_tanh", "lstm", "gru", "mean"
]
Readout = Literal["last", "mean", "last_and_mean"]


class ModelConfigError(UserError):
    """A setting of a classifier can't be used. The message says which and what would do."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a classifier, and how it starts."""

    model: ModelName = "np_rnn"
    """np_rnn (default), irnn, scaled_irnn, nrnn, orthogonal and rnn_relu (ReLU networks that differ in how they start),
    rnn_tanh, lstm, gru, or mean (frame average + linear)"""
    hidden_size: int = 256
    """units of each recurrent layer"""
    num_layers: int = 1
    """recurrent layers, one upon the other"""
    readout: Readout = "last_and_mean"
    """what the linear layer reads: the last state, the mean of the states over the clip, or both side by side"""
    dropout: float = 0.5
    """share of the features, and of what the linear layer reads, zeroed in training"""
    input_scale: InputScale = "hidden"
    """np_rnn, nrnn: what the input weights' standard deviation is divided by (see models/initializers.py)"""
    identity_weight: float = 3.0
    """np_rnn: c in W = (A + c I) / lambda_max. 1 is the paper's; the more, the longer the untrained network remembers:
    for about c + 4 steps"""
    identity_scale: float = 0.99
    """scaled_irnn: the diagonal of the recurrent matrix, which is 0 elsewhere"""

    def __post_init__(self) -> None:
        if self.model not in get_args(ModelName):
            raise ModelConfigError(f"unknown model {self.model!r}. Models: {', '.join(get_args(ModelName))}")
        if self.hidden_size < 1 or self.num_layers < 1:
            raise ModelConfigError(f"hidden_size and num_layers are at least 1: {self.hidden_size}, {self.num_layers}")
        if not self.identity_weight >= 0:
            raise ModelConfigError(f"identity_weight is at least 0: {self.identity_weight}")
        if not 0 <= self.dropout < 1:
            raise ModelConfigError(f"dropout lies in [0, 1): {self.dropout}")
