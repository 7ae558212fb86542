"""The caching benchmark measures the given videos and reports consistent ratios."""

import re
from pathlib import Path

from tests.helpers.clips import make_clip
from tests.helpers.commands import run


def test_benchmark_prints_every_rate_and_both_ratios(tmp_path: Path) -> None:
    """The real command prints positive rates for a small round, and the ratios that follow from them."""
    for number in range(3):
        make_clip(tmp_path / f"{number}.avi", 12, number)
    flags = ["--backbone", "timm:test_resnet", "--sampling", "uniform:4"]
    flags += ["--videos", "5", "--rounds", "1", "--seconds", "0.3"]
    done = run("-m", "benchmarks.caching", "--root", tmp_path, *flags)
    assert done.returncode == 0, done.stderr
    (line,) = re.findall(r"round  0(.*)", done.stdout)
    _, read, encode, job, plain = map(float, line.split())
    assert min(read, encode, job, plain) > 0
    ratios = re.search(r"job / limit: ([\d.]+)   job / plain: ([\d.]+)", done.stdout)
    assert ratios is not None
    assert abs(float(ratios[1]) - job * (1 / read + 1 / encode)) < 0.05
    assert abs(float(ratios[2]) - job / plain) < 0.05 * max(1, job / plain)
