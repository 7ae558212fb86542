"""pipeline/reports/report.py: the files of one evaluation."""

import base64
import csv
import dataclasses
import hashlib
import html
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.metrics import metrics
from pipeline.evaluation.predictions import FILE_NAME, EvaluationError, Predictions
from pipeline.reports.page_data import curve_points
from pipeline.reports.pages import csv_rows
from pipeline.reports.report import write_evaluation
from tests.evaluation.test_metrics import random_predictions
from tests.reports.test_figures import HISTORY

FILES = [
    *(
        "MODEL_CARD.md",
        "confusion.csv",
        "confusion.png",
        "metrics.json",
        "per_class.csv",
        "predictions.csv",
        FILE_NAME,
        "report.html",
    )
]
FACTS: dict[str, object] = {"dataset": "demo", "split": "1", "seed": 0, "model": "np_rnn", "root": Path("videos")}


def three_videos(classes: tuple[str, str] = ("sit", "stand")) -> Predictions:
    """One correct, one wrong, one that could not be decoded."""
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


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def words_of(page: str) -> str:
    """The visible text on one line."""
    without_code = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", without_code)).split())


def data_of(page: str) -> dict[str, Any]:
    """The data of the page's script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.S)
    assert found is not None
    return dict(json.loads(found[1]))


def test_the_folder_contains_every_documented_file(tmp_path: Path) -> None:
    """All files exist, no temporary ones are left, and metrics.json contains the returned values."""
    returned = write_evaluation(tmp_path / "run" / "evaluation", three_videos(), FACTS, HISTORY)
    found = sorted(path.name for path in (tmp_path / "run" / "evaluation").iterdir())
    assert found == sorted([*FILES, "figures"])
    stored = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert stored.pop("crc32")
    assert stored == {**metrics(three_videos()), **FACTS, "root": "videos", "temperature": 1.0}
    assert {**returned, "root": "videos"} == stored


def test_every_video_has_one_row_of_predictions(tmp_path: Path) -> None:
    """The correct, the wrong and the missing video each have a row with the model's prediction."""
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


def test_hostile_class_names_are_read_back(tmp_path: Path) -> None:
    """A carriage return, a formula and a name that is not UTF-8 survive in the tables and the metrics."""
    classes = ("sit\r=1+1", "=cmd|' /C calc'!A0\udcff")
    write_evaluation(tmp_path, three_videos(classes), {"run": "a\udcff"})
    head, *rows = csv_rows((tmp_path / "predictions.csv").read_bytes())
    label = head.index("label")
    assert [row[label] for row in rows] == [classes[0], classes[0], classes[1]]
    assert [row[0] for row in csv_rows((tmp_path / "per_class.csv").read_bytes())[1:]] == list(classes)
    assert json.loads((tmp_path / "metrics.json").read_text())["run"] == "a\udcff"


def test_the_video_metrics_can_be_computed_from_the_csv(tmp_path: Path) -> None:
    """The CSV export contains everything that the video-level metrics depend on."""
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


def test_the_tables_contain_missing_videos_and_undefined_scores(tmp_path: Path) -> None:
    """confusion.csv has a column of missing videos; an undefined score is an empty cell."""
    write_evaluation(tmp_path, three_videos(), FACTS)
    assert (tmp_path / "confusion.csv").read_text() == "true \\ predicted,sit,stand,(missing)\nsit,1,1,0\nstand,0,0,1\n"
    sit, stand = read_csv(tmp_path / "per_class.csv")
    assert (sit["precision"], sit["recall"], sit["support"], sit["confused_with"]) == ("1.0", "0.5", "2", "stand")
    assert (stand["precision"], stand["recall"], stand["support"], stand["confused_with"]) == ("0.0", "0.0", "1", "")


def test_class_names_are_shown_as_text(tmp_path: Path) -> None:
    """Class names with a script tag, a broken formula or commas are never interpreted."""
    names = ("</script><script>alert('x')</script>", "$\\frac{")
    write_evaluation(tmp_path, three_videos(names), {**FACTS, "run": "<img src=x onerror=alert(1)>"}, HISTORY)
    page = page_of(tmp_path)
    num_scripts = page_of_plain_names(tmp_path / "plain").count("<script")
    assert page.count("<script") == page.count("</script>") == num_scripts
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(" in page
    assert tuple(data_of(page)["classes"]) == names
    assert read_csv(tmp_path / "predictions.csv")[0]["label"] == names[0]


def page_of_plain_names(folder: Path) -> str:
    write_evaluation(folder, three_videos(), FACTS, HISTORY)
    return page_of(folder)


def test_the_page_needs_nothing_but_its_folder(tmp_path: Path) -> None:
    """The page works from disk and offline: pictures are inline, links point to files in its folder, and its policy
    allows only the page's own scripts, by hash."""
    write_evaluation(tmp_path, three_videos(), FACTS, HISTORY)
    page = page_of(tmp_path)
    assert (
        re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page) == []
    )  # the SVG namespace looks like an address, but is never fetched
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]+)"', page))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert re.fullmatch(
        r"default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src( 'sha256-[\w+/=]+'){7}",
        html.unescape(policy[1]),
    )
    for script in re.findall(r"<script>(.*?)</script>", page, flags=re.S):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in html.unescape(policy[1])
    links = [link for link in re.findall(r'href="([^"]+)"', page) if not link.startswith("#")]
    assert len(links) > 10
    assert all((tmp_path / link).is_file() for link in links)


