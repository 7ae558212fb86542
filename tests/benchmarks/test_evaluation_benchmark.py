"""The evaluation benchmark reports consistent ratios, and sharing frames changes no prediction."""

import re

from tests.helpers.commands import run


def test_benchmark_prints_the_ratios_of_one_small_round() -> None:
    """The real command prints every row for a small size, the ratios that follow, and equal predictions."""
    sizes = ["--videos", 30, "--clips", 4, "--clip-frames", 5, "--frames", 8, "--features", 24, "--hidden", 16]
    done = run("-m", "benchmarks.evaluation", "--runs", 2, *sizes, "--classes", 6, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert "2 runs x 30 videos x 4 clips of 5 frames, 8 x 24 stored features, H = 16" in done.stdout
    difference = re.search(r"probabilities of job and plain: (\S+)", done.stdout)
    assert difference is not None and float(difference[1]) < 1e-5
    rows = re.findall(
        r"^\| (floor|job|orders|plain) +\| *([\d.]+) +\| *([\d,]+) +\| *([\d.]+) +\|", done.stdout, re.MULTILINE
    )
    rates = {name: float(rate.replace(",", "")) for name, _, rate, _ in rows}
    assert rates.keys() == {"floor", "job", "orders", "plain"} and min(rates.values()) > 0
    for name, _, _, ratio in rows:
        assert abs(float(ratio) - rates["floor"] / rates[name]) < 0.01 + 0.05 * float(ratio)


def test_the_floor_counts_what_the_plan_needs() -> None:
    """A count by hand: each frame projected once, one step fewer than frames in a clip, the read-out of both states."""
    from benchmarks.evaluation import Size

    size = Size(runs=3, videos=2, clips=10, clip_frames=5, frames=7, features=11, hidden=13, classes=17)
    assert size.clips_of_a_video == 3
    products = 2 * (7 * 11 * 13 + 3 * 4 * 13 * 13 + 3 * 26 * 17)
    assert abs(size.gigaflops() - 2e-9 * products) < 1e-15
