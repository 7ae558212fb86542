"""pipeline/reports/figures.py: the figures of an evaluation."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.analysis import LengthBin, accuracy
from pipeline.evaluation.metrics import calibration, confusion_matrix
from pipeline.reports.figures import (
    StaticFigure,
    calibration_figure,
    confusion_figure,
    frames_seen_figure,
    learning_curves,
    length_figure,
    spectrum_figure,
)
from tests.evaluation.test_metrics import random_predictions
from tests.helpers.commands import run

HISTORY: list[dict[str, object]] = [
    {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.3, "validation_loss": 2.1, "validation_accuracy": 0.25},
    {"epoch": 2, "train_loss": 1.0, "train_accuracy": 0.6, "validation_loss": None, "validation_accuracy": None},
    {"epoch": 3, "train_loss": float("nan"), "train_accuracy": 0.7, "validation_loss": 1.2, "validation_accuracy": 0.5},
]
HALF = accuracy([True, False])


def picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def every_figure() -> list[StaticFigure]:
    predictions = random_predictions(num_videos=100, num_classes=5, num_clips=1)
    curves = learning_curves(HISTORY)
    assert curves is not None
    spectra = {"before": np.array([0.5, 1 + 0j]), "after": np.array([0.2j, -0.2j])}
    return [
        confusion_figure(confusion_matrix(predictions), predictions.classes),
        calibration_figure(calibration(predictions), 0.1),
        length_figure([LengthBin(1, 2, HALF), LengthBin(3, 4, HALF)], "seconds"),
        frames_seen_figure([HALF] * 10),
        curves,
        spectrum_figure(spectra),
    ]


def test_every_figure_is_a_png_an_svg_and_a_table() -> None:
    """PNG and SVG have the same shape, all rows of the table have the same width, and names are unique."""
    figures = every_figure()
    assert len({figure.name for figure in figures}) == len(figures) == 6
    for figure in figures:
        width, height = picture(figure.png).size
        assert min(width, height) > 200, figure.name
        root = ElementTree.fromstring(figure.svg)
        shape = [float(root.attrib[side].removesuffix("pt")) for side in ("width", "height")]
        assert shape[0] / shape[1] == pytest.approx(width / height, rel=0.02), figure.name
        assert len(figure.rows) > 1
        assert {len(row) for row in figure.rows} == {len(figure.rows[0])}, figure.name
        assert figure.title and figure.caption and figure.description


def test_one_evaluation_gives_one_set_of_bytes() -> None:
    """Files do not depend on the date or on chance: a repeated evaluation writes the same figures."""
    assert every_figure() == every_figure()


def test_the_confusion_picture_has_room_for_the_names_of_101_classes() -> None:
    """Every row is at least 20 pixels high, enough for a readable name, and the picture is of reasonable size."""
    predictions = random_predictions(num_videos=1000, num_classes=101, num_clips=1)
    image = picture(confusion_figure(confusion_matrix(predictions), predictions.classes).png)
    assert min(image.size) > 101 * 20
    assert max(image.size) < 4000


def test_the_confusion_picture_of_many_classes_is_no_larger() -> None:
    """400 classes take no more pixels than 110, and a single mistake is still red."""
    counts = np.eye(400, 401, dtype=int)
    counts[100, [100, 300]] = 20, 1
    image = picture(confusion_figure(counts, [f"class {number}" for number in range(400)]).png)
    assert max(image.size) < 4000
    red, _, blue = np.moveaxis(np.asarray(image, dtype=int)[1:-200, 300:-300], -1, 0)
    assert (red > blue + 20).any()


MEASURE = """
import resource, sys, time
import numpy as np
from pipeline.reports.figures import confusion_figure

num_classes, started = int(sys.argv[1]), time.perf_counter()
counts = np.random.default_rng(0).poisson(0.04, (num_classes, num_classes + 1))
confusion_figure(counts, [f"class {number}" for number in range(num_classes)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, time.perf_counter() - started)
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [101, 400, 1000])
def test_the_memory_of_the_confusion_picture_is_flat(num_classes: int) -> None:
    """1,000 classes take less than 2 GB and 20 seconds. Prints what it measures: python -m pytest -m slow -s -k flat"""
    done = run("-c", MEASURE, num_classes)
    assert done.returncode == 0, done.stderr
    gigabytes, seconds = map(float, done.stdout.split())
    print(f"{num_classes} classes: peak memory {gigabytes:.2f} GB, {seconds:.1f} s")
    assert gigabytes < 2 and seconds < 20


def test_the_confusion_picture_distinguishes_correct_wrong_and_untested() -> None:
    """A perfect model's picture is blue, an always wrong one's is red, and a class without test videos is grey."""

    def shares(counts: list[list[int]]) -> tuple[float, float, float]:
        """Shares of red, blue and grey pixels in the picture, including colour bars and text."""
        pixels = np.asarray(picture(confusion_figure(np.array(counts), ("a", "b", "c")).png), dtype=int)
        red, green, blue = np.moveaxis(pixels, -1, 0)
        grey = (red == green) & (green == blue) & (red > 180) & (red < 225)
        return float((red > blue + 40).mean()), float((blue > red + 40).mean()), float(grey.mean())

    correct = shares([[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 5, 0]])
    wrong = shares([[0, 5, 0, 0], [0, 0, 5, 0], [5, 0, 0, 0]])
    untested = shares([[5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 5, 0]])
    assert correct[1] > wrong[1] + 0.05
    assert wrong[0] > correct[0] + 0.05
    assert untested[2] > correct[2] + 0.05


def test_learning_curves_accept_gaps_and_empty_histories() -> None:
    """Rows without validation values, rows with NaN, and no rows at all do not break a report."""
    curves = learning_curves(HISTORY)
    assert curves is not None
    assert curves.rows[0] == ("epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy")
    assert learning_curves([]) is None
    assert learning_curves([{"epoch": 1, "seconds": 2.0}]) is None


def test_the_spectrum_states_its_largest_modulus() -> None:
    """The caption contains the largest modulus before and after training, and the table contains every eigenvalue."""
    figure = spectrum_figure({"before": np.array([0.5, -0.75j]), "after": np.array([0.6 + 0.8j, 0.1])})
    assert "0.750 before, 1.000 after" in figure.caption
    assert figure.rows[1:] == (
        ("before", 0.5, 0.0),
        ("before", -0.0, -0.75),
        ("after", 0.6, 0.8),
        ("after", 0.1, 0.0),
    )
