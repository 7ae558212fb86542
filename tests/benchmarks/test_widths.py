"""The plot of learning rates over widths has every variant, and marks the best one of each width."""

from pathlib import Path

from PIL import Image

from benchmarks.widths import RATES, RULES, WIDTHS, draw, variants
from pipeline.settings.config import Config
from pipeline.tune.search_space import read_variants


def test_every_variant_is_trained_and_drawn(tmp_path: Path) -> None:
    """Each rule, width and rate is one valid variant, and the plot reads exactly these."""
    import yaml

    file = tmp_path / "variants.yaml"
    file.write_text(yaml.safe_dump(variants()))
    contenders = read_variants(file, Config())
    assert len(contenders) == len(RULES) * len(WIDTHS) * len(RATES)
    draw({contender.name: 1.0 for contender in contenders}, tmp_path / "widths.png")
    assert Image.open(tmp_path / "widths.png").size == (900, 360)
