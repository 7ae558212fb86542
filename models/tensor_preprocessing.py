"""The resize and crops of ``models.preprocessing`` as tensor operations, for a GPU and for an ONNX graph.

A resize is linear along each axis, so resize and crop together are two matrix products. They give exactly Pillow's
pixels, because they do what it does (``src/libImaging/Resample.c``): weights in double precision, rounded to multiples
of 2^-22; sums of whole numbers, which float64 represents exactly; and rounding to bytes between the axes.

No number depends on the sizes of the frames a tracer sees, and none is a Python number, so an exported graph takes
frames of any size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.preprocessing import Preprocessing, is_flipped

_ONE = 2.0**22  # Pillow's fixed point number 1


def resize_and_crop_tensor(frames: Tensor, preprocessing: Preprocessing, views: Sequence[str]) -> Tensor:
    """Resize frames and cut out views.

    Args:
        frames: uint8 ``[n, height, width, 3]``, RGB, on any device.
        preprocessing: that of the backbone.
        views: a selection of ``models.preprocessing.VIEWS``.

    Returns:
        uint8 ``[n * len(views), crop, crop, 3]``, RGB; the views of a frame follow one another.
    """
    # Vectors of one number: the exporter would turn float64 numbers without a dimension into float32.
    shape = torch._shape_as_tensor(frames).double().to(frames.device)
    height, width = shape[1:2], shape[2:3]
    side = torch.full_like(height, float(preprocessing.resize))
    new_height, new_width = side, side
    if preprocessing.keep_aspect_ratio:
        # The short side becomes ``resize``; torchvision truncates the long one.
        new_height = torch.where(width <= height, torch.floor(side * height / width), side)
        new_width = torch.where(width <= height, side, torch.floor(side * width / height))
    images = frames.permute(0, 3, 1, 2).double()
    rows, columns = (torch.arange(frames.shape[axis], device=frames.device).double() for axis in (1, 2))
    # Pillow begins with the axis that saves more work.
    is_down_first = (new_height < height) & (height - new_height > 2 * (width - new_width))
    one = torch.ones_like(height)
    num_rows_across, num_rows_down = (
        torch.where(chosen, height, one).long()[0] for chosen in (~is_down_first, is_down_first)
    )
    cuts: dict[str, Tensor] = {}
    for place in {view.removesuffix("-flipped"): None for view in views}:
        left = _corner(new_width, preprocessing.crop, place, "left")
        top = _corner(new_height, preprocessing.crop, place, "top")
        across = _weights(columns, width / new_width, new_width, left, preprocessing).T
        down = _weights(rows, height / new_height, new_height, top, preprocessing)
        # Only one order reads the frame; the other gets its first row, and its result is thrown away.
        across_first = _rounded(down[:, :num_rows_across] @ _rounded(images[:, :, :num_rows_across] @ across))
        down_first = _rounded(_rounded(down[:, :num_rows_down] @ images[:, :, :num_rows_down]) @ across)
        cuts[place] = torch.where(is_down_first, down_first, across_first)
    chosen = [(cuts[view.removesuffix("-flipped")], is_flipped(view)) for view in views]
    pixels = torch.stack([cut.flip(3) if flipped else cut for cut, flipped in chosen], dim=1)
    return pixels.flatten(0, 1).to(torch.uint8).permute(0, 2, 3, 1)


def _corner(new_length: Tensor, crop: int, place: str, start: str) -> Tensor:
    """One coordinate of ``models.preprocessing.crop_corner``, float64 ``[1]``."""
    excess = new_length - crop
    center = torch.where(excess >= 0, torch.round(excess / 2), torch.ceil(excess / 2))
    if place == "center":
        return center
    return torch.where(excess > 0, torch.zeros_like(excess) if start in place else excess, center)


def _weights(pixels: Tensor, scale: Tensor, new_length: Tensor, corner: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop of one axis as a matrix of multiples of 2^-22: float64 ``[crop, length]``, a row per pixel cut.

    Rows of pixels outside the resized frame are zero: black.

    Args:
        pixels: 0, 1, ... up to the frame's length, float64 ``[length]``.
        scale: length / ``new_length``.
        new_length: length of the resized frame.
        corner: its pixel that the cut begins with; negative means padding.
    """
    positions = corner + torch.arange(preprocessing.crop, dtype=torch.float64, device=pixels.device)
    centers = ((positions + 0.5) * scale)[:, None]
    # A frame that shrinks is averaged over more pixels: antialiasing.
    distances = ((pixels - centers + 0.5) * (1 / scale.clamp(min=1.0))).abs()
    if preprocessing.interpolation == "bilinear":
        weights = (1 - distances).clamp(min=0.0)
    else:
        near = (1.5 * distances - 2.5) * distances * distances + 1
        far = (((distances - 5) * distances + 8) * distances - 4) * -0.5
        zero = torch.zeros_like(distances)
        weights = torch.where(distances < 1, near, torch.where(distances < 2, far, zero))
    weights = weights / weights.sum(1, keepdim=True)
    # Pillow rounds half away from zero.
    weights = weights.sign() * torch.floor(weights.abs() * _ONE + 0.5)
    is_inside = ((positions >= 0) & (positions < new_length))[:, None]
    return torch.where(is_inside, weights / _ONE, torch.zeros_like(weights))


def _rounded(pixels: Tensor) -> Tensor:
    return torch.floor(pixels + 0.5).clamp(0, 255)
