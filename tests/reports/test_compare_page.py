"""pipeline/reports/compare_page.py and its parts: the page and the tables that set runs side by side."""

import csv
import html
import io
import json
import re
import shutil
import statistics
import urllib.parse
import xml.etree.ElementTree
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.comparison import ComparisonError, holm, paired_difference, read_video_predictions
from pipeline.evaluation.predictions import Predictions
from pipeline.reports import compare_page
from pipeline.reports.compare_page import write_comparison
from pipeline.reports.compare_runs import in_points, p_text
from pipeline.reports.report import write_evaluation

CLASSES = ("<script>alert(1)</script>", "$\\frac{", "sit, or 'stand'")
NAMES = ("weak", "strong", "like strong")
LABELS = np.repeat([0, 1, 2], 20)


def predictions(strength: float, seed: int, missing: int | None = None) -> Predictions:
    """Of sixty videos, some of them as hard for every model; ``missing``: one that could not be decoded."""
    scores = np.random.default_rng(0).normal(size=(60, 3)) + np.random.default_rng(seed).normal(size=(60, 3)) / 2
    scores[np.arange(60), LABELS] += strength
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    videos = np.array([video for video in range(60) if video != missing])
    return Predictions(
        CLASSES, tuple(f"g{video}/<b>.avi" for video in range(60)), LABELS, probabilities[videos], videos
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluations of three models: a weak and a strong one, and one that is like the strong one."""
    folder = tmp_path_factory.mktemp("runs")
    for name, answers in {
        "weak": predictions(0.3, 1, missing=7),
        "strong": predictions(2.5, 2),
        "like strong": predictions(2.5, 3),
    }.items():
        facts = {"run": name, "dataset": "demo", "split": "1", "seed": 0, "model": name, "command": f"make {name}"}
        write_evaluation(folder / name / "evaluation", answers, facts)
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture(scope="module")
def compared(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that compares all three, beside their folders."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("compared") / "runs"))
    return write_comparison(folder, [evaluation(folder, name) for name in NAMES])


def evaluation(runs: Path, name: str) -> Path:
    return runs / name / "evaluation"


def another(runs: Path, like: str, name: str, facts: Mapping[str, object]) -> Path:
    """A copy of an evaluation that tells other facts of itself."""
    folder = Path(shutil.copytree(evaluation(runs, like), evaluation(runs, name)))
    results = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**results, "run": name, **facts}))
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def text_of(page: Path) -> str:
    """What a reader sees, without tags and spread spaces."""
    shown = re.sub(r"<(style|script)>.*?</\1>|<title>.*?</title>|<[^>]+>", " ", page.read_text(), flags=re.S)
    return " ".join(html.unescape(shown).split())


def test_two_runs_are_compared(runs: Path, tmp_path: Path) -> None:
    """The page, the tables and every figure are written, and the numbers are those of the paired statistics."""
    weak, strong = evaluation(runs, "weak"), evaluation(runs, "strong")
    page = write_comparison(tmp_path / "out", [weak, strong])
    assert page == tmp_path / "out" / "comparison.html"
    assert sorted(path.name for path in page.parent.iterdir()) == [
        *("comparison.csv", "comparison.html", "comparison_figures", "flips.csv")
    ]
    (row,) = read_csv(tmp_path / "out" / "comparison.csv")
    a, b = read_video_predictions(weak), read_video_predictions(strong)
    for metric in ("video_top1", "video_top5", "mean_class_accuracy"):
        expected = paired_difference(a, b, metric)
        for part in ("difference", "low", "high"):
            assert float(row[f"{metric}_{part}"]) == getattr(expected, part)
    assert (row["a"], row["b"], row["split"], row["num_videos"]) == ("weak", "strong", "1", "60")
    counts = {name: int(row[f"num_{name}"]) for name in ("both_right", "only_a_right", "only_b_right", "both_wrong")}
    assert sum(counts.values()) == 60
    assert counts["only_b_right"] == int((b.right & ~a.right).sum())
    top1 = paired_difference(a, b)
    points = f"{in_points(top1.difference)} points [{in_points(top1.low)}, {in_points(top1.high)}], p < 0.001."
    assert row["verdict"] == f"strong is better than weak by {points}"
    assert row["verdict"] in text_of(page)
    figures = {path.name for path in (page.parent / "comparison_figures").iterdir()}
    names = ("differences", "confusion_difference_1_2", "recall_difference_1_2")
    assert figures == {f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")}
    for name in names:
        content = (page.parent / "comparison_figures" / f"{name}.png").read_bytes()
        assert min(Image.open(io.BytesIO(content)).size) > 50
        xml.etree.ElementTree.parse(page.parent / "comparison_figures" / f"{name}.svg")


def test_the_matrix_of_differences_adds_up(runs: Path, tmp_path: Path) -> None:
    """In each true class what one answer gains another loses; the video that was missing in A only is gained from."""
    write_comparison(tmp_path, [evaluation(runs, "weak"), evaluation(runs, "strong")])
    with (tmp_path / "comparison_figures" / "confusion_difference_1_2.csv").open(newline="") as file:
        head, *rows = list(csv.reader(file))
    assert head == ["true \\ predicted", *CLASSES, "(missing)"]
    counts = np.array([row[1:] for row in rows], dtype=int)
    assert (counts.sum(axis=1) == 0).all()
    assert counts[:, -1].tolist() == [-1, 0, 0]
    assert np.trace(counts[:, :-1]) > 0


def test_flips_name_every_video_that_runs_disagree_on(compared: Path) -> None:
    """One row per video and run, also where both are wrong; who agrees is not listed."""
    models = [read_video_predictions(evaluation(compared.parent, name)) for name in NAMES]
    disagreed = [len({int(model.predicted[video]) for model in models}) > 1 for video in range(60)]
    rows = read_csv(compared.with_name("flips.csv"))
    assert len(rows) == 3 * sum(disagreed)
    for row in rows:
        model = models[NAMES.index(row["run"])]
        video = model.video_ids.index(row["video_id"])
        assert disagreed[video]
        assert row["correct"] == str(int(model.right[video]))
        assert float(row["true_probability"]) == model.probabilities[video, model.labels[video]]
    assert [row["predicted"] for row in rows if row["video_id"] == "g7/<b>.avi"][0] == "(missing)"


def test_what_is_no_difference_is_called_none(runs: Path, tmp_path: Path) -> None:
    """Two runs that chance could tell apart as well are not ranked, and one against its copy has no difference."""
    another(runs, "strong", "copy", {"seed": 5})
    names = ("strong", "like strong", "copy")
    page = write_comparison(tmp_path, [evaluation(runs, name) for name in names])
    by_pair = {(row["a"], row["b"]): row["verdict"] for row in read_csv(tmp_path / "comparison.csv")}
    assert by_pair["strong", "copy"] == "copy and strong are right on exactly the same 60 videos."
    assert re.fullmatch(
        r"No difference between .* can be told apart from chance: \d\.\d points \[.*\], p = .*\. Right in one of them "
        r"only: \d+ videos? against \d+\.",
        by_pair["strong", "like strong"],
    )
    assert "better" not in by_pair["like strong", "copy"]
    assert not list((page.parent / "comparison_figures").glob("*_1_3.*"))  # nothing to draw


def test_p_values_of_several_pairs_are_corrected(compared: Path) -> None:
    """With three runs the page's p-values are Holm's of the three raw ones, and it says so."""
    rows = read_csv(compared.with_name("comparison.csv"))
    assert [float(row["mcnemar_p_holm"]) for row in rows] == holm([float(row["mcnemar_p"]) for row in rows])
    assert any(row["mcnemar_p_holm"] != row["mcnemar_p"] for row in rows)
    assert "corrected for 3 pairs by Holm's method" in text_of(compared)


def test_the_page_needs_nothing_but_its_folder(compared: Path, tmp_path: Path) -> None:
    """No address of a network stands in it, every link leads to a file or a place that is there, and it may be moved
    with its runs."""
    page = Path(shutil.copytree(compared.parent, tmp_path / "moved")) / "comparison.html"
    content = page.read_text()
    assert "http://" not in content and "https://" not in content
    places = re.findall(r' id="([^"]+)"', content)
    assert len(set(places)) == len(places)
    links = {link for link in re.findall(r'href="([^"]+)"', content)}
    assert "like%20strong/evaluation/report.html" in links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in places
        else:
            assert (page.parent / urllib.parse.unquote(link.partition("#")[0])).is_file()
    assert any(re.fullmatch(r"strong/evaluation/report\.html#video=.+", link) for link in links)


def test_names_are_shown_as_text(runs: Path, tmp_path: Path) -> None:
    """A class, a video or a run whose name is a tag is only ever text; what runs is the page's own scripts."""
    hostile = another(runs, "weak", "hostile", {"run": "<img src=x onerror=alert(1)>", "model": "</title><b>"})
    page = write_comparison(tmp_path, [hostile, evaluation(runs, "strong")]).read_text()
    assert "<script>alert" not in page and "<img" not in page and "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; taken for" in page
    assert page.count("<script>") == 2
    assert "script-src 'sha256-" in html.unescape(page)


def test_splits_stand_side_by_side(runs: Path, tmp_path: Path) -> None:
    """Runs of several splits are averaged by experiment and compared only within a split."""
    folders = [
        evaluation(runs, "weak"),
        evaluation(runs, "strong"),
        another(runs, "like strong", "weak 2", {"split": "2", "model": "weak"}),
        another(runs, "like strong", "strong 2", {"split": "2", "model": "strong"}),
    ]
    page = write_comparison(tmp_path, folders)
    rows = read_csv(tmp_path / "comparison.csv")
    assert [(row["split"], row["a"], row["b"]) for row in rows] == [
        ("1", "weak", "strong"),
        ("2", "weak 2", "strong 2"),
    ]
    scores = {
        name: json.loads((evaluation(runs, name) / "metrics.json").read_text())["video_top1"]
        for name in ("weak", "strong", "weak 2", "strong 2")
    }
    text = text_of(page)
    for model in ("weak", "strong"):
        both = [100 * scores[model], 100 * scores[f"{model} 2"]]
        expected = f"{model} {both[0]:.1f} {both[1]:.1f} {statistics.fmean(both):.1f} ± {statistics.stdev(both):.1f}"
        assert expected in text
    assert "± over" in text


def test_splits_alone_are_compared_without_pairs(runs: Path, tmp_path: Path) -> None:
    """One experiment on two splits has nothing to pair, but a mean: the page is written without differences."""
    second = another(runs, "weak", "weak 2", {"split": "2"})
    page = write_comparison(tmp_path, [evaluation(runs, "weak"), second])
    text = text_of(page)
    assert "no test list in common" in text and "Splits and seeds side by side" in text
    assert read_csv(tmp_path / "comparison.csv") == []
    assert not (tmp_path / "comparison_figures").exists()


def test_runs_of_one_name_are_told_apart(runs: Path, tmp_path: Path) -> None:
    """Runs that are called the same, and two evaluations of one run, go by their folders; none counts twice."""
    same = another(runs, "strong", "elsewhere", {"run": "weak"})
    again = Path(shutil.copytree(same, same.with_name("evaluation-clips_1")))
    write_comparison(tmp_path, [evaluation(runs, "weak"), same, again, same])
    assert [(row["a"], row["b"]) for row in read_csv(tmp_path / "comparison.csv")] == [
        ("weak/evaluation", "elsewhere/evaluation"),
        ("weak/evaluation", "elsewhere/evaluation-clips_1"),
        ("elsewhere/evaluation", "elsewhere/evaluation-clips_1"),
    ]


def test_only_so_many_pairs_are_drawn(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of pairs the tables go on and the details do not, and the page says how to see them; the figures
    of an earlier comparison do not stay behind, and what is not ours does."""
    folders = [evaluation(runs, name) for name in NAMES]
    write_comparison(tmp_path, folders)
    assert len(list((tmp_path / "comparison_figures").glob("*_difference_*.svg"))) == 6
    (tmp_path / "comparison_figures" / "notes.txt").write_text("mine")
    monkeypatch.setattr(compare_page, "NUM_DETAILED", 1)
    page = write_comparison(tmp_path, folders)
    assert "Of 3 pairs only the first 1 is here" in text_of(page)
    assert page.read_text().count("<details") == 1
    assert len(read_csv(tmp_path / "comparison.csv")) == 3
    kept = {path.stem for path in (tmp_path / "comparison_figures").iterdir()}
    assert kept == {"differences", "confusion_difference_1_2", "recall_difference_1_2", "notes"}


def test_digits_are_not_called_videos(runs: Path, tmp_path: Path) -> None:
    """The page of a task without video does not talk of videos."""
    names = ("weak", "strong")
    folders = [another(runs, name, f"digits {name}", {"dataset": "pixel_mnist"}) for name in names]
    text = text_of(write_comparison(tmp_path, folders))
    assert "digits" in text and "video" not in text.lower()


def test_what_can_not_be_compared_is_said(runs: Path, tmp_path: Path) -> None:
    """Every reason is an error that names the runs and what to do, and nothing is written."""
    weak, strong = evaluation(runs, "weak"), evaluation(runs, "strong")
    out = tmp_path / "out"
    with pytest.raises(ComparisonError, match="at least two runs, and got 1"):
        write_comparison(out, [weak, weak])
    other_split = another(runs, "strong", "split two", {"split": "2"})
    with pytest.raises(ComparisonError, match=r"nothing to compare: .*weak: .*split 1.*; split two: .*split 2"):
        write_comparison(out, [weak, other_split])
    elsewhere = another(runs, "strong", "elsewhere", {"dataset": "hmdb51"})
    with pytest.raises(ComparisonError, match="different datasets: demo, hmdb51"):
        write_comparison(out, [weak, elsewhere])
    lines = (strong / "predictions.csv").read_text().splitlines(keepends=True)
    (strong / "predictions.csv").write_text("".join(lines[:-2]))
    with pytest.raises(ComparisonError, match="weak and strong .* different videos: 2 are only in weak"):
        write_comparison(out, [weak, strong])
    (strong / "metrics.json").write_text(json.dumps({"run": "strong", "mse": 0.1}))
    with pytest.raises(ComparisonError, match="lacks clip_top1, .* no evaluation of a classifier"):
        write_comparison(out, [weak, strong])
    (strong / "metrics.json").write_text("{")
    with pytest.raises(ComparisonError, match="metrics.json is damaged .* Evaluate the run again: python evaluate.py"):
        write_comparison(out, [weak, strong])
    (strong / "metrics.json").unlink()
    with pytest.raises(ComparisonError, match="the evaluation was not finished"):
        write_comparison(out, [weak, strong])
    assert not out.exists()


def test_points_and_p_values_read_well() -> None:
    """No minus before a zero, a real minus sign before others, and no p-value of 0."""
    assert [in_points(share, "+") for share in (0.031, -0.0004, 0.0, -0.5)] == ["+3.1", "0.0", "0.0", "−50.0"]
    assert in_points(0.031) == "3.1"
    assert [p_text(p) for p in (1e-9, 0.0312, 0.97, 1.0)] == ["p < 0.001", "p = 0.031", "p = 0.97", "p = 1"]


def test_in_a_browser(compared: Path) -> None:
    """A link opens its pair, a head sorts, the theme switches, a phone need not scroll sideways, nothing is asked of a
    network, and axe finds no serious fault, light or dark."""
    from tests.reports.test_report_in_browser import BROWSER, PHONE, opened

    if BROWSER is None:
        pytest.skip("no Chromium on this machine (set CHROMIUM, or install it)")
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            with opened(browser, compared, color_scheme=scheme, bypass_csp=True) as page:
                details = page.locator("details", has=page.locator("#pair_1_2"))
                expect(details).not_to_have_attribute("open", "")
                page.get_by_role("link", name="weak → strong", exact=True).click()
                expect(details).to_have_attribute("open", "")
                expect(page.get_by_role("img", name="Difference of the confusion matrices").first).to_be_visible()
                faults = Axe().run(page).response["violations"]
                assert [fault["id"] for fault in faults if fault["impact"] in ("serious", "critical")] == []
        with opened(browser, compared) as page:
            names = page.get_by_role("region", name="Runs", exact=True).locator("tbody th")
            assert names.all_text_contents() == ["weak", "strong", "like strong"]
            page.get_by_role("region", name="Runs", exact=True).get_by_role("button", name="Run").click()
            assert names.all_text_contents() == ["like strong", "strong", "weak"]
            colour = "getComputedStyle(document.body).backgroundColor"
            before = page.evaluate(colour)
            for _ in range(2):
                page.locator("#theme").click()
            assert page.evaluate(colour) != before
        with opened(browser, compared, **PHONE) as page:
            root = "document.documentElement"
            assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
        browser.close()
