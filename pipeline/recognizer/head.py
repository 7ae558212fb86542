"""The classifier of features, one frame at a time, whatever computes it."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from models.classifier import SequenceClassifier, for_inference

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
        self._model = for_inference(model)

    def initial_state(self, num_rows: int) -> State:
        return {name: value.numpy() for name, value in self._model.initial_state(num_rows).items()}

    @torch.inference_mode()
    def step(self, features: Array, state: State) -> tuple[Array, State]:
        tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        scores, after = self._model.step(torch.from_numpy(features), tensors)
        return scores.softmax(-1).numpy(), {name: value.numpy() for name, value in after.items()}


class OnnxHead:
    """The graph ``head_step.onnx`` of a bundle, as a ``Head``."""

    def __init__(self, session: onnxruntime.InferenceSession, widths: Mapping[str, int]) -> None:
        """``widths``: that of each array of the state, in the order in which the graph returns them."""
        self._session, self._widths = session, dict(widths)

    def initial_state(self, num_rows: int) -> State:
        return {name: np.zeros((num_rows, width), np.float32) for name, width in self._widths.items()}

    def step(self, features: Array, state: State) -> tuple[Array, State]:
        probabilities, *after = self._session.run(None, {"features": features, **state})
        return probabilities, dict(zip(self._widths, after, strict=True))
