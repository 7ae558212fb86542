"""The map and the list of videos of a report in a real browser: mouse, touch, keyboard, filters, flip-books, ids."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.predictions import Predictions
from pipeline.reports.report import write_evaluation
from tests.helpers.made_evaluation import MadeEvaluation

pytest.importorskip("playwright", reason="playwright is not installed: pip install -e .[dev]")

from playwright.sync_api import Browser, Page, expect

from tests.reports.test_report_in_browser import BROWSER, PHONE, WIDE, opened, serious_faults

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium found (install it or set CHROMIUM)")
at_both_widths = pytest.mark.parametrize("options", [WIDE, PHONE], ids=["desk", "phone"])


def dot_with_a_strip(page: Page) -> tuple[float, float]:
    """A point of the window above a dot whose video has a strip."""
    page.locator("#dots").scroll_into_view_if_needed()
    found = page.evaluate(
        """() => {
          const canvas = document.querySelector("#dots canvas"), box = canvas.getBoundingClientRect();
          for (let y = Math.ceil(box.top); y < box.bottom; y += 4) {
            for (let x = Math.ceil(box.left); x < box.right; x += 4) {
              canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
              if (!document.getElementById("tip").hidden && document.querySelector("#tip .strip")) return [x, y];
            }
          }
        }"""
    )
    assert found is not None, "no dot has a strip"
    return found[0], found[1]


def colours(page: Page) -> int:
    """The number of different colours of the map, in steps of 32."""
    return int(
        page.evaluate(
            """() => {
              const canvas = document.querySelector("#dots canvas");
              const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
              const found = new Set();
              for (let i = 0; i < pixels.length; i += 4) {
                if (pixels[i + 3] > 150) found.add([0, 1, 2].map((channel) => pixels[i + channel] >> 5).join());
              }
              return found.size;
            }"""
        )
    )


def listed(page: Page) -> list[str]:
    """The ids in the list, after "More" was pressed until all are there."""
    while page.locator("#list-more").is_visible():
        page.locator("#list-more").click()
    return page.locator("#video-list tbody button").all_text_contents()


def ids(predictions: Predictions, chosen: Any) -> list[str]:
    """The ids of the chosen videos, the most confident first, as far as a page with tenths of a percent can tell."""
    videos = np.flatnonzero(chosen)
    tenths = (1000 * predictions.confidence[videos]).round()
    return [predictions.video_ids[video] for video in videos[np.argsort(-tenths, kind="stable")]]


@at_both_widths
def test_a_dot_shows_its_strip_and_opens_its_card(
    browser: Browser, made: MadeEvaluation, options: dict[str, Any]
) -> None:
    """Under the pointer, the tip has the frames and the name of a video; a click opens the card of that video."""
    with opened(browser, made.folder / "report.html", **options) as page:
        x, y = dot_with_a_strip(page)
        page.mouse.move(x, y)
        tip = page.locator("#tip")
        strip = tip.locator(".strip")
        expect(strip).to_be_visible()
        assert strip.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1024
        box = tip.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]  # type: ignore[index]
        name = (tip.text_content() or "").split(": True class ")[0]
        assert name in made.predictions.video_ids
        page.touchscreen.tap(x, y) if options.get("has_touch") else page.mouse.click(x, y)
        expect(page.locator("#panel article h3")).to_have_text([name])
        expect(tip).to_be_hidden()
        page.keyboard.press("Escape")
        page.mouse.move(0, 0)
        expect(page.locator("#ring")).to_be_visible()  # the video that was opened stays marked


def test_the_map_follows_the_pointer_without_delay(browser: Browser, made: MadeEvaluation) -> None:
    """With 3,783 dots, a movement of the pointer is handled and laid out within a frame of 16 ms (median)."""
    with opened(browser, made.folder / "report.html", **WIDE) as page:
        page.locator("#dots").scroll_into_view_if_needed()
        times = page.evaluate(
            """() => {
              const canvas = document.querySelector("#dots canvas"), box = canvas.getBoundingClientRect(), times = [];
              for (let step = 0; step < 300; step++) {
                const x = box.left + (box.width * step) / 300;
                const y = box.top + box.height * (0.5 + 0.3 * Math.sin(step / 9));
                const started = performance.now();
                canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
                document.getElementById("tip").getBoundingClientRect();
                times.push(performance.now() - started);
              }
              return times;
            }"""
        )
        print(f"a movement of the pointer: median {np.median(times):.2f} ms, slowest {max(times):.1f} ms")
        assert np.median(times) < 16


def test_the_map_can_be_coloured_by_class(browser: Browser, made: MadeEvaluation) -> None:
    """By answer there are two colours and their mixtures, by class many; a chosen class leaves few dots."""
    with opened(browser, made.folder / "report.html", **WIDE) as page:
        by_answer = colours(page)
        page.locator("#map-colour").select_option("class")
        assert colours(page) > 2 * by_answer
        page.locator("#map-class").select_option("3")
        assert 0 < colours(page) < by_answer


def test_the_map_can_be_used_with_the_keyboard(browser: Browser, made: MadeEvaluation) -> None:
    """Arrows move from dot to dot, the live line names the video, Enter opens it, and Escape returns to the map."""
    with opened(browser, made.folder / "report.html", **WIDE) as page:
        page.locator("#map-class").focus()
        page.keyboard.press("Tab")
        expect(page.locator("#dots")).to_be_focused()
        live = page.locator("#dot")
        names = []
        for key in ("ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"):
            page.keyboard.press(key)
            names.append((live.text_content() or "").split(": True class ")[0])
        assert set(names) <= set(made.predictions.video_ids)
        assert all(one != other for one, other in zip(names, names[1:], strict=False))
        expect(page.locator("#tip")).to_be_visible()
        page.keyboard.press("Enter")
        expect(page.locator("#panel article h3")).to_have_text([names[-1]])
        page.keyboard.press("Escape")
        expect(page.locator("#dots")).to_be_focused()


def test_dots_in_one_place_are_all_reached(browser: Browser, tmp_path: Path) -> None:
    """Arrow keys reach every dot of a line, also where two videos are the same."""
    names = ("a", "b", "c", "d")
    predictions = Predictions(("x",), names, np.zeros(4, int), np.ones((4, 1)), np.arange(4))
    representations = {name: np.array([place]) for name, place in zip(names, (0.0, 1.0, 1.0, 3.0), strict=True)}
    write_evaluation(tmp_path, predictions, {}, representations=representations)
    with opened(browser, tmp_path / "report.html", **WIDE) as page:
        page.locator("#map-class").focus()
        page.keyboard.press("Tab")
        walks = []
        for key in ("ArrowLeft", "ArrowRight", "ArrowLeft"):
            walks.append([])
            for _ in range(6):
                walks[-1].append((page.locator("#dot").text_content() or "")[:1])
                page.keyboard.press(key)
            assert walks[-1][-1] == walks[-1][-2]  # at the end, nothing moves
        assert [set(walk) for walk in walks[1:]] == [set(names)] * 2


def test_a_page_without_a_map(browser: Browser, tmp_path: Path) -> None:
    """Without positions there is no map, and the list works; without mistakes it begins with all videos."""
    predictions = Predictions(("x", "y"), ("a", "b"), np.array([0, 1]), np.eye(2), np.arange(2))
    write_evaluation(tmp_path, predictions, {})
    with opened(browser, tmp_path / "report.html") as page:
        expect(page.locator("#dots")).to_have_count(0)
        assert listed(page) == ["a", "b"]


@at_both_widths
def test_videos_can_be_filtered(browser: Browser, made: MadeEvaluation, options: dict[str, Any]) -> None:
    """The list has the mistakes, the most confident first; each filter leaves the videos that it names."""
    predictions, right = made.predictions, made.predictions.correct
    with opened(browser, made.folder / "report.html", **options) as page:
        wrong = ids(predictions, ~right)
        expect(page.locator("#listed")).to_have_text(f"{len(wrong)} videos of 3,783")
        assert page.locator("#video-list tbody button").all_text_contents() == wrong[:20]
        page.locator("#filter-low").fill("80")
        page.locator("#filter-high").fill("90")
        tenths = (1000 * predictions.confidence).round()
        assert listed(page) == ids(predictions, ~right & (tenths >= 800) & (tenths <= 900))
        page.locator("#filter-low").fill("0")
        page.locator("#filter-high").fill("100")
        page.locator("#filter-predicted").select_option("4")
        assert listed(page) == ids(predictions, ~right & (predictions.predicted == 4))
        page.locator("#filter-predicted").select_option("")
        page.locator("#filter-true").select_option("5")
        page.locator("#filter-answer").select_option("right")
        assert listed(page) == ids(predictions, right & (predictions.labels == 5))
        group = predictions.groups[int(np.flatnonzero(predictions.labels == 5)[0])]
        page.locator("#filter-group").select_option(group)
        page.locator("#filter-answer").select_option("all")
        in_group = np.array([name == group for name in predictions.groups])
        assert listed(page) == ids(predictions, in_group & (predictions.labels == 5))
        page.locator("#filter-sort").select_option("low")
        assert sorted(listed(page)) == sorted(ids(predictions, in_group & (predictions.labels == 5)))
        page.locator("#filter-group").select_option("")
        page.locator("#filter-true").select_option("")
        page.locator("#filter-answer").select_option("missing")
        assert sorted(listed(page)) == sorted(ids(predictions, predictions.missing))
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]


@at_both_widths
def test_a_strip_is_a_flip_book(browser: Browser, made: MadeEvaluation, options: dict[str, Any]) -> None:
    """Under the pointer, and where the name has the focus, frame after frame is shown in the place of one; where less
    motion is preferred, nothing moves. A click on the frame opens the video."""
    frames_shown = """image => image.getAnimations().flatMap((playing) => {
      playing.pause();
      return [100, 300, 500, 700, 900, 1100, 1300, 1500, 1700].map((time) => {
        playing.currentTime = time;
        return (-8 * new DOMMatrix(getComputedStyle(image).transform).e) / image.offsetWidth;
      });
    })"""
    for motion in ("no-preference", "reduce"):
        with opened(browser, made.folder / "report.html", **options, reduced_motion=motion) as page:
            page.locator("#filter-true").select_option("0")
            page.locator("#filter-answer").select_option("all")
            book = page.locator("#video-list .flip").first
            picture = book.locator("img")
            book.scroll_into_view_if_needed()
            assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1024
            frame, strip = book.bounding_box(), picture.bounding_box()
            assert frame is not None and strip is not None
            assert strip["width"] == pytest.approx(8 * frame["width"], rel=0.01)
            assert frame["width"] / frame["height"] == pytest.approx(128 / 96, rel=0.02)
            assert picture.evaluate(frames_shown) == []
            for begin in (book.hover, page.locator("#video-list tbody button").first.focus):
                begin()
                played = [0, 1, 2, 3, 4, 5, 6, 7, 0] if motion == "no-preference" else []
                assert picture.evaluate(frames_shown) == pytest.approx(played, abs=0.01)
                page.mouse.move(0, 0)
            book.click()
            expect(page.locator("#panel")).to_be_visible()


def test_the_keyboard_goes_through_the_mistakes(browser: Browser, made: MadeEvaluation) -> None:
    """In the panel, N and P show the next and the previous video of the list, round and round, as do the buttons."""
    wrong = ids(made.predictions, ~made.predictions.correct)
    with opened(browser, made.folder / "report.html", bypass_csp=True) as page:
        name, place = page.locator("#panel article h3"), page.locator("#panel-place")
        page.locator("#video-list tbody button").first.click()
        for key, number in (("n", 1), ("n", 2), ("p", 1), ("p", 0), ("p", len(wrong) - 1), ("n", 0)):
            page.keyboard.press(key)
            expect(name).to_have_text([wrong[number]])
            expect(place).to_have_text(f"{number + 1} of {len(wrong)}")
        page.get_by_role("button", name="Next").click()
        expect(name).to_have_text([wrong[1]])
        page.keyboard.press("n")
        expect(name).to_have_text([wrong[2]])
        expect(page.locator("#panel polyline")).to_have_count(3)  # true class, predicted class, next best
        assert serious_faults(page) == []
        page.keyboard.press("Escape")
        page.locator("#matrix").focus()  # the videos of a cell are shown together
        page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Next")).to_be_hidden()


def test_ids_are_copied(browser: Browser, made: MadeEvaluation) -> None:
    """The button copies the ids of the listed videos, one per line, or of those that are ticked in any filter."""
    predictions = made.predictions
    with opened(browser, made.folder / "report.html", permissions=["clipboard-read", "clipboard-write"]) as page:
        page.locator("#filter-true").select_option("6")
        expected = ids(predictions, ~predictions.correct & (predictions.labels == 6))
        page.locator("#copy").click()
        expect(page.locator("#listed")).to_have_text(re.compile(rf"^{len(expected)} videos? copied"))
        assert page.evaluate("navigator.clipboard.readText()").split("\n") == [*expected, ""]
        page.locator("#filter-true").select_option("")
        wrong = ids(predictions, ~predictions.correct)
        for row in (0, 2):
            page.locator("#video-list tbody input").nth(row).check()
        page.locator("#filter-answer").select_option("right")
        expect(page.locator("#copy")).to_have_text("Copy the ids of the 2 ticked")
        page.locator("#copy").click()
        expect(page.locator("#listed")).to_have_text("2 videos copied, one id per line.")
        assert sorted(page.evaluate("navigator.clipboard.readText()").split()) == sorted([wrong[0], wrong[2]])
        page.locator("#untick").click()
        page.locator("#filter-answer").select_option("wrong")
        expect(page.locator("#copy")).to_have_text(f"Copy the ids of the {len(wrong)} listed")
        expect(page.locator("#video-list tbody input:checked")).to_have_count(0)


def test_ids_are_selected_where_copying_is_not_allowed(browser: Browser, made: MadeEvaluation) -> None:
    """Where the browser refuses, or has no clipboard, the ids are selected in a field; the page says what to do."""
    wrong = ids(made.predictions, ~made.predictions.correct)
    for refusal in ("{ writeText: () => Promise.reject(new Error('denied')) }", "undefined"):
        with opened(browser, made.folder / "report.html") as page:
            page.evaluate(f"Object.defineProperty(navigator, 'clipboard', {{ value: {refusal} }})")
            page.locator("#copy").click()
            field = page.locator("#ids")
            expect(field).to_be_focused()
            expect(page.locator("#listed")).to_contain_text("press Ctrl+C")
            selected = field.evaluate("field => field.value.slice(field.selectionStart, field.selectionEnd)")
            assert selected.splitlines() == wrong
