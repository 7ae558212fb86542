"""One trained run -> its evaluation: which videos, what is known of it, its numbers and its report."""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.records import DatasetError, VideoDataset, VideoRecord
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.provenance import FORMAT, digest, read_metrics, run_digest, training_facts, versions
from pipeline.evaluation.scoring import predict, probabilities_over_time
from pipeline.evaluation.spectra import spectra
from pipeline.reports.report import write_evaluation
from pipeline.reports.strips import make_strips
from pipeline.settings.config import Config, EvaluationOverrides
from pipeline.settings.parsing import flags_of
from pipeline.training.clips import clip_sampling
from pipeline.training.dataset_features import DatasetFeatures
from pipeline.training.loop import load_best
from pipeline.training.run import Run, settings_text

VALIDATION = "validation"  # for --split: each run's own validation videos
BASELINE = "mean"  # the model that knows no order


@dataclass(frozen=True)
class EvaluationPlan:
    """What is to be scored, before any of it is.

    Attributes:
        config: the run's settings, with what this evaluation sets otherwise.
        folder: where its files go.
        videos: those that count.
        evaluated_on: what they are, where they are not the test videos of the run's own split.
        baseline: evaluation folder of a baseline that was scored on the same videos in the same way, if there is one.
        made_from: digests of all that the files in the folder depend on. ``protocol`` is that of the videos, their
            features and the clips: evaluations that agree in it can be compared video by video.
        command: makes this evaluation again.
    """

    run: Run
    config: Config
    folder: Path
    videos: tuple[VideoRecord, ...]
    evaluated_on: str | None
    baseline: Path | None
    made_from: dict[str, object]
    command: str


def plan_evaluation(
    run: Run, own: Config, dataset: VideoDataset, asked: EvaluationOverrides | None = None
) -> EvaluationPlan:
    """What evaluating ``run``, which has the settings ``own``, comes to.

    Raises ``DatasetError`` where the videos asked for are none, or are among those that the run was trained on, and
    ``RunError`` where the run can't be read.
    """
    asked = asked or EvaluationOverrides()
    config = asked.apply(own)
    videos, evaluated_on = videos_to_score(dataset, own.run.splits[0], asked.split)
    protocol = digest(
        [
            *(dataset.name, dataset.classes, [(record.video_id, record.label) for record in videos]),
            *(run.recipe().fingerprint, config.features.views, dataclasses.asdict(clip_sampling(config.training))),
        ]
    )
    baseline = None if config.model.model == BASELINE else find_baseline(run, protocol, config.run.seeds[0])
    return EvaluationPlan(
        run,
        config,
        run.folder / asked.folder_name(own),
        videos,
        evaluated_on,
        baseline,
        {
            "format": FORMAT,
            "run": run_digest(run),
            "protocol": protocol,
            "strips": config.run.strips,
            "baseline": baseline and _made_from(baseline).get("run"),
        },
        shlex.join(["python", "evaluate.py", str(run.folder), *flags_of(asked), "--again"]),
    )


def videos_to_score(
    dataset: VideoDataset, own_split: str, asked: str | None
) -> tuple[tuple[VideoRecord, ...], str | None]:
    """The videos of the list asked for, and what they are if not the test videos of ``own_split``, the run's split.

    Raises ``DatasetError`` where there are none, or the run was trained on some of them or chosen by them.
    """
    own = dataset.split(own_split)
    if asked in (None, own_split):
        videos, told = own.test, None
    elif asked == VALIDATION:
        videos, told = own.validation, "validation videos, which the best epoch was chosen by"
    else:
        videos, told = dataset.split(asked).test, f"test videos of split {asked}"
        seen = {record.video_id for record in (*own.train, *own.validation)}
        if overlap := sum(record.video_id in seen for record in videos):
            raise DatasetError(
                f"{overlap} of the {len(videos)} test videos of split {asked} are among those that a run on split "
                f"{own_split} is trained on and chosen by: it knows them. Evaluate a run that was trained on split "
                f"{asked}."
            )
    if not videos:
        raise DatasetError(f"split {own_split} of {dataset.name} has no {asked or 'test'} videos.")
    return videos, told


