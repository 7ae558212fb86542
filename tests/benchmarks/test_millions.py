"""The benchmark of large stores measures real commands on a store that they can read."""

import json
from pathlib import Path

import pytest

from benchmarks.millions import NAME, REPORT, measure, video_ids, write_files, write_list
from pipeline.features.recipe import imported_recipe
from pipeline.store.store import FeatureStore
from tests.helpers.commands import call


def test_the_made_store_is_complete(tmp_path: Path) -> None:
    """No features are missing from what the benchmark writes, so that its commands do all of their work."""
    names = video_ids(500)
    write_files(FeatureStore(tmp_path / "cache", imported_recipe(NAME)), names)
    write_list(tmp_path / "videos.csv", names)
    assert call("-m", "pipeline.cache", "compact", "--cache", tmp_path / "cache").returncode == 0
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    dataset = ["--dataset", "folder", "--root", tmp_path / "videos.csv", "--dataset-name", NAME]
    done = call("-m", "pipeline.cache", *dataset, "--cache", tmp_path / "cache", "--backbone", f"imported:{NAME}")
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["num_cached_before"], summary["num_failed"]) == (0, 500, 0)


def test_peak_memory_is_that_of_the_process() -> None:
    """A process that takes 200 MB is seen to take them, and one that fails ends the benchmark."""
    small, large = measure(REPORT), measure(REPORT + "bytearray(b'1') * 200_000_000")
    assert 190e6 < large.memory - small.memory < 250e6 and large.seconds > 0
    with pytest.raises(SystemExit, match="failed"):
        measure(REPORT + "raise SystemExit(3)")
