"""Fixtures that several end-to-end tests share."""

from pathlib import Path

import pytest

from pipeline.reports import compare_figures, figures
from tests.helpers.clips import make_clip


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that are called in this process draw no figures, which takes most of the time of a small evaluation."""

    def not_drawn(figure: object, name: str, *_: object, rows: object) -> figures.StaticFigure:
        return figures.StaticFigure(name, "", "", "", b"", b"", tuple(rows))  # type: ignore[arg-type]

    for module in (figures, compare_figures):
        monkeypatch.setattr(module, "static_figure", not_drawn)


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders ``run`` and ``walk`` of three good videos each. Not to be changed."""
    root = tmp_path_factory.mktemp("classes")
    for number in range(6):
        make_clip(root / ("run", "walk")[number % 2] / f"clip{number}.avi", num_frames=6, number=number)
    return root


@pytest.fixture
def features(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> list[object]:
    """Flags for a tiny CNN and a feature store in the test's folder."""
    name, weights = tiny_backbone
    backbone = ["--backbone", name, "--weights", weights, "--runtime", "torch", "--sampling", "uniform:3"]
    return [*backbone, "--cache", tmp_path / "cache", "--workers", 1]
