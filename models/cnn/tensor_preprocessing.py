"""The resize and crops of ``models.cnn.preprocessing`` as tensor operations, for a GPU and for an ONNX graph.

A resize is linear along each axis: a product with a banded matrix, because a pixel depends on few neighbours. The
matrix is cut into blocks of ``_BLOCK`` rows, and each is multiplied with only the pixels that its rows depend on. This
gives exactly Pillow's pixels, because it does what Pillow does (``src/libImaging/Resample.c``): weights in double
precision, rounded to multiples of 2^-22; sums of whole numbers, which float64 represents exactly; and rounding to bytes
between the axes.

No number depends on the sizes of the frames a tracer sees, and none is a Python number, so an exported graph takes
frames of any size.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from models.cnn.preprocessing import Preprocessing, is_flipped

_ONE = 2.0**22  # Pillow's fixed point number 1
_BLOCK = 16


def resize_and_crop_tensor(frames: Tensor, preprocessing: Preprocessing, views: Sequence[str]) -> Tensor:
    """Resize frames and cut out views.

    Args:
        frames: uint8 ``[n, height, width, 3]``, RGB, on any device.
        preprocessing: that of the backbone.
        views: a selection of ``models.cnn.preprocessing.VIEWS``.

    Returns:
        uint8 ``[n * len(views), crop, crop, 3]``, RGB; the views of a frame follow one another.
    """
    # Vectors of one number: the exporter would turn float64 numbers without a dimension into float32.
    shape = torch._shape_as_tensor(frames).double()
    height, width = shape[1:2], shape[2:3]
    side = torch.full_like(height, float(preprocessing.resize))
    new_height, new_width = side, side
    if preprocessing.keep_aspect_ratio:
        # The short side becomes ``resize``; torchvision truncates the long one.
        new_height = torch.where(width <= height, torch.floor(side * height / width), side)
        new_width = torch.where(width <= height, side, torch.floor(side * width / height))
    # Pillow begins with the axis that saves more work.
    is_down_first = (new_height < height) & (height - new_height > 2 * (width - new_width))
    length, new_length, other_length, new_other_length = (
        torch.where(is_down_first, one, other)
        for one, other in ((height, width), (new_height, new_width), (width, height), (new_width, new_height))
    )
    other_size, crop = _size(other_length), preprocessing.crop

    def choose(down_first: Tensor, across_first: Tensor) -> Tensor:
        return torch.where(is_down_first.to(frames.device), down_first.flatten(), across_first.flatten())

    # ONNX Runtime transposes matrices of bytes fast, and other arrays slowly.
    # [height, (width, 3, n)] or [width, (3, n, height)]
    images = choose(frames.flatten(1).T, frames.flatten(2).flatten(0, 1).T).view(_size(length), -1)
    cuts: dict[str, Tensor] = {}
    for place in {view.removesuffix("-flipped"): None for view in views}:
        left, top = _corner(new_width, crop, place, "left"), _corner(new_height, crop, place, "top")
        first, second = torch.where(is_down_first, top, left), torch.where(is_down_first, left, top)
        pixels = _resized(images, length, new_length, first, preprocessing)
        # [width, (3, n, crop)] or [height, (crop, 3, n)]
        pixels = choose(pixels.T, pixels.view(-1, other_size).T).view(other_size, -1)
        pixels = _resized(pixels, other_length, new_other_length, second, preprocessing)
        # [(crop, crop, 3), n]
        pixels = choose(pixels.view(-1, crop).T, pixels).view(crop * crop * 3, -1)
        cuts[place] = pixels.T.view(-1, crop, crop, 3)
    chosen = [(cuts[view.removesuffix("-flipped")], is_flipped(view)) for view in views]
    return torch.stack([cut.flip(2) if flipped else cut for cut, flipped in chosen], dim=1).flatten(0, 1)


def _size(length: Tensor) -> int:
    """A length, ``[1]``, as the size of a tensor. A tracer follows it, which ``int`` would prevent."""
    return cast(int, length.long()[0])


def _corner(new_length: Tensor, crop: int, place: str, start: str) -> Tensor:
    """One coordinate of ``models.cnn.preprocessing.crop_corner``, float64 ``[1]``."""
    excess = new_length - crop
    center = torch.where(excess >= 0, torch.round(excess / 2), torch.ceil(excess / 2))
    if place == "center":
        return center
    return torch.where(excess > 0, torch.zeros_like(excess) if start in place else excess, center)


def _resized(
    images: Tensor, length: Tensor, new_length: Tensor, corner: Tensor, preprocessing: Preprocessing
) -> Tensor:
    """Resize and crop the first axis: uint8 ``[length, k]`` -> ``[crop, k]``.

    Pixels outside the resized frame are black.

    Args:
        length, new_length: of the frame before and after the resize, float64 ``[1]``.
        corner: the pixel of the resized frame that the cut begins with; negative means padding.
    """
    num_blocks = -(-preprocessing.crop // _BLOCK)
    scale = length / new_length
    # A frame that shrinks is averaged over more pixels: antialiasing.
    widening = scale.clamp(min=1.0)
    reach = widening * (1 if preprocessing.interpolation == "bilinear" else 2)
    positions = (corner + torch.arange(num_blocks * _BLOCK, dtype=torch.float64)).view(num_blocks, _BLOCK, 1)
    centers = (positions + 0.5) * scale
    num_neighbours = _size(torch.ceil((_BLOCK - 1) * scale + 2 * reach) + 1)
    # [num_blocks, 1, num_neighbours]
    pixels = torch.floor(centers[:, :1] - reach) + torch.arange(num_neighbours).double()
    distances = ((pixels - centers + 0.5) * (1 / widening)).abs()
    if preprocessing.interpolation == "bilinear":
        weights = (1 - distances).clamp(min=0.0)
    else:
        near = (1.5 * distances - 2.5) * distances * distances + 1
        far = (((distances - 5) * distances + 8) * distances - 4) * -0.5
        zero = torch.zeros_like(distances)
        weights = torch.where(distances < 1, near, torch.where(distances < 2, far, zero))
    is_in_frame = (pixels >= 0) & (pixels < length)
    weights = torch.where(is_in_frame, weights, torch.zeros_like(weights))
    weights = weights / weights.sum(2, keepdim=True)
    # Pillow rounds half away from zero.
    weights = weights.sign() * torch.floor(weights.abs() * _ONE + 0.5)
    is_resized = (positions >= 0) & (positions < new_length)
    weights = torch.where(is_resized, weights / _ONE, torch.zeros_like(weights))
    rows = torch.minimum(pixels.clamp(min=0.0), length - 1).long().flatten()
    neighbours = images.index_select(0, rows.to(images.device)).view(num_blocks, num_neighbours, -1)
    products = weights.to(images.device) @ neighbours.double()
    # The conversion to bytes rounds down.
    return (products + 0.5).clamp(0, 255).to(torch.uint8).flatten(0, 1)[: preprocessing.crop]
