"""What is done to the feature vectors of frames before a classifier reads them."""

import torch
from torch import Tensor


def power_normalize(features: Tensor) -> Tensor:
    """The signed square root of each feature, scaled to a unit vector per frame: ``[..., D]`` -> ``[..., D]``.

    It tames the few large values of CNN features. Perronnin et al., "Improving the Fisher Kernel for Large-Scale Image
    Classification" (2010), section 3.3. It works in place, so no gradient can flow back to the features.
    """
    magnitudes = features.abs()
    # The squared length of a frame of square roots is the sum of its magnitudes. The constant is for features of zero.
    scale = magnitudes.mul_(magnitudes.sum(-1, keepdim=True)).add_(1e-12).rsqrt_()
    return scale.mul_(features)


def zero_padding(values: Tensor, lengths: Tensor) -> Tensor:
    """A copy of ``[T, B, ...]`` with zeros after each sequence's end; ``lengths`` is int64 ``[B]``."""
    is_padding = torch.arange(len(values), device=lengths.device)[:, None] >= lengths
    # Several times faster on a CPU than masked_fill, which visits every number.
    return values.flatten(0, 1).index_fill(0, is_padding.flatten().nonzero().squeeze(1), 0).view_as(values)
