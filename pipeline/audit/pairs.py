"""Find the pairs of videos that are copies of one another."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.records import VideoRecord
from pipeline.audit.alignment import Array, Indices, motion_similarity
from pipeline.audit.signatures import Signatures, make_signatures
from pipeline.store.packed import PackedFeatures

NUM_NEIGHBOURS = 30  # of each video: those with the most similar scenes are compared frame by frame
# Chosen on planted copies of the demo's videos: python -m benchmarks.leaks
SPREADS = 3.0
SHARE_OF_BEST = 0.8
_RANGE = (0.15, 0.95)  # of the threshold
_FEW_PAIRS, _FOR_FEW = 50, 0.5  # too few pairs to measure what is usual, and the threshold for them
_ROWS_AT_ONCE = 1024  # of the matrix of similarities
SAME_FILE, SAME_FEATURES, SIMILAR = "same file", "same features", "similar"


class Pair(NamedTuple):
    """Two videos, by their numbers, the first below the second.

    ``similarity`` is the correlation of their motion, at most 1.
    """

    first: int
    second: int
    similarity: float
    reason: str


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        pairs: the most similar first.
        across_groups, within_a_group: the similarity from which videos count as copies.
        num_compared: pairs that were compared frame by frame.
        scene: float32 ``[num_videos, scene_dim]``, of unit length, as in ``Signatures``.
    """

    pairs: tuple[Pair, ...]
    across_groups: float
    within_a_group: float
    num_compared: int
    scene: npt.NDArray[np.float32]


def find_pairs(
    packed: PackedFeatures, videos: Sequence[VideoRecord], part_of: Mapping[str, str], spreads: float = SPREADS
) -> Found:
    """Find the copies among videos, at least two, all of which have features.

    Videos with the same file or the same features are copies. So are videos whose motion is more similar than usual:
    than the median of the pairs that were compared, by ``spreads`` times the distance from the median to the 90th
    percentile. What is usual is measured apart for pairs across groups and within a group, because videos of one group
    show one scene and are alike without being copies. And for both videos, no other pair that is not almost identical
    is much more similar, because a copy is more like its original than all others of the same scene are.

    Args:
        part_of: the part of the split (training, ...) by video id.
    """
    video_ids = [video.video_id for video in videos]
    signatures = make_signatures(packed, video_ids)
    candidates = _neighbours(signatures)
    similarity = motion_similarity(signatures, candidates)
    group_numbers = {group: number for number, group in enumerate(dict.fromkeys(video.group for video in videos))}
    groups = np.array([group_numbers[video.group] for video in videos])
    across = groups[candidates[:, 0]] != groups[candidates[:, 1]]
    limits = {is_across: _threshold(similarity[across == is_across], spreads) for is_across in (True, False)}
    best = np.full(len(videos), -1.0, dtype=np.float32)
    for side in (0, 1):
        np.maximum.at(best, candidates[:, side], np.where(similarity < _RANGE[1], similarity, -1))
    is_copy = similarity >= np.where(across, limits[True], limits[False])
    is_copy &= similarity >= SHARE_OF_BEST * best[candidates].max(axis=1)
    found = {
        (int(first), int(second)): Pair(int(first), int(second), float(value), SIMILAR)
        for (first, second), value in zip(candidates[is_copy], similarity[is_copy].round(4), strict=True)
    }
    parts = [part_of.get(name, "") for name in video_ids]
    digests = packed.digests()
    # The file's digest last, because it says more.
    for reason, keys in (
        (SAME_FEATURES, [digests[name] for name in video_ids]),
        (SAME_FILE, [packed.videos[name].origin.source_digest for name in video_ids]),
    ):
        for first, second in _same(keys, parts):
            found[first, second] = Pair(first, second, 1.0, reason)
    pairs = sorted(found.values(), key=lambda pair: (-pair.similarity, pair.reason == SIMILAR, pair[:2]))
    return Found(tuple(pairs), limits[True], limits[False], len(candidates), signatures.scene[0])


def _threshold(similarity: Array, spreads: float) -> float:
    if len(similarity) < _FEW_PAIRS:
        return _FOR_FEW
    usual, high = np.quantile(similarity, (0.5, 0.9))
    return float(np.clip(usual + spreads * (high - usual), *_RANGE))


def _neighbours(signatures: Signatures) -> Indices:
    """Pairs of numbers ``[num_pairs, 2]``: each video with the ``NUM_NEIGHBOURS`` that have the most similar scenes."""
    plain = signatures.scene[0]
    num_videos = len(plain)
    count = min(NUM_NEIGHBOURS, num_videos - 1)
    found = []
    for start in range(0, num_videos, _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        similarity = np.max([view[block] @ plain.T for view in signatures.scene], axis=0)
        numbers = np.arange(num_videos)[block]
        similarity[numbers - start, numbers] = -np.inf
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        found.append(np.stack([np.repeat(numbers, count), nearest.ravel()], axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _same(keys: Sequence[str], parts: Sequence[str]) -> Iterable[tuple[int, int]]:
    """Pairs of videos with the same key that is not empty: each with the first one of every part."""
    sets: dict[str, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        if key:
            sets[key].append(number)
    for members in sets.values():
        firsts: dict[str, int] = {}
        for member in members:
            firsts.setdefault(parts[member], member)
        for one, other in itertools.product(members, firsts.values()):
            if one != other:
                yield min(one, other), max(one, other)
