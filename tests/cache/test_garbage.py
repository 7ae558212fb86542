"""Which stores the garbage collection keeps."""

from pathlib import Path

from pipeline.cache.garbage import stores_used_by
from pipeline.training.run import Run
from tests.helpers.runs import make_sequence_config


def test_a_run_without_video_uses_no_store(tmp_path: Path) -> None:
    """Runs of tasks without video have no recipe, and do not stop the garbage collection."""
    run = Run(tmp_path / "a")
    run.begin(make_sequence_config(tmp_path), recipe=None)
    assert not (run.folder / "recipe.json").exists()
    assert stores_used_by([tmp_path]) == set()
