"""The command that takes the README's picture of a report."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.report_picture import BROWSERS, HEIGHT, WIDTH, main
from data.errors import UserError
from tests.helpers.made_evaluation import make_evaluation


@pytest.mark.slow
def test_the_picture_is_a_small_png(tmp_path: Path) -> None:
    """The report's most confused pair is opened and photographed in the fixed size, under 200 kB."""
    pytest.importorskip("playwright")
    if not any(map(shutil.which, BROWSERS)):
        pytest.skip("no Chromium on this machine")
    make_evaluation(tmp_path / "run" / "evaluation")
    picture = tmp_path / "report.png"
    assert main([str(tmp_path / "run"), "--output", str(picture)]) == 0
    with Image.open(picture) as image:
        assert (image.format, image.size) == ("PNG", (WIDTH, HEIGHT))
    assert picture.stat().st_size < 200_000


def test_a_run_without_a_report_is_an_error(tmp_path: Path) -> None:
    """The message names the missing report."""
    with pytest.raises(UserError, match="evaluation/report.html"):
        main([str(tmp_path)])
