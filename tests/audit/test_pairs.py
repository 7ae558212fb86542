"""Tests of ``pipeline.audit.pairs``."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data.catalog import DataConfig, load_dataset
from pipeline.audit import pairs as pairs_module
from pipeline.audit.findings import ACROSS_PARTS, describe, parts_of, to_exclude
from pipeline.audit.pairs import SAME_FEATURES, SAME_FILE, SIMILAR, find_pairs
from pipeline.store.packed import PackedFeatures
from tests.helpers.synthetic import make_features, make_record

NUM_FRAMES, DIM = 12, 24


def _made(num_groups: int = 12, per_group: int = 4) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Features of videos whose scene is that of their group, and which move each in its own way; and the groups."""
    rng = np.random.default_rng(0)
    values, groups = {}, {}
    for group in range(num_groups):
        scene = 3 * rng.standard_normal(DIM)
        for number in range(per_group):
            name = f"g{group}_v{number}"
            values[name] = scene + rng.standard_normal((NUM_FRAMES, DIM)).cumsum(axis=0) / 3
            groups[name] = f"g{group}"
    return values, groups


def _find(values: dict[str, np.ndarray], groups: dict[str, str]) -> set[tuple[str, str, str]]:
    packed = PackedFeatures.in_memory({name: [make_features(array)] for name, array in values.items()})
    videos = [make_record(name, group=groups[name]) for name in values]
    found = find_pairs(packed, videos, {})
    return {(videos[pair.first].video_id, videos[pair.second].video_id, pair.reason) for pair in found.pairs}


def test_noisy_shifted_copy_is_found_and_siblings_are_not() -> None:
    """A copy in another group, with noise and another tint, is the only pair that is found."""
    values, groups = _made()
    rng = np.random.default_rng(1)
    values["copy"] = values["g3_v1"] + rng.standard_normal(DIM) + 0.1 * rng.standard_normal((NUM_FRAMES, DIM))
    groups["copy"] = "another"
    assert _find(values, groups) == {("g3_v1", "copy", SIMILAR)}


def test_same_features_are_found_wherever_they_are() -> None:
    """Equal features count as copies also within a group, and also where there is nothing to align."""
    values, groups = _made()
    values["twin"], groups["twin"] = values["g2_v0"].copy(), "g2"
    values["one"] = values["two"] = values["g1_v1"][:1]
    groups["one"], groups["two"] = "x", "y"
    assert _find(values, groups) == {("g2_v0", "twin", SAME_FEATURES), ("one", "two", SAME_FEATURES)}


def test_same_file_is_named_as_such() -> None:
    """Two videos with one file are reported as the same file, not only as the same features."""
    values, groups = _made()
    features = {name: [make_features(array)] for name, array in values.items()}
    origin = dataclasses.replace(features["g0_v0"][0].origin, source_digest="abc")
    for name in ("g0_v0", "g5_v0"):
        features[name] = [dataclasses.replace(make_features(values["g0_v0"]), origin=origin)]
    videos = [make_record(name, group=groups[name]) for name in values]
    (pair,) = find_pairs(PackedFeatures.in_memory(features), videos, {}).pairs
    assert (videos[pair.first].video_id, videos[pair.second].video_id) == ("g0_v0", "g5_v0")
    assert (pair.reason, pair.similarity) == (SAME_FILE, 1.0)


def test_two_videos_are_enough() -> None:
    """The smallest dataset that can be audited is."""
    rng = np.random.default_rng(0)
    assert _find({name: rng.standard_normal((4, 3)) for name in "ab"}, {"a": "a", "b": "b"}) == set()


def test_many_equal_videos_cost_a_pair_each() -> None:
    """Each of a thousand black videos is reported, but not every pair of them."""
    values = {f"v{n}": np.zeros((4, 3)) for n in range(1000)}
    found = _find(values, {name: name for name in values})
    assert len(found) == 999 and {second for _, second, _ in found} == {f"v{n}" for n in range(1, 1000)}


@pytest.mark.parametrize(("name", "folder"), [("ucf101", "ucf101"), ("hmdb51", "hmdb51_splits")])
def test_official_splits_get_their_own_list(
    name: str, folder: str, action_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For an official split, exactly the test videos that were made copies of its training videos are listed."""
    # The search among random features would find nothing, slowly.
    monkeypatch.setattr(pairs_module, "_neighbours", lambda signatures: np.array([[0, 1]]))
    dataset = load_dataset(DataConfig(name, action_data / folder))
    rng = np.random.default_rng(0)
    values = rng.standard_normal((len(dataset.videos), 4, 8)).astype(np.float16)
    number_of = {video.video_id: number for number, video in enumerate(dataset.videos)}
    split = dataset.split("2")
    planted = values
    for train, test in ((5, 7), (100, 200), (1000, 1200)):
        planted[number_of[split.test[test].video_id]] = planted[number_of[split.train[train].video_id]]
    packed = PackedFeatures.in_memory(
        {video.video_id: [make_features(array)] for video, array in zip(dataset.videos, planted, strict=True)}
    )
    findings = describe(find_pairs(packed, dataset.videos, parts_of(split)), dataset.videos, split)
    identical = [finding for finding in findings if finding.pair.reason == SAME_FEATURES]
    assert {finding.kind for finding in identical} == {ACROSS_PARTS}
    assert to_exclude(identical) == sorted(split.test[test].video_id for test in (7, 200, 1200))
