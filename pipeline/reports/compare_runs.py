"""The evaluations of a comparison, read from disk, and the statistics of every two with the same test list."""

import dataclasses
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from data.errors import UserError
from pipeline.evaluation.comparison import (
    McNemar,
    PairedDifference,
    aligned,
    bootstrap,
    holm,
    mcnemar,
    paired_differences,
)
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.predictions import FILE_NAME, EvaluationError, Predictions
from pipeline.evaluation.provenance import metrics_from_json
from pipeline.reports.leaderboard import FOLD
from pipeline.reports.pages import p_text, points
from pipeline.training.run import Run

LEVEL = 0.05
TEST_LIST = ("evaluated_on", *FOLD)  # evaluations that agree in these facts have the same videos


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One evaluation of the comparison.

    Attributes:
        number: from 1, in the order given; part of file names.
        name: of the run; unique in the comparison.
        folder: contains its report.
        results: its ``metrics.json``.
        predictions: with the videos in the same order for all evaluations of one test list.
    """

    number: int
    name: str
    folder: Path
    results: Mapping[str, Any]
    predictions: Predictions

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """The rows of the run's ``metrics.jsonl``; empty if there is none, as beside a bundle, or it is damaged."""
        try:
            return Run(self.folder.parent).history()
        except (OSError, UserError):
            return ()

    @property
    def unit(self) -> str:
        """The name of one row."""
        return "digit" if self.results.get("dataset") == "pixel_mnist" else "video"


@dataclass(frozen=True, eq=False)
class Pair:
    """Two evaluations of the same videos.

    Attributes:
        differences: B minus A, for each of ``PAIRED_METRICS``.
        corrected_p: McNemar's p-value after Holm's correction over all pairs of the comparison.
    """

    a: Evaluation
    b: Evaluation
    differences: Mapping[str, PairedDifference]
    test: McNemar
    corrected_p: float

    @property
    def key(self) -> str:
        """The name of the pair in files and links."""
        return f"{self.a.number}_{self.b.number}"

    @property
    def is_significant(self) -> bool:
        return self.corrected_p < LEVEL

    @property
    def verdict(self) -> str:
        """The result in one or two sentences."""
        top1, only_a, only_b = self.differences["video_top1"], self.test.only_a, self.test.only_b
        if only_a == only_b == 0:
            return (
                f"{self.b.name} and {self.a.name} classify exactly the same {self.a.unit}s correctly, out of "
                f"{top1.num_videos:,}."
            )
        b_is_better = top1.difference >= 0
        better, worse = (self.b, self.a) if b_is_better else (self.a, self.b)
        low, high = (top1.low, top1.high) if b_is_better else (-top1.high, -top1.low)
        size = f"{points(abs(top1.difference))} points [{points(low)}, {points(high)}], {p_text(self.corrected_p)}"
        if self.is_significant:
            return f"{better.name} is better than {worse.name} by {size}."
        only_better, only_worse = (only_b, only_a) if b_is_better else (only_a, only_b)
        return (
            f"No significant difference between {better.name} and {worse.name}: {size}. Correct only in {better.name}: "
            f"{only_better} {self.a.unit}{'' if only_better == 1 else 's'}; only in {worse.name}: {only_worse}."
        )


def read_evaluations(folders: Sequence[Path]) -> list[Evaluation]:
    """Read each evaluation once and give each a unique name.

    Raises ``EvaluationError`` where there are fewer than two, one is missing or damaged, or their datasets differ.
    """
    folders = list(dict.fromkeys(folder.resolve() for folder in folders))
    if len(folders) < 2:
        raise EvaluationError(f"a comparison needs at least two runs, and got {len(folders)}.")
    results = [_read_results(folder) for folder in folders]
    names = [str(result.get("run", folder.parent.name)) for result, folder in zip(results, folders, strict=True)]
    common = Path(os.path.commonpath(folders))
    occurrences = Counter(names)
    evaluations = []
    for number, (folder, result, name) in enumerate(zip(folders, results, names, strict=True), start=1):
        # Runs in different folders may share a name, and a run may have several evaluations.
        unique = name if occurrences[name] == 1 else str(folder.relative_to(common))
        evaluations.append(Evaluation(number, unique, folder, result, Predictions.load(folder / FILE_NAME)))
    if len(datasets := {str(result.get("dataset")) for result in results}) > 1:
        raise EvaluationError(
            f"the runs are of different datasets: {', '.join(sorted(datasets))}. Compare the runs of one dataset at a "
            "time; the leaderboard shows scores on different datasets together."
        )
    return evaluations


def _read_results(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    again = f"Evaluate the run again: python evaluate.py {folder.parent} --again"
    try:
        results = metrics_from_json(path.read_bytes())
    except FileNotFoundError as error:
        raise EvaluationError(f"there is no {path}: the evaluation did not finish. {again}") from error
    except ValueError as error:
        raise EvaluationError(f"{path} is damaged ({error}). {again}") from error
    if lacking := [name for name in METRICS if name not in results]:
        raise EvaluationError(
            f"{path} lacks {', '.join(lacking)}, so it is not the evaluation of a classifier. Leave this run out of "
            "the comparison."
        )
    return results


def by_test_list(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """Group the evaluations by test list, with the videos of each group in the order of its first evaluation."""
    groups: dict[tuple[str, ...], list[Evaluation]] = {}
    for evaluation in evaluations:
        group = groups.setdefault(tuple(str(evaluation.results.get(key)) for key in TEST_LIST), [])
        if group:
            names = (evaluation.name, group[0].name)
            predictions = aligned(evaluation.predictions, group[0].predictions, names)
            evaluation = dataclasses.replace(evaluation, predictions=predictions)
        group.append(evaluation)
    return [_with_groups(group) for group in groups.values()]


def _with_groups(evaluations: list[Evaluation]) -> list[Evaluation]:
    """The same evaluations, all with the groups of the first that has any: earlier versions stored none."""
    groups = next((e.predictions.groups for e in evaluations if e.predictions.groups), ())
    return [dataclasses.replace(e, predictions=dataclasses.replace(e.predictions, groups=groups)) for e in evaluations]


def all_pairs(test_lists: Sequence[Sequence[Evaluation]]) -> list[Pair]:
    """Compare every two evaluations with the same test list."""
    pairs = []
    for evaluations in test_lists:
        if len(evaluations) == 1:
            continue
        draws = {evaluation.number: bootstrap(evaluation.predictions) for evaluation in evaluations}
        for a, b in combinations(evaluations, 2):
            differences = paired_differences(draws[a.number], draws[b.number])
            test = mcnemar(a.predictions.correct, b.predictions.correct, a.predictions.group_indices)
            pairs.append(Pair(a, b, differences, test, test.p_value))
    corrected = holm([pair.test.p_value for pair in pairs])
    return [dataclasses.replace(pair, corrected_p=p) for pair, p in zip(pairs, corrected, strict=True)]
