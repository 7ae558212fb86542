"""Prediction on new videos: it agrees with the evaluation, and refuses runs that it can't be used with."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data.video import VideoError
from pipeline.features.readers import read_videos
from pipeline.predict import main
from pipeline.settings.config import ConfigError
from pipeline.training.run import RunError
from tests.helpers.commands import run
from tests.helpers.runs import copy_run


def test_evaluation_counts_every_clip_in_every_view(squares_run: Path) -> None:
    """Two test videos have two clips each in two views, which makes eight clips."""
    written = json.loads((squares_run / "evaluation" / "metrics.json").read_text())
    assert (written["num_videos"], written["num_clips"]) == (2, 2 * 2 * 2)


@pytest.fixture(autouse=True)
def _own_user_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests' networks out of the developer's home."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "user-cache"))


@pytest.fixture
def videos(squares_run: Path, tmp_path: Path) -> Path:
    """A folder with the two test videos, one in a subfolder, and a text file."""
    folder = tmp_path / "videos"
    for name, target in (("left", folder / "b.avi"), ("right", folder / "a" / "c.avi")):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(squares_run.parents[2] / "videos" / name / f"v_g8_{name}.avi", target)
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.fixture
def evaluated(squares_run: Path) -> dict[str, dict[str, float]]:
    """The probabilities in predictions.csv, by the name that the fixture ``videos`` gives the video."""
    with (squares_run / "evaluation" / "predictions.csv").open() as file:
        rows = {Path(row["video_id"]).parts[0]: row for row in csv.DictReader(file)}
    return {
        name: {label: float(rows[true]["p:" + label]) for label in rows}
        for name, true in (("b.avi", "left"), ("c.avi", "right"))
    }


def predict_to_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the printed results by file name."""
    capsys.readouterr()
    code = main([*map(str, arguments), "--json", "-", "--device", "cpu"])
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, {Path(result["video"]).name: result for result in results}


