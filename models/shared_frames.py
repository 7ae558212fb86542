"""Scores of clips that overlap, with each frame projected once for all of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.classifier import SequenceClassifier
from models.relu_rnn import ReluRNN


class Projected(NamedTuple):
    """The part of the scores that depends on single frames, ``[N, ...]`` each; see ``project``."""

    driven: Tensor | None
    """the first layer's weighted inputs and bias, ``[N, hidden]``; ``None`` without layers"""
    scores: Tensor | None
    """the linear scores of each frame, ``[N, num_classes]``; ``None`` without a skip connection"""


def can_share_frames(model: SequenceClassifier) -> bool:
    """Whether ``project`` and ``score_projected`` work.

    They do if all layers are ReLU networks, and none reads frames and changes side by side.
    """
    return len(_relu_layers(model)) == len(model.layers) and (not model.layers or model.config.reads != "both")


def _relu_layers(model: SequenceClassifier) -> list[ReluRNN]:
    return [layer for layer in model.layers if isinstance(layer, ReluRNN)]


def project(model: SequenceClassifier, frames: Tensor) -> Projected:
    """Compute what depends on single frames: features ``[N, D]``.

    These are the largest matrix products, and overlapping clips can share them; see ``score_projected``.
    """
    frames = model.normalize(frames)
    standardized = model.standardize(frames)
    if not model.layers:
        return Projected(None, model.classifier(standardized))
    inputs = frames * model.change_scale if model.reads_changes else standardized
    return Projected(_relu_layers(model)[0].project(inputs), None if model.skip is None else model.skip(standardized))


def score_projected(model: SequenceClassifier, projected: Projected, rows: Tensor, lengths: Tensor) -> Tensor:
    """Class scores of clips whose frames went through ``project``, equal to ``forward`` in evaluation mode.

    Args:
        projected: the result of ``project`` for N frames, each frame once.
        rows: int64 ``[T, B]``, the frame that each clip reads at each step; any valid row after a clip's end.
        lengths: int64 ``[B]`` on the CPU, from 1 to T, in descending order: the clips that have not ended at a
            step are then the first of the batch.

    Returns:
        ``[B, num_classes]``.
    """
    num_running: list[int] = (lengths > torch.arange(len(rows))[:, None]).sum(1).tolist()
    num_steps = lengths.to(rows.device).unsqueeze(1)
    scores: Tensor | None = None
    if projected.scores is not None:
        total = projected.scores.new_zeros(rows.shape[1], projected.scores.shape[1])
        for step, running in zip(rows, num_running, strict=True):
            total[:running] += projected.scores.index_select(0, step[:running])
        scores = total / num_steps
    if projected.driven is not None:
        last, total = _run_projected(model, projected.driven, rows, num_running)
        read = model.classifier(model.select(last, lambda: total / num_steps))
        scores = read if scores is None else scores + read
    assert scores is not None
    return scores / model.temperature


def _run_projected(
    model: SequenceClassifier, driven: Tensor, rows: Tensor, num_running: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The last state of each clip and the sum of its states, ``[B, hidden]`` each."""
    last, total = driven.new_zeros(2, rows.shape[1], model.config.hidden_size)
    layers = _relu_layers(model)
    states: list[Tensor | None] = [None] * len(layers)
    before: Tensor | None = None  # the rows of the previous step
    for step, running, running_next in zip(rows, num_running, [*num_running[1:], 0], strict=True):
        state = driven.index_select(0, step[:running])
        if model.reads_changes:
            # Projecting is linear: the projected change is the difference of the projected frames.
            state -= driven.index_select(0, (step if before is None else before)[:running])
            state += layers[0].total_bias
            before = step
        for number, layer in enumerate(layers):
            previous = states[number]
            projected = state if number == 0 else layer.project(state)
            states[number] = state = layer.step(projected, None if previous is None else previous[:running])
        total[:running] += state
        last[running_next:running] = state[running_next:]
    return last, total
