"""TensorFlow's 'same' padding with the size of the images known beforehand.

timm computes this padding from the size of each input, at run time. An exported network then spends a quarter of its
time on shape arithmetic and on padding apart from the convolutions. With a constant size it is a part of them.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

_PLAIN: dict[str, type[nn.Module]] = {
    "Conv2dSame": nn.Conv2d,
    "MaxPool2dSame": nn.MaxPool2d,
    "AvgPool2dSame": nn.AvgPool2d,
}
"""timm's layers that pad and then do the same as a plain layer, by name: timm may not be imported."""


def fix_same_padding(network: nn.Module, size: int) -> None:
    """Make the padding of timm's layers constant, for images of ``size`` x ``size`` pixels.

    The results are the same, bit for bit, and so are the names of the weights.
    """
    layers = [
        module for module in network.modules() if type(module).__name__ in _PLAIN or getattr(module, "same_pad", False)
    ]
    if not layers:
        return
    from timm.layers.padding import pad_same_arg

    sizes: dict[Any, Any] = {}

    def note_size(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        size = inputs[0].shape[-2:]
        sizes[layer] = size if sizes.setdefault(layer, size) == size else None

    hooks = [layer.register_forward_pre_hook(note_size) for layer in layers]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    for layer in (layer for layer, size in sizes.items() if size is not None):  # used, and always at one size
        shape = layer.kernel_size, layer.stride, getattr(layer, "dilation", (1, 1))
        padding = pad_same_arg(sizes[layer], *shape)
        if plain := _PLAIN.get(type(layer).__name__):
            layer.__class__ = plain
        else:  # a convolution that standardises its weights
            layer.same_pad = False
        fill = -torch.inf if isinstance(layer, nn.MaxPool2d) else 0.0
        layer.register_forward_pre_hook(partial(_pad, tuple(padding), fill))


def _pad(padding: tuple[int, ...], fill: float, layer: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    return nn.functional.pad(inputs[0], padding, value=fill)
