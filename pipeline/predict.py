"""Classify new videos with a trained run: python -m pipeline.predict clip.mp4 --run runs/demo/np_rnn-split_1-seed_0"""

import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from data.command import parse_arguments, run_command
from data.records import VideoRecord
from pipeline.features.sampling import FrameSampling


@dataclass(frozen=True)
class Arguments:
    """Classify videos with a trained run."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """video files"""
    run: Path
    """folder of a run, made by train.py"""
    top: int = 3
    """number of classes to print per video"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto uses a GPU if there is one"""


def main(arguments: Sequence[str]) -> int:
    """Return 0 on success, 1 if some videos failed; each is named."""
    options = parse_arguments(Arguments, arguments, prog="python -m pipeline.predict")
    from models.backbones import load_backbone
    from models.preprocessing import VIEWS
    from pipeline.cache.packed import PackedFeatures
    from pipeline.cache.store import NETWORKS
    from pipeline.evaluation.scoring import predict
    from pipeline.features.encoders import make_encoder
    from pipeline.features.extract import ExtractionFailure, extract, make_recipe
    from pipeline.features.recipe import IMPORTED
    from pipeline.settings.config import ConfigError, FeatureConfig
    from pipeline.settings.device import choose_device
    from pipeline.training.batches import FeatureTable
    from pipeline.training.clips import ClipSampling
    from pipeline.training.loop import load_best
    from pipeline.training.run import Run

    if not options.videos:
        raise ConfigError("name at least one video file: python -m pipeline.predict clip.mp4 --run RUN")
    run, device = Run(options.run), choose_device(options.device)
    config = run.config()
    if not config.data.has_video:
        raise ConfigError(f"{run.folder} was trained on {config.data.dataset}, not on video. Name another --run.")
    if config.features.backbone.startswith(IMPORTED):
        raise ConfigError(
            f"{run.folder} was trained on {config.features.backbone}, features from another tool, which this project "
            "can't compute for a new video. Import the features of the new videos too, and evaluate the run on them."
        )
    views, sampling = VIEWS[: config.features.views], FrameSampling.parse(config.features.sampling)
    backbone = load_backbone(config.features.backbone, config.features.weights)
    recipe = make_recipe(backbone, sampling)
    run.check_recipe(recipe)
    model, classes = load_best(run, config)
    # Not to the run's own cache: the run may come from somebody else, and does not decide where this command writes.
    encoder = make_encoder(backbone, device, config.features.runtime, FeatureConfig().cache / NETWORKS, views)
    results = extract(
        options.videos,
        backbone,
        sampling,
        encoder,
        views=views,
        workers=min(config.features.workers, len(options.videos)),
        timeout=config.features.video_timeout,
    )
    num_failed = 0
    with closing(results):
        for position, result in results:
            path = options.videos[position]
            if isinstance(result, ExtractionFailure):
                num_failed += 1
                print(f"failed: {path}: {result.reason}", file=sys.stderr)
                continue
            record = VideoRecord(str(path), path, label=0, group="")
            table = FeatureTable([record], PackedFeatures.in_memory({record.video_id: result}, views))
            clips = ClipSampling.from_config(config.training)
            predictions = predict(model.to(device), table, clips, classes, device)["forward"]
            (probabilities,) = predictions.video_probabilities
            best = probabilities.argsort()[::-1][: options.top]
            print(f"{path}: " + ", ".join(f"{classes[label]} {probabilities[label]:.3f}" for label in best))
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
