"""A run leaves the house as one file, which gives the run's answers without this project."""

import csv
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest

import evaluate
from pipeline.export import frames
from pipeline.export.__main__ import main
from pipeline.export.write import ExportError, export
from pipeline.recognizer.bundle import BACKBONE, HEAD, SUMS, answers_over_time, checksums
from pipeline.recognizer.recognizer import Recognizer
from pipeline.training.run import Run


def read_frames_of(squares_run: Path) -> np.ndarray:
    from data.video import read_frames

    video = squares_run.parents[2] / "videos" / "left" / "v_g8_left.avi"
    return np.stack([frame for _, frame in read_frames(video, range(0, 8, 2))])


def test_a_bundle_recognises_what_its_run_does(squares_run: Path, bundle: Path) -> None:
    """The features are equal in every bit, because the pixels are; the probabilities agree to float32's precision."""
    ours, theirs = Recognizer.load(bundle), Recognizer.load(squares_run, device="cpu")
    pictures = list(read_frames_of(squares_run))
    assert (ours.labels, ours.sampling, ours.clips, ours.views) == (
        *(theirs.labels, theirs.sampling, theirs.clips, theirs.views),
    )
    features = ours.encode(pictures)
    np.testing.assert_allclose(features, theirs.encode(pictures), rtol=1e-3, atol=1e-3)
    found = answers_over_time(ours.head, features)
    np.testing.assert_allclose(found, answers_over_time(theirs.head, theirs.encode(pictures)), atol=1e-4)


def test_the_classes_are_in_the_metadata(bundle: Path) -> None:
    """Each graph names its classes, for whoever has only that file."""
    with zipfile.ZipFile(bundle) as archive:
        for name in (BACKBONE, HEAD):
            model = onnx.load_model_from_string(archive.read(name))
            assert {"key": "labels", "value": '["left", "right"]'} in [
                {"key": entry.key, "value": entry.value} for entry in model.metadata_props
            ]


def test_the_same_run_gives_the_same_file(squares_run: Path, bundle: Path, tmp_path: Path) -> None:
    """Two exports are equal byte for byte, so a checksum names the content."""
    again = tmp_path / "again.zip"
    assert main([str(squares_run), "--to", str(again)]) == 0
    assert again.read_bytes() == bundle.read_bytes()


