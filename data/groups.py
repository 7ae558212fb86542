"""Draw whole groups of videos at random, for splits that no list defines."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

from data.records import DatasetError, Split

Member = tuple[str, int]
"""One video: its group and its label."""


def draw_fraction(members: Sequence[Member], fraction: float, seed: int) -> frozenset[str]:
    """Draw groups that together have about ``fraction`` of the videos of every class.

    The groups are visited in an order that depends only on ``seed`` and their names (not on the order of ``members``,
    nor on any library's generator). A group is taken if that brings the classes closer to ``fraction``. Afterwards,
    each class that got nothing gets its best group. A class never loses its last group, so the rest can be trained on.

    >>> sorted(draw_fraction([("ann", 0), ("ann", 1), ("bob", 0), ("bob", 1), ("cyd", 0), ("cyd", 1)], 1 / 3, seed=0))
    ['ann']
    """
    sizes = _sizes(members)
    total = Counter(label for _, label in members)
    drawn: Counter[int] = Counter()
    taken: set[str] = set()

    def change(group: str) -> float:
        """Return by how much taking ``group`` increases the squared distance of its classes from ``fraction``."""
        return sum(
            ((drawn[label] + size) / total[label] - fraction) ** 2 - (drawn[label] / total[label] - fraction) ** 2
            for label, size in sizes[group].items()
        )

    def can_be_spared(group: str) -> bool:
        return all(drawn[label] + size < total[label] for label, size in sizes[group].items())

    def take(group: str) -> None:
        taken.add(group)
        drawn.update(sizes[group])

    order = _shuffled(sizes, seed)
    for group in order:
        if can_be_spared(group) and change(group) < 0:
            take(group)
    for label in sorted(total):
        if fraction > 0 and not drawn[label]:
            candidates = [group for group in order if label in sizes[group] and can_be_spared(group)]
            if candidates:
                take(min(candidates, key=change))
    return frozenset(taken)


def draw_count(members: Sequence[Member], count: int, seed: int) -> frozenset[str]:
    """Draw ``count`` groups in an order given by ``seed``; a class never loses its last group.

    Raises:
        DatasetError: fewer than ``count`` groups can be spared.
    """
    sizes = _sizes(members)
    left = Counter(label for _, label in members)
    taken: set[str] = set()
    for group in _shuffled(sizes, seed):
        if len(taken) < count and all(left[label] > size for label, size in sizes[group].items()):
            taken.add(group)
            left.subtract(sizes[group])
    if len(taken) < count:
        raise DatasetError(
            f"cannot draw {count} validation groups: only {len(taken)} of the {len(sizes)} groups can be spared "
            "without taking a class's last videos. Set --validation-groups lower (0: none)."
        )
    return frozenset(taken)


def draw_validation(members: Sequence[Member], count: int | None, fraction: float, seed: int) -> frozenset[str]:
    """Draw the groups to validate on: ``count`` of them, or about ``fraction`` of each class if that is ``None``."""
    if count is None:
        return draw_fraction(members, fraction, seed)
    return draw_count(members, count, seed)


def check_disjoint(split: Split) -> None:
    """Raise ``DatasetError`` if two parts of a split share a group: the test would show scenes seen in training."""
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    groups = {name: {video.group for video in videos} for name, videos in parts.items()}
    for one, other in combinations(parts, 2):
        shared = sorted(groups[one] & groups[other])
        if shared:
            raise DatasetError(
                f"split {split.name}: {one} and {other} share {len(shared)} groups, e.g. {', '.join(shared[:3])}. "
                "Put all videos of a group into one part."
            )


def _sizes(members: Sequence[Member]) -> dict[str, Counter[int]]:
    sizes: dict[str, Counter[int]] = defaultdict(Counter)
    for group, label in members:
        sizes[group][label] += 1
    return sizes


def _shuffled(groups: dict[str, Counter[int]], seed: int) -> list[str]:
    return sorted(groups, key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode()).digest())
