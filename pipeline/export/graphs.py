"""A run's networks as ONNX files: from frames to features, and one step of the classifier."""

from collections.abc import Mapping, Sequence

import onnx
import torch
from torch import Tensor, nn

from models.backbones import Backbone
from models.classifier import SequenceClassifier, for_inference
from models.cnn.preprocessing import Preprocessing
from models.cnn.tensor_preprocessing import resize_and_crop_tensor
from pipeline.features.encoders import FromPixels, to_onnx
from pipeline.recognizer.bundle import NEXT


class _FromFrames(nn.Module):
    """Resize, crops, normalisation, the network, and the precision of stored features."""

    def __init__(self, backbone: Backbone, views: Sequence[str]) -> None:
        super().__init__()
        self.from_pixels = FromPixels(backbone.network, backbone.preprocessing)
        self.preprocessing: Preprocessing = backbone.preprocessing
        self.views = tuple(views)

    def forward(self, frames: Tensor) -> Tensor:
        pixels = resize_and_crop_tensor(frames, self.preprocessing, self.views)
        features: Tensor = self.from_pixels(pixels)
        return features.half().float()


class _Step(nn.Module):
    """``SequenceClassifier.step`` with the state as separate arguments and results, and probabilities."""

    def __init__(self, classifier: SequenceClassifier, names: Sequence[str]) -> None:
        super().__init__()
        self.classifier, self.names = for_inference(classifier), tuple(names)

    def forward(self, features: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        scores, after = self.classifier.step(features, dict(zip(self.names, state, strict=True)))
        return (scores.softmax(-1), *(after[name] for name in self.names))


@torch.inference_mode()
def backbone_graph(backbone: Backbone, views: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    """``backbone.onnx`` of a bundle (see ``pipeline.recognizer.bundle``)."""
    example = torch.zeros(2, 48, 64, 3, dtype=torch.uint8)
    names = {"frames": ["num_frames", "height", "width"], "features": ["num_features"]}
    return _with_metadata(to_onnx(_FromFrames(backbone, views), {"frames": example}, names), metadata)


@torch.inference_mode()
def step_graph(classifier: SequenceClassifier, metadata: Mapping[str, str]) -> bytes:
    """``head_step.onnx`` of a bundle. The state that it returns has the prefix ``NEXT``."""
    state = classifier.initial_state(2)
    inputs = {"features": classifier.feature_mean.new_zeros(2, len(classifier.feature_mean)), **state}
    outputs = ["probabilities", *(NEXT + name for name in state)]
    names = {name: ["num_sequences"] for name in (*inputs, *outputs)}
    return _with_metadata(to_onnx(_Step(classifier, list(state)), inputs, names), metadata)


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    model = onnx.load_model_from_string(content)
    onnx.helper.set_model_props(model, dict(metadata))
    return model.SerializeToString(deterministic=True)
