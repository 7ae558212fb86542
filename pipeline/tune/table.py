"""The result of tuning: the table, the comparison in one sentence, and the best settings as YAML files."""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tabulate import tabulate

from data.atomic import write_text_atomically
from data.records import VideoRecord
from pipeline.evaluation.metrics import bootstrap_group_means
from pipeline.evaluation.predictions import FloatArray
from pipeline.reports.pages import points
from pipeline.settings.config import BASELINE, Config
from pipeline.settings.parsing import parse_command_line, to_flat
from pipeline.tune.search import Outcome
from pipeline.tune.search_space import Changes

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """The top-1 of one row minus that of another, in [-1, 1], with its paired 95 % interval."""

    value: float
    interval: Interval

    @property
    def interval_text(self) -> str:
        """The interval in percentage points."""
        low, high = self.interval
        return f"[{points(low)}, {points(high)}]"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        top1: accuracy over all folds, mean over the seeds.
        interval: its 95 % interval.
        per_seed: the accuracy of each seed.
        loss: mean negative log-likelihood in nats.
        difference: to the reference; ``None`` for the reference itself.
    """

    name: str
    top1: float
    interval: Interval
    per_seed: list[float]
    loss: float
    difference: Difference | None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds; ``None`` for a single one."""
        return statistics.stdev(self.per_seed) if len(self.per_seed) > 1 else None

    @property
    def title(self) -> str:
        """The name, in words for the frame average."""
        return "the frame average" if self.name == BASELINE else self.name

    def __str__(self) -> str:
        return f"{self.title.removeprefix('the ')} {self.top1:.3f}"


class Comparison:
    """The rows of several outcomes on the same videos.

    The intervals are from a bootstrap over groups: each draw takes whole groups, the same for all rows. A video's value
    is the share of the seeds that classify it correctly.
    """

    def __init__(self, outcomes: Sequence[Outcome], videos: Sequence[VideoRecord], reference: int = 0) -> None:
        """``reference`` is the number of the row that all others are compared with; ``videos`` are fold by fold."""
        self.reference = reference
        self._values = np.array([outcome.correct.mean(axis=0) for outcome in outcomes])
        self._draws = bootstrap_group_means(self._values, [video.group for video in videos])
        self.rows = [self._row(number, outcome) for number, outcome in enumerate(outcomes)]

    def _row(self, number: int, outcome: Outcome) -> Row:
        return Row(
            name=outcome.contender.name,
            top1=float(self._values[number].mean()),
            interval=_interval(self._draws[number]),
            per_seed=outcome.correct.mean(axis=1).tolist(),
            loss=float(outcome.losses.mean()),
            difference=None if number == self.reference else self.difference(number, self.reference),
        )

    def difference(self, number: int, other: int) -> Difference:
        value = self._values[number].mean() - self._values[other].mean()
        return Difference(float(value), _interval(self._draws[number] - self._draws[other]))

    @property
    def winner(self) -> int:
        """The row with the highest top-1; the lower loss decides a tie."""
        return max(range(len(self.rows)), key=self._rank)

    def _rank(self, number: int) -> tuple[float, float]:
        return self.rows[number].top1, -self.rows[number].loss

    @property
    def sentence(self) -> str:
        """The best row against the reference and against the best of the others."""
        ranked = sorted(range(len(self.rows)), key=self._rank, reverse=True)
        best, others = ranked[0], ranked[1:]
        row = self.rows[best]
        if not others:
            low, high = row.interval
            return f"{row} [{low:.3f}, {high:.3f}]"
        compared = [self.reference, others[0]] if self.reference in others else [others[0]]
        parts = []
        for other in dict.fromkeys(compared):
            difference = self.difference(best, other)
            parts.append(f"{self.rows[other]}, difference {points(difference.value)} points {difference.interval_text}")
        return f"{row}, {'; '.join(parts)}"