def test_the_page_contains_scores_and_confusions(tmp_path: Path) -> None:
    """The top of the page has the scores and the missing video; the tables have the confused pair and the mistake."""
    write_evaluation(tmp_path, three_videos(), FACTS)
    words = words_of(page_of(tmp_path))
    assert "np_rnn on demo, split 1, seed 0" in words
    assert "Correct on 1 of 3 test videos" in words
    assert "1 video could not be decoded" in words
    assert "Video top-1 33.3 % 95 % interval" in words
    assert "sit stand 1 50.0" in words  # true class, predicted class, videos, % of the class
    assert "a/wrong.avi sit stand 75.0 25.0" in words
    assert "Calibration" in words
    for absent in ("Learning curves", "frames seen", "Spectrum", "baseline", "length", "no frames"):
        assert absent not in words


def test_the_calibration_names_the_temperature(tmp_path: Path) -> None:
    """The caption gives the fitted temperature, or says that the scores were not rescaled; metrics.json has it."""
    assert write_evaluation(tmp_path, three_videos(), FACTS, temperature=1.375)["temperature"] == 1.375
    assert "temperature of 1.38, fitted on the validation videos" in words_of(page_of(tmp_path))
    write_evaluation(tmp_path, three_videos(), FACTS)
    assert "not rescaled (temperature 1)" in words_of(page_of(tmp_path))


def test_digits_are_not_called_videos(tmp_path: Path) -> None:
    """With another unit the page never mentions videos or clips, which pixel MNIST does not have."""
    write_evaluation(tmp_path, three_videos(), {"dataset": "pixel_mnist"}, HISTORY, unit="digit")
    page = page_of(tmp_path)
    words = words_of(page)
    assert "Correct on 1 of 3 test digits" in words
    assert re.findall(r"\b(?:videos?|clips?)\b", words, flags=re.I) == []
    assert data_of(page)["unit"] == "digit"


def test_validation_videos_are_not_called_test_videos(tmp_path: Path) -> None:
    """An evaluation on validation videos says so."""
    write_evaluation(tmp_path, three_videos(), {**FACTS, "evaluated_on": "validation videos"})
    words = words_of(page_of(tmp_path))
    assert "Correct on 1 of 3 validation videos" in words
    assert "test videos (" not in words


def test_the_script_gets_every_video_with_its_curves(tmp_path: Path) -> None:
    """The data has each video's prediction, top classes, strip, and a curve for each relevant class, in percent."""
    strip = tmp_path / "strips" / "0a.jpg"
    curve = np.array([[0.75, 0.25], [0.5, 0.5], [0.125, 0.875]], dtype=np.float32)
    write_evaluation(
        tmp_path,
        three_videos(),
        FACTS,
        probabilities_over_time={"a/right.avi": curve[:1], "a/wrong.avi": curve},
        strips={"a/wrong.avi": strip},
    )
    page = page_of(tmp_path)
    data = data_of(page)
    right, wrong, missing = data["videos"]
    assert right == {
        **{"id": "a/right.avi", "true": 0, "predicted": 0, "top": [[0, 750], [1, 250]]},
        **{"frames": 1, "curves": [[0, [75]], [1, [25]]]},
    }
    assert (wrong["strip"], wrong["truth"]) == ("strips/0a.jpg", 250)
    assert wrong["top"] == [[1, 750], [0, 250]]
    assert wrong["curves"] == [[0, [75, 50, 12]], [1, [25, 50, 88]]]
    assert missing == {"id": "b/missing.avi", "true": 1}
    assert sorted(data["clusters"]) == [0, 1]
    assert 'src="strips/0a.jpg"' in page
    assert "Accuracy against frames seen" in page
    assert "length, stored frames" in page or "Accuracy against length" in page


