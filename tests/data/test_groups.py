"""data/groups.py: drawing whole groups, stratified and reproducible."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.groups import check_disjoint, draw_count, draw_fraction, draw_validation
from data.records import DatasetError, Split, VideoRecord

MEMBERS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 3)), min_size=1, max_size=60)


@given(MEMBERS, st.floats(0.0, 1.0), st.integers(0, 5))
def test_no_class_loses_its_last_group(members: list[tuple[str, int]], fraction: float, seed: int) -> None:
    """After any draw, every class can still be trained on."""
    drawn = draw_fraction(members, fraction, seed)
    assert {label for group, label in members if group not in drawn} == {label for _, label in members}


@given(MEMBERS, st.randoms(), st.integers(0, 5))
def test_the_order_of_the_videos_does_not_matter(members: list[tuple[str, int]], random: object, seed: int) -> None:
    """The same videos in another order give the same split."""
    shuffled = list(members)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert draw_fraction(shuffled, 0.2, seed) == draw_fraction(members, 0.2, seed)


def test_the_draw_never_changes() -> None:
    """A split stays the same when a library is updated: these groups were drawn once and recorded."""
    members = [(f"person{number}", label) for number in range(10) for label in range(3)]
    assert draw_fraction(members, 0.2, seed=0) == {"person0", "person9"}
    assert draw_fraction(members, 0.2, seed=1) == {"person0", "person3"}


def test_every_class_gets_its_share() -> None:
    """With one video per group, a small class gets the same share as a large one."""
    members = [(f"{label}-{number}", label) for label, size in enumerate((10, 100)) for number in range(size)]
    drawn = draw_fraction(members, 0.2, seed=3)
    assert Counter(int(group[0]) for group in drawn) == {0: 2, 1: 20}


def test_a_class_whose_groups_are_all_too_large_is_still_drawn() -> None:
    """A class of two large groups is tested on one of them rather than not at all."""
    members = [("left", 0)] * 10 + [("right", 0)] * 10 + [(f"small{number}", 1) for number in range(10)]
    assert len(draw_fraction(members, 0.2, seed=0) & {"left", "right"}) == 1


def test_a_number_of_groups_is_exact_or_refused() -> None:
    """--validation-groups 3 draws 3 groups, 0 draws none, and more than can be spared is an error."""
    members = [(f"person{number}", label) for number in range(5) for label in range(2)]
    assert len(draw_count(members, 3, seed=0)) == 3
    assert draw_validation(members, 0, 0.2, seed=0) == frozenset()
    with pytest.raises(DatasetError, match="cannot draw 5 .*only 4 of the 5 groups can be spared"):
        draw_count(members, 5, seed=0)


def test_a_divided_group_is_refused() -> None:
    """A split that divides a group is an error that names the group."""
    one, other = (VideoRecord(name, Path(name), 0, "scene7") for name in ("one", "other"))
    with pytest.raises(DatasetError, match="train and test share 1 groups, e.g. scene7"):
        check_disjoint(Split("1", (one,), (), (other,)))
