"""The leave-one-group-out benchmark never chooses settings on the groups that it tests them on."""

from pathlib import Path

import pytest

from benchmarks.real_video import (
    CANDIDATES,
    MODELS,
    Arguments,
    Job,
    choose,
    choosing_jobs,
    final_jobs,
    split_of,
    table,
)
from benchmarks.trainings import deal, development_groups
from data.records import VideoDataset, VideoRecord

GROUPS = [f"g{number}" for number in range(9)]


@pytest.fixture
def options(tmp_path: Path) -> Arguments:
    return Arguments(config=tmp_path, root=tmp_path, results=tmp_path, models=("np_rnn", "mean"), seeds=(0, 1))


@pytest.fixture
def dataset() -> VideoDataset:
    videos = tuple(VideoRecord(f"{group}/{n}", Path(), n, group) for group in GROUPS for n in range(2))
    return VideoDataset("made", "made", ("a", "b"), videos, {})


def final_jobs_of(options: Arguments) -> list[Job]:
    """The final jobs if the first candidate is chosen for every block and model."""
    chosen = {(block, model): 0 for block in range(options.blocks) for model in options.models}
    return final_jobs(options, GROUPS, chosen)


def test_settings_are_chosen_without_the_groups_they_are_tested_on(options: Arguments, dataset: VideoDataset) -> None:
    """The cross-validation for a block uses every group except those of the block."""
    blocks = deal(GROUPS, options.blocks)
    for job in choosing_jobs(options, GROUPS):
        split = split_of(dataset, job)
        seen = {record.group for record in (*split.train, *split.test)}
        assert seen.isdisjoint(blocks[job.block]) and seen == set(GROUPS) - set(blocks[job.block])
        assert {record.group for record in split.train}.isdisjoint(record.group for record in split.test)


def test_every_group_is_held_out_once_per_model_and_seed(options: Arguments, dataset: VideoDataset) -> None:
    """The table counts each video once per seed, tested by a model that was not trained on its group."""
    jobs = final_jobs_of(options)
    assert sorted((job.model, job.seed, *job.left_out) for job in jobs) == sorted(
        (model, seed, group) for model in options.models for seed in options.seeds for group in GROUPS
    )
    for job in jobs:
        split = split_of(dataset, job)
        assert len(split.test) == 2 and len(split.train) == 16
        assert {record.group for record in split.test} == set(job.left_out)


def test_every_model_has_the_same_budget() -> None:
    """Every model has the same number of distinct candidates."""
    assert {len(CANDIDATES[model]) for model in MODELS} == {4}
    assert all(len({str(candidate) for candidate in CANDIDATES[model]}) == 4 for model in MODELS)


def test_the_candidate_with_most_right_answers_is_chosen(options: Arguments) -> None:
    """Right answers are summed over the folds of a block and model; the loss decides a tie."""
    jobs = choosing_jobs(options, GROUPS)
    results = {
        job.key: {"right": 5 if job.candidate in (1, 2) else 4, "loss": float(10 - job.candidate)} for job in jobs
    }
    assert set(choose(results, jobs).values()) == {2}


def test_accuracy_outside_the_development_groups_has_its_own_column(options: Arguments) -> None:
    """A model that is right on the development groups alone scores 0 in the column of the other groups."""
    jobs, development = final_jobs_of(options), development_groups(GROUPS)
    right = {job.key: job.model == "mean" or job.left_out[0] in development for job in jobs}
    results = {key: {"right": 2 if is_right else 0, "videos": 2} for key, is_right in right.items()}
    lines = table(options, results, jobs, development).split("\n")
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in lines]
    assert rows[2] == ["np_rnn", f"{len(development) / 9:.3f}", "0.000", "0.000"]
    assert rows[3] == ["mean", "1.000", "0.000", "1.000"]
