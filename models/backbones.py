"""Pretrained image networks as frame encoders: a name gives the network, its own preprocessing and its weights.

Three kinds of name:

- ``efficientnet_lite0`` (default): weights come with the installation, nothing is downloaded;
- any torchvision classification model: ``resnet50``, ``googlenet``, ``vit_b_16``, ... with its best weights;
- any timm model as ``timm:NAME``: ``timm:vit_small_patch14_dinov2``, ``timm:resnet50.a1_in1k``, ...

torchvision and timm are imported when a backbone is loaded, not before: they take seconds.
"""

import difflib
import math
import re
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import efficientnet_lite0
from models.preprocessing import Preprocessing
from models.torchvision_ops import declare_missing_ops
from models.weights import BackboneError, load_weights, read_state_dict, weights_sha256

__all__ = ["DEFAULT_BACKBONE", "Backbone", "BackboneError", "load_backbone", "normalize"]

DEFAULT_BACKBONE = "efficientnet_lite0"
_TIMM = "timm:"
_RANDOM = "random"
_AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits")  # GoogLeNet's and Inception's, for training only


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network that turns frames into features.

    Attributes:
        name: as given to ``load_backbone``.
        network: float ``[N, 3, crop, crop]`` -> pooled features of the last layer before the classifier
            ``[N, feature_dim]``. Always in eval mode, no parameter wants a gradient.
        feature_dim: length of a feature vector.
        preprocessing: what belongs to the weights.
        weights: where they are from, in words.
        weights_sha256: of the weights themselves, see ``models.weights.weights_sha256``.
    """

    name: str
    network: nn.Module
    feature_dim: int
    preprocessing: Preprocessing
    weights: str
    weights_sha256: str


class FrozenNetwork(nn.Module):
    """Keeps a network in eval mode: ``train()`` of an enclosing module must not set its BatchNorm statistics adrift."""

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
    """The backbone called ``name``, on the CPU.

    Args:
        name: ``efficientnet_lite0``, a torchvision classification model, or ``timm:`` and a timm model.
        weights: a local file (.pth, .pt, .safetensors) instead of the default weights. Its classifier is ignored, so
            any number of classes will do. The preprocessing stays that of the default weights.
        pretrained: false gives random weights, for tests and dry runs. Ignored where ``weights`` is given.

    Raises:
        BackboneError: the name is not known; the weights can't be fetched, can't be read or do not fit.
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
    network = FrozenNetwork(network)
    feature_dim = _feature_dim(name, network, preprocessing)
    return Backbone(name, network, feature_dim, preprocessing, source, sha256)


