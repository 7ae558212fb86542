"""The recurrent layers that PyTorch lacks through the real command lines: trained, evaluated, exported, streamed."""

from pathlib import Path

import numpy as np
import pytest

from data.video import read_frames
from pipeline.recognizer.recognizer import Recognizer
from tests.helpers.commands import call


@pytest.mark.parametrize("name", ["orthogonal_kept", "attentive"])
def test_a_run_is_trained_exported_and_streamed(name: str, squares_run: Path, tmp_path: Path) -> None:
    """The exported file gives the run's answers for a whole clip, and streams them frame by frame in ONNX Runtime."""
    done = call(
        *("train.py", "--config", squares_run / "config.yaml", "--runs", tmp_path, "--name", name),
        *("--model", name, "--num-layers", 2, "--epochs", 2),
    )
    assert done.returncode == 0, done.stderr
    run, bundle = tmp_path / "videos" / name, tmp_path / "model.zip"
    done = call("-m", "pipeline.export", run, "--to", bundle)  # it compares the answers after every frame
    assert done.returncode == 0 and "16 frames of 2 test videos" in done.stdout, done.stderr
    video = squares_run.parents[2] / "videos" / "left" / "v_g8_left.avi"
    streams = [Recognizer.load(path, device="cpu").stream() for path in (run, bundle)]
    for _, frame in read_frames(video, range(8)):
        ours, theirs = (stream.push(frame) for stream in streams)
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
