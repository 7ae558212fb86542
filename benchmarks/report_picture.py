"""Take the README's picture of an evaluation report, with the Chromium that is installed on the machine.

    python -m benchmarks.report_picture runs/demo/mean-split_1-seed_0

The picture shows the videos of the most confused pair of classes. The environment variable CHROMIUM may name the
browser.
"""

import io
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

from data.atomic import write_atomically
from data.command import parse_arguments, run_command
from data.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1080, 770


@dataclass(frozen=True)
class Arguments:
    """Write a PNG of a run's report with the most confused pair of classes open."""

    run: tyro.conf.Positional[Path]
    """folder of an evaluated run"""
    output: Path = Path("docs/report.png")
    """where to write the picture"""


def main(arguments: Sequence[str]) -> int:
    """Write the picture and return 0."""
    args = parse_arguments(Arguments, arguments, description=__doc__)
    report = args.run / "evaluation" / "report.html"
    if not report.is_file():
        raise UserError(f"{report} does not exist. Evaluate the run first: python evaluate.py {args.run}")
    # 256 colours are enough for text and charts, and make the file a third as large.
    picture = screenshot(report).quantize(256, dither=Image.Dither.NONE)
    write_atomically(args.output, lambda path: picture.save(path, format="PNG", optimize=True))
    print(f"{args.output}: {args.output.stat().st_size / 1000:.0f} kB")
    return 0


def screenshot(report: Path) -> Image.Image:
    """Open the report's most confused pair of classes and return what the browser shows, as RGB.

    Raises ``UserError`` if there is no Chromium, or if no class is confused with another.
    """
    from playwright.sync_api import sync_playwright  # only a development dependency

    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(f"none of {', '.join(BROWSERS)} is installed. Install one, or set CHROMIUM to a browser.")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        pairs = page.get_by_role("region", name="Most confused pairs").locator("tbody button")
        if pairs.count() == 0:
            raise UserError(f"{report}: no class is confused with another. Choose a run that makes mistakes.")
        pairs.first.click()
        page.evaluate("Promise.all([...document.querySelectorAll('#panel img')].map(image => image.decode()))")
        content = page.screenshot()
        chromium.close()
    return Image.open(io.BytesIO(content)).convert("RGB")


if __name__ == "__main__":
    sys.exit(run_command(main))
