"""Constant padding in place of timm's, which is computed at run time."""

import onnx
import pytest
import torch
from torch import nn

from models.backbones import load_backbone
from models.cnn.same_padding import fix_same_padding
from models.cnn.torchvision_ops import declare_missing_ops
from pipeline.features.encoders import to_onnx


@pytest.mark.parametrize("size", [64, 75])
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_mixnet_s", "resnetv2_50x1_bit", "eca_nfnet_l0"])
def test_features_stay_the_same(name: str, size: int) -> None:
    """Every kind of layer that pads gives the same numbers, bit for bit, for even and odd sizes."""
    declare_missing_ops()
    import timm

    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=0).eval()
    images = torch.randn(2, 3, size, size)
    names = list(network.state_dict())
    with torch.inference_mode():
        expected = network(images)
        fix_same_padding(network, size)
        assert torch.equal(network(images), expected)
    assert list(network.state_dict()) == names


def test_pools_pad_as_before() -> None:
    """A maximum ignores the padding, also where all inputs are negative; an average counts it."""
    declare_missing_ops()
    from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame

    network = nn.Sequential(MaxPool2dSame(3, 2), AvgPool2dSame(3, 2))
    images = -1 - torch.rand(1, 3, 10, 10)
    expected = network(images)
    fix_same_padding(network, 10)
    assert [type(layer) for layer in network] == [nn.MaxPool2d, nn.AvgPool2d]
    assert torch.equal(network(images), expected)


def test_a_layer_used_at_two_sizes_stays_as_it_is() -> None:
    """No constant is right for it."""
    declare_missing_ops()
    from timm.layers.conv2d_same import Conv2dSame

    layer = Conv2dSame(3, 3, 3, 2)
    network = nn.Sequential(layer, layer)
    images = torch.randn(1, 3, 11, 11)
    expected = network(images)
    fix_same_padding(network, 11)
    assert torch.equal(network(images), expected)
    assert type(layer) is Conv2dSame


def test_the_default_backbone_computes_no_shapes() -> None:
    """Its exported graph pads by constants, which ONNX Runtime makes a part of the convolutions."""
    network = load_backbone(pretrained=False).network
    graph = onnx.load_from_string(to_onnx(network, {"x": torch.zeros(1, 3, 224, 224)}, {"x": ["n"], "y": ["n"]})).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("Pad") == 5
    assert not {"Shape", "Gather", "Ceil", "Max"} & set(operators)
