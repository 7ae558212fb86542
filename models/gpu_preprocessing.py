"""The resize and the crops of ``models.preprocessing``, as tensor operations: for frames that are on a GPU anyway.

A resize is linear along each axis, so it is two matrix products. The matrices are Pillow's own weights, the axes are
taken in Pillow's order, and the pixels are rounded after each product as Pillow rounds them: what is left are exact
ties, which may go the other way, a level or two on a few percent of the pixels at most.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from models.preprocessing import Preprocessing, crop_corner, is_flipped, resize_weights, resized


def resize_and_crop_tensor(frames: Tensor, preprocessing: Preprocessing, views: Sequence[str]) -> Tensor:
    """Frames of one size as the network sees them, before normalisation.

    Args:
        frames: uint8 ``[n, height, width, 3]``, RGB, on any device.
        preprocessing: of the backbone.
        views: which of ``models.preprocessing.VIEWS`` are wanted.

    Returns:
        uint8 ``[n * len(views), crop, crop, 3]``, RGB, the views of a frame one behind the other.
    """
    _, height, width, _ = frames.shape
    size = resized(width, height, preprocessing)
    images = frames.permute(0, 3, 1, 2).float()
    across = _weights(width, size[0], preprocessing.interpolation, frames.device)
    down = _weights(height, size[1], preprocessing.interpolation, frames.device).T
    if size[0] > width and size[1] < height:
        images = _rounded(_rounded(down @ images) @ across)
    else:
        images = _rounded(down @ _rounded(images @ across))
    crop = preprocessing.crop
    cuts = []
    for view in views:
        left, top = crop_corner(size, crop, view)
        padding = (-left, left + crop - size[0], -top, top + crop - size[1])  # negative where it cuts, else black
        cut = F.pad(images, padding)
        cuts.append(cut.flip(3) if is_flipped(view) else cut)
    return torch.stack(cuts, dim=1).flatten(0, 1).byte().permute(0, 2, 3, 1)


def _rounded(pixels: Tensor) -> Tensor:
    return pixels.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=64)
def _weights(length: int, new_length: int, interpolation: str, device: torch.device) -> Tensor:
    return torch.from_numpy(resize_weights(length, new_length, interpolation)).to(device)
