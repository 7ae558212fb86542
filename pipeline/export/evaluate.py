"""Evaluate a bundle on the test videos of its run, as ``evaluate.py`` does with a run.

The features are extracted anew and are not kept: a bundle from somebody else must not fill this machine's store.
"""

import dataclasses
import shlex
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from data.catalog import load_dataset
from data.demo.dataset import require_rendered
from data.progress import Progress
from data.records import DatasetError
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.provenance import FORMAT, digest, versions
from pipeline.features.extract import ExtractionFailure
from pipeline.objectives.lists import from_json, require_all, videos_to_score
from pipeline.recognizer.bundle import read_bundle
from pipeline.recognizer.recognizer import Recognizer
from pipeline.recognizer.scoring import clip_probabilities
from pipeline.reports.report import write_evaluation
from pipeline.settings.config import EvaluationOverrides, FeatureConfig
from pipeline.settings.parsing import flags_of
from pipeline.training.clips import ClipSampling
from pipeline.training.run import settings_text


def evaluate_bundle(path: Path, overrides: EvaluationOverrides) -> tuple[Path, dict[str, Any]]:
    """Score the test videos with a bundle, and write the evaluation to a folder beside it: ``<name>-evaluation``.

    The report has no strips of frames, and no comparisons with other orders of the frames.

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
    scored: dict[int, Any] = {}
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
                scored[position] = np.concatenate(
                    [clip_probabilities(recognizer.head, view.features, clips) for view in views]
                )
            progress.advance()
    if not scored:
        raise DatasetError(f"none of the {len(videos)} videos can be decoded.")
    predictions = Predictions(
        classes=recognizer.labels,
        video_ids=tuple(video.video_id for video in videos),
        labels=np.array([video.label for video in videos], dtype=np.int64),
        clip_probabilities=np.concatenate(list(scored.values())),
        clip_videos=np.repeat(list(scored), [len(one) for one in scored.values()]),
        groups=tuple(video.group for video in videos),
    )
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
    return folder, write_evaluation(folder, predictions, facts, temperature=description.temperature)
