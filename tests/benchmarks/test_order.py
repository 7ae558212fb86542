"""benchmarks/order.py: which videos are trained and tested on, and the table."""

from pathlib import Path

import pytest

from benchmarks.order import HEADS, actor_of, deal, main
from data.demo.dataset import render
from models.state_networks import STATE_NETWORKS
from pipeline.settings.config import ConfigError
from tests.helpers.synthetic import make_record


def test_small_sets_are_parts_of_large_ones() -> None:
    """Each size adds its actors, with all classes, to those of the size before; the last actors are the test videos."""
    videos = [
        make_record(f"{name}_g{actor:02d}", group=f"{name}_g{actor:02d}") for name in "AB" for actor in range(1, 7)
    ]
    parts = deal(videos, (1, 3, 4))
    assert [sorted({actor_of(video) for video in part}) for part in parts] == [
        ["01"],
        ["02", "03"],
        ["04"],
        ["05", "06"],
    ]
    assert [len(part) for part in parts] == [2, 4, 2, 4]


@pytest.mark.parametrize("sizes", [(1, 1), (3, 1), (0, 2), (1, 6)])
def test_sizes_without_a_test_are_refused(sizes: tuple[int, ...]) -> None:
    """Sizes that do not ascend, or leave no actor for the test, are an error before anything is trained."""
    with pytest.raises(ConfigError, match="below 6"):
        deal([make_record(str(actor), group=f"A_g{actor:02d}") for actor in range(6)], sizes)


def test_heads_are_models() -> None:
    """A renamed model must not vanish from the comparison."""
    assert len(set(HEADS)) == 13
    assert "mean" in HEADS and set(HEADS) - {"mean"} <= set(STATE_NETWORKS)


def test_table_and_log(tmp_path: Path, tiny_backbone: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a row per head, and a second call reads the same results from the log."""
    render(tmp_path / "demo", classes=2, groups=4, clips=1, workers=1)
    name, weights = tiny_backbone
    arguments = (
        *("--dataset", "demo", "--root", tmp_path / "demo", "--cache", tmp_path / "cache"),
        *("--backbone", name, "--weights", weights, "--sampling", "uniform:3", "--workers", "1"),
        *("--heads", "mean", "gru", "--hidden-size", "4", "--training-groups", "1", "3"),
        *("--steps", "3", "--seeds", "0", "1", "--results", tmp_path / "results"),
    )
    outputs = []
    for _ in range(2):
        assert main([str(argument) for argument in arguments]) == 0
        outputs.append(capsys.readouterr().out)
    assert "2 test videos" in outputs[0] and "1 (2 videos)" in outputs[0] and "3 (6 videos)" in outputs[0]
    assert [line.split()[1] for line in outputs[0].splitlines() if "[" in line] == ["mean", "gru"]
    assert "Two tempos" not in outputs[0], "there are none in two classes"
    assert outputs[1] == outputs[0]
    assert (tmp_path / "results" / "results.jsonl").read_text().count('"key"') == 2 * 2 * 2
