"""The recurrent networks by name. To add one, add an entry here and its name to ``ModelName`` in ``config.py``."""

from collections.abc import Callable

from torch import nn

from models import initializers as init
from models.config import ModelConfig
from models.relu_rnn import ReluRNN
from models.rivals.attentive_probe import AttentiveProbe
from models.rivals.indrnn import IndRNN
from models.rivals.lem import LEM
from models.rivals.lru import LRU
from models.rivals.minimal_rnn import MinGRU, MinLSTM
from models.rivals.orthogonal_rnn import OrthogonalRNN
from models.rivals.rank_pooling import RankPooling

STATE_NETWORKS: dict[str, Callable[[int, ModelConfig], nn.Module]] = {
    "np_rnn": lambda inputs, config: init.init_np_rnn_(
        ReluRNN(inputs, config.hidden_size, config.memory_units),
        config.input_scale,
        identity_weight=config.identity_weight,
        memory_units=config.memory_units,
        memory_steps=config.memory_steps,
    ),
    "irnn": lambda inputs, config: init.init_irnn_(ReluRNN(inputs, config.hidden_size)),
    "scaled_irnn": lambda inputs, config: init.init_irnn_(ReluRNN(inputs, config.hidden_size), config.identity_scale),
    "nrnn": lambda inputs, config: init.init_nrnn_(ReluRNN(inputs, config.hidden_size), config.input_scale),
    "orthogonal": lambda inputs, config: init.init_orthogonal_rnn_(ReluRNN(inputs, config.hidden_size)),
    "rnn_relu": lambda inputs, config: init.init_gaussian_rnn_(ReluRNN(inputs, config.hidden_size)),
    "rnn_tanh": lambda inputs, config: init.init_gaussian_rnn_(nn.RNN(inputs, config.hidden_size)),
    "lstm": lambda inputs, config: init.init_gated_(nn.LSTM(inputs, config.hidden_size)),
    "gru": lambda inputs, config: init.init_gated_(nn.GRU(inputs, config.hidden_size)),
    "min_gru": lambda inputs, config: MinGRU(inputs, config.hidden_size),
    "min_lstm": lambda inputs, config: MinLSTM(inputs, config.hidden_size),
    "indrnn": lambda inputs, config: IndRNN(inputs, config.hidden_size, config.memory_steps),
    "lru": lambda inputs, config: LRU(inputs, config.hidden_size),
    "lem": lambda inputs, config: LEM(inputs, config.hidden_size),
    "orthogonal_kept": lambda inputs, config: OrthogonalRNN(inputs, config.hidden_size),
    "rank_pooling": lambda inputs, config: RankPooling(inputs, config.hidden_size),
    "attentive": lambda inputs, config: AttentiveProbe(inputs, config.hidden_size),
}
"""The initialised network of one layer, by model name: number of inputs and settings -> network."""
