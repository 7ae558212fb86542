"""``resize_and_crop_tensor`` gives the pixels of ``resize_and_crop``."""

from typing import Literal

import numpy as np
import pytest
import torch

from models.cnn.preprocessing import VIEWS, Preprocessing, resize_and_crop
from models.cnn.tensor_preprocessing import resize_and_crop_tensor
from pipeline.features.encoders import open_network, to_onnx


def smooth_frames(height: int, width: int) -> np.ndarray:
    """Two frames with edges, gradients and colours."""
    down, across = np.mgrid[0:height, 0:width]
    frames = [
        np.stack([across * 255 / width, 128 + 127 * np.sin(down / 7 + shift), (across // 9 % 2) * 255], axis=-1)
        for shift in range(2)
    ]
    return np.stack(frames).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width"), [(240, 320), (320, 240), (210, 500), (48, 64), (224, 224), (37, 211), (400, 170)]
)
@pytest.mark.parametrize(("resize", "keep_aspect_ratio"), [(256, True), (80, True), (96, False)])
def test_equals_resize_and_crop(
    interpolation: Literal["bilinear", "bicubic"], height: int, width: int, resize: int, keep_aspect_ratio: bool
) -> None:
    """Every view of every size has the pixels of ``resize_and_crop``, padding and ties of the rounding included."""
    preprocessing = Preprocessing(resize, 96, interpolation, (0, 0, 0), (1, 1, 1), keep_aspect_ratio)
    frames = smooth_frames(height, width)
    expected = np.concatenate([resize_and_crop(frame, preprocessing, VIEWS) for frame in frames])
    found = resize_and_crop_tensor(torch.from_numpy(frames), preprocessing, VIEWS).numpy()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_views_are_the_ten_crops_of_torchvision() -> None:
    """The views, plain and mirrored, are the crops of torchvision's ``TenCrop``."""
    from models.cnn.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from PIL import Image
    from torchvision.transforms import Compose, InterpolationMode, Resize, TenCrop

    frame = smooth_frames(240, 330)[0]  # margins of whole pixels: the mirror image of a centre is a centre
    ours = resize_and_crop(frame, Preprocessing(256, 224, "bilinear", (0, 0, 0), (1, 1, 1)), VIEWS)
    theirs = Compose([Resize(256, InterpolationMode.BILINEAR), TenCrop(224)])(Image.fromarray(frame))
    order = ["top-left", "top-right", "bottom-left", "bottom-right", "center"]
    names = [*order, "top-right-flipped", "top-left-flipped", "bottom-right-flipped", "bottom-left-flipped"]
    for name, crop in zip([*names, "center-flipped"], theirs, strict=True):
        np.testing.assert_array_equal(ours[VIEWS.index(name)], np.asarray(crop), err_msg=name)


def test_the_exported_graph_takes_frames_of_other_sizes() -> None:
    """ONNX Runtime gives the same pixels for any number and size of frames, whatever the tracer saw."""
    preprocessing = Preprocessing(80, 96, "bicubic", (0, 0, 0), (1, 1, 1))

    class Cut(torch.nn.Module):
        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            return resize_and_crop_tensor(frames, preprocessing, VIEWS[:3])

    names = {"frames": ["num_frames", "height", "width"], "pixels": ["num_pixels"]}
    session = open_network(to_onnx(Cut(), {"frames": torch.zeros(2, 48, 64, 3, dtype=torch.uint8)}, names))
    for height, width in ((1, 1), (48, 64), (240, 320), (333, 40), (900, 200)):
        for num_frames in (1, 3):
            frames = smooth_frames(height, width)[[0, 1, 0][:num_frames]]
            expected = np.concatenate([resize_and_crop(frame, preprocessing, VIEWS[:3]) for frame in frames])
            np.testing.assert_array_equal(session.run(None, {"frames": frames})[0], expected)
