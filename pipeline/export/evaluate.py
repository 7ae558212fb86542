"""Evaluate a bundle on the test videos of its run, as ``evaluate.py`` does with a run.

The features are extracted anew and are not kept: a bundle from somebody else must not fill this machine's store.
"""

import dataclasses
import shlex
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from data.catalog import load_dataset
from data.demo.dataset import require_rendered
from data.progress import Progress
from data.records import DatasetError
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.properties import look_at, motion_of, video_properties
from pipeline.evaluation.provenance import FORMAT, digest, versions
from pipeline.evaluation.scoring import ORDERS, Order
from pipeline.features.extract import ExtractionFailure
from pipeline.features.recipe import Origin, VideoFeatures
from pipeline.objectives.lists import excluded_in, from_json, require_all, videos_to_score
from pipeline.objectives.videos import mistakes_first
from pipeline.objectives.wording import split_parts
from pipeline.recognizer.bundle import answers_over_time, read_bundle
from pipeline.recognizer.head import Array, Head
from pipeline.recognizer.recognizer import Recognizer
from pipeline.recognizer.scoring import clip_probabilities
from pipeline.reports.report import write_evaluation
from pipeline.reports.strips import make_strips
from pipeline.settings.config import BASELINE, EvaluationOverrides, FeatureConfig
from pipeline.settings.parsing import flags_of
from pipeline.training.clips import ClipSampling
from pipeline.training.run import settings_text


def evaluate_bundle(path: Path, overrides: EvaluationOverrides) -> tuple[Path, dict[str, Any]]:
    """Score the test videos with a bundle, and write the evaluation to a folder beside it: ``<name>-evaluation``.

    The report has no learning curves and no spectra, which a bundle does not contain, and is not compared with a
    baseline.

    Returns:
        the folder, and the content of its ``metrics.json``.

    Raises:
        UserError: the bundle can't be used, or the dataset is not the one that it was trained on.
    """
    bundle = read_bundle(path)
    recognizer, description = Recognizer.from_bundle(bundle), bundle.description
    config = overrides.apply(bundle.config)
    if config.data.dataset == "demo" and config.data.root is not None:
        require_rendered(config.data)
    dataset = load_dataset(config.data)
    if dataset.classes != recognizer.labels:
        raise DatasetError(
            f"{path} was trained on {len(recognizer.labels)} classes ({', '.join(recognizer.labels[:3])} ...), the "
            f"dataset has {len(dataset.classes)} ({', '.join(dataset.classes[:3])} ...)."
        )
    split = dataset.split(config.run.splits[0]) if description.split is None else from_json(description.split, dataset)
    videos, evaluated_on = videos_to_score(dataset, split, overrides.split)
    if not config.run.allow_missing:
        remedy = "Restore them, or count them as wrong answers with --allow-missing."
        require_all("videos to score", videos, {video.video_id for video in dataset.videos}, remedy)
    clips = ClipSampling.from_config(config.training)
    scored: dict[int, dict[Order, Array]] = {}
    over_time: dict[str, Array] = {}
    origins: dict[str, Origin] = {}
    motion: dict[str, float | None] = {}
    defaults = FeatureConfig()
    results = recognizer.extract([video.path for video in videos], defaults.workers, defaults.video_timeout)
    progress = Progress(total=len(videos), unit="video", what="evaluating")
    with closing(results), closing(progress):
        for position, views in results:
            if isinstance(views, ExtractionFailure):
                if not config.run.allow_missing:
                    raise DatasetError(
                        f"{views.reason}. Restore the video, or count it as a wrong answer with --allow-missing."
                    )
                progress.note(f"failed: {videos[position].video_id}: {views.reason}")
            else:
                video_id = videos[position].video_id
                reads_order = config.model.model != BASELINE
                scored[position] = _clips_in_orders(recognizer.head, views, clips, video_id, reads_order)
                over_time[video_id] = answers_over_time(recognizer.head, views[0].features.astype(np.float32))
                origins[video_id], motion[video_id] = views[0].origin, motion_of(views[0].features)
            progress.advance()
    if not scored:
        raise DatasetError(f"none of the {len(videos)} videos can be decoded.")
    orders: dict[str, Predictions] = {
        order: Predictions(
            classes=recognizer.labels,
            video_ids=tuple(video.video_id for video in videos),
            labels=np.array([video.label for video in videos], dtype=np.int64),
            clip_probabilities=np.concatenate([one[order] for one in scored.values()]),
            clip_videos=np.repeat(list(scored), [len(one[order]) for one in scored.values()]),
            groups=tuple(video.group for video in videos),
        )
        for order in ORDERS
    }
    predictions = orders.pop("forward")
    folder = path.with_name(f"{path.stem}-{overrides.folder_name(bundle.config)}")
    facts = {
        "run": description.run,
        "dataset": dataset.name,
        "split": split.name,
        "evaluated_on": evaluated_on,
        "holdout_group": config.data.holdout_group,
        "backbone": config.features.backbone,
        "clips": str(clips),
        "fingerprint": bundle.recipe.fingerprint,
        "parts": split_parts(split),
        "model": config.model.model,
        "seed": config.run.seeds[0],
        "settings": settings_text(config),
        "command": shlex.join(["python", "evaluate.py", str(path), *flags_of(overrides)]),
        "versions": versions(None),
        "provenance": {
            "format": FORMAT,
            "run": bundle.sha256[:16],
            "protocol": digest(
                [
                    *(dataset.name, dataset.classes, [(video.video_id, video.label) for video in videos]),
                    *(bundle.recipe.fingerprint, len(bundle.views), dataclasses.asdict(clips)),
                ]
            ),
        },
    }
    looks = look_at([videos[position] for position in sorted(scored)], origins)
    strips = make_strips(
        [videos[number] for number in mistakes_first(predictions)],
        folder,
        config.run.strips,
        workers=defaults.workers,
        timeout=defaults.video_timeout,
    )
    return folder, write_evaluation(
        folder,
        predictions,
        facts,
        reordered=orders,
        probabilities_over_time=over_time,
        properties=video_properties(origins, motion, looks),
        strips=strips,
        temperature=description.temperature,
        excluded=excluded_in(description.split),
    )


def _clips_in_orders(
    head: Head, views: Sequence[VideoFeatures], clips: ClipSampling, video_id: str, reads_order: bool
) -> dict[Order, Array]:
    """The probabilities of a video's clips in all views, ``[num_clips, num_classes]``, as ``predict`` of a run's."""

    def score(order: Order) -> Array:
        return np.concatenate([clip_probabilities(head, view.features, clips, order, video_id) for view in views])

    return {order: score(order if reads_order else "forward") for order in ORDERS}