def find_baseline(run: Run, protocol: str, seed: int) -> Path | None:
    """The evaluation folder of a run beside this one that is of the model ``mean`` and has the same protocol.

    Of several, one of the same seed goes first.
    """
    found = []
    for path in sorted(run.folder.parent.glob("*/evaluation*/metrics.json")):
        metrics = read_metrics(path.parent)
        if metrics is None or metrics.get("model") != BASELINE or _made_from(path.parent).get("protocol") != protocol:
            continue
        found.append((metrics.get("seed") != seed, path.parent))
    return min(found)[1] if found else None


def _made_from(evaluation: Path) -> dict[str, Any]:
    """Empty for an evaluation that does not tell, or is none."""
    made_from = (read_metrics(evaluation) or {}).get("made_from")
    return made_from if isinstance(made_from, dict) else {}


def evaluate(plan: EvaluationPlan, features: DatasetFeatures, device: torch.device) -> dict[str, Any]:
    """Score the videos with the run's best checkpoint and write the plan's folder; returns the metrics."""
    run, config, dataset = plan.run, plan.config, features.dataset
    table, missing = features.table(plan.videos), features.missing(plan.videos)
    if table is None:
        raise DatasetError(
            f"split {config.run.splits[0]} of {dataset.name} has no {plan.evaluated_on or 'test videos'} with features."
        )
    model, classes = load_best(run, config)
    if classes != dataset.classes:
        raise DatasetError(
            f"{run.folder} was trained on {len(classes)} classes ({', '.join(classes[:3])} ...), the dataset now has "
            f"{len(dataset.classes)} ({', '.join(dataset.classes[:3])} ...)."
        )
    clips = clip_sampling(config.training)
    before_and_after = spectra(config.model, config.run.seeds[0], model)
    predictions = predict(model.to(device), table, clips, classes, device, missing)
    facts = {
        "run": run.name,
        "dataset": dataset.name,
        "split": config.run.splits[0],
        "evaluated_on": plan.evaluated_on,
        "holdout_group": config.data.holdout_group,
        "model": config.model.model,
        "seed": config.run.seeds[0],
        "backbone": config.features.backbone,
        "settings": settings_text(config),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "clips": str(clips),
        **training_facts(run),
        "fingerprint": run.recipe().fingerprint,
        "command": plan.command,
        "versions": versions(config.features.backbone),
        "made_from": plan.made_from,
    }
    strips = None
    if config.run.strips:
        strips = make_strips(
            [(*table.records, *missing)[video] for video in most_telling_first(predictions)],
            plan.folder,
            config.run.strips,
            workers=config.features.workers,
            timeout=config.features.video_timeout,
        )
    return write_evaluation(
        plan.folder,
        predictions,
        facts,
        run.history(),
        probabilities_over_time=probabilities_over_time(model, table, classes, device),
        seconds=features.seconds(table.records),
        strips=strips,
        spectra=before_and_after,
        baseline=plan.baseline,
    )


def most_telling_first(predictions: Predictions) -> Sequence[int]:
    """Videos (indices) in the order in which one would look at them: mistakes, right ones, missing ones; the surest
    first."""
    order: list[int] = np.lexsort((-predictions.confidence, predictions.correct, predictions.missing)).tolist()
    return order


def summary_line(metrics: dict[str, Any]) -> str:
    low, high = metrics["intervals"]["video_top1"]
    on = f" ({metrics['evaluated_on']})" if metrics.get("evaluated_on") else ""
    return (
        f"{metrics['run']}{on}: video top-1 {metrics['video_top1']:.3f} [{low:.3f}, {high:.3f}], clip top-1 "
        f"{metrics['clip_top1']:.3f}, mean-class {metrics['mean_class_accuracy']:.3f}, {metrics['num_videos']} videos"
    )
