"""Draw whole groups of videos out of a set: the splits that no list prescribes."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations

from data.records import DatasetError, Split

Member = tuple[str, int]
"""One video as the drawing sees it: its group and its label."""


def draw_fraction(members: Sequence[Member], fraction: float, seed: int) -> frozenset[str]:
    """Groups that together hold about ``fraction`` of the videos of every class.

    The groups are gone through in an order that depends on ``seed`` and their names alone (not on the order of
    ``members``, nor on any library's generator), and one is taken if that brings the classes nearer to their share.
    Then a class that got nothing gets its best group. A class never loses its last group, so what is left can be
    trained on.

    >>> sorted(draw_fraction([("ann", 0), ("ann", 1), ("bob", 0), ("bob", 1), ("cyd", 0), ("cyd", 1)], 1 / 3, seed=0))
    ['ann']
    """
    sizes = _sizes(members)
    total = Counter(label for _, label in members)
    drawn: Counter[int] = Counter()
    taken: set[str] = set()

    def change(group: str) -> float:
        """How much taking ``group`` moves the classes' shares away from ``fraction``, in squared shares."""
        return sum(
            ((drawn[label] + size) / total[label] - fraction) ** 2 - (drawn[label] / total[label] - fraction) ** 2
            for label, size in sizes[group].items()
        )

    def can_go(group: str) -> bool:
        return all(drawn[label] + size < total[label] for label, size in sizes[group].items())

    def take(group: str) -> None:
        taken.add(group)
        drawn.update(sizes[group])

    order = _shuffled(sizes, seed)
    for group in order:
        if can_go(group) and change(group) < 0:
            take(group)
    for label in sorted(total):
        if fraction > 0 and not drawn[label]:
            candidates = [group for group in order if label in sizes[group] and can_go(group)]
            if candidates:
                take(min(candidates, key=change))
    return frozenset(taken)


def draw_count(members: Sequence[Member], count: int, seed: int) -> frozenset[str]:
    """``count`` groups, in an order given by ``seed``; a class never loses its last group.

    Raises:
        DatasetError: so many can't be spared.
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
            f"{count} groups were asked for, but of the {len(sizes)} that there are only {len(taken)} can be spared "
            "without taking a class's last videos. Ask for fewer (0: none)."
        )
    return frozenset(taken)


def draw_validation(members: Sequence[Member], count: int | None, fraction: float, seed: int) -> frozenset[str]:
    """Groups to validate on: ``count`` of them; where that is ``None``, about ``fraction`` of each class."""
    if count is None:
        return draw_fraction(members, fraction, seed)
    return draw_count(members, count, seed)


def check_disjoint(split: Split) -> None:
    """Raise ``DatasetError`` where two parts of a split share a group: such a score is of scenes seen in training."""
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    groups = {name: {video.group for video in videos} for name, videos in parts.items()}
    for one, other in combinations(parts, 2):
        shared = sorted(groups[one] & groups[other])
        if shared:
            raise DatasetError(
                f"split {split.name}: {one} and {other} share {len(shared)} groups, e.g. {', '.join(shared[:3])}. "
                "Put all videos of a group on one side."
            )


def _sizes(members: Sequence[Member]) -> dict[str, Counter[int]]:
    sizes: dict[str, Counter[int]] = defaultdict(Counter)
    for group, label in members:
        sizes[group][label] += 1
    return sizes


def _shuffled(groups: dict[str, Counter[int]], seed: int) -> list[str]:
    return sorted(groups, key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode()).digest())
