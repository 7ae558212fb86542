"""pipeline/reports/compare_page.py and compare_runs.py: the comparison of runs."""

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

from pipeline.evaluation.comparison import bootstrap, holm, paired_differences
from pipeline.evaluation.predictions import FILE_NAME, EvaluationError, Predictions
from pipeline.evaluation.provenance import metrics_from_json, metrics_to_json
from pipeline.reports import compare_page
from pipeline.reports.compare_page import write_comparison
from pipeline.reports.pages import p_text, points
from pipeline.reports.report import write_evaluation

CLASSES = ("<script>alert(1)</script>", "$\\frac{", "sit, or 'stand'")
NAMES = ("weak", "strong", "like strong")
LABELS = np.repeat([0, 1, 2], 20)


def predictions(strength: float, seed: int, missing: int | None = None) -> Predictions:
    """Predictions for sixty videos, some of them hard for every model; ``missing``: one that could not be decoded."""
    scores = np.random.default_rng(0).normal(size=(60, 3)) + np.random.default_rng(seed).normal(size=(60, 3)) / 2
    scores[np.arange(60), LABELS] += strength
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    videos = np.array([video for video in range(60) if video != missing])
    return Predictions(
        CLASSES, tuple(f"g{video}/<b>.avi" for video in range(60)), LABELS, probabilities[videos], videos
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluations of three models: weak, strong, and about as good as the strong one."""
    folder = tmp_path_factory.mktemp("runs")
    for name, model in {
        "weak": predictions(0.3, 1, missing=7),
        "strong": predictions(2.5, 2),
        "like strong": predictions(2.5, 3),
    }.items():
        facts = {"run": name, "dataset": "demo", "split": "1", "seed": 0, "model": name, "command": f"make {name}"}
        write_evaluation(folder / name / "evaluation", model, facts)
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


@pytest.fixture(scope="module")
def compared(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison of all three, written into a copy of their folder."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("compared") / "runs"))
    return write_comparison(folder, [evaluation(folder, name) for name in NAMES])


def evaluation(runs: Path, name: str) -> Path:
    return runs / name / "evaluation"


def another(runs: Path, like: str, name: str, facts: Mapping[str, object]) -> Path:
    """A copy of an evaluation with other facts."""
    folder = Path(shutil.copytree(evaluation(runs, like), evaluation(runs, name)))
    results = metrics_from_json((folder / "metrics.json").read_bytes())
    (folder / "metrics.json").write_bytes(metrics_to_json({**results, "run": name, **facts}))
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def text_of(page: Path) -> str:
    """The visible text, without tags and repeated spaces."""
    shown = re.sub(r"<(style|script)>.*?</\1>|<title>.*?</title>|<[^>]+>", " ", page.read_text(), flags=re.S)
    return " ".join(html.unescape(shown).split())


def test_two_runs_are_compared(runs: Path, tmp_path: Path) -> None:
    """The page, the tables and every figure are written, with the numbers of the paired statistics."""
    weak, strong = evaluation(runs, "weak"), evaluation(runs, "strong")
    page = write_comparison(tmp_path / "out", [weak, strong])
    assert page == tmp_path / "out" / "comparison.html"
    assert sorted(path.name for path in page.parent.iterdir()) == [
        *("comparison.csv", "comparison.html", "comparison_figures", "flips.csv")
    ]
    (row,) = read_csv(tmp_path / "out" / "comparison.csv")
    a, b = Predictions.load(weak / FILE_NAME), Predictions.load(strong / FILE_NAME)
    differences = paired_differences(bootstrap(a), bootstrap(b))
    for metric in ("video_top1", "video_top5", "mean_class_accuracy"):
        expected = differences[metric]
        for part in ("difference", "low", "high"):
            assert float(row[f"{metric}_{part}"]) == getattr(expected, part)
    assert (row["a"], row["b"], row["split"], row["num_videos"]) == ("weak", "strong", "1", "60")
    counts = {name: int(row[f"num_{name}"]) for name in ("both_right", "only_a_right", "only_b_right", "both_wrong")}
    assert sum(counts.values()) == 60
    assert counts["only_b_right"] == int((b.correct & ~a.correct).sum())
    top1 = differences["video_top1"]
    size = f"{points(top1.difference)} points [{points(top1.low)}, {points(top1.high)}], p < 0.001."
    assert row["verdict"] == f"strong is better than weak by {size}"
    assert row["verdict"] in text_of(page)
    figures = {path.name for path in (page.parent / "comparison_figures").iterdir()}
    names = ("differences", "confusion_difference_1_2", "recall_difference_1_2")
    assert figures == {f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")}
    for name in names:
        content = (page.parent / "comparison_figures" / f"{name}.png").read_bytes()
        assert min(Image.open(io.BytesIO(content)).size) > 50
        xml.etree.ElementTree.parse(page.parent / "comparison_figures" / f"{name}.svg")


def test_the_confusion_difference_adds_up(runs: Path, tmp_path: Path) -> None:
    """In each true class the differences sum to 0, and the video that is missing only in A reduces the last column."""
    write_comparison(tmp_path, [evaluation(runs, "weak"), evaluation(runs, "strong")])
    with (tmp_path / "comparison_figures" / "confusion_difference_1_2.csv").open(newline="") as file:
        head, *rows = list(csv.reader(file))
    assert head == ["true \\ predicted", *CLASSES, "(missing)"]
    counts = np.array([row[1:] for row in rows], dtype=int)
    assert (counts.sum(axis=1) == 0).all()
    assert counts[:, -1].tolist() == [-1, 0, 0]
    assert np.trace(counts[:, :-1]) > 0


def test_flips_list_every_video_that_runs_disagree_on(compared: Path) -> None:
    """There is one row per video and run, also where both are wrong; videos with equal answers are not listed."""
    models = [Predictions.load(evaluation(compared.parent, name) / FILE_NAME) for name in NAMES]
    disagreed = [len({int(model.predicted[video]) for model in models}) > 1 for video in range(60)]
    rows = read_csv(compared.with_name("flips.csv"))
    assert len(rows) == 3 * sum(disagreed)
    for row in rows:
        model = models[NAMES.index(row["run"])]
        video = model.video_ids.index(row["video_id"])
        assert disagreed[video]
        assert row["correct"] == str(int(model.correct[video]))
        assert row["true_probability"] == f"{model.true_probability[video]:.9g}"
    assert [row["predicted"] for row in rows if row["video_id"] == "g7/<b>.avi"][0] == "(missing)"


def test_equal_runs_are_not_ranked(runs: Path, tmp_path: Path) -> None:
    """Two runs whose difference is not significant are not ranked, and a run does not differ from its copy."""
    another(runs, "strong", "copy", {"seed": 5})
    names = ("strong", "like strong", "copy")
    page = write_comparison(tmp_path, [evaluation(runs, name) for name in names])
    by_pair = {(row["a"], row["b"]): row["verdict"] for row in read_csv(tmp_path / "comparison.csv")}
    assert "copy and strong classify exactly the same videos correctly, out of 60" in by_pair["strong", "copy"]
    assert re.fullmatch(
        r"No significant difference between .*: \d\.\d points \[.*\], p = .*\. Correct only in .*: \d+ videos?; "
        r"only in .*: \d+\.",
        by_pair["strong", "like strong"],
    )
    assert "better" not in by_pair["like strong", "copy"]
    assert not list((page.parent / "comparison_figures").glob("*_1_3.*"))  # nothing to draw


def test_p_values_of_several_pairs_are_corrected(compared: Path) -> None:
    """With three runs the p-values have Holm's correction for three pairs, and the page says so."""
    rows = read_csv(compared.with_name("comparison.csv"))
    assert [float(row["mcnemar_p_holm"]) for row in rows] == holm([float(row["mcnemar_p"]) for row in rows])
    assert any(row["mcnemar_p_holm"] != row["mcnemar_p"] for row in rows)
    assert "corrected for 3 pairs by Holm's method" in text_of(compared)


def test_the_page_needs_nothing_but_its_folder(compared: Path, tmp_path: Path) -> None:
    """The page has no network address, every link leads to an existing file or anchor, and it may be moved with its
    runs."""
    page = Path(shutil.copytree(compared.parent, tmp_path / "moved")) / "comparison.html"
    content = page.read_text()
    assert "http://" not in content and "https://" not in content
    anchors = re.findall(r' id="([^"]+)"', content)
    assert len(set(anchors)) == len(anchors)
    links = {link for link in re.findall(r'href="([^"]+)"', content)}
    assert "like%20strong/evaluation/report.html" in links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors
        else:
            assert (page.parent / urllib.parse.unquote(link.partition("#")[0])).is_file()
    assert any(re.fullmatch(r"strong/evaluation/report\.html#video=.+", link) for link in links)


def test_names_are_shown_as_text(runs: Path, tmp_path: Path) -> None:
    """Names of classes, videos and runs are never interpreted as HTML, and only the page's own scripts run."""
    hostile = another(runs, "weak", "hostile", {"run": "<img src=x onerror=alert(1)>", "model": "</title><b>"})
    page = write_comparison(tmp_path, [hostile, evaluation(runs, "strong")]).read_text()
    assert "<script>alert" not in page and "<img" not in page and "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; classified as" in page
    assert page.count("<script>") == 2
    assert "script-src 'sha256-" in html.unescape(page)


def test_splits_are_shown_side_by_side(runs: Path, tmp_path: Path) -> None:
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


def test_models_with_several_seeds_are_compared_as_models(runs: Path, tmp_path: Path) -> None:
    """There is one verdict for each two models, first of all; the pairs of their runs are folded."""
    folders = [evaluation(runs, "weak"), evaluation(runs, "strong")]
    for seed in (1, 2):
        folders.append(another(runs, "weak", f"weak {seed}", {"seed": seed, "model": "weak"}))
        folders.append(another(runs, "like strong", f"strong {seed}", {"seed": seed, "model": "strong"}))
    page = write_comparison(tmp_path, folders)
    (row,) = read_csv(tmp_path / "models.csv")
    assert (row["a"], row["b"], row["num_seeds"], row["num_videos"]) == ("strong", "weak", "3", "60")
    text = text_of(page)
    assert f"on demo {row['verdict']} Models" in text
    assert row["verdict"].startswith("strong is better than weak by ") and row["verdict"].endswith(
        "1 split and 3 seeds."
    )
    assert "Run by run: 6 runs, 15 pairs" in text
    folded = page.read_text().split("Run by run")
    assert "McNemar's test" in folded[1] and "<table" in folded[0]


def test_splits_alone_are_compared_without_pairs(runs: Path, tmp_path: Path) -> None:
    """One experiment on two splits has no pairs, but a mean: the page is written without differences."""
    second = another(runs, "weak", "weak 2", {"split": "2"})
    page = write_comparison(tmp_path, [evaluation(runs, "weak"), second])
    text = text_of(page)
    assert "no test list in common" in text and "Splits and seeds side by side" in text
    assert read_csv(tmp_path / "comparison.csv") == []
    assert not (tmp_path / "comparison_figures").exists()


def test_runs_with_the_same_name_get_unique_names(runs: Path, tmp_path: Path) -> None:
    """Runs with the same name, and two evaluations of one run, are named after their folders; none is used twice."""
    same = another(runs, "strong", "elsewhere", {"run": "weak"})
    again = Path(shutil.copytree(same, same.with_name("evaluation-clips_1")))
    write_comparison(tmp_path, [evaluation(runs, "weak"), same, again, same])
    assert [(row["a"], row["b"]) for row in read_csv(tmp_path / "comparison.csv")] == [
        ("weak/evaluation", "elsewhere/evaluation"),
        ("weak/evaluation", "elsewhere/evaluation-clips_1"),
        ("elsewhere/evaluation", "elsewhere/evaluation-clips_1"),
    ]


def test_the_number_of_detailed_pairs_is_limited(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables contain all pairs, the details only the first ones, and the page says how to see the others.

    Figures of an earlier comparison are removed; other files are not.
    """
    folders = [evaluation(runs, name) for name in NAMES]
    write_comparison(tmp_path, folders)
    assert len(list((tmp_path / "comparison_figures").glob("*_difference_*.svg"))) == 6
    (tmp_path / "comparison_figures" / "notes.txt").write_text("mine")
    monkeypatch.setattr(compare_page, "NUM_DETAILED", 1)
    page = write_comparison(tmp_path, folders)
    assert "Of 3 pairs, only the first 1 is shown here" in text_of(page)
    assert page.read_text().count("<details") == 1
    assert len(read_csv(tmp_path / "comparison.csv")) == 3
    kept = {path.stem for path in (tmp_path / "comparison_figures").iterdir()}
    assert kept == {"differences", "confusion_difference_1_2", "recall_difference_1_2", "notes"}


def test_digits_are_not_called_videos(runs: Path, tmp_path: Path) -> None:
    """The page of a task without video does not mention videos."""
    names = ("weak", "strong")
    folders = [another(runs, name, f"digits {name}", {"dataset": "pixel_mnist"}) for name in names]
    text = text_of(write_comparison(tmp_path, folders))
    assert "digits" in text and "video" not in text.lower()


def test_runs_that_cannot_be_compared_are_an_error(runs: Path, tmp_path: Path) -> None:
    """Each error names the runs and what to do, and nothing is written."""
    weak, strong = evaluation(runs, "weak"), evaluation(runs, "strong")
    out = tmp_path / "out"
    with pytest.raises(EvaluationError, match="at least two runs, and got 1"):
        write_comparison(out, [weak, weak])
    other_split = another(runs, "strong", "split two", {"split": "2"})
    with pytest.raises(EvaluationError, match=r"nothing to compare: .*weak: .*split 1.*; split two: .*split 2"):
        write_comparison(out, [weak, other_split])
    elsewhere = another(runs, "strong", "elsewhere", {"dataset": "hmdb51"})
    with pytest.raises(EvaluationError, match="different datasets: demo, hmdb51"):
        write_comparison(out, [weak, elsewhere])
    whole = Predictions.load(strong / FILE_NAME)
    kept = whole.clip_videos < 58
    Predictions(
        *(whole.classes, whole.video_ids[:58], whole.labels[:58]),
        *(whole.clip_probabilities[kept], whole.clip_videos[kept]),
    ).save(strong / FILE_NAME)
    with pytest.raises(EvaluationError, match="weak and strong .* different videos: 2 are only in weak"):
        write_comparison(out, [weak, strong])
    (strong / FILE_NAME).write_bytes((strong / FILE_NAME).read_bytes()[:-1])
    with pytest.raises(EvaluationError, match="predictions.safetensors is damaged .* python evaluate.py .* --again"):
        write_comparison(out, [weak, strong])
    (strong / FILE_NAME).unlink()
    with pytest.raises(EvaluationError, match="there is no .*predictions.safetensors.*python evaluate.py .* --again"):
        write_comparison(out, [weak, strong])
    (strong / "metrics.json").write_text(json.dumps({"run": "strong", "mse": 0.1}))
    with pytest.raises(EvaluationError, match="lacks clip_top1, .* not the evaluation of a classifier"):
        write_comparison(out, [weak, strong])
    (strong / "metrics.json").write_text("{")
    with pytest.raises(EvaluationError, match="metrics.json is damaged .* Evaluate the run again: python evaluate.py"):
        write_comparison(out, [weak, strong])
    (strong / "metrics.json").unlink()
    with pytest.raises(EvaluationError, match="the evaluation did not finish"):
        write_comparison(out, [weak, strong])
    assert not out.exists()


def test_points_and_p_values_read_well() -> None:
    """Zero has no sign, negative values have a real minus sign, and no p-value is 0."""
    assert [points(share, plus=True) for share in (0.031, -0.0004, 0.0, -0.5)] == ["+3.1", "0.0", "0.0", "−50.0"]
    assert [points(share) for share in (0.031, -0.5)] == ["3.1", "−50.0"]
    assert [p_text(p) for p in (1e-9, 0.0312, 0.97, 1.0)] == ["p < 0.001", "p = 0.031", "p = 0.97", "p = 1"]


def test_in_a_browser(compared: Path) -> None:
    """A link opens its pair, column heads sort, the theme switches, the page fits a phone and requests nothing from the
    network, and axe finds no serious violation in either theme."""
    from tests.reports.test_report_in_browser import BROWSER, PHONE, opened

    if BROWSER is None:
        pytest.skip("no Chromium found (install it or set CHROMIUM)")
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
