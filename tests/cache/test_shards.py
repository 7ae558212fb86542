"""Shards of a job: stable, disjoint, complete, and set by the launcher."""

import pytest

from pipeline.cache.shards import Shard
from pipeline.settings.config import ConfigError

VIDEOS = [f"Class{number % 7}/v_{number}" for number in range(1000)]


@pytest.mark.parametrize("count", [1, 2, 7, 16])
def test_shards_are_a_partition_of_even_parts(count: int) -> None:
    """Every video belongs to exactly one shard, and the shards are of similar size."""
    taken = [[video for video in VIDEOS if Shard(index, count).contains(video)] for index in range(count)]
    assert sorted(video for part in taken for video in part) == sorted(VIDEOS)
    assert all(abs(len(part) - 1000 / count) < 5 * (1000 / count) ** 0.5 for part in taken)


def test_assignment_never_changes() -> None:
    """A video's shard depends on its id alone: not on the machine, the version or the other videos."""
    shards = [Shard(index, 16) for index in range(16)]
    assert [[shard.contains(video) for shard in shards].index(True) for video in ("a", "Biking/v_1", "ü")] == [10, 0, 4]


@pytest.mark.parametrize("text", ["4/4", "1", "1/0", "-1/4", "a/b", "1/4/2", ""])
def test_impossible_shard_is_rejected(text: str) -> None:
    """A shard that does not exist is an error that shows the format, not an empty job."""
    with pytest.raises(ConfigError, match=r"0/4, 1/4, 2/4, 3/4"):
        Shard.parse(text)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Shard()),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Shard(3, 8)),
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4"}, Shard(2, 4)),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}, Shard(0, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "15",
                "SLURM_ARRAY_TASK_COUNT": "4",
                "SLURM_ARRAY_TASK_MIN": "5",
                "SLURM_ARRAY_TASK_STEP": "10",
            },
            Shard(1, 4),
        ),
        ({"SLURM_ARRAY_TASK_ID": "2"}, Shard()),
    ],
)
def test_launchers_are_understood(environment: dict[str, str], expected: Shard) -> None:
    """The variables of torchrun, MPI and SLURM set the shard; arrays may start at 1 and have a step."""
    assert Shard.from_environment(environment) == expected


def test_invalid_environment_is_an_error() -> None:
    """Variables that do not describe a shard are an error that names them, not a job that skips videos."""
    with pytest.raises(ConfigError, match="RANK=9 WORLD_SIZE=8"):
        Shard.from_environment({"RANK": "9", "WORLD_SIZE": "8"})
