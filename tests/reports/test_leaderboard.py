"""pipeline/reports/leaderboard.py: a table of several runs."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.predictions import EvaluationError
from pipeline.reports.leaderboard import deviation, write_leaderboard


def run(name: str, score: float, **facts: object) -> dict[str, Any]:
    """A ``metrics.json`` whose metrics are all ``score``."""
    return {
        **{"run": name, "dataset": "demo", "model": "np_rnn", "split": "1", "seed": 0, "num_videos": 40},
        **dict.fromkeys(METRICS, score),
        "intervals": {metric: [score - 0.05, score + 0.05] for metric in METRICS},
        **facts,
    }


def read_csv(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_run_has_a_row_with_raw_numbers_and_intervals(tmp_path: Path) -> None:
    """The CSV keeps full precision; the Markdown rounds to a tenth of a percent and shows the interval."""
    markdown = write_leaderboard(tmp_path, [run("a", 1 / 3)])
    (row,) = read_csv(tmp_path)
    assert (row["kind"], row["run"], float(row["video_top1"])) == ("run", "a", 1 / 3)
    assert float(row["video_top1_low"]) == pytest.approx(1 / 3 - 0.05)
    assert "| a | demo | np_rnn | 1 | 0 | 40 | 33.3 (28.3–38.3) |" in markdown
    assert "Mean over runs" not in markdown
    assert (tmp_path / "leaderboard.md").read_text(encoding="utf-8") == markdown


def test_runs_that_differ_only_in_the_seed_are_averaged(tmp_path: Path) -> None:
    """Repeats get one row with mean and sample deviation; other models and other settings are not included."""
    rows = [run("a", 0.8), run("b", 0.9, seed=1)]
    for name, score, facts in (("c", 0.2, {"model": "mean"}), ("d", 0.1, {"settings": "hidden 64"})):
        rows += [run(f"{name}{seed}", score, seed=seed, **facts) for seed in (0, 1)]
    markdown = write_leaderboard(tmp_path, rows)
    mean = next(row for row in read_csv(tmp_path) if row["kind"] == "mean")
    assert (mean["model"], mean["num_runs"], mean["deviation_over"]) == ("np_rnn", "2", "seeds")
    assert float(mean["video_top1"]) == pytest.approx(0.85)
    assert float(mean["video_top1_deviation"]) == pytest.approx(0.1 / 2**0.5)
    assert "| 85.0 ± 7.1 |" in markdown
    assert "hidden 64" in markdown


def test_folds_are_averaged_within_each_seed_first() -> None:
    """Persons held out once each make one estimate together, so their spread is not the deviation between seeds."""
    folds = [
        run(f"{person}{seed}", score + 0.02 * seed, holdout_group=person, seed=seed)
        for seed in (0, 1)
        for person, score in (("daria", 0.5), ("eli", 0.9))
    ]
    expected = {"seeds": (folds, 0.02), "folds": (folds[:2], 0.4)}
    for over, (runs, difference) in expected.items():
        spread, taken_over = deviation(runs, "video_top1")
        assert taken_over == over
        assert spread == pytest.approx(difference / 2**0.5)
    assert deviation(folds[:3], "video_top1")[1] == "runs"


def test_the_best_is_first_within_its_dataset(tmp_path: Path) -> None:
    """Scores on different datasets are not ranked against each other."""
    rows = [
        run("low", 0.2),
        run("other", 0.99, dataset="weizmann"),
        run("high", 0.9, model="lstm"),
        run("middle", 0.5, model="gru"),
    ]
    write_leaderboard(tmp_path, rows)
    assert [row["run"] for row in read_csv(tmp_path)] == ["high", "middle", "low", "other"]


def on_splits(model: str, scores: dict[str, float], seeds: tuple[int, ...] = (0, 1, 2)) -> list[dict[str, Any]]:
    return [
        run(f"{model}{split}{seed}", score, model=model, split=split, seed=seed)
        for split, score in scores.items()
        for seed in seeds
    ]


def test_models_are_ranked_by_what_they_have_in_common(tmp_path: Path) -> None:
    """A model that was tried on the easiest split only is not first: the others are compared with it on that split."""
    rows = on_splits("lstm", {"1": 0.8}) + on_splits("np_rnn", {"1": 0.9, "2": 0.5, "3": 0.5, "4": 0.5})
    markdown = write_leaderboard(tmp_path, rows)
    lines = [line for line in markdown.splitlines() if line.startswith(("| 1 |", "| 2 |"))]
    assert lines[0].startswith("| 1 | demo | np_rnn | 3 of 12 | 90.0 ± 0.0 |")
    assert lines[1].startswith("| 2 | demo | lstm | 3 | 80.0 ± 0.0 |")
    assert "Ranked by the folds and seeds that all ranked models have in common." in markdown
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert "3 of 12" in page and "in common" in page


def test_a_stray_run_does_not_take_the_others_results_away(tmp_path: Path) -> None:
    """A model with one run is listed without a rank, with what it lacks; the others keep all their runs."""
    both = {"1": 0.8, "2": 0.6}
    rows = on_splits("gru", both) + on_splits("np_rnn", {"1": 0.9, "2": 0.7}) + on_splits("tried", {"2": 0.99}, (0,))
    write_leaderboard(tmp_path, rows)
    means = [row for row in read_csv(tmp_path) if row["kind"] == "mean" or row["model"] == "tried"]
    assert [(row["model"], row["rank"], row["num_runs"]) for row in means] == [
        ("np_rnn", "1", "6"),
        ("gru", "2", "6"),
        ("tried", "", "1"),
    ]
    assert means[2]["missing"].split("; ")[:2] == ["split 1, seed 0", "split 1, seed 1"]
    assert "a model without a rank lacks some of them" in (tmp_path / "leaderboard.md").read_text()


def test_verdicts_come_first(tmp_path: Path) -> None:
    """The sentence about the best model is on top of both tables, and its text can't break them."""
    sentence = "a<b> is first: 64.1, 5.8 points above c [1.9, 9.6]."
    markdown = write_leaderboard(tmp_path, [run("a", 0.5)], verdicts=[sentence])
    assert markdown.index("is first") < markdown.index("## Runs")
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert "a&lt;b&gt; is first" in page and page.index("is first") < page.index("<table")


