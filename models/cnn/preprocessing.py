"""The preprocessing of a backbone's frames: resize, crop, normalisation.

Imports numpy and Pillow but not torch: frames are resized where they are decoded, in worker processes that should
start fast and stay small. ``models.backbones.normalize`` normalises whole batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform of a backbone's weights. It is part of the features' fingerprint.

    Attributes:
        resize: length in pixels of the short side after the resize, or of both sides if not ``keep_aspect_ratio``.
        crop: side in pixels of the square that is cut out; padded with black if larger than the resized frame.
        interpolation: filter of the resize, with antialiasing.
        mean: per RGB channel, for pixels scaled to [0, 1].
        std: per RGB channel, for pixels scaled to [0, 1].
        keep_aspect_ratio: if false, the whole frame is squashed to ``resize`` x ``resize`` (timm's crop mode "squash").
    """

    resize: int
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    keep_aspect_ratio: bool = True


VIEWS = (
    "center",
    "center-flipped",
    "top-left",
    "top-right",
    "bottom-left",
    "bottom-right",
    "top-left-flipped",
    "top-right-flipped",
    "bottom-left-flipped",
    "bottom-right-flipped",
)
"""The square that is cut from a frame, and whether it is mirrored: the ten crops of AlexNet's evaluation. ``--views N``
takes the first N; pretrained weights are evaluated with the first."""

CENTER = VIEWS[0]


def resize_and_crop(
    frame: npt.NDArray[np.uint8], preprocessing: Preprocessing, views: Sequence[str] = VIEWS[:1]
) -> npt.NDArray[np.uint8]:
    """Resize a frame and cut out views; gives the same pixels as torchvision's and timm's transforms.

    Args:
        frame: uint8 ``[height, width, 3]``, RGB.
        preprocessing: that of the backbone.
        views: a selection of ``VIEWS``.

    Returns:
        uint8 ``[len(views), crop, crop, 3]``, RGB.

    Raises:
        ValueError: the frame is not uint8 ``[height, width, 3]`` or is empty.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise ValueError(f"a frame must be uint8 [height, width, 3]; got {frame.dtype} {list(frame.shape)}")
    height, width = frame.shape[:2]
    size = resized(width, height, preprocessing)
    image = Image.fromarray(frame).resize(size, _FILTERS[preprocessing.interpolation])
    crop = preprocessing.crop
    pixels = np.empty((len(views), crop, crop, 3), dtype=np.uint8)
    for view, out in zip(views, pixels, strict=True):
        left, top = crop_corner(size, crop, view)
        # Outside the image Pillow fills with black, as torchvision's padding does.
        cut = np.asarray(image.crop((left, top, left + crop, top + crop)))
        out[:] = cut[:, ::-1] if is_flipped(view) else cut
    return pixels


def resized(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height of a frame after the resize, before the crop."""
    side = preprocessing.resize
    if not preprocessing.keep_aspect_ratio:
        return side, side
    # int(), not round(): torchvision truncates the long side.
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def crop_corner(size: tuple[int, int], crop: int, view: str) -> tuple[int, int]:
    """Left and top of a view's square in a resized frame of ``size`` (width, height); negative means padding."""
    place = view.removesuffix("-flipped")
    assert place in VIEWS, view
    corner = []
    for length, start, end in zip(size, ("left", "top"), ("right", "bottom"), strict=True):
        if start in place and length > crop:
            corner.append(0)
        elif end in place and length > crop:
            corner.append(length - crop)
        else:
            # torchvision rounds half to even when it crops, and rounds the leading padding down.
            corner.append(round((length - crop) / 2) if length >= crop else -((crop - length) // 2))
    left, top = corner
    return left, top


def is_flipped(view: str) -> bool:
    return view.endswith("-flipped")