def test_made_frames_stand_in_for_missing_videos(
    squares_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the dataset the bundle is checked on made frames, and the command says so and why."""
    monkeypatch.setattr(frames, "NUM_CLIPS", 3)
    assert main([str(squares_run), "--to", str(tmp_path / "m.zip"), "--root", str(tmp_path / "nowhere")]) == 0
    printed = capsys.readouterr()
    assert "48 frames of 3 made videos" in printed.out and "nowhere" in printed.err


def test_other_answers_are_not_written(squares_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a graph computes something else than the run, nothing is written and the error names the difference."""
    from pipeline.export import write

    graph = write.step_graph

    def wrong(classifier: object, metadata: dict[str, str]) -> bytes:
        classifier.temperature.mul_(1.001)  # type: ignore[attr-defined]
        return graph(classifier, metadata)  # type: ignore[arg-type]

    monkeypatch.setattr(write, "step_graph", wrong)
    monkeypatch.setattr(write, "parse_bundle", lambda content, path: _unchecked(content, path))
    with pytest.raises(ExportError, match="differ by"):
        export(Run(squares_run), tmp_path / "m.zip", [read_frames_of(squares_run)])
    assert not list(tmp_path.iterdir())


def _unchecked(content: bytes, path: Path) -> object:
    from pipeline.recognizer import bundle as module

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_check_sample", lambda bundle: None)
        return module.parse_bundle(content, path)


ALONE = """
import sys
class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "data", "models", "pipeline", "PIL", "onnx"):
            raise ImportError(f"a bundle must not need {name}")
sys.meta_path.insert(0, Forbid())
sys.argv = sys.argv[1:]
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"), {"__file__": sys.argv[0], "__name__": "__main__"})
"""


def check_consumer(python: str, squares_run: Path, bundle: Path, folder: Path) -> None:
    """Unzip the bundle, run its consumer on a video, and compare with the run."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(folder)
    video = squares_run.parents[2] / "videos" / "right" / "v_g8_right.avi"
    program = folder / "consume.py"
    done = subprocess.run(
        [python, "-c", ALONE, program, video], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    theirs = Recognizer.load(squares_run, device="cpu")
    from data.video import read_frames

    features = theirs.encode([frame for _, frame in read_frames(video, theirs.sampling.indices)])
    expected = answers_over_time(theirs.head, features)
    printed = [line.split() for line in done.stdout.splitlines()]
    assert [float(words[0]) for words in printed] == [0.0, 0.08, 0.16, 0.24]
    assert [words[3] for words in printed] == [theirs.labels[label] for label in expected.argmax(1)]
    np.testing.assert_allclose([float(words[2]) for words in printed], expected.max(1), atol=1e-3)


def test_the_consumer_needs_three_packages(squares_run: Path, bundle: Path, tmp_path: Path) -> None:
    """``consume.py`` prints the run's answers over time without PyTorch and this project, in about 30 lines."""
    check_consumer(sys.executable, squares_run, bundle, tmp_path)
    assert len((tmp_path / "consume.py").read_text().splitlines()) <= 45
    assert subprocess.run(["sha256sum", "--check", SUMS], cwd=tmp_path, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_consumer_runs_in_a_fresh_environment(squares_run: Path, bundle: Path, tmp_path: Path) -> None:
    """A new environment with numpy, ONNX Runtime and OpenCV alone is enough."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    packages = ["numpy", "onnxruntime", "opencv-python-headless"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    check_consumer(str(python), squares_run, bundle, tmp_path / "unzipped")


def probabilities(folder: Path) -> list[dict[str, float]]:
    with (folder / "predictions.csv").open() as file:
        return [{name: float(row[name]) for name in row if name.startswith("p:")} for row in csv.DictReader(file)]


def test_evaluate_reads_a_bundle_as_a_run(squares_run: Path, bundle: Path) -> None:
    """evaluate.py on the bundle gives the run's evaluation without its training, in a folder beside the file."""
    videos = squares_run.parents[2] / "videos"
    assert evaluate.main([str(bundle), "--root", str(videos)]) == 0
    theirs = json.loads((squares_run / "evaluation" / "metrics.json").read_text())
    folder = bundle.parent / "model-evaluation"
    ours = json.loads((folder / "metrics.json").read_text())
    for name in ("video_top1", "clip_top1", "mean_class_accuracy", "num_videos", "num_clips", "temperature"):
        assert ours[name] == pytest.approx(theirs[name]), name
    for order in ("reversed", "shuffled"):
        assert ours["order"][order]["drop"] == pytest.approx(theirs["order"][order]["drop"]), order
    folders = folder, squares_run / "evaluation"
    written = [{path.relative_to(one) for path in one.rglob("*") if path.is_file()} for one in folders]
    assert written[0] < written[1]
    assert {path.stem for path in written[1] - written[0]} == {"learning_curves", "spectrum"}
    for one, other in zip(*map(probabilities, folders), strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    seen = [(one / "figures" / "frames_seen.csv").read_text() for one in folders]
    assert seen[0] == seen[1]


def test_predictions_and_streams_are_those_of_the_run(squares_run: Path, bundle: Path) -> None:
    """A file and a stream get the run's probabilities; kept features of a bundle are not mistaken for the run's."""
    ours, theirs = Recognizer.load(bundle), Recognizer.load(squares_run, device="cpu")
    video = squares_run.parents[2] / "videos" / "right" / "v_g8_right.avi"
    one, other = ours.predict(video), theirs.predict(video)
    assert one.label == other.label
    assert one.probabilities == {name: pytest.approx(value, abs=1e-4) for name, value in other.probabilities.items()}
    np.testing.assert_allclose(one.over_time, other.over_time, atol=1e-4)
    streams = ours.stream(fps=25), theirs.stream(fps=25)
    for frame in read_frames_of(squares_run):
        answers = [stream.push(frame) for stream in streams]
        assert (answers[0] is None) == (answers[1] is None)
        if answers[0] is not None:
            np.testing.assert_allclose(answers[0], answers[1], atol=1e-4)
    assert ours.recipe.folder_name != theirs.recipe.folder_name


def test_checksums_are_those_of_sha256sum() -> None:
    """The list of checksums has the format that sha256sum reads."""
    assert checksums({"a": b"", SUMS: b"x"}).decode() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n"
    )