def test_the_page_links_every_run_to_its_report(tmp_path: Path) -> None:
    """Links are relative and quoted, so the folder may be moved and a run may have any name."""
    reports = [tmp_path / "a & b" / "evaluation" / "report.html", tmp_path.parent / "elsewhere" / "report.html"]
    write_leaderboard(tmp_path, [run("<script>alert(1)</script>", 0.5), run("second", 0.25)], reports)
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert 'href="a%20%26%20b/evaluation/report.html">&lt;script&gt;alert(1)&lt;/script&gt;</a>' in page
    assert 'href="../elsewhere/report.html">second</a>' in page
    assert "50.0" in page and "(45.0 – 55.0)" in page


def test_the_page_has_the_content_of_the_tables(tmp_path: Path) -> None:
    """A score without an interval is shown without one, and repeats have their mean and deviation."""
    rows = [run("a", 0.8), run("b", 0.9, seed=1), run("c", 0.3, dataset="weizmann", intervals={})]
    write_leaderboard(tmp_path, rows)
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 * len(METRICS)
    assert "85.0 ± 7.1" in page
    assert "Mean over runs" in page


def test_the_drop_for_reversed_frames_has_a_column(tmp_path: Path) -> None:
    """CSV and HTML show the drop, its interval and its mean; a run without it has an empty cell."""
    first, second = (
        {"order": {"reversed": {"video_top1": 0.5, "drop": drop, "interval": [drop - 0.0625, drop + 0.0625]}}}
        for drop in (-0.03125, 0.46875)
    )
    other = run("c", 0.7, dataset="weizmann")
    write_leaderboard(tmp_path, [run("a", 0.8, **first), run("b", 0.8, seed=1, **second), other])
    mean, a, b, c = read_csv(tmp_path)
    assert [row["reversed_drop"] for row in (mean, a, b, c)] == ["0.21875", "-0.03125", "0.46875", ""]
    assert (a["reversed_drop_low"], a["reversed_drop_high"]) == ("-0.09375", "0.03125")
    assert float(mean["reversed_drop_deviation"]) == pytest.approx(0.5 / 2**0.5)
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert page.count("Drop if reversed</th>") == 2
    assert "46.9" in page and "(−9.4 – 3.1)" in page and "21.9 ± 35.4" in page


