"""How a backbone wants its frames: resize, centre crop, normalisation.

Needs numpy and Pillow only, never torch: frames are resized where they are decoded, in worker processes that should
start fast and stay small. Normalisation happens on the whole batch, in ``models.backbones.normalize``.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform that belongs to a backbone's weights. Frozen: it is part of the features' fingerprint.

    Attributes:
        resize: side in pixels before the crop; the short one, or both where ``keep_aspect_ratio`` is false.
        crop: side in pixels of the square cut from the centre; where it is the larger one, the rest is black.
        interpolation: of the resize, with antialiasing.
        mean: per RGB channel, of pixels scaled to [0, 1].
        std: per RGB channel, of pixels scaled to [0, 1].
        keep_aspect_ratio: false squashes the whole frame into ``resize`` x ``resize`` (timm's crop mode "squash").
    """

    resize: int
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    keep_aspect_ratio: bool = True


def resize_and_crop(frame: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """One frame as the network sees it, before normalisation; the same pixels as torchvision's and timm's transforms.

    Args:
        frame: uint8 ``[height, width, 3]``, RGB.
        preprocessing: of the backbone.

    Returns:
        uint8 ``[crop, crop, 3]``, RGB.

    Raises:
        ValueError: the frame is not uint8 ``[height, width, 3]`` or is empty.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        raise ValueError(f"a frame is uint8 [height, width, 3]; got {frame.dtype} {list(frame.shape)}")
    height, width = frame.shape[:2]
    size = _resized(width, height, preprocessing)
    image = Image.fromarray(frame).resize(size, _FILTERS[preprocessing.interpolation])
    left, top = (_crop_offset(length, preprocessing.crop) for length in size)
    # Pillow fills what lies outside the image with black, as torchvision's padding does.
    image = image.crop((left, top, left + preprocessing.crop, top + preprocessing.crop))
    return np.array(image)


def _resized(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    side = preprocessing.resize
    if not preprocessing.keep_aspect_ratio:
        return side, side
    # int(), not round(): torchvision truncates the long side.
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def _crop_offset(length: int, crop: int) -> int:
    # torchvision rounds half to even when it cuts, and rounds the leading half down when it pads.
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)