def test_a_prediction_equals_the_evaluation(
    squares_run: Path, videos: Path, evaluated: dict[str, dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The probabilities of a test video, averaged over clips and views, are those in predictions.csv."""
    code, results = predict_to_json(capsys, videos, "--run", squares_run)
    assert code == 0 and results.keys() == evaluated.keys()
    for name, result in results.items():
        assert result["probabilities"] == pytest.approx(evaluated[name], abs=1e-5)
        assert result["label"] == max(evaluated[name], key=evaluated[name].__getitem__)


def test_three_lines_of_python_predict(squares_run: Path, videos: Path, evaluated: dict[str, dict[str, float]]) -> None:
    """What the documents promise: import, load, predict. No process is started, and the answers are the command's."""
    from pipeline.predict import Recognizer

    recognizer = Recognizer.load(str(squares_run), "cpu")
    with count_processes() as started:
        prediction = recognizer.predict(str(videos / "b.avi"))
    assert not started
    assert prediction.probabilities == pytest.approx(evaluated["b.avi"], abs=1e-5)
    assert list(prediction.probabilities) == sorted(evaluated["b.avi"], key=lambda name: -evaluated["b.avi"][name])
    assert prediction.label == next(iter(prediction.probabilities))
    # every second one of 8 frames at 25 per second
    assert prediction.times.tolist() == pytest.approx([0.0, 0.08, 0.16, 0.24])
    assert prediction.over_time.shape == (4, 2)
    with pytest.raises(VideoError, match="notes.txt is not a video"):
        recognizer.predict(videos / "notes.txt")


@contextmanager
def count_processes() -> Iterator[list[object]]:
    """The processes that are started in the block."""
    started: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda *args, **kwargs: started.append(args))
        yield started


def test_files_folders_and_patterns_keep_their_order(
    squares_run: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results come in the order of the arguments, in all three forms; what fails keeps its place and its reason.

    The run folder alone is enough: nothing is written to the working directory.
    """
    elsewhere, caches = tmp_path / "elsewhere", tmp_path / "caches"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
    written = {"--json": tmp_path / "out.jsonl", "--csv": tmp_path / "out.csv"}
    names = [videos / "notes.txt", f"{videos}/*.avi", videos / "missing.avi", videos]
    options = [str(part) for pair in written.items() for part in pair]
    assert main([*map(str, names), "--run", str(squares_run), "--device", "cpu", "--top", "1", *options]) == 1
    expected = [videos / name for name in ("notes.txt", "b.avi", "missing.avi", "a/c.avi")]
    results = [json.loads(line) for line in written["--json"].read_text().splitlines()]
    assert [result["video"] for result in results] == list(map(str, expected))
    assert ["error" in result for result in results] == [True, False, True, False]
    with written["--csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["video"] for row in rows] == list(map(str, expected))
    for row, result in zip(rows, results, strict=True):
        assert row["predicted"] == result.get("label", "") and row["error"] == result.get("error", "")
        for name, probability in result.get("probabilities", {}).items():
            assert float(row[f"p:{name}"]) == pytest.approx(probability)
    printed = capsys.readouterr()
    assert [line.partition(": ")[0] for line in printed.out.splitlines()] == [str(expected[1]), str(expected[3])]
    assert all(len(line.split(", ")) == 1 for line in printed.out.splitlines())
    assert f"failed: {expected[2]}: " in printed.err and "4/4 videos" in printed.err
    assert not list(elsewhere.iterdir())
    assert [path.suffix for path in caches.rglob("*") if path.is_file()] == [".onnx"]


@pytest.mark.parametrize("keep", [False, True])
def test_a_decoder_that_hangs_costs_one_video(
    squares_run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: bool
) -> None:
    """A pipe that nobody writes to blocks whoever opens it; its reader is killed, and the next video is predicted."""
    os.mkfifo(tmp_path / "hangs.avi")
    options = [
        "--run",
        squares_run,
        "--video-timeout",
        1,
        "--workers",
        1,
        *(["--cache", tmp_path / "kept"] if keep else []),
    ]
    code, results = predict_to_json(capsys, tmp_path / "hangs.avi", videos / "b.avi", *options)
    assert code == 1 and list(results) == ["hangs.avi", "b.avi"]
    assert "error" in results["hangs.avi"] and "label" in results["b.avi"]


def test_kept_features_are_not_decoded_again(
    squares_run: Path,
    videos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With --cache, only new and damaged videos are decoded the next time, wherever the others lie by then."""
    decoded: list[str] = []

    def read_and_note(paths: Iterable[Path], *args: Any, **kwargs: Any) -> Any:
        def noted() -> Iterator[Path]:
            for path in paths:
                decoded.append(path.name)
                yield path

        return read_videos(noted(), *args, **kwargs)

    monkeypatch.setattr("pipeline.features.extract.read_videos", read_and_note)
    options = ("--run", squares_run, "--cache", tmp_path / "kept")
    _, first = predict_to_json(capsys, videos, *options)
    assert sorted(decoded) == ["b.avi", "c.avi"]
    (videos / "a" / "c.avi").rename(videos / "c.avi")
    decoded.clear()
    _, second = predict_to_json(capsys, videos, *options)
    assert decoded == [] and list(second) == ["b.avi", "c.avi"]
    for name in second:
        assert second[name]["probabilities"] == first[name]["probabilities"]
    entry = next((tmp_path / "kept").rglob("*.safetensors"))
    entry.write_bytes(entry.read_bytes()[:-1] + b"\xff")
    _, third = predict_to_json(capsys, videos, *options)
    assert len(decoded) == 1
    assert third == second


def test_a_home_that_cannot_be_written_is_no_obstacle(
    squares_run: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container without a home, the exported network is not kept, and the answers are the same."""
    from pipeline.predict import Recognizer

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert Recognizer.load(squares_run, "cpu").predict(videos / "b.avi").label in ("left", "right")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bundle", "model.zip"], "either a run"),
        (["--json", "-", "--csv", "-"], "both write to stdout"),
        (["--top", "0"], "at least 1"),
        (["--video-timeout", "0.1"], "at least 1"),
    ],
)
def test_options_that_exclude_each_other_are_refused(squares_run: Path, options: list[str], message: str) -> None:
    """The mistake is named before anything slow begins."""
    with pytest.raises(ConfigError, match=message):
        main(["a.avi", "--run", str(squares_run), *options])


def test_the_help_imports_nothing_slow() -> None:
    """The help of a command comes at once, although Python can import the recognizer from the same module."""
    program = (
        "import sys; from pipeline.predict import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    assert run("-c", program).stdout.endswith("False\n")


def test_a_run_on_imported_features_is_refused(squares_run: Path, tmp_path: Path) -> None:
    """Features from another tool can't be computed for a new video; the error says what to do instead."""
    run = copy_run(squares_run, tmp_path / "run", backbone="imported:i3d")
    with pytest.raises(ConfigError, match=r"imported:i3d.*evaluate"):
        main(["a.avi", "--run", str(run)])


def test_other_backbone_weights_are_refused(squares_run: Path, tmp_path: Path) -> None:
    """If the backbone's weights were replaced since training, its features would mean something else."""
    run = copy_run(squares_run, tmp_path / "run", {"weights_sha256": "0" * 64})
    with pytest.raises(RunError, match="weights_sha256"):
        main(["a.avi", "--run", str(run)])


def test_no_video_is_an_error(squares_run: Path) -> None:
    """A forgotten file name is not a silent success."""
    with pytest.raises(ConfigError, match="name at least one video"):
        main(["--run", str(squares_run)])


def test_a_text_file_is_not_classified(squares_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of videos, named instead of a video, fails with its reason; the video beside it is classified."""
    video = squares_run.parents[2] / "videos" / "left" / "v_g8_left.avi"
    text = tmp_path / "videos.txt"
    text.write_text(f"{video}\n" * 20)
    assert main([str(text), str(video), "--run", str(squares_run), "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{video}: ") and len(printed.out.splitlines()) == 1
    assert f"failed: {text}: {text} is not a video" in printed.err
