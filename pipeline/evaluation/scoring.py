"""Class probabilities of a classifier: for every clip of a list of videos, and after each frame of whole videos."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.records import VideoRecord
from models.classifier import SequenceClassifier, State
from models.shared_frames import Projected, can_share_frames, project, score_projected
from pipeline.evaluation.predictions import Predictions
from pipeline.training.batches import ClipBlock, FeatureTable, evaluation_blocks
from pipeline.training.clips import ClipSampling

# The states of 256 clips fit into the second-level cache of a CPU; a GPU needs more clips to be fully used.
CPU_CLIPS, GPU_CLIPS = 256, 4096
_VIDEOS_PER_BLOCK = 64
_MAX_NUMBERS = 2**23  # in a piece of features: bounds the memory for long videos; 32 MB for each copy of it

Order = Literal["forward", "reversed", "shuffled"]
ORDERS: tuple[Order, ...] = get_args(Order)


@torch.inference_mode()
def predict(
    model: SequenceClassifier,
    table: FeatureTable,
    clips: ClipSampling,
    classes: tuple[str, ...],
    device: torch.device,
    missing: Sequence[VideoRecord] = (),
    batch_size: int | None = None,
    orders: Sequence[Order] = ("forward",),
) -> dict[str, Predictions]:
    """Score the evenly spread clips of every video, in all its views, once for each order of the frames of a clip.

    The projection of a frame is computed once for all clips and orders. ``"shuffled"`` draws one random order per video
    from its id, so it is the same in every evaluation. The frame average ignores the order: no order changes a mean,
    and another order of summation must not break a tie.

    Args:
        missing: videos of the list that have no features; they count as wrong answers.
        batch_size: clips per block.

    Returns:
        By order, predictions for the table's videos followed by ``missing``; the order of the clips is not defined.
    """
    model.eval()
    probabilities: dict[Order, list[npt.NDArray[np.float64]]] = {order: [] for order in orders}
    videos = []
    for block in evaluation_blocks(table, clips, batch_size or (CPU_CLIPS if device.type == "cpu" else GPU_CLIPS)):
        projected = _project(model, block, device) if can_share_frames(model) else None
        for order in orders:
            rows = _ordered_rows(block, table.records, order if model.layers else "forward")
            if projected is None:
                scores = model.score_read(_last_read(model, block, rows, device))
            else:
                scores = score_projected(model, projected, rows.to(device), block.lengths)
            probabilities[order].append(scores.double().softmax(1).cpu().numpy())
        videos.append(block.videos.numpy())
    records = (*table.records, *missing)
    return {
        order: Predictions(
            classes=classes,
            video_ids=tuple(record.video_id for record in records),
            labels=np.array([record.label for record in records], dtype=np.int64),
            clip_probabilities=np.concatenate(probabilities[order]),
            clip_videos=np.concatenate(videos),
            groups=tuple(record.group for record in records),
        )
        for order in orders
    }


def _project(model: SequenceClassifier, block: ClipBlock, device: torch.device) -> Projected:
    """``project`` for the frames of a block, some at a time."""
    num_frames = max(1, _MAX_NUMBERS // block.features.shape[1])
    pieces = [project(model, _features(block, rows, device)) for rows in block.frames.split(num_frames)]
    driven, scores = (None if parts[0] is None else torch.cat(parts) for parts in zip(*pieces, strict=True))
    return Projected(driven, scores)


def _last_read(model: SequenceClassifier, block: ClipBlock, rows: Tensor, device: torch.device) -> list[Tensor]:
    """What each linear layer reads at the end of each clip, with frames in the order of ``rows``: ``[B, width]``."""
    last: list[Tensor] | None = None
    for start, read in _read_over_time(model, block, rows, device):
        last = _at_ends(block, start, read, last)
    assert last is not None
    return last


def _at_ends(block: ClipBlock, start: int, read: list[Tensor], before: list[Tensor] | None) -> list[Tensor]:
    """The values ``[B, width]`` at each clip's last step in a piece: final for a clip that ends in it or ended before.

    ``read`` is what was read in the steps from ``start`` on, ``[T, B, width]`` each; ``before``: the result of the
    piece before.
    """
    ends = (block.lengths - 1 - start).to(read[0].device)
    clips = torch.arange(len(ends), device=ends.device)
    found = [values[ends.clamp(0, len(values) - 1), clips] for values in read]
    if before is None:
        return found
    return [torch.where((ends >= 0)[:, None], new, old) for new, old in zip(found, before, strict=True)]


def _read_over_time(
    model: SequenceClassifier, block: ClipBlock, rows: Tensor, device: torch.device
) -> Iterator[tuple[int, list[Tensor]]]:
    """``model.read_over_time`` in pieces: the number of each one's first step, and what is read, ``[T, B, width]``."""
    state: State | None = None
    num_steps = max(1, _MAX_NUMBERS // (rows.shape[1] * block.features.shape[1]))
    for number, piece in enumerate(rows.split(num_steps)):
        read, state = model.read_over_time(_features(block, block.frames[piece], device), state)
        yield number * num_steps, read


def _features(block: ClipBlock, rows: Tensor, device: torch.device) -> Tensor:
    """The features in these rows of the table, float32: ``[...]`` -> ``[..., D]``."""
    # index_select copies whole rows: several times faster than indexing.
    return block.features.index_select(0, rows.flatten()).to(device).float().view(*rows.shape, -1)


def _ordered_rows(block: ClipBlock, records: Sequence[VideoRecord], order: Order) -> Tensor:
    """The frame of each clip at each step, int64 ``[T, B]``, with the frames of each clip in this order.

    After a clip's end, the row is any frame of the clip.
    """
    if order == "forward":
        return block.rows
    if order == "reversed":
        return block.rows.gather(0, (block.lengths - 1 - torch.arange(len(block.rows))[:, None]).clamp_min(0))
    # All clips of a video have the same length, so they share its order.
    videos, first_clips, columns = np.unique(block.videos.numpy(), return_index=True, return_inverse=True)
    steps = np.zeros((len(block.rows), len(videos)), dtype=np.int64)
    for column, (video, length) in enumerate(zip(videos, block.lengths[first_clips].tolist(), strict=True)):
        steps[:length, column] = shuffled_steps(records[video].video_id, length)
    return block.rows.gather(0, torch.from_numpy(steps[:, columns]))


def shuffled_steps(video_id: str, length: int) -> npt.NDArray[np.int64]:
    """The random order of a video's clips of ``length`` frames."""
    return np.random.default_rng(zlib.crc32(video_id.encode(errors="surrogateescape"))).permutation(length)


class WholeVideos(NamedTuple):
    """What a model makes of whole videos, by video id."""

    probabilities: dict[str, npt.NDArray[np.float32]]
    """class probabilities after each stored frame, ``[num_frames, num_classes]``: row ``t`` follows from frames
    ``0 .. t``"""
    representations: dict[str, npt.NDArray[np.float32]]
    """what the linear layers read after the last frame, side by side, ``[width]``"""


@torch.inference_mode()
def read_whole_videos(model: SequenceClassifier, table: FeatureTable, device: torch.device) -> WholeVideos:
    """Read each video once, from its first frame to its last. Only the first view of a video is read."""
    model.eval()
    probabilities, representations = ([np.empty(0, np.float32)] * len(table) for _ in range(2))
    for block in evaluation_blocks(table, ClipSampling(), _VIDEOS_PER_BLOCK, num_views=1):
        pieces: list[Tensor] = []
        last: list[Tensor] | None = None
        for start, read in _read_over_time(model, block, block.rows, device):
            pieces.append(model.score_read(read).softmax(2).cpu())
            last = _at_ends(block, start, read, last)
        assert last is not None
        over_time, at_end = torch.cat(pieces).numpy(), torch.cat(last, 1).cpu().numpy()
        for column, (video, num_frames) in enumerate(zip(block.videos.tolist(), block.lengths.tolist(), strict=True)):
            # Shorter videos of a block are padded to the longest; the copy drops the padding.
            probabilities[video] = over_time[:num_frames, column].copy()
            representations[video] = at_end[column]
    video_ids = [record.video_id for record in table.records]
    return WholeVideos(*(dict(zip(video_ids, values, strict=True)) for values in (probabilities, representations)))
