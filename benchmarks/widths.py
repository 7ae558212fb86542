"""Does one learning rate suit all widths? Train np_rnn with 64 to 1,024 units, and plot the loss over the rate.

    python -m benchmarks.widths docs/widths.png --config configs/ut_interaction.yaml --root UT --half first

All arguments after the picture are those of pipeline.tune, which does the trainings; a killed command resumes. The left
panel has rates that fall with the fan-in of a recurrent layer, the right one the same rate for all weights.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from data.atomic import write_atomically, write_text_atomically
from data.command import run_command
from data.errors import UserError
from pipeline.tune.__main__ import main as tune

WIDTHS = (64, 128, 256, 512, 1024)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
RULES = {"rates fall with the fan-in above 512": 512, "one rate for all weights": 10**6}
RESULTS = Path("runs/widths")


def name_of(rule: str, width: int, rate: float) -> str:
    return f"{rule}, {width} units, {rate:g}"


def variants() -> dict[str, dict[str, float]]:
    """The settings of every training, by name."""
    return {
        name_of(rule, width, rate): {"hidden_size": width, "learning_rate": rate, "base_fan_in": base}
        for rule, base in RULES.items()
        for width in WIDTHS
        for rate in RATES
    }


def main(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"the first argument must be the picture to write, for example docs/widths.png\n\n{__doc__}")
    picture, *settings = arguments
    file = RESULTS / "variants.yaml"
    write_text_atomically(file, yaml.safe_dump(variants(), sort_keys=False))
    code = tune([*settings, "--variants", os.fspath(file), "--results", os.fspath(RESULTS)])
    rows = json.loads((RESULTS / "tune.json").read_text(encoding="utf-8"))["rows"]
    draw({row["name"]: row["loss"] for row in rows}, Path(picture))
    print(picture)
    return code


def draw(losses: dict[str, float], picture: Path) -> None:
    """Plot the loss over the learning rate, one line per width, one panel per rule."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, len(RULES), sharey=True)
    colors = colormaps["viridis"]
    for axis, rule in zip(axes, RULES, strict=True):
        for number, width in enumerate(WIDTHS):
            values = [losses[name_of(rule, width, rate)] for rate in RATES]
            color = colors(number / len(WIDTHS))
            axis.plot(RATES, values, color=color, marker="o", label=f"{width}")
            best = min(range(len(RATES)), key=values.__getitem__)
            axis.plot(RATES[best], values[best], color=color, marker="*", markersize=14)
        axis.set(xscale="log", yscale="log", title=rule, xlabel="learning rate")
    axes[0].set_ylabel("negative log-likelihood (cross-validated)")
    axes[0].legend(title="units; star: best rate")
    write_atomically(picture, lambda path: figure.savefig(path, format="png", dpi=100))


if __name__ == "__main__":
    sys.exit(run_command(main))
