"""Eigenvalues of a recurrent matrix before and after training."""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from models.classifier import SequenceClassifier
from models.config import ModelConfig
from pipeline.training.loop import new_classifier

Spectrum = npt.NDArray[np.complex128]


def spectra(config: ModelConfig, seed: int, trained: SequenceClassifier) -> dict[str, Spectrum] | None:
    """Eigenvalues of the first layer's W_hh, complex128 ``[hidden]``, ``before`` and ``after`` training.

    ``before`` is computed from a network that is initialised with ``seed``, as training did. Returns ``None`` for
    networks without a single recurrent matrix: the frame average, LSTM and GRU.
    """
    with torch.random.fork_rng(devices=[]):
        untrained = new_classifier(config, seed, len(trained.feature_mean), trained.classifier.out_features)
    before, after = _spectrum(untrained), _spectrum(trained)
    return None if before is None or after is None else {"before": before, "after": after}


def _spectrum(model: SequenceClassifier) -> Spectrum | None:
    if not model.layers or not isinstance(model.layers[0], nn.RNN):
        return None
    weight = model.layers[0].get_parameter("weight_hh_l0")
    return np.linalg.eigvals(weight.detach().double().cpu().numpy()).astype(np.complex128)
