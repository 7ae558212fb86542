"""Facts about an evaluation, and when an evaluation is finished."""

import json
from pathlib import Path

import torch

from pipeline.evaluation.provenance import finished_metrics, versions


def test_versions_name_the_library_of_the_backbone() -> None:
    """A report names the library that built the backbone, and none for imported features."""
    assert f"torch {torch.__version__.partition('+')[0]}" in versions(None)
    assert "torchvision" in versions("resnet18")
    assert "timm" in versions("timm:vit_tiny") and "timm" in versions("efficientnet_lite0")
    assert "timm" not in versions("imported:mine") and "torchvision" not in versions("imported:mine")


def test_an_evaluation_with_missing_videos_is_not_finished(tmp_path: Path) -> None:
    """Missing videos count as wrong, but they may have features the next time."""
    metrics = {"provenance": {"run": "abc"}, "num_missing": 0}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert finished_metrics(tmp_path, {"run": "abc"}) == metrics
    assert finished_metrics(tmp_path, {"run": "other"}) is None
    (tmp_path / "metrics.json").write_text(json.dumps(metrics | {"num_missing": 1}))
    assert finished_metrics(tmp_path, {"run": "abc"}) is None
