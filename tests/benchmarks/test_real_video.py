"""The leave-one-group-out benchmark: what is tested had no say in what is chosen."""

from pathlib import Path

import pytest

from benchmarks.real_video import (
    CANDIDATES,
    MODELS,
    Arguments,
    choose,
    choosing_jobs,
    deal,
    final_jobs,
    for_choosing,
    split_of,
    table,
)
from data.records import VideoDataset, VideoRecord

GROUPS = [f"g{number}" for number in range(9)]


@pytest.fixture
def asked(tmp_path: Path) -> Arguments:
    return Arguments(config=tmp_path, root=tmp_path, results=tmp_path, models=("np_rnn", "mean"), seeds=(0, 1))


@pytest.fixture
def dataset() -> VideoDataset:
    videos = tuple(VideoRecord(f"{group}/{n}", Path(), n, group) for group in GROUPS for n in range(2))
    return VideoDataset("made", "made", ("a", "b"), videos, {})


def test_settings_are_chosen_without_the_groups_they_are_tested_on(asked: Arguments, dataset: VideoDataset) -> None:
    """No training or test video of a choice for a block belongs to a group of that block."""
    blocks = deal(GROUPS, asked.blocks)
    for job in choosing_jobs(asked, GROUPS):
        split = split_of(dataset, job)
        seen = {record.group for record in (*split.train, *split.test)}
        assert seen.isdisjoint(blocks[job.block]) and seen == set(GROUPS) - set(blocks[job.block])
        assert {record.group for record in split.train}.isdisjoint(record.group for record in split.test)


def test_every_group_is_left_out_once_per_model_and_seed(asked: Arguments, dataset: VideoDataset) -> None:
    """The table's accuracy counts each video once per seed, and each is tested by a model that never saw its group."""
    jobs = final_jobs(asked, GROUPS, dict.fromkeys([(b, m) for b in range(3) for m in asked.models], 0))
    assert sorted((job.model, job.seed, *job.left_out) for job in jobs) == sorted(
        (model, seed, group) for model in asked.models for seed in asked.seeds for group in GROUPS
    )
    for job in jobs:
        split = split_of(dataset, job)
        assert len(split.test) == 2 and len(split.train) == 16
        assert {record.group for record in split.test} == set(job.left_out)


def test_every_model_has_the_same_budget() -> None:
    """As many candidates for each model, all different."""
    assert {len(CANDIDATES[model]) for model in MODELS} == {4}
    assert all(len({str(candidate) for candidate in CANDIDATES[model]}) == 4 for model in MODELS)


def test_the_candidate_with_most_right_answers_is_chosen(asked: Arguments) -> None:
    """Right answers are summed over the folds of a block and model; the loss settles a tie."""
    jobs = choosing_jobs(asked, GROUPS)
    results = {
        job.key: {"right": 5 if job.candidate in (1, 2) else 4, "loss": float(10 - job.candidate)} for job in jobs
    }
    assert set(choose(results, jobs).values()) == {2}


def test_groups_that_chose_the_defaults_are_told_apart(asked: Arguments) -> None:
    """A model that is right on just those groups has nothing in the column of the others."""
    jobs = final_jobs(asked, GROUPS, dict.fromkeys([(b, m) for b in range(3) for m in asked.models], 0))
    had_a_say = for_choosing(GROUPS)
    results = {
        job.key: {"right": 2 * (job.model == "mean" or job.left_out[0] in had_a_say), "videos": 2} for job in jobs
    }
    rows = [
        [cell.strip() for cell in line.split("|")[1:5]] for line in table(asked, results, jobs, had_a_say).split("\n")
    ]
    assert rows[2] == ["np_rnn", f"{len(had_a_say) / 9:.3f}", "0.000", "0.000"]
    assert rows[3] == ["mean", "1.000", "0.000", "1.000"]
