"""Which evaluations a comparison is of, and what each two of the same videos say about one another."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pipeline.evaluation.comparison import (
    PAIRED_METRICS,
    ComparisonError,
    McNemar,
    PairedDifference,
    VideoPredictions,
    aligned,
    bootstrap,
    difference_of,
    holm,
    mcnemar,
    read_video_predictions,
)
from pipeline.evaluation.metrics import METRICS
from pipeline.reports.leaderboard import FOLD

LEVEL = 0.05
TEST_LIST = ("evaluated_on", *FOLD)  # evaluations that agree in these facts are of the same videos


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation that takes part.

    Attributes:
        number: from 1, in the order given; the names of files hold it.
        folder: where its report lies.
        results: its ``metrics.json``.
        answers: with the videos in the same order for all evaluations of one test list; its name is unique.
    """

    number: int
    folder: Path
    results: Mapping[str, Any]
    answers: VideoPredictions

    @property
    def name(self) -> str:
        return self.answers.name

    @property
    def unit(self) -> str:
        """What one answer is about."""
        return "digit" if self.results.get("dataset") == "pixel_mnist" else "video"


@dataclass(frozen=True, eq=False)
class Pair:
    """Two evaluations of the same videos.

    Attributes:
        differences: B minus A, for each of ``PAIRED_METRICS``.
        corrected_p: McNemar's p-value after Holm's correction for all pairs of the comparison.
    """

    a: Evaluation
    b: Evaluation
    differences: Mapping[str, PairedDifference]
    test: McNemar
    corrected_p: float

    @property
    def key(self) -> str:
        """Names the pair in files and links."""
        return f"{self.a.number}_{self.b.number}"

    @property
    def is_told_apart(self) -> bool:
        return self.corrected_p < LEVEL

    @property
    def verdict(self) -> str:
        """One plain sentence."""
        top1 = self.differences["video_top1"]
        if not self.test.only_a + self.test.only_b:
            return f"{self.b.name} and {self.a.name} are right on exactly the same {top1.num_videos:,} {self.a.unit}s."
        better, worse, sign = (self.b, self.a, 1) if top1.difference >= 0 else (self.a, self.b, -1)
        low, high = sorted((sign * top1.low, sign * top1.high))
        size = f"{in_points(abs(top1.difference))} points [{in_points(low)}, {in_points(high)}]"
        size = f"{size}, {p_text(self.corrected_p)}"
        if self.is_told_apart:
            return f"{better.name} is better than {worse.name} by {size}."
        fewer, more = sorted((self.test.only_a, self.test.only_b))
        videos = f"{more} {self.a.unit}{'' if more == 1 else 's'}"
        return (
            f"No difference between {better.name} and {worse.name} can be told apart from chance: {size}. "
            f"Right in one of them only: {videos} against {fewer}."
        )


def in_points(share: float, sign: str = "-") -> str:
    """A share in percentage points, 0.031 -> "3.1"; ``sign="+"``: with a plus where it is above 0."""
    value = round(100 * share, 1) or 0.0  # never -0.0
    return f"{value:{sign if value else '-'}.1f}".replace("-", "−")


def p_text(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}" if p_value < 0.995 else "p = 1"


def read_evaluations(folders: Sequence[Path]) -> list[Evaluation]:
    """The evaluations, each folder once, with unique names."""
    folders = list(dict.fromkeys(folder.resolve() for folder in folders))
    if len(folders) < 2:
        raise ComparisonError(f"a comparison takes at least two runs, and got {len(folders)}.")
    results = [_read_results(folder) for folder in folders]
    names = [str(result.get("run", folder.parent.name)) for result, folder in zip(results, folders, strict=True)]
    common = Path(os.path.commonpath(folders))
    occurrences = Counter(names)
    evaluations = []
    for number, (folder, result, name) in enumerate(zip(folders, results, names, strict=True), start=1):
        # Runs of one name lie in different folders, and so do two evaluations of one run.
        unique = name if occurrences[name] == 1 else str(folder.relative_to(common))
        answers = dataclasses.replace(read_video_predictions(folder), name=unique)
        evaluations.append(Evaluation(number, folder, result, answers))
    if len(datasets := {str(result.get("dataset")) for result in results}) > 1:
        raise ComparisonError(
            f"the runs are of different datasets: {', '.join(sorted(datasets))}. Compare those of one at a time; "
            "scores on different datasets stand side by side in the leaderboard."
        )
    return evaluations


def _read_results(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    again = f"Evaluate the run again: python evaluate.py {folder.parent}"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ComparisonError(f"there is no {path}: the evaluation was not finished. {again}") from error
    except ValueError as error:
        raise ComparisonError(f"{path} is damaged ({error}). {again}") from error
    if not isinstance(results, dict) or (lacking := [name for name in METRICS if name not in results]):
        what = ", ".join(lacking) if isinstance(results, dict) else "all metrics"
        raise ComparisonError(f"{path} lacks {what}, so this is no evaluation of a classifier. Leave the run out.")
    return results


def by_test_list(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """The evaluations by test list, each list's videos in the order of its first evaluation."""
    folds: dict[tuple[str, ...], list[Evaluation]] = {}
    for evaluation in evaluations:
        fold = folds.setdefault(tuple(str(evaluation.results.get(key)) for key in TEST_LIST), [])
        answers = aligned(evaluation.answers, like=fold[0].answers) if fold else evaluation.answers
        fold.append(dataclasses.replace(evaluation, answers=answers))
    return list(folds.values())


def all_pairs(folds: Sequence[Sequence[Evaluation]]) -> list[Pair]:
    """All pairs of evaluations with one test list."""
    pairs = []
    for fold in folds:
        if len(fold) == 1:
            continue
        draws = {evaluation.number: bootstrap(evaluation.answers) for evaluation in fold}
        for a, b in combinations(fold, 2):
            differences = {metric: difference_of(draws[a.number], draws[b.number], metric) for metric in PAIRED_METRICS}
            test = mcnemar(a.answers.right, b.answers.right)
            pairs.append(Pair(a, b, differences, test, test.p_value))
    corrected = holm([pair.test.p_value for pair in pairs])
    return [dataclasses.replace(pair, corrected_p=p) for pair, p in zip(pairs, corrected, strict=True)]