def normalize(frames: torch.Tensor, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A batch of frames as the network takes it.

    Args:
        frames: uint8 ``[N, crop, crop, 3]``, RGB, from ``models.preprocessing.resize_and_crop``, on any device.
        preprocessing: of the backbone.
        dtype: of the result; the arithmetic is float32 whatever it is.

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
    source = _RANDOM
    if weights is not None or pretrained:
        path = weights if weights is not None else efficientnet_lite0.weight_file()
        source = str(weights) if weights is not None else efficientnet_lite0.WEIGHTS
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
        except Exception as error:  # no network, no such host, full disk, wrong hash: a way out is the same for all
            raise _not_fetched(name, default.url, error) from error
    else:
        return network, preprocessing, _RANDOM
    load_weights(network, _current_densenet_names(state_dict), [classifier, *_AUXILIARY_HEADS], name, source)
    return network, preprocessing, source


def torchvision_preprocessing(transforms: Any) -> Preprocessing:
    """The preset that a torchvision weights enum carries (``weights.transforms()``), as data."""
    return Preprocessing(
        resize=transforms.resize_size[0],
        crop=transforms.crop_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def torchvision_arguments(name: str, crop: int) -> dict[str, Any]:
    """The architecture that the default weights are for, where it is not the one torchvision builds unasked."""
    if name in ("googlenet", "inception_v3"):
        # Their weights want other statistics than the preset's: the network converts.
        return {"transform_input": True, "aux_logits": False, "init_weights": False}
    if name.startswith("vit_"):
        return {"image_size": crop}
    return {}


def drop_classifier(network: nn.Module) -> str:
    """Puts the identity in place of a torchvision model's last linear layer, so that it returns what that layer read.

    SqueezeNet classifies with a convolution before its pooling: there the last convolution goes.

    Returns:
        the name of the layer that was replaced.
    """
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    classifier: str = (linears or convolutions)[-1]
    network.set_submodule(classifier, nn.Identity())
    return classifier


def _current_densenet_names(state_dict: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """torchvision's published DenseNet files say ``norm.1`` where the model says ``norm1``."""
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
    except RuntimeError as error:  # a tag that the model does not have
        tagged = timm.list_pretrained(f"{model_name.split('.')[0]}.*")
        raise BackboneError(f"{name}: {error} There are: {', '.join(_TIMM + model for model in tagged)}") from error
    preprocessing = timm_preprocessing(name, timm.data.resolve_data_config(pretrained_cfg=config.to_dict()))
    download = pretrained and weights is None
    try:
        network: nn.Module = timm.create_model(model_name, pretrained=download, num_classes=0)
    except Exception as error:
        if not download:
            raise
        raise _not_fetched(name, _timm_url(config), error) from error
    if weights is not None:
        state_dict = _with_current_timm_names(network, read_state_dict(weights), name, weights)
        classifier = config.classifier or ()
        ignore = [classifier] if isinstance(classifier, str) else list(classifier)
        load_weights(network, state_dict, ignore, name, str(weights))
        return network, preprocessing, str(weights)
    return network, preprocessing, f"timm {config.architecture}.{config.tag}" if download else _RANDOM


def timm_preprocessing(name: str, data_config: dict[str, Any]) -> Preprocessing:
    """timm's data config (``timm.data.resolve_data_config``) in our terms.

    Raises:
        BackboneError: for the dozen models that want oblong input or a border round the frame.
    """
    channels, height, width = data_config["input_size"]
    crop_mode, interpolation = data_config["crop_mode"], data_config["interpolation"]
    if (
        (channels, width) != (3, height)
        or crop_mode not in ("center", "squash")
        or interpolation not in ("bilinear", "bicubic")
    ):
        raise BackboneError(
            f"{name} wants {channels} x {height} x {width} input, {interpolation}, crop mode {crop_mode!r}. Supported: "
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
    """Through the filter that timm sends its own downloads through: it knows the authors' original key names."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state_dict
    try:
        return OrderedDict(convert(state_dict, network))
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise BackboneError(f"{weights} does not fit {name}: {error!r} while reading it as timm does") from error


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
        raise BackboneError(f"{name} gives {shape} for one image, not one feature vector. Choose another model")
    return features.shape[1]


def _not_fetched(name: str, url: str | None, error: Exception) -> BackboneError:
    reason = " ".join(str(error).split()) or type(error).__name__
    where = f"download {url} on a machine that can" if url else "get them from where the model was published"
    return BackboneError(
        f"the weights of {name} could not be fetched: {reason}\n"
        f"Either {where} and pass --weights FILE,\n"
        f"or take --backbone {DEFAULT_BACKBONE}, whose weights come with the installation."
    )


def _torchvision_names() -> list[str]:
    from torchvision import models

    names: list[str] = models.list_models(module=models)
    return names


def _unknown_backbone(name: str) -> BackboneError:
    import timm

    wanted = name.lower()
    known = [DEFAULT_BACKBONE, *_torchvision_names(), *(_TIMM + timm_name for timm_name in timm.list_models())]
    # A torchvision name in other case, or a timm name without its prefix, is the likeliest of all.
    meant = [candidate for candidate in (wanted, _TIMM + wanted) if candidate in known]
    nearest = list(dict.fromkeys(meant + difflib.get_close_matches(wanted, known, n=3)))
    hint = f" Nearest: {', '.join(nearest)}." if nearest else ""
    return BackboneError(
        f"unknown backbone {name!r}.{hint}\n"
        f"A backbone is {DEFAULT_BACKBONE}, a classification model of torchvision (resnet50, vit_b_16, ...), or any "
        "model of timm as timm:NAME (timm:vit_small_patch14_dinov2; timm.list_models() has the names)"
    )
