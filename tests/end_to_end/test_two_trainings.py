"""Two processes and one run: the second is refused until the first has ended, however that ended."""

import re
import time
from pathlib import Path

import pytest

import evaluate
import train
from pipeline.training.lock import RunInUseError
from pipeline.training.run import Run
from tests.helpers.commands import start


def arguments(runs: Path, epochs: int, *more: str) -> list[str]:
    return [
        *("--dataset", "addition", "--length", "10", "--epochs", str(epochs), "--patience", str(epochs)),
        *("--steps-per-epoch", "5", "--batch-size", "16", "--hidden-size", "4", "--runs", str(runs), "--name", "a"),
        *more,
    ]


def test_a_run_that_is_being_trained_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--overwrite, --resume and evaluate.py name the process that trains; after kill -9 of it they work."""
    run = Run(tmp_path / "addition" / "a")
    first = start("train.py", *arguments(tmp_path, 10**6))
    try:
        deadline = time.monotonic() + 120
        while not (run.checkpoints / "last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        in_use = rf"{run.folder} is in use: training by process {first.pid} on \S+ since 20"
        for option in ("--overwrite", "--resume"):
            with pytest.raises(RunInUseError, match=in_use):
                train.main(arguments(tmp_path, 10**6, option))
        assert evaluate.main([str(run.folder)]) == 1
        assert re.search(in_use, capsys.readouterr().err)
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    assert evaluate.main([str(run.folder)]) == 0
    assert train.main(arguments(tmp_path, 2, "--overwrite")) == 0
    assert len(run.history()) == 2
