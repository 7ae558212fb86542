"""pipeline/report.py: the files of one evaluation."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation import EvaluationError, Predictions, confusion_matrix, metrics
from pipeline.report import confusion_picture, learning_curves, write_evaluation
from tests.test_evaluation import random_predictions

FILES = ["confusion.csv", "confusion.png", "metrics.json", "per_class.csv", "predictions.csv", "report.html"]
FACTS: dict[str, object] = {"dataset": "demo", "split": "1", "seed": 0, "model": "np_rnn", "root": Path("videos")}
HISTORY: list[dict[str, object]] = [
    {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.3, "validation_loss": 2.1, "validation_accuracy": 0.25},
    {"epoch": 2, "train_loss": 1.0, "train_accuracy": 0.6, "validation_loss": None, "validation_accuracy": None},
    {"epoch": 3, "train_loss": float("nan"), "train_accuracy": 0.7, "validation_loss": 1.2, "validation_accuracy": 0.5},
]


def three_videos(classes: tuple[str, str] = ("sit", "stand")) -> Predictions:
    """One right, one wrong, one that could not be decoded."""
    return Predictions(
        classes=classes,
        video_ids=("a/right.avi", "a/wrong.avi", "b/missing.avi"),
        labels=np.array([0, 0, 1]),
        clip_probabilities=np.array([[0.75, 0.25], [0.125, 0.875], [0.375, 0.625]]),
        clip_videos=np.array([0, 1, 1]),
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def test_the_folder_holds_every_file_of_the_contract(tmp_path: Path) -> None:
    """All files are there under their names, nothing temporary beside them, and metrics.json holds what is returned."""
    returned = write_evaluation(tmp_path / "run" / "evaluation", three_videos(), FACTS, HISTORY)
    assert sorted(path.name for path in (tmp_path / "run" / "evaluation").iterdir()) == FILES
    stored = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert stored == {**metrics(three_videos()), **FACTS, "root": "videos"}
    assert {**returned, "root": "videos"} == stored


def test_every_video_has_one_row_of_predictions(tmp_path: Path) -> None:
    """The right, the wrong and the missing video each have a row that says what the model said of them."""
    write_evaluation(tmp_path, three_videos(), FACTS)
    right, wrong, missing = read_csv(tmp_path / "predictions.csv")
    assert [right[key] for key in ("video_id", "label", "predicted", "correct")] == ["a/right.avi", "sit", "sit", "1"]
    assert (wrong["predicted"], wrong["correct"], wrong["confidence"], wrong["num_clips"]) == (
        "stand",
        "0",
        "0.75",
        "2",
    )
    assert [wrong[f"top{k}_{what}"] for k in (1, 2) for what in ("class", "probability")] == [
        *("stand", "0.75", "sit", "0.25")
    ]
    assert (wrong["p:sit"], wrong["p:stand"]) == ("0.25", "0.75")
    assert (missing["label"], missing["predicted"], missing["correct"], missing["num_clips"]) == ("stand", "", "0", "0")


def test_the_predictions_are_enough_to_compute_the_video_metrics_again(tmp_path: Path) -> None:
    """Nothing that the video-level metrics depend on is lost between the arrays and the CSV."""
    predictions = random_predictions(num_videos=120, num_classes=9, num_clips=3)
    written: dict[str, Any] = write_evaluation(tmp_path, predictions, FACTS)
    rows = read_csv(tmp_path / "predictions.csv")
    again = Predictions(
        predictions.classes,
        tuple(row["video_id"] for row in rows),
        np.array([predictions.classes.index(row["label"]) for row in rows]),
        np.array([[float(row[f"p:{name}"]) for name in predictions.classes] for row in rows]),
        np.arange(len(rows)),
    )
    for name in ("video_top1", "video_top5", "mean_class_accuracy"):
        assert metrics(again, resamples=1)[name] == written[name]
    assert sum(int(row["correct"]) for row in rows) / len(rows) == pytest.approx(written["video_top1"])


def test_the_tables_say_what_was_counted(tmp_path: Path) -> None:
    """confusion.csv has the missing videos in a column of their own; an undefined precision is an empty cell."""
    write_evaluation(tmp_path, three_videos(), FACTS)
    assert (tmp_path / "confusion.csv").read_text() == "true \\ predicted,sit,stand,(missing)\nsit,1,1,0\nstand,0,0,1\n"
    sit, stand = read_csv(tmp_path / "per_class.csv")
    assert (sit["precision"], sit["recall"], sit["support"], sit["confused_with"]) == ("1.0", "0.5", "2", "stand")
    assert (stand["precision"], stand["recall"], stand["support"], stand["confused_with"]) == ("0.0", "0.0", "1", "")


def test_names_of_classes_are_shown_as_text(tmp_path: Path) -> None:
    """A class called <script>, a formula that matplotlib can't parse, or one with commas is only ever text."""
    names = ('<script>alert("x")</script>', "$\\frac{")
    write_evaluation(tmp_path, three_videos(names), {**FACTS, "run": "<img src=x onerror=alert(1)>"}, HISTORY)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(" in page
    assert read_csv(tmp_path / "predictions.csv")[0]["label"] == names[0]


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    """Opened from disk without a network the page is whole: pictures are inline, links point to files beside it."""
    write_evaluation(tmp_path, three_videos(), FACTS, HISTORY)
    page = (tmp_path / "report.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert len(re.findall(r'src="data:image/png;base64,', page)) == len(re.findall(r"<img", page)) == 2
    links = re.findall(r'href="([^"]+)"', page)
    assert links
    assert all((tmp_path / link).is_file() for link in links)


def test_the_page_says_how_good_the_model_is_and_what_it_confuses(tmp_path: Path) -> None:
    """The head counts videos, scores and the missing one; the tables name the confused pair and the mistake."""
    write_evaluation(tmp_path, three_videos(), FACTS)
    page = " ".join(
        re.sub(r"<style>.*</style>|<[^>]+>", " ", (tmp_path / "report.html").read_text(), flags=re.S).split()
    )
    assert "np_rnn on demo, split 1, seed 0" in page
    assert "Right on 1 of 3 test videos" in page
    assert "1 video could not be decoded" in page
    assert "Video top-1 33.3 % 95 % interval" in page
    assert "sit stand 1 50.0" in page  # true class, taken for, videos, % of the class
    assert "a/wrong.avi sit stand 75.0 25.0" in page
    assert "Learning curves" not in page


def test_a_model_without_mistakes_has_a_page(tmp_path: Path) -> None:
    """No confused pair, no confident mistake, one class only: the page says so and does not fail."""
    predictions = Predictions(("only",), ("v",), np.array([0]), np.ones((1, 1)), np.array([0]))
    write_evaluation(tmp_path, predictions, {})
    page = (tmp_path / "report.html").read_text()
    assert "No video was taken for another class." in page
    assert "100.0 %" in page


def test_a_fact_cannot_overwrite_a_metric(tmp_path: Path) -> None:
    """A run fact called like a metric would forge the result: it is an error, and nothing is written."""
    with pytest.raises(EvaluationError, match="num_videos, video_top1"):
        write_evaluation(tmp_path / "evaluation", three_videos(), {"video_top1": 1.0, "num_videos": 3})
    assert not (tmp_path / "evaluation").exists()


def test_a_full_disk_leaves_no_half_file_and_no_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """metrics.json is published last, so where it lies the evaluation is whole; what failed leaves nothing behind."""
    write_bytes = Path.write_bytes

    def disk_full_at_the_picture(path: Path, data: bytes) -> int:
        if bytes(data[:4]) == b"\x89PNG":
            write_bytes(path, data[:100])
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", disk_full_at_the_picture)
    with pytest.raises(OSError, match="No space left"):
        write_evaluation(tmp_path, three_videos(), FACTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["confusion.csv", "per_class.csv", "predictions.csv"]


def test_the_confusion_picture_has_room_for_the_names_of_101_classes() -> None:
    """Every row is at least 20 pixels high, enough for a readable name, and the picture is not gigantic."""
    predictions = random_predictions(num_videos=1000, num_classes=101, num_clips=1)
    image = picture(confusion_picture(confusion_matrix(predictions), predictions.classes))
    assert min(image.size) > 101 * 20
    assert max(image.size) < 4000


def test_the_confusion_picture_tells_right_from_wrong_and_untested() -> None:
    """A perfect model's picture has blue but no red, an always wrong one's red but no blue; no test videos: grey."""

    def shares(counts: list[list[int]]) -> tuple[float, float, float]:
        """Red, blue and grey share of the cells' area; what the colour bars and letters hold is subtracted."""
        pixels = np.asarray(picture(confusion_picture(np.array(counts), ("a", "b", "c"))), dtype=int)
        red, green, blue = np.moveaxis(pixels, -1, 0)
        grey = (red == green) & (green == blue) & (red > 180) & (red < 225)
        return float((red > blue + 40).mean()), float((blue > red + 40).mean()), float(grey.mean())

    right = shares([[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0]])
    wrong = shares([[0, 5, 0, 0], [0, 0, 5, 0], [5, 0, 0, 0]])
    untested = shares([[5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 5, 0]])
    assert right[1] > wrong[1] + 0.05
    assert wrong[0] > right[0] + 0.05
    assert untested[2] > right[2] + 0.05


def test_learning_curves_live_with_gaps_and_with_nothing() -> None:
    """Rows without validation values, with NaN, or no rows at all do not stop a report from being written."""
    curves = learning_curves(HISTORY)
    assert curves is not None
    assert picture(curves).size[0] > 500
    assert learning_curves([]) is None
    assert learning_curves([{"epoch": 1, "seconds": 2.0}]) is None