def test_the_map_is_written_drawn_and_removed(tmp_path: Path) -> None:
    """Videos with a representation are on the page and in embedding.csv, with the share of variance that the axes show;
    the predictions keep the positions; an evaluation without representations has no map and leaves no older one."""
    predictions = random_predictions(num_videos=20, num_classes=3, num_clips=1)
    values = np.random.default_rng(0).normal(size=(20, 4)) * [1, 6, 3, 1]
    known = dict(zip(predictions.video_ids[1:], values[1:], strict=True))
    write_evaluation(tmp_path, predictions, FACTS, representations=known)
    rows = read_csv(tmp_path / "embedding.csv")
    assert [row["video_id"] for row in rows] == list(known)
    x, y = (np.array([float(row[axis]) for row in rows]) for axis in "xy")
    page = page_of(tmp_path)
    assert f"They show {100 * x.var():.1f} and {100 * y.var():.1f} % of the variance" in words_of(page)
    assert "1 video without features is not on it." in words_of(page)
    videos = data_of(page)["videos"]
    assert "at" not in videos[0]
    assert [videos[1 + x.argmin()]["at"][0], videos[1 + x.argmax()]["at"][0]] == [0, 10000]
    stored = Predictions.load(tmp_path / FILE_NAME).positions
    assert stored is not None
    np.testing.assert_allclose(stored[1:], np.stack([x, y], axis=1), atol=1e-6)
    write_evaluation(tmp_path, predictions, FACTS)
    assert not (tmp_path / "embedding.csv").exists()
    assert 'id="map"' not in page_of(tmp_path)


def test_the_script_gets_the_groups(tmp_path: Path) -> None:
    """Each video has the number of its group; where each video is its own group, there is nothing to choose from."""
    write_evaluation(tmp_path, dataclasses.replace(three_videos(), groups=("b", "a", "b")), FACTS)
    data = data_of(page_of(tmp_path))
    assert [data["groups"][video["group"]] for video in data["videos"]] == ["b", "a", "b"]
    assert 'id="filter-group"' in page_of(tmp_path)
    write_evaluation(tmp_path, three_videos(), FACTS)
    assert data_of(page_of(tmp_path))["groups"] == []
    assert 'id="filter-group"' not in page_of(tmp_path)


def test_long_curves_are_thinned_out_and_keep_their_ends() -> None:
    """A curve of a thousand frames is reduced to 32 points including both ends; a short one is unchanged."""
    points = curve_points(np.linspace(0, 1, 1000))
    assert (len(points), points[0], points[-1]) == (32, 0, 100)
    assert points == sorted(points)
    assert curve_points(np.array([0.124, 0.5])) == [12, 50]


def test_the_page_says_what_reversed_frames_cost(tmp_path: Path) -> None:
    """Predictions in other orders give one sentence and an entry in metrics.json; without them there is neither."""
    predictions = random_predictions(num_videos=200, num_classes=4, num_clips=1)
    wrong = dataclasses.replace(predictions, clip_probabilities=np.roll(predictions.clip_probabilities, 1, axis=1))
    reordered = {"reversed": wrong, "shuffled": predictions}
    returned = write_evaluation(tmp_path / "video", predictions, FACTS, reordered=reordered)
    words = words_of(page_of(tmp_path / "video"))
    assert re.search(r"Reversing the frames costs \d+\.\d points \[\d+\.\d, \d+\.\d\]: this classifier uses", words)
    assert json.loads((tmp_path / "video" / "metrics.json").read_text())["order"] == returned["order"]
    assert "order" not in write_evaluation(tmp_path / "digit", predictions, FACTS, unit="digit")
    assert "Reversing" not in words_of(page_of(tmp_path / "digit"))


def test_a_baseline_is_compared_video_by_video(tmp_path: Path) -> None:
    """The page has the baseline's score and the paired difference, which is 0 for equal predictions."""
    predictions = random_predictions(num_videos=200, num_classes=4, num_clips=1)
    half_wrong = Predictions(
        predictions.classes,
        predictions.video_ids,
        predictions.labels,
        np.where(np.arange(200)[:, None] % 2 == 0, predictions.clip_probabilities, 0.25),
        predictions.clip_videos,
    )
    baseline = tmp_path / "mean-seed_0" / "evaluation"
    write_evaluation(baseline, half_wrong, FACTS)
    write_evaluation(tmp_path / "better", predictions, FACTS, baseline=baseline)
    words = words_of(page_of(tmp_path / "better"))
    assert "Compared with the baseline mean-seed_0 on the same videos, this model is better: " in words
    assert re.search(r"baseline \d+\.\d %, difference \+\d+\.\d \[\+\d+\.\d, \+\d+\.\d\]", words)
    write_evaluation(tmp_path / "same", half_wrong, FACTS, baseline=baseline)
    words = words_of(page_of(tmp_path / "same"))
    assert "difference 0.0 [0.0, 0.0]" in words
    assert "not significantly better or worse" in words


