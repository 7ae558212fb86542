"""The choices benchmark scores variants without the test videos, and reuses a result only for equal settings."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.choices import BASELINES, START, VARIANTS, choosing_splits, test_splits, training_of, variants_of
from data.records import Split, VideoDataset, VideoRecord
from pipeline.settings.config import Config, ConfigError
from tests.helpers.clips import render_moving_squares
from tests.helpers.commands import run

test_splits.__test__ = False  # type: ignore[attr-defined]

GROUPS = [f"g{number}" for number in range(9)]


@pytest.fixture
def dataset() -> VideoDataset:
    """Nine groups of two videos each, without lists of training and test videos."""
    videos = tuple(VideoRecord(f"{group}/{n}", Path(), n, group) for group in GROUPS for n in range(2))
    split = Split("seed0", videos[2:], (), videos[:2])
    return VideoDataset("synthetic", "synthetic", ("a", "b"), videos, {"seed0": split})


def groups_of(records: tuple[VideoRecord, ...]) -> set[str]:
    return {record.group for record in records}


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line]


def test_no_group_is_used_for_both_choosing_and_testing(dataset: VideoDataset) -> None:
    """Choosing never uses a group of the final test; together they score every video once."""
    choosing, testing = choosing_splits(dataset, folds=3), test_splits(dataset)
    seen = set().union(*(groups_of((*split.train, *split.test)) for split in choosing))
    tested = [split.test[0].group for split in testing]
    assert seen.isdisjoint(tested) and seen | set(tested) == set(GROUPS) and len(set(tested)) == len(testing) > 3
    scored = [record.video_id for split in (*choosing, *testing) for record in split.test]
    assert sorted(scored) == sorted(record.video_id for record in dataset.videos)
    assert all(groups_of(split.train).isdisjoint(groups_of(split.test)) for split in (*choosing, *testing))


def test_given_lists_are_kept(dataset: VideoDataset) -> None:
    """If the dataset has training and test lists, variants are scored on validation videos, never on test videos."""
    train, validation, test = dataset.videos[:8], dataset.videos[8:12], dataset.videos[12:]
    listed = dataclasses.replace(dataset, splits={"1": Split("1", train, validation, test)})
    (choosing,), (testing,) = choosing_splits(listed, folds=3), test_splits(listed)
    assert (choosing.train, choosing.test) == (train, validation)
    assert (testing.train, testing.test) == (train, test)


def test_every_variant_starts_from_the_same_settings(dataset: VideoDataset) -> None:
    """Settings that a variant or baseline does not change are those of START, whatever the current defaults are."""
    for name, changes in variants_of(False, ()).items():
        model = training_of(name, changes, Config(), choosing_splits(dataset, 3)[0], 0, 0).config.model
        changed = (VARIANTS | BASELINES)[name]
        assert all(getattr(model, key) == value for key, value in START.items() if key not in changed), name


def test_an_unknown_variant_is_refused_with_the_nearest_name() -> None:
    """A typo in --only is an error, not an empty table."""
    with pytest.raises(ConfigError, match="'read-out: maen state'.*read-out: mean state"):
        variants_of(False, ["read-out: maen state"])


def test_a_small_comparison_resumes(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """The real command prints both variants, trains nothing twice, reuses no result after the YAML changed, and counts
    a training that diverges as wrong."""
    name, weights = tiny_backbone
    render_moving_squares(tmp_path / "videos")
    settings = {"dataset": "folder", "group_pattern": r"_(g\d+)_", "holdout_group": "g8", "sampling": "uniform:6"}
    settings |= {"backbone": name, "weights": str(weights), "epochs": 2, "hidden_size": 8, "workers": 1}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    command = ["-m", "benchmarks.choices", "--config", tmp_path / "tiny.yaml", "--root", tmp_path / "videos"]
    command += ["--cache", tmp_path / "cache", "--results", tmp_path / "results", "--folds", 2, "--seeds", 0, 1]
    command += ["--only", "np_rnn", "mean", "--workers", 1]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "8 videos scored" in done.stdout
    rows = re.findall(
        r"^\| (np_rnn|mean) +\| ([01]\.\d{3}) +\| \d\.\d{3} +\| \d+\.\d{3} +\|$", done.stdout, re.MULTILINE
    )
    log = tmp_path / "results" / "choices.jsonl"
    lines = lines_of(log)
    assert [row[0] for row in rows] == ["np_rnn", "mean"] and len(lines) == 2 * 2 * 2
    right = [line["right"] for line in lines if line["made_from"]["model"] == "np_rnn"]
    assert float(rows[0][1]) == pytest.approx(sum(right) / 16, abs=6e-4)
    again = run(*command)
    assert again.stdout == done.stdout and lines_of(log) == lines
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings | {"learning_rate": 1e30}))
    assert run(*command).returncode == 0
    new = lines_of(log)[len(lines) :]
    assert len(new) == len(lines) and all(line["diverged"] and not line["right"] for line in new)
