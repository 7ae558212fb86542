"""What was found, for people: kinds of pairs, groups that look alike, what to exclude, tables and files."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tabulate import tabulate

from data.records import Split, VideoRecord
from pipeline.audit.pairs import Found, Pair

PARTS = ("train", "validation", "test")
ACROSS_PARTS, ACROSS_GROUPS, WITHIN_A_GROUP = "across parts", "across groups", "within a group"
_NUM_SHOWN = 20  # rows of the tables on the terminal


class Finding(NamedTuple):
    """A pair with all that the tables show. A part is empty if the split does not use the video, or there is none."""

    pair: Pair
    videos: tuple[VideoRecord, VideoRecord]
    parts: tuple[str, str]

    @property
    def kind(self) -> str:
        if all(self.parts) and self.parts[0] != self.parts[1]:
            return ACROSS_PARTS
        return WITHIN_A_GROUP if self.videos[0].group == self.videos[1].group else ACROSS_GROUPS


class AlikeGroups(NamedTuple):
    """Two groups that may be one.

    Attributes:
        similarity: of their scenes, at most 1: the median over the videos of the smaller one, each with the most
            similar video of the other.
        usual: the same within the groups, for comparison: of each video with the most similar one of its group.
    """

    groups: tuple[str, str]
    parts: tuple[str, str]
    sizes: tuple[int, int]
    similarity: float
    usual: float


def parts_of(split: Split | None) -> dict[str, str]:
    """The part of each video of the split, by its id."""
    if split is None:
        return {}
    return {video.video_id: part for part in PARTS for video in getattr(split, part)}


def describe(found: Found, videos: Sequence[VideoRecord], split: Split | None) -> list[Finding]:
    """The pairs as findings: those across parts first, then those across groups, the most similar first."""
    part_of = parts_of(split)
    findings = []
    for pair in found.pairs:
        both = (videos[pair.first], videos[pair.second])
        findings.append(Finding(pair, both, (part_of.get(both[0].video_id, ""), part_of.get(both[1].video_id, ""))))
    kinds = (ACROSS_PARTS, ACROSS_GROUPS, WITHIN_A_GROUP)
    return sorted(findings, key=lambda finding: kinds.index(finding.kind))


def to_exclude(findings: Sequence[Finding]) -> list[str]:
    """The ids of one video of each pair across parts: the test video, or the validation video of one in training.

    So the training list stays as it is, and the test is scored with and without the leaked videos.
    """
    later = {
        finding.videos[max((0, 1), key=lambda side: PARTS.index(finding.parts[side]))].video_id
        for finding in findings
        if finding.kind == ACROSS_PARTS
    }
    return sorted(later)


def alike_groups(found: Found, videos: Sequence[VideoRecord], split: Split | None) -> list[AlikeGroups]:
    """Pairs of groups whose scenes are as similar as those of the videos of one group usually are."""
    part_of = parts_of(split)
    members: dict[str, list[int]] = {}
    for number, video in enumerate(videos):
        members.setdefault(video.group, []).append(number)
    large = {group: numbers for group, numbers in members.items() if len(numbers) > 1}
    if len(large) < 2:
        return []
    usual = float(np.median(np.concatenate([_nearest(found, numbers, numbers) for numbers in large.values()])))
    means = np.array([found.scene[numbers].mean(axis=0) for numbers in large.values()])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    names = list(large)
    alike = []
    # Two groups that are one have similar means too: only these are compared video by video.
    for one, other in np.argwhere(np.triu(means @ means.T >= usual / 2, 1)):
        numbers = sorted((large[names[one]], large[names[other]]), key=len)
        similarity = float(np.median(_nearest(found, numbers[0], numbers[1])))
        if similarity >= usual:
            groups = (names[one], names[other])
            parts = [part_of.get(videos[large[group][0]].video_id, "") for group in groups]
            sizes = (len(large[groups[0]]), len(large[groups[1]]))
            alike.append(AlikeGroups(groups, (parts[0], parts[1]), sizes, similarity, usual))
    return sorted(alike, key=lambda pair: -pair.similarity)


def _nearest(found: Found, numbers: Sequence[int], others: Sequence[int]) -> np.ndarray:
    """For each video the similarity of its scene to the most similar one of the others, itself left out."""
    similarity = found.scene[list(numbers)] @ found.scene[list(others)].T
    similarity[np.equal.outer(list(numbers), list(others))] = -1
    return similarity.max(axis=1)


def pair_rows(findings: Sequence[Finding], classes: Sequence[str]) -> Iterator[list[object]]:
    """The rows of audit.csv."""
    columns = ("video", "part", "group", "class")
    yield ["similarity", "reason", "kind", *(f"{column}_{side}" for column in columns for side in "ab")]
    for finding in findings:
        yield [
            *(f"{finding.pair.similarity:.4f}", finding.pair.reason, finding.kind),
            *(video.video_id for video in finding.videos),
            *finding.parts,
            *(video.group for video in finding.videos),
            *(classes[video.label] if classes else "" for video in finding.videos),
        ]


def group_rows(alike: Sequence[AlikeGroups]) -> Iterator[list[object]]:
    """The rows of groups.csv."""
    yield ["similarity", "usual", "group_a", "group_b", "part_a", "part_b", "videos_a", "videos_b"]
    for pair in alike:
        yield [f"{pair.similarity:.4f}", f"{pair.usual:.4f}", *pair.groups, *pair.parts, *pair.sizes]


def summary(findings: Sequence[Finding], alike: Sequence[AlikeGroups]) -> str:
    """The number of pairs of each kind, in one line."""
    count = Counter(finding.kind for finding in findings)
    kinds = ", ".join(f"{count[kind]} {kind}" for kind in (ACROSS_PARTS, ACROSS_GROUPS, WITHIN_A_GROUP))
    num_across = sum(all(pair.parts) and pair.parts[0] != pair.parts[1] for pair in alike)
    groups = f"{len(alike)} pairs of groups look alike, {num_across} of them across parts"
    return f"{len(findings)} pairs of copies: {kinds}. {groups}."


def tables(findings: Sequence[Finding], alike: Sequence[AlikeGroups]) -> str:
    """The first pairs of videos and of groups, as text."""
    texts = []
    if findings:
        rows = [
            (
                f"{finding.pair.similarity:.3f}",
                finding.pair.reason,
                finding.kind,
                *(_placed(video.video_id, part) for video, part in zip(finding.videos, finding.parts, strict=True)),
            )
            for finding in findings[:_NUM_SHOWN]
        ]
        texts.append(_table(rows, ("similarity", "reason", "kind", "video", "video"), len(findings)))
    if alike:
        named = [
            (f"{pair.similarity:.3f}", *(_placed(*one) for one in zip(pair.groups, pair.parts, strict=True)))
            for pair in alike[:_NUM_SHOWN]
        ]
        texts.append(_table(named, ("similarity of scenes", "group", "group"), len(alike)))
    return "\n\n".join(texts)


def _placed(name: str, part: str) -> str:
    return f"{name} ({part})" if part else name


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], num_all: int) -> str:
    more = f"\n... and {num_all - len(rows)} more" if num_all > len(rows) else ""
    return tabulate(rows, headers, disable_numparse=True) + more
