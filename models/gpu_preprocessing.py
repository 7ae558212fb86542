"""The resize and crops of ``models.preprocessing`` as tensor operations, for frames that are already on a GPU.

A resize is linear along each axis, so it is two matrix products. They use Pillow's own weights, process the axes in
Pillow's order, and round after each product as Pillow does. Only exact ties may round differently: at most a few
percent of the pixels differ, by one or two levels.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from models.preprocessing import Preprocessing, crop_corner, is_flipped, resize_weights, resized


def resize_and_crop_tensor(frames: Tensor, preprocessing: Preprocessing, views: Sequence[str]) -> Tensor:
    """Resize frames and cut out views.

    Args:
        frames: uint8 ``[n, height, width, 3]``, RGB, on any device.
        preprocessing: that of the backbone.
        views: a selection of ``models.preprocessing.VIEWS``.

    Returns:
        uint8 ``[n * len(views), crop, crop, 3]``, RGB; the views of a frame follow one another.
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
        # Negative padding crops, positive padding is black.
        cut = F.pad(images, (-left, left + crop - size[0], -top, top + crop - size[1]))
        cuts.append(cut.flip(3) if is_flipped(view) else cut)
    return torch.stack(cuts, dim=1).flatten(0, 1).byte().permute(0, 2, 3, 1)


def _rounded(pixels: Tensor) -> Tensor:
    return pixels.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=64)
def _weights(length: int, new_length: int, interpolation: str, device: torch.device) -> Tensor:
    return torch.from_numpy(resize_weights(length, new_length, interpolation)).to(device)