def test_an_unusable_baseline_does_not_prevent_the_report(tmp_path: Path) -> None:
    """For a baseline without predictions, or of other videos, the page gives the reason and is otherwise complete."""
    write_evaluation(tmp_path / "a", three_videos(), FACTS, baseline=tmp_path / "nothing")
    assert "No comparison with the baseline: there is no" in words_of(page_of(tmp_path / "a"))
    write_evaluation(tmp_path / "b", random_predictions(9, 2, 1), FACTS, baseline=tmp_path / "a")
    assert "were evaluated on different" in words_of(page_of(tmp_path / "b"))


def test_figures_of_an_older_evaluation_are_removed(tmp_path: Path) -> None:
    """A figure that this evaluation does not have is removed, so it can't be mistaken for this evaluation's."""
    write_evaluation(tmp_path, three_videos(), FACTS, HISTORY)
    assert (tmp_path / "figures" / "learning_curves.svg").exists()
    write_evaluation(tmp_path, three_videos(), FACTS)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("confusion", "calibration") for kind in ("png", "svg", "csv")}


def test_only_figures_of_an_evaluation_are_removed(tmp_path: Path) -> None:
    """What somebody else put beside the figures stays: their own pictures, and what another evaluation is writing."""
    others = [tmp_path / "figures" / name for name in ("thesis.png", "spectrum.pdf", ".1f.host.1.tmp")]
    others[0].parent.mkdir()
    for path in others:
        path.touch()
    write_evaluation(tmp_path, three_videos(), FACTS)
    assert all(path.exists() for path in others)


def test_evaluations_that_end_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    """Eight at once succeed, and the files that are left are all from one of them."""
    classes = [(f"sit{number}", f"stand{number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(write_evaluation, tmp_path, three_videos(names), {"seed": names[0]}) for names in classes]
        for one in done:
            one.result()
    last = json.loads((tmp_path / "metrics.json").read_text())["seed"]
    assert Predictions.load(tmp_path / FILE_NAME).classes[0] == last
    assert read_csv(tmp_path / "per_class.csv")[0]["class"] == last
    assert csv_rows((tmp_path / "figures" / "confusion.csv").read_bytes())[1][0] == last


def test_the_page_says_over_what_the_intervals_are(tmp_path: Path) -> None:
    """Over the groups where there are any, else over the videos; predictions.csv contains the groups."""
    predictions = dataclasses.replace(three_videos(), groups=("a", "a", "b"))
    write_evaluation(tmp_path / "groups", predictions, FACTS)
    write_evaluation(tmp_path / "videos", three_videos(), FACTS)
    assert "bootstrap over 2 groups" in words_of(page_of(tmp_path / "groups"))
    assert "bootstrap over 3 videos" in words_of(page_of(tmp_path / "videos"))
    assert [row["group"] for row in read_csv(tmp_path / "groups" / "predictions.csv")] == ["a", "a", "b"]


def test_a_model_without_mistakes_has_a_page(tmp_path: Path) -> None:
    """The page works without confused pairs and mistakes, and with a single class."""
    predictions = Predictions(("only",), ("v",), np.array([0]), np.ones((1, 1)), np.array([0]))
    write_evaluation(tmp_path, predictions, {})
    page = page_of(tmp_path)
    assert "No video was classified as another class." in page
    assert "100.0 %" in page


def test_an_evaluation_with_all_videos_missing_has_a_page(tmp_path: Path) -> None:
    """If every video is missing, there is still a page, without the calibration."""
    predictions = Predictions(("a", "b"), ("v", "w"), np.array([0, 1]), np.zeros((0, 2)), np.zeros(0, dtype=int))
    write_evaluation(tmp_path, predictions, {})
    words = words_of(page_of(tmp_path))
    assert "First fix the 2 videos that could not be read" in words
    assert "Calibration" not in words


def test_a_fact_cannot_overwrite_a_metric(tmp_path: Path) -> None:
    """A fact with the name of a metric would replace the result: it is an error, and nothing is written."""
    with pytest.raises(EvaluationError, match="num_videos, video_top1"):
        write_evaluation(tmp_path / "evaluation", three_videos(), {"video_top1": 1.0, "num_videos": 3})
    assert not (tmp_path / "evaluation").exists()


def test_a_full_disk_leaves_no_partial_file_and_no_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """metrics.json is written last, so it exists only if the evaluation is complete; a failed file leaves nothing."""
    write_bytes = Path.write_bytes

    def disk_full_at_the_picture(path: Path, data: bytes) -> int:
        if bytes(data[:4]) == b"\x89PNG":
            write_bytes(path, data[:100])
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", disk_full_at_the_picture)
    with pytest.raises(OSError, match="No space left"):
        write_evaluation(tmp_path, three_videos(), FACTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "confusion.csv",
        "per_class.csv",
        "predictions.csv",
        FILE_NAME,
    ]