def test_without_reversed_frames_there_is_no_such_column(tmp_path: Path) -> None:
    """Runs on digits, whose order is not measured, have no column for it."""
    write_leaderboard(tmp_path, [run("a", 0.8), run("b", 0.9, seed=1)])
    assert "reversed_drop" not in read_csv(tmp_path)[0]
    assert "reversed" not in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")


def test_validation_videos_are_a_separate_experiment(tmp_path: Path) -> None:
    """Scores on validation videos are labelled and not averaged with those on test videos."""
    markdown = write_leaderboard(tmp_path, [run("a", 0.8), run("a", 0.9, evaluated_on="validation videos")])
    assert {row["kind"] for row in read_csv(tmp_path)} == {"run"}
    assert "| a | demo | validation videos | np_rnn |" in markdown
    assert "validation videos" in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")


def test_names_cannot_break_the_table(tmp_path: Path) -> None:
    """A pipe, a backslash before a pipe, a line break or a tag in a name stays inside its cell."""
    markdown = write_leaderboard(tmp_path, [run("a|b\\|c\nd<b>", 0.5)])
    (line,) = [line for line in markdown.splitlines() if "50.0 (" in line]
    unescaped = re.sub(r"\\.", "", line)
    head = next(line for line in markdown.splitlines() if line.startswith("| run"))
    assert unescaped.count("|") == head.count("|")
    assert "<" not in unescaped
    assert read_csv(tmp_path)[0]["run"] == "a|b\\|c\nd<b>"


def test_the_table_says_over_what_the_intervals_are(tmp_path: Path) -> None:
    """Over groups where a run has them; an older evaluation without groups is over videos."""
    older, newer = run("a", 0.5), run("b", 0.5, num_groups=25)
    assert "95 % interval, bootstrap over 25 groups." in write_leaderboard(tmp_path, [newer])
    assert "95 % interval, bootstrap over 40 videos." in write_leaderboard(tmp_path, [older])
    assert "bootstrap over 40 videos or 25 groups." in write_leaderboard(tmp_path, [older, newer])
    assert "bootstrap over 40 videos or 25 groups." in (tmp_path / "leaderboard.html").read_text()


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    """No runs, or a run without its metrics, is an error that names the problem instead of an empty table."""
    with pytest.raises(EvaluationError, match="at least one"):
        write_leaderboard(tmp_path, [])
    with pytest.raises(EvaluationError, match="'broken' lacks clip_top1"):
        write_leaderboard(tmp_path, [{"run": "broken"}])
    assert not list(tmp_path.iterdir())


def test_top5_of_five_classes_is_not_shown(tmp_path: Path) -> None:
    """It is always 100 %. The CSV keeps it, and so does a table with a run of more classes."""
    markdown = write_leaderboard(tmp_path, [run("a", 0.5, num_classes=5), run("b", 0.5, num_classes=2)])
    assert "op-5" not in markdown and "op-5" not in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert read_csv(tmp_path)[0]["video_top5"] == "0.5"
    assert "Video top-5" in write_leaderboard(tmp_path, [run("a", 0.5, num_classes=5), run("b", 0.5, num_classes=6)])


def test_splits_are_side_by_side_with_their_parts(tmp_path: Path) -> None:
    """Each model's mean on each split is in one row, and the page lists how large the parts of each split are."""
    parts = {
        "train": {"videos": 9537, "groups": 18, "classes": 101},
        "test": {"videos": 3783, "groups": 7, "classes": 101},
    }
    rows = on_splits("np_rnn", {"1": 0.6, "2": 0.7, "3": 0.8}) + on_splits("mean", {"1": 0.5})
    write_leaderboard(tmp_path, [row | {"parts": parts} for row in rows])
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    text = " ".join(re.sub("<[^>]+>", " ", page[page.index('id="splits"') :]).split())
    assert "split 1 split 2 split 3 np_rnn" in text
    assert re.search(r"np_rnn (\S+ )?60\.\d 70\.\d 80\.\d", text) and re.search(r"mean (\S+ )?50\.\d – –", text)
    assert "train 9,537 18 101" in text
    write_leaderboard(tmp_path, on_splits("np_rnn", {"1": 0.6}))
    assert "Split by split" not in (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
