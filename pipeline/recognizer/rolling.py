"""Class probabilities of an endless sequence."""

import numpy as np

from pipeline.recognizer.head import Array, Head


class RollingProbabilities:
    """Reads an endless sequence of features with constant memory and constant work.

    A network must not read more steps than it was trained on: its states would grow, and a running mean over a whole
    day would not react to anything. So two states read the sequence, each from another beginning, and the older one
    answers. When it has read ``horizon`` steps, it begins anew, and the other, which has read half of them, answers.

    Up to the ``horizon``, the answers are those of the classifier that reads the sequence from its beginning. Later
    ones depend on the last ``horizon / 2`` to ``horizon`` steps.
    """

    def __init__(self, head: Head, horizon: int) -> None:
        """``horizon``: most steps that an answer depends on; at least 2, and rounded down to an even number."""
        assert horizon >= 2, horizon
        self._head, self._half = head, horizon // 2
        self.reset()

    def reset(self) -> None:
        """Forget everything, because the next frame does not follow the last one."""
        self._state = self._head.initial_state(2)
        self._num_steps, self._answering = 0, 0

    def push(self, features: Array) -> Array:
        """Read the features of the next frame, ``[feature_dim]``; return the class probabilities, ``[num_classes]``."""
        if self._num_steps % self._half == 0:
            if self._num_steps >= 2 * self._half:
                self._answering = 1 - self._answering
            for value in self._state.values():
                value[1 - self._answering] = 0
        self._num_steps += 1
        both = np.stack([features, features]).astype(np.float32)
        probabilities, self._state = self._head.step(both, self._state)
        return probabilities[self._answering]
