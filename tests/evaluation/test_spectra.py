"""Eigenvalues of the recurrent matrix before and after training."""

import numpy as np
import pytest
import torch

from models.classifier import SequenceClassifier
from models.config import ModelConfig
from pipeline.evaluation.spectra import spectra
from pipeline.training.loop import new_classifier


@pytest.mark.parametrize("name", ["np_rnn", "rnn_tanh"])
def test_the_first_spectrum_is_that_of_the_untrained_network(name: str) -> None:
    """The initial network is rebuilt from the seed, whatever the state of PyTorch's generator, which stays as it is."""
    config = ModelConfig(model=name, hidden_size=6)  # type: ignore[arg-type]
    trained = new_classifier(config, 3, 4, 2)
    expected = np.linalg.eigvals(trained.layers[0].weight_hh_l0.detach().double().numpy())
    with torch.no_grad():
        trained.layers[0].weight_hh_l0.mul_(2)
    state = torch.random.get_rng_state()
    found = spectra(config, 3, trained)
    assert found is not None
    np.testing.assert_allclose(np.sort_complex(found["before"]), np.sort_complex(expected), atol=1e-6)
    np.testing.assert_allclose(np.sort_complex(found["after"]), np.sort_complex(2 * expected), atol=1e-6)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["mean", "lstm", "gru"])
def test_a_network_without_one_recurrent_matrix_has_no_spectrum(name: str) -> None:
    """Gated layers have several matrices and the frame average has none, so no spectrum is shown."""
    config = ModelConfig(model=name, hidden_size=6)  # type: ignore[arg-type]
    assert spectra(config, 0, SequenceClassifier(config, 4, 2)) is None
