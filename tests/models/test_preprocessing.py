"""models/cnn/preprocessing.py against the transforms of torchvision and timm."""

import subprocess
import sys

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image

from models.backbones import normalize, timm_preprocessing, torchvision_preprocessing
from models.cnn.preprocessing import Preprocessing, resize_and_crop
from models.cnn.torchvision_ops import declare_missing_ops
from tests.helpers import REPOSITORY

Frame = npt.NDArray[np.uint8]

# height x width: UCF101, portrait, odd both ways, smaller than every crop, square, a sliver.
SIZES = [(240, 320), (320, 240), (241, 427), (37, 51), (256, 256), (20, 400)]


def real_frame(height: int, width: int) -> Frame:
    """A real photograph (from scikit-learn), resized so that the whole frame has real content."""
    return np.array(Image.fromarray(load_sample_image("china.jpg")).resize((width, height)))


def as_network_input(frame: Frame, preprocessing: Preprocessing) -> torch.Tensor:
    return normalize(torch.from_numpy(resize_and_crop(frame, preprocessing)), preprocessing)[0]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("model", ["resnet50", "googlenet", "inception_v3", "vit_h_14", "efficientnet_b2", "swin_t"])
def test_equals_torchvision(model: str, size: tuple[int, int]) -> None:
    """A torchvision model's input equals that of the transform of its weights."""
    declare_missing_ops()
    from torchvision import models

    transforms = models.get_model_weights(model).DEFAULT.transforms()
    frame = real_frame(*size)
    expected = transforms(Image.fromarray(frame))
    actual = as_network_input(frame, torchvision_preprocessing(transforms))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "model",
    [
        "resnet50.a1_in1k",  # crop_pct 0.95
        "vit_small_patch14_dinov2.lvd142m",  # 518 pixels, no margin
        "vit_base_patch16_siglip_224.webli",  # squash
        "volo_d4_448.sail_in1k",  # crop_pct 1.15: wider than the frame
        "tf_efficientnet_b0.in1k",
    ],
)
def test_equals_timm(model: str, size: tuple[int, int]) -> None:
    """A timm model's input equals that of timm's evaluation transform."""
    declare_missing_ops()
    import timm

    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(model).to_dict())
    frame = real_frame(*size)
    expected = timm.data.create_transform(**config)(Image.fromarray(frame))
    actual = as_network_input(frame, timm_preprocessing(model, config))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), crop=st.integers(1, 64), margin=st.integers(-9, 9))
def test_any_size_equals_torchvision(height: int, width: int, crop: int, margin: int) -> None:
    """Rounding and padding equal torchvision's at every size, not only at common ones."""
    declare_missing_ops()
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    resize = max(1, crop + margin)
    frame = real_frame(height, width)
    ours = Preprocessing(resize, crop, "bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    theirs = Compose([Resize(resize, InterpolationMode.BILINEAR), CenterCrop(crop)])
    np.testing.assert_array_equal(resize_and_crop(frame, ours)[0], np.array(theirs(Image.fromarray(frame))))


def test_result_is_a_writable_copy() -> None:
    """The result does not share the frame's memory, so the decoder may reuse its buffer."""
    frame = real_frame(64, 64)
    before = frame.copy()
    result = resize_and_crop(frame, Preprocessing(64, 64, "bicubic", (0, 0, 0), (1, 1, 1)))[0]
    result[:] = 0
    np.testing.assert_array_equal(frame, before)


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["float", "grey", "channels first", "empty"],
)
def test_invalid_frame_raises(frame: Frame) -> None:
    """A frame of another dtype or layout is an error that names both, not noise."""
    with pytest.raises(ValueError, match=r"uint8 \[height, width, 3\]; got"):
        resize_and_crop(frame, Preprocessing(8, 8, "bilinear", (0, 0, 0), (1, 1, 1)))


def test_normalize_keeps_rgb_order_and_layout() -> None:
    """Channel 0 of the network's input is red, and its memory order is channels_last."""
    preprocessing = Preprocessing(4, 4, "bilinear", mean=(0.25, 0.5, 0.75), std=(0.5, 0.25, 0.125))
    red = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    red[..., 0] = 255
    images = normalize(red, preprocessing)
    assert images.shape == (2, 3, 4, 4)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[0, :, 0, 0].tolist() == [1.5, -2.0, -6.0]
    assert red[0, 0, 0].tolist() == [255, 0, 0], "the frames must not change"
    half = normalize(red, preprocessing, torch.float16)
    assert half.dtype == torch.float16 and half[0, :, 0, 0].tolist() == [1.5, -2.0, -6.0]


def test_needs_no_torch() -> None:
    """Importing the module must not import torch, torchvision or timm into every decoding worker."""
    code = (
        "import sys, models.cnn.preprocessing; print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
