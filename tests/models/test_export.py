"""A classifier leaves Python through PyTorch's own tools, and its graph computes what the classifier computes."""

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor

from models.classifier import SequenceClassifier
from models.config import ModelConfig, ModelName

Graph = Callable[[Tensor], Tensor]


def through_onnx(model: SequenceClassifier, example: Tensor, folder: Path, dynamo: bool) -> Graph:
    path = folder / "model.onnx"
    torch.onnx.export(model, (example,), path, input_names=["features"], dynamo=dynamo)
    session = onnxruntime.InferenceSession(path)
    return lambda features: torch.from_numpy(session.run(None, {"features": features.numpy()})[0])


EXPORTERS: dict[str, Callable[[SequenceClassifier, Tensor, Path], Graph]] = {
    "torch.jit.trace": lambda model, example, _: torch.jit.trace(model, (example,)),
    "torch.export": lambda model, example, _: torch.export.export(model, (example,)).module(),
    "torch.compile": lambda model, example, _: torch.compile(model, backend="eager"),
    "torch.onnx": lambda model, example, folder: through_onnx(model, example, folder, dynamo=True),
    "torch.onnx, TorchScript": lambda model, example, folder: through_onnx(model, example, folder, dynamo=False),
}


@pytest.mark.filterwarnings("ignore")  # the exporters warn of their own deprecation
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["np_rnn", "gru", "mean"])
def test_an_exported_classifier_scores_other_features_alike(name: ModelName, exporter: str, tmp_path: Path) -> None:
    """The graph depends on its input: it must score features that the exporter has not seen."""
    torch.manual_seed(0)
    model = SequenceClassifier(ModelConfig(name, hidden_size=8), feature_dim=6, num_classes=3).eval()
    model.set_feature_statistics(torch.rand(6), torch.rand(6) + 0.5, torch.rand(6) + 0.5)
    if model.skip is not None:
        torch.nn.init.normal_(model.skip.weight)
    example, features = torch.rand(2, 5, 2, 6)
    with torch.no_grad():
        exported = EXPORTERS[exporter](model, example, tmp_path)
        torch.testing.assert_close(exported(features), model(features), atol=1e-5, rtol=0)
