"""The classifier of features, one frame at a time, whatever computes it."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from models.classifier import SequenceClassifier

Array = npt.NDArray[np.float32]
State = dict[str, Array]
"""Float32 ``[num_rows, width]`` by name. A row of zeros is a sequence that has not begun."""


class Head(Protocol):
    """A classifier of features."""

    def initial_state(self, num_rows: int) -> State:
        """The state of ``num_rows`` sequences that have not begun."""

    def step(self, features: Array, state: State) -> tuple[Array, State]:
        """Read one more frame of each sequence.

        Args:
            features: ``[num_rows, feature_dim]``.
            state: the state before it. It is not changed.

        Returns:
            class probabilities ``[num_rows, num_classes]``, and the state after it.
        """


class ClassifierHead:
    """A ``SequenceClassifier`` in PyTorch, as a ``Head``."""

    def __init__(self, model: SequenceClassifier) -> None:
        self._model = model.cpu().eval()

    def initial_state(self, num_rows: int) -> State:
        return {name: value.numpy() for name, value in self._model.initial_state(num_rows).items()}

    @torch.inference_mode()
    def step(self, features: Array, state: State) -> tuple[Array, State]:
        tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        scores, after = self._model.step(torch.from_numpy(features), tensors)
        return scores.softmax(-1).numpy(), {name: value.numpy() for name, value in after.items()}