def _interval(draws: FloatArray) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def render(comparison: Comparison, outcomes: Sequence[Outcome]) -> str:
    """The table in Markdown."""
    cells = []
    for row, outcome in zip(comparison.rows, outcomes, strict=True):
        low, high = row.interval
        difference = row.difference
        cells.append(
            [
                row.name,
                f"{row.top1:.3f}",
                f"[{low:.3f}, {high:.3f}]",
                "" if row.deviation is None else f"{row.deviation:.3f}",
                f"{row.loss:.3f}",
                "" if difference is None else f"{points(difference.value, plus=True)} {difference.interval_text}",
                _chosen(outcome),
            ]
        )
    reference = comparison.rows[comparison.reference].title
    columns = ["model", "top-1", "95 % interval", "± over seeds", "loss", f"points over {reference}", "settings"]
    return tabulate(cells, columns, "github", disable_numparse=True)


def _chosen(outcome: Outcome) -> str:
    """The recommended settings, and in how many outer folds they were chosen."""
    text = _text(outcome.contender.changes[outcome.recommended])
    if not outcome.searched:
        return text
    return f"{text} ({outcome.chosen.count(outcome.recommended)} of {len(outcome.chosen)} folds)"


def _text(changes: Changes) -> str:
    return ", ".join(f"{key} {value}" for key, value in changes.items()) or "as given"


def write_results(
    folder: Path, comparison: Comparison, outcomes: Sequence[Outcome], title: str, command: str
) -> list[Path]:
    """Write ``table.md``, ``tune.json``, ``best.yaml`` and, unless these are variants, a YAML file for each model.

    ``best.yaml`` is for the row with the highest top-1, so that row's own top-1 is slightly too optimistic.

    Args:
        title: describes the data and the folds.
        command: the command that was run.

    Returns:
        the YAML files, the best first.
    """
    table = f"{command}\n\n{title}\n\n{render(comparison, outcomes)}\n\n{comparison.sentence}\n"
    write_text_atomically(folder / "table.md", table)
    content = {
        "command": command,
        "data": title,
        "sentence": comparison.sentence,
        "reference": comparison.rows[comparison.reference].name,
        "rows": [_facts(row, outcome) for row, outcome in zip(comparison.rows, outcomes, strict=True)],
    }
    write_text_atomically(folder / "tune.json", json.dumps(content, indent=2) + "\n")
    files = [(comparison.winner, folder / "best.yaml")]
    for number, outcome in enumerate(outcomes):
        name = outcome.contender.name
        if name == outcome.contender.configs[0].model.model:
            files.append((number, folder / f"{name}.yaml"))
    for number, path in files:
        row, outcome = comparison.rows[number], outcomes[number]
        low, high = row.interval
        result = (
            f"{row.name}: top-1 {row.top1:.3f} [{low:.3f}, {high:.3f}], {_seeds(len(row.per_seed))}, "
            "settings chosen on other folds"
        )
        head = "".join(f"# {line}\n" for line in (*command.splitlines(), *title.splitlines(), result))
        contender, candidate = outcome.contender, outcome.recommended
        write_text_atomically(path, head + _settings(contender.configs[candidate], contender.changes[candidate]))
    return [path for _, path in files]


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"mean of {count} seeds"


def _facts(row: Row, outcome: Outcome) -> dict[str, Any]:
    """A row and the search behind it, ready for JSON."""
    candidates = [
        {"settings": changes, **score._asdict()}
        for changes, score in zip(outcome.contender.changes, outcome.searched, strict=False)
    ]
    return dataclasses.asdict(row) | {
        "settings": outcome.contender.changes[outcome.recommended],
        "chosen": [outcome.contender.changes[candidate] for candidate in outcome.chosen],
        "candidates": candidates,
        "seconds": outcome.seconds,
    }


def _settings(config: Config, changes: Changes) -> str:
    """YAML for train.py --config: what differs from the defaults for the dataset, and whatever was searched."""
    default = to_flat(parse_command_line(Config, ["--dataset", config.data.dataset]))
    needed = {
        key: value
        for key, value in to_flat(config).items()
        if key in ("dataset", "model", *changes) or (key != "workers" and value != default[key])
    }
    return yaml.safe_dump(needed, sort_keys=False, allow_unicode=True)
