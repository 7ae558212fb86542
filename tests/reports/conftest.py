"""A browser, and a large evaluation to look at, for the tests of the report in a browser."""

from collections.abc import Iterator

import pytest

from tests.helpers.made_evaluation import MadeEvaluation, make_evaluation


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    from tests.reports.test_report_in_browser import BROWSER

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeEvaluation:
    """An evaluation with 101 classes and 3,783 videos; one class has a hostile name."""
    return make_evaluation(tmp_path_factory.mktemp("made") / "evaluation")
