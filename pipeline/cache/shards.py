"""Shards of a caching job: which videos belong to which, the same on every machine."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pipeline.settings.config import ConfigError


@dataclass(frozen=True)
class Shard:
    """Part ``index`` of ``count``, from 0. Raises ``ConfigError`` if the index is out of range."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(f"there is no shard {self}: write I/N with I from 0 to N - 1 (0/4, 1/4, 2/4, 3/4)")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard written as ``2/16``. Raises ``ConfigError``."""
        numbers = re.fullmatch(r"(\d+)/(\d+)", text)
        if numbers is None:
            raise ConfigError(f"--shard {text!r}: write I/N with I from 0 to N - 1 (0/4, 1/4, 2/4, 3/4)")
        return cls(int(numbers[1]), int(numbers[2]))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The shard that a launcher sets: ``RANK`` of ``WORLD_SIZE`` (torchrun, MPI), or the task of a SLURM array.

        Without a launcher, the only shard of one. A SLURM array may start at another number than 0 and have a step.
        Raises ``ConfigError`` if the numbers are not those of a shard.
        """
        for index, count, first, step in (
            ("RANK", "WORLD_SIZE", "", ""),
            ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"),
        ):
            if index in environment and count in environment:
                try:
                    number = int(environment[index]) - int(environment.get(first, "0"))
                    return cls(number // int(environment.get(step, "1")), int(environment[count]))
                except ValueError as error:
                    raise ConfigError(
                        f"{index}={environment[index]} {count}={environment[count]} in the environment is not a shard "
                        f"({error}). Unset them, or pass --shard I/N"
                    ) from error
        return cls()

    def contains(self, video_id: str) -> bool:
        """Whether a video belongs to this shard, by a hash of its id: other videos make no difference."""
        digest = hashlib.sha256(video_id.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index
