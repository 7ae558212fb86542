"""Pretrained image networks as frame encoders: network, weights and preprocessing by name.

There are three kinds of name:

- ``efficientnet_lite0`` (default): its weights come with the installation, nothing is downloaded;
- any torchvision classification model, with its best weights: ``resnet50``, ``googlenet``, ``vit_b_16``, ...;
- any timm model as ``timm:NAME``: ``timm:vit_small_patch14_dinov2``, ``timm:resnet50.a1_in1k``, ...

torchvision and timm take seconds to import, so they are imported only when a backbone is loaded.
"""

import math
import re
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.errors import nearest_name
from models.cnn import efficientnet_lite0
from models.cnn.preprocessing import Preprocessing
from models.cnn.same_padding import fix_same_padding
from models.cnn.torchvision_ops import declare_missing_ops
from models.cnn.weights import BackboneError, load_weights, read_state_dict, weights_sha256

__all__ = ["DEFAULT_BACKBONE", "Backbone", "BackboneError", "load_backbone", "normalize"]

DEFAULT_BACKBONE = "efficientnet_lite0"
_TIMM = "timm:"
_RANDOM = "random"
_AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits")  # GoogLeNet's and Inception's, for training only


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network that turns frames into features.

    Attributes:
        name: the name passed to ``load_backbone``.
        network: float ``[N, 3, crop, crop]`` -> pooled features of the last layer before the classifier
            ``[N, feature_dim]``. Always in eval mode; no parameter requires a gradient.
        feature_dim: length of a feature vector.
        preprocessing: the transform that the weights need.
        weights: a description of the weights' origin.
        weights_sha256: the result of ``models.cnn.weights.weights_sha256``.
    """

    name: str
    network: nn.Module
    feature_dim: int
    preprocessing: Preprocessing
    weights: str
    weights_sha256: str


class FrozenNetwork(nn.Module):
    """Keep a network in eval mode: ``train()`` of an enclosing module must not change its BatchNorm statistics."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenNetwork":
        return super().train(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network(images)
        return features


def load_backbone(name: str = DEFAULT_BACKBONE, weights: Path | None = None, *, pretrained: bool = True) -> Backbone:
    """Load a backbone on the CPU.

    Args:
        name: ``efficientnet_lite0``, a torchvision classification model, or ``timm:`` and a timm model.
        weights: a local file (.pth, .pt, .safetensors) to use instead of the default weights. Its classifier is
            ignored, so the number of classes does not matter. The preprocessing stays that of the default weights.
        pretrained: false gives random weights, for tests and dry runs. Ignored if ``weights`` is given.

    Raises:
        BackboneError: the name is unknown, or the weights can't be downloaded, can't be read or do not fit.
    """
    declare_missing_ops()
    if name == DEFAULT_BACKBONE:
        network, preprocessing, source = _load_efficientnet_lite0(weights, pretrained)
    elif name.startswith(_TIMM):
        network, preprocessing, source = _load_timm(name, weights, pretrained)
    elif name in _torchvision_names():
        network, preprocessing, source = _load_torchvision(name, weights, pretrained)
    else:
        raise _unknown_backbone(name)
    sha256 = weights_sha256(network)
    fix_same_padding(network, preprocessing.crop)
    network = FrozenNetwork(network)
    feature_dim = _feature_dim(name, network, preprocessing)
    return Backbone(name, network, feature_dim, preprocessing, source, sha256)


def normalize(frames: torch.Tensor, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Turn a batch of frames into the network's input.

    Args:
        frames: uint8 ``[N, crop, crop, 3]``, RGB, from ``models.cnn.preprocessing.resize_and_crop``, on any device.
        preprocessing: that of the backbone.
        dtype: type of the result; the arithmetic is always float32.

    Returns:
        ``[N, 3, crop, crop]`` in channels_last memory order, on the frames' device.
    """
    images = frames.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last)
    mean = torch.tensor(preprocessing.mean, device=frames.device).view(3, 1, 1)
    std = torch.tensor(preprocessing.std, device=frames.device).view(3, 1, 1)
    return images.div_(255).sub_(mean).div_(std).to(dtype)


def _load_efficientnet_lite0(weights: Path | None, pretrained: bool) -> tuple[nn.Module, Preprocessing, str]:
    import timm

    network: nn.Module = timm.create_model(efficientnet_lite0.ARCHITECTURE, pretrained=False, num_classes=0)
    if weights is not None:
        path, source = weights, str(weights)
    elif pretrained:
        path, source = efficientnet_lite0.weight_file(), efficientnet_lite0.WEIGHTS
    else:
        return network, efficientnet_lite0.PREPROCESSING, _RANDOM
    state_dict = efficientnet_lite0.with_timm_names(read_state_dict(path))
    load_weights(network, state_dict, ["classifier"], DEFAULT_BACKBONE, source)
    return network, efficientnet_lite0.PREPROCESSING, source


def _load_torchvision(name: str, weights: Path | None, pretrained: bool) -> tuple[nn.Module, Preprocessing, str]:
    from torchvision import models

    default = models.get_model_weights(name).DEFAULT
    preprocessing = torchvision_preprocessing(default.transforms())
    network = models.get_model(name, weights=None, **torchvision_arguments(name, preprocessing.crop))
    classifier = drop_classifier(network)
    if weights is not None:
        state_dict, source = read_state_dict(weights), str(weights)
    elif pretrained:
        try:
            state_dict, source = default.get_state_dict(progress=True, check_hash=True), f"torchvision {default}"
        except Exception as error:  # no network, unknown host, full disk, wrong hash: the advice is the same
            raise _download_failed(name, default.url, error) from error
    else:
        return network, preprocessing, _RANDOM
    load_weights(network, _current_densenet_names(state_dict), [classifier, *_AUXILIARY_HEADS], name, source)
    return network, preprocessing, source


def torchvision_preprocessing(transforms: Any) -> Preprocessing:
    """Convert the transform of torchvision weights (``weights.transforms()``)."""
    return Preprocessing(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def torchvision_arguments(name: str, crop: int) -> dict[str, Any]:
    """Arguments that make torchvision build the architecture of the default weights, where its defaults do not."""
    if name in ("googlenet", "inception_v3"):
        # Their weights expect other statistics than the transform's; the network converts them.
        return {"transform_input": True, "aux_logits": False, "init_weights": False}
    if name.startswith("vit_"):
        return {"image_size": crop}
    return {}


def drop_classifier(network: nn.Module) -> str:
    """Replace a torchvision model's last linear layer with the identity, so that the model returns its features.

    In SqueezeNet, whose classifier is a convolution before the pooling, the last convolution is replaced.

    Returns:
        the name of the replaced layer.
    """
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    classifier: str = (linears or convolutions)[-1]
    network.set_submodule(classifier, nn.Identity())
    return classifier


def _current_densenet_names(state_dict: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Rename keys of torchvision's published DenseNet files, such as ``norm.1``, to the model's, such as ``norm1``."""
    for key in [key for key in state_dict if "denselayer" in key]:
        state_dict[re.sub(r"\.(norm|relu|conv)\.(\d)\.", r".\1\2.", key)] = state_dict.pop(key)
    return state_dict


def _load_timm(name: str, weights: Path | None, pretrained: bool) -> tuple[nn.Module, Preprocessing, str]:
    import timm

    model_name = name.removeprefix(_TIMM)
    if not timm.is_model(model_name):
        raise _unknown_backbone(name)
    try:
        config = timm.get_pretrained_cfg(model_name)
    except RuntimeError as error:  # the model has no such tag
        tagged = timm.list_pretrained(f"{model_name.split('.')[0]}.*")
        raise BackboneError(f"{name}: {error} There are: {', '.join(_TIMM + model for model in tagged)}") from error
    preprocessing = timm_preprocessing(name, timm.data.resolve_data_config(pretrained_cfg=config.to_dict()))
    download = pretrained and weights is None
    try:
        network: nn.Module = timm.create_model(model_name, pretrained=download, num_classes=0)
    except Exception as error:
        if not download:
            raise
        raise _download_failed(name, _timm_url(config), error) from error
    if weights is not None:
        state_dict = _with_current_timm_names(network, read_state_dict(weights), name, weights)
        classifier = config.classifier or ()
        ignore = [classifier] if isinstance(classifier, str) else list(classifier)
        load_weights(network, state_dict, ignore, name, str(weights))
        return network, preprocessing, str(weights)
    return network, preprocessing, f"timm {config.architecture}.{config.tag}" if download else _RANDOM


def timm_preprocessing(name: str, data_config: dict[str, Any]) -> Preprocessing:
    """Convert timm's data config (``timm.data.resolve_data_config``).

    Raises:
        BackboneError: the model is one of the few that need another shape than a square or another crop mode.
    """
    channels, height, width = data_config["input_size"]
    crop_mode, interpolation = data_config["crop_mode"], data_config["interpolation"]
    if (
        (channels, width) != (3, height)
        or crop_mode not in ("center", "squash")
        or interpolation not in ("bilinear", "bicubic")
    ):
        raise BackboneError(
            f"{name} needs {channels} x {height} x {width} input, {interpolation}, crop mode {crop_mode!r}. Supported: "
            "3 channels, square, bilinear or bicubic, crop mode 'center' or 'squash'. Choose another model"
        )
    return Preprocessing(
        resize=math.floor(height / data_config["crop_pct"]),
        crop=height,
        interpolation=interpolation,
        mean=tuple(data_config["mean"]),
        std=tuple(data_config["std"]),
        keep_aspect_ratio=crop_mode == "center",
    )


def _with_current_timm_names(
    network: nn.Module, state_dict: OrderedDict[str, torch.Tensor], name: str, weights: Path
) -> OrderedDict[str, torch.Tensor]:
    """Apply the filter that timm applies to its own downloads: it converts the authors' original key names."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state_dict
    try:
        return OrderedDict(convert(state_dict, network))
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise BackboneError(f"{weights} does not fit {name}: timm's key conversion failed with {error!r}") from error


def _timm_url(config: Any) -> str | None:
    if config.hf_hub_id:
        return f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors"
    url: str | None = config.url
    return url


def _feature_dim(name: str, network: nn.Module, preprocessing: Preprocessing) -> int:
    with torch.inference_mode():
        features = network(torch.zeros(1, 3, preprocessing.crop, preprocessing.crop))
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        shape = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise BackboneError(f"{name} returns {shape} for one image, not one feature vector. Choose another model")
    return features.shape[1]


def _download_failed(name: str, url: str | None, error: Exception) -> BackboneError:
    reason = " ".join(str(error).split()) or type(error).__name__
    advice = f"download {url} on another machine" if url else "get them from the model's authors"
    return BackboneError(
        f"the weights of {name} could not be downloaded: {reason}\n"
        f"Either {advice} and pass --weights FILE,\n"
        f"or use --backbone {DEFAULT_BACKBONE}, whose weights come with the installation."
    )


def _torchvision_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _unknown_backbone(name: str) -> BackboneError:
    import timm

    known = [DEFAULT_BACKBONE, *_torchvision_names(), *(_TIMM + timm_name for timm_name in timm.list_models())]
    lower = name.lower()
    # A timm name without its prefix resembles torchvision's names more than its own.
    word = _TIMM + lower if lower not in known and _TIMM + lower in known else lower
    nearest = nearest_name(word, known)
    hint = "" if nearest is None else f" Did you mean {nearest!r}?"
    return BackboneError(
        f"unknown backbone {name!r}.{hint}\n"
        f"A backbone is {DEFAULT_BACKBONE}, a classification model of torchvision (resnet50, vit_b_16, ...), or any "
        "model of timm as timm:NAME (timm:vit_small_patch14_dinov2; timm.list_models() returns the names)"
    )
