"""Facts about an evaluation, and when an evaluation is finished."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.evaluation.provenance import finished_metrics, metrics_from_json, metrics_to_json, versions


def test_versions_name_the_library_of_the_backbone() -> None:
    """A report names the library that built the backbone, and none for imported features."""
    assert f"torch {torch.__version__.partition('+')[0]}" in versions(None)
    assert "torchvision" in versions("resnet18")
    assert "timm" in versions("timm:vit_tiny") and "timm" in versions("efficientnet_lite0")
    assert "timm" not in versions("imported:mine") and "torchvision" not in versions("imported:mine")


def test_an_evaluation_with_missing_videos_is_not_finished(tmp_path: Path) -> None:
    """Missing videos count as wrong, but they may have features the next time."""
    about = {"run": "a", "dataset": "addition", "model": "gru", "seed": 0, "length": 5, "settings": ""}
    scores = {"mse": 0.1, "chance_mse": 0.2, "solved": False, "steps_to_solve": None}
    metrics = {**about, **scores, "provenance": {"run": "abc"}, "num_missing": 0}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert finished_metrics(tmp_path, {"run": "abc"}) == metrics
    assert finished_metrics(tmp_path, {"run": "other"}) is None
    (tmp_path / "metrics.json").write_text(json.dumps(metrics | {"num_missing": 1}))
    assert finished_metrics(tmp_path, {"run": "abc"}) is None


def test_a_flipped_bit_never_changes_a_metric() -> None:
    """Whichever bit is flipped, metrics.json is refused, or its values are the ones that were written."""
    metrics = {"run": "größe", "video_top1": 0.8125, "intervals": {"video_top1": [0.7, 0.9]}, "seed": 3}
    content = metrics_to_json(metrics)
    assert metrics_from_json(content) == metrics == metrics_from_json(json.dumps(metrics).encode())
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            read = metrics_from_json(bytes(damaged))
        except ValueError:
            continue
        assert {key: read[key] for key in metrics} == metrics


def test_metrics_that_are_no_object_are_refused() -> None:
    """A list, a number or an empty file is an error that readers expect."""
    for content in (b"[]", b"3", b"null", b"", b"\xff"):
        with pytest.raises(ValueError):
            metrics_from_json(content)
