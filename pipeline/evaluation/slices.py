"""Where a run fails: properties of videos, and groups, whose videos are classified worse than the rest. Pure functions.

A *slice* is a quarter of the videos by a property such as their length (values that are equal stay together), or the
videos of one group. It *fails* if its accuracy is lower than that of the other videos by more than chance:

* *Slices by a property*: the videos of a group are not independent, so a group is what chance acts on. The sign-flip
  test over groups: each group's contribution to the covariance of "is in the slice" and "is wrong" might as well have
  the other sign. Hemerik, Goeman & Finos, "Robust testing in generalized linear models by sign flipping score
  contributions" (2020).
* *Groups*: are the mistakes spread over the groups at random? The hypergeometric test, which is Fisher's exact one.
* Both ask only whether the slice is worse. *One* correction, Holm's, is for all slices that are asked, whatever they
  are made of.

What a slice *costs* is the number of its mistakes beyond those that it would have with the accuracy of the rest.
Intervals are 95 %. That of an accuracy is as in ``pipeline.evaluation.analysis``. That of a difference is a percentile
bootstrap over groups; where the slice is a group, Newcombe's, of two independent shares ("Interval estimation for the
difference between independent proportions", 1998, method 10).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.evaluation.analysis import Accuracy, accuracy
from pipeline.evaluation.comparison import holm
from pipeline.evaluation.predictions import BoolArray, FloatArray, IntArray, Predictions

NUM_BINS = 4
MIN_VIDEOS_PER_BIN = 10
_MIN_VIDEOS = 5  # of a slice
LEVEL = 0.05
GROUP = "group"
_RESAMPLES = 1000
_FLIPS = 20_000  # the smallest p-value, 1 in 20,001, stays below LEVEL if corrected for 1,000 slices
_FLIPS_AT_ONCE = 500  # limits the memory


@dataclass(frozen=True)
class Property:
    """A number that describes each video.

    Attributes:
        name, unit: as shown, e.g. "length" and "s"; the unit may be empty.
        values: by video id. Videos without a value are in none of the property's slices.
    """

    name: str
    unit: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Slice:
    """Some of the videos, compared with the others.

    Attributes:
        name: that of the property; ``GROUP`` for a group.
        label: the range of values with its unit, or the group.
        accuracy: of its videos.
        rest: the accuracy of the other videos, in [0, 1]: those with a value of the property.
        gap: the rest's accuracy minus this one, in [-1, 1], with its interval from ``gap_low`` to ``gap_high``.
        cost: number of its videos x ``gap``: mistakes beyond those with the rest's accuracy; below 0 if it is better.
        share: ``cost`` as a share of all mistakes of the evaluation.
        p_value: that its accuracy is this low by chance, corrected for all slices.
    """

    name: str
    label: str
    accuracy: Accuracy
    rest: float
    gap: float
    gap_low: float
    gap_high: float
    cost: float
    share: float
    p_value: float

    @property
    def fails(self) -> bool:
        return self.p_value < LEVEL


def find_slices(predictions: Predictions, properties: Sequence[Property]) -> list[Slice]:
    """All slices by the properties and by group, the most costly first.

    A property gives at most ``NUM_BINS`` slices, and none where all values are equal, or too few are known. A group
    gives one if it has at least five videos.
    """
    found = [*_by_property(predictions, properties), *_by_group(predictions)]
    corrected = holm([part.p_value for part in found])
    num_mistakes = max(1, int((~predictions.correct).sum()))
    slices = [
        replace(part, p_value=p_value, share=part.cost / num_mistakes)
        for part, p_value in zip(found, corrected, strict=True)
    ]
    return sorted(slices, key=lambda part: -part.cost)


def enough_groups(num_groups: int, num_slices: int) -> bool:
    """Whether any slice by a property could fail: with few groups, even the worst is not beyond chance."""
    return num_slices * 0.5**num_groups < LEVEL


@dataclass(frozen=True, eq=False)
class _Bin:
    """The videos of a slice by a property, and those with a value of the property: bool ``[num_videos]`` each."""

    name: str
    label: str
    member: BoolArray
    known: BoolArray


def bins_of(one: Property, video_ids: Sequence[str]) -> list[_Bin]:
    """The slices by a property: quarters of the videos, or fewer where few are known. Equal values share a slice."""
    values = np.array([one.values.get(video_id, np.nan) for video_id in video_ids], dtype=np.float64)
    known = np.isfinite(values)
    num_bins = min(NUM_BINS, int(known.sum()) // MIN_VIDEOS_PER_BIN)
    if num_bins < 2 or len(np.unique(values[known])) < 2:
        return []
    # Each bin starts at the value of a video, so none is empty.
    starts = np.unique(np.quantile(values[known], np.arange(num_bins) / num_bins, method="higher"))
    numbers = np.where(known, np.searchsorted(starts, values, side="right") - 1, -1)
    members = [numbers == number for number in range(len(starts))]
    return [
        _Bin(one.name, _range(values[member], one.unit), member, known)
        for member in members
        if _MIN_VIDEOS <= member.sum() < known.sum()
    ]


def _range(values: FloatArray, unit: str) -> str:
    """Smallest and largest value: "2.1 – 3.5 s"."""
    low, high = (f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in (values.min(), values.max()))
    return f"{low if low == high else f'{low} – {high}'} {unit}".strip()


def why_left_out(one: Property, video_ids: Sequence[str]) -> str | None:
    """Why there is no slice by a property; ``None``: there are some."""
    if bins_of(one, video_ids):
        return None
    values = np.array([one.values[video_id] for video_id in video_ids if video_id in one.values])
    if len(values) < 2 * MIN_VIDEOS_PER_BIN:
        return f"known for {len(values)} of {len(video_ids)} only" if len(values) else "unknown"
    return (
        f"{'all' if len(np.unique(values)) < 2 else 'nearly all'} {_range(np.median(values, keepdims=True), one.unit)}"
    )


def _by_property(predictions: Predictions, properties: Sequence[Property]) -> list[Slice]:
    """The slices by all properties, with uncorrected p-values and without ``share``."""
    bins = [part for one in properties for part in bins_of(one, predictions.video_ids)]
    if not bins:
        return []
    correct, groups = predictions.correct, predictions.group_indices
    p_values, gaps = _sign_flip_p(bins, correct, groups), _gaps(bins, correct, groups)
    slices = []
    for part, p_value, gaps_drawn in zip(bins, p_values, gaps, strict=True):
        others = part.known & ~part.member
        of_slice, rest = accuracy(correct[part.member], groups[part.member]), float(correct[others].mean())
        low, high = np.nanpercentile(gaps_drawn, [2.5, 97.5])
        gap = rest - of_slice.share
        cost = gap * of_slice.num_videos
        slices.append(
            Slice(part.name, part.label, of_slice, rest, gap, float(low), float(high), cost, 0.0, float(p_value))
        )
    return slices


def _sign_flip_p(bins: Sequence[_Bin], correct: BoolArray, groups: IntArray) -> FloatArray:
    """One-sided p-values: is each slice worse than the rest?"""
    contributions = np.zeros((groups.max() + 1, len(bins)))
    for column, part in enumerate(bins):
        known, member = part.known, part.member[part.known]
        covariance = (member - member.mean()) * (correct[known].mean() - correct[known])
        contributions[:, column] = np.bincount(groups[known], covariance, len(contributions))
    observed, rng = contributions.sum(axis=0), np.random.default_rng(0)
    num_larger = np.ones(len(bins))  # the signs as they are count, too
    for _ in range(_FLIPS // _FLIPS_AT_ONCE):
        signs = 2.0 * rng.integers(0, 2, (_FLIPS_AT_ONCE, len(contributions)), dtype=np.int8) - 1
        num_larger += (signs @ contributions >= observed - 1e-9).sum(axis=0)
    return num_larger / (_FLIPS + 1)


def _gaps(bins: Sequence[_Bin], correct: BoolArray, groups: IntArray) -> FloatArray:
    """The gap of each slice in lists of groups drawn with replacement, float64 ``[num_bins, _RESAMPLES]``.

    It is NaN where a list has no video in the slice, or none in the rest.
    """
    num_groups = int(groups.max()) + 1
    rng = np.random.default_rng(0)
    draws = (np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups) for _ in range(_RESAMPLES))
    times = np.array(list(draws), dtype=np.float64)

    def shares(members: Sequence[BoolArray]) -> FloatArray:
        sizes = np.stack([np.bincount(groups[member], minlength=num_groups) for member in members], axis=1)
        hits = np.stack([np.bincount(groups[member & correct], minlength=num_groups) for member in members], axis=1)
        sums = times @ sizes
        return np.where(sums > 0, times @ hits / np.maximum(sums, 1), np.nan)

    return (shares([part.known & ~part.member for part in bins]) - shares([part.member for part in bins])).T


def _by_group(predictions: Predictions) -> Iterator[Slice]:
    """As ``_by_property``, but by group; nothing where the videos have no groups."""
    from scipy.stats import hypergeom  # here, because it takes a second

    correct, groups = predictions.correct, predictions.group_indices
    sizes, num_correct = np.bincount(groups), np.bincount(groups, correct)
    num_videos, num_mistakes = len(correct), int((~correct).sum())
    if not predictions.groups or len(sizes) < 2:
        return
    names = dict(zip(groups.tolist(), predictions.groups, strict=True))
    for group in np.flatnonzero(sizes >= _MIN_VIDEOS):
        of_slice = accuracy(correct[groups == group])
        rest = accuracy(correct[groups != group])
        gap = rest.share - of_slice.share
        low = gap - np.hypot(rest.share - rest.low, of_slice.high - of_slice.share)
        high = gap + np.hypot(rest.high - rest.share, of_slice.share - of_slice.low)
        num_wrong = sizes[group] - num_correct[group]
        p_value = hypergeom.sf(num_wrong - 1, num_videos, num_mistakes, sizes[group])
        cost = gap * of_slice.num_videos
        yield Slice(
            GROUP, names[int(group)], of_slice, rest.share, gap, float(low), float(high), cost, 0.0, float(p_value)
        )
