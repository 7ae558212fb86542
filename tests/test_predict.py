"""Prediction on new videos: it agrees with the evaluation, and refuses runs that it can't be used with."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from pipeline.predict import main
from pipeline.settings.config import ConfigError
from pipeline.training.run import RunError
from tests.helpers.clips import render_moving_squares
from tests.helpers.commands import call

VIEWS = 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: tuple[str, Path]) -> Path:
    """A run on 16 videos in three views."""
    folder = tmp_path_factory.mktemp("predict")
    render_moving_squares(folder / "videos")
    name, weights = tiny_backbone
    done = call(
        *("train.py", "--dataset", "folder", "--root", folder / "videos", "--group-pattern", r"_(g\d+)_"),
        *("--holdout-group", "g8", "--backbone", name, "--weights", weights, "--sampling", "uniform:4"),
        *("--views", VIEWS, "--clip-frames", 3, "--cache", folder / "cache", "--runs", folder, "--name", "run"),
        *("--workers", 1, "--epochs", 3, "--batch-size", 4, "--hidden-size", 8),
    )
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*/run")
    return found


def test_evaluation_counts_every_clip_in_every_view(trained: Path) -> None:
    """Two test videos have two clips each in three views, which makes twelve clips."""
    written = json.loads((trained / "evaluation" / "metrics.json").read_text())
    assert (written["num_videos"], written["num_clips"]) == (2, 2 * 2 * VIEWS)


def test_a_prediction_equals_the_evaluation(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The probabilities of a test video, averaged over clips and views, are those in predictions.csv."""
    videos = {name: trained.parent.parent / "videos" / name / f"v_g8_{name}.avi" for name in ("left", "right")}
    assert main([*map(str, videos.values()), "--run", str(trained), "--top", "2", "--device", "cpu"]) == 0
    printed = {}
    for line in capsys.readouterr().out.splitlines():
        path, _, classes = line.rpartition(": ")
        printed[Path(path).stem] = {name: float(value) for name, value in map(str.split, classes.split(", "))}
    with (trained / "evaluation" / "predictions.csv").open() as file:
        rows = {Path(row["video_id"]).stem: row for row in csv.DictReader(file)}
    assert rows.keys() == printed.keys() == {path.stem for path in videos.values()}
    for stem, row in rows.items():
        assert printed[stem] == {name: pytest.approx(float(row[f"p:{name}"]), abs=6e-4) for name in videos}


def test_a_run_on_imported_features_is_refused(trained: Path, tmp_path: Path) -> None:
    """Features from another tool can't be computed for a new video; the error says what to do instead."""
    config = (trained / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(
        "".join("backbone: imported:i3d\n" if "backbone" in line else line for line in config.splitlines(True)[:-1])
    )
    with pytest.raises(ConfigError, match=r"imported:i3d.*evaluate"):
        main(["a.avi", "--run", str(tmp_path)])


def test_other_backbone_weights_are_refused(trained: Path, tmp_path: Path) -> None:
    """If the backbone's weights were replaced since training, its features would mean something else."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    recipe = run / "recipe.json"
    values = json.loads(recipe.read_text()) | {"weights_sha256": "0" * 64}
    recipe.write_text(json.dumps({name: value for name, value in values.items() if name != "crc32"}))
    with pytest.raises(RunError, match="weights_sha256"):
        main(["a.avi", "--run", str(run)])


def test_no_video_is_an_error(trained: Path) -> None:
    """A forgotten file name is not a silent success."""
    with pytest.raises(ConfigError, match="name at least one video"):
        main(["--run", str(trained)])


def test_a_text_file_is_not_classified(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of videos, named instead of a video, fails with its reason; the video beside it is classified."""
    video = trained.parent.parent / "videos" / "left" / "v_g8_left.avi"
    text = tmp_path / "videos.txt"
    text.write_text(f"{video}\n" * 20)
    assert main([str(text), str(video), "--run", str(trained), "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{video}: ") and len(printed.out.splitlines()) == 1
    assert f"failed: {text}: {text} is not a video" in printed.err
