"""Compare models on your videos, each with the best settings that a search finds for it.

python -m pipeline.tune --dataset folder --root my_videos
python -m pipeline.tune --dataset folder --root my_videos --variants benchmarks/choices.yaml
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data.catalog import load_dataset
from data.command import run_command
from pipeline.settings.config import BASELINE
from pipeline.settings.parsing import parse_command_line
from pipeline.tune.folds import deal_folds, describe, videos_to_tune_on
from pipeline.tune.options import TuneSettings
from pipeline.tune.search_space import make_contenders, read_variants


def main(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 if videos have no features (--allow-missing)."""
    settings = parse_command_line(TuneSettings, arguments, prog="python -m pipeline.tune")
    options, base = settings.tune, settings.base
    if options.variants is None:
        contenders = make_contenders(base, options.models, options.candidates)
    else:
        contenders = read_variants(options.variants, base)
    models = [contender.configs[0].model.model for contender in contenders]
    reference = models.index(BASELINE) if BASELINE in models else 0
    dataset = load_dataset(settings.data)
    folds = deal_folds(videos_to_tune_on(dataset, settings.data, options.splits, options.half), options.folds)
    videos = [video for fold in folds for video in fold]
    results = options.results or default_folder(dataset.name, options.variants, options.half)

    # After everything that can be wrong about the arguments, because PyTorch takes seconds.
    import torch

    from pipeline.cache.job import FeatureCache
    from pipeline.objectives.videos import VideoTask
    from pipeline.objectives.wording import group_warning
    from pipeline.tune.search import Budget, tune
    from pipeline.tune.table import Comparison, render, write_results
    from pipeline.tune.trainings import open_trainer

    title = describe(dataset.name, folds)
    print(title, file=sys.stderr)
    if warning := group_warning(videos):
        print(warning, file=sys.stderr)
    cache = FeatureCache(settings.features)
    task = VideoTask(dataset, lambda: cache, torch.device("cpu"), options.allow_missing)
    num_missing = task.prepare()
    available = tuple(video for video in dataset.videos if video.video_id in task.features.videos)
    started = time.perf_counter()
    budget = Budget(options.budget_seconds, options.budget, settings.features.workers)
    with open_trainer(
        folds, dataclasses.replace(dataset, videos=available), cache, results, settings.features.workers
    ) as trainer:
        outcomes = tune(contenders, trainer, options.seeds, budget)
        comparison = Comparison(outcomes, videos, reference)
        command = shlex.join(["python", "-m", "pipeline.tune", *arguments])
        files = write_results(results, comparison, outcomes, title, command)
    print(f"trained in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    print(f"{title}\n\n{render(comparison, outcomes)}\n\n{comparison.sentence}\n{files[0]}")
    return 1 if num_missing else 0


def default_folder(dataset: str, variants: Path | None, half: str | None) -> Path:
    """The results folder, a different one for each kind of comparison, so that none overwrites the table of another."""
    parts = ["tune", variants.stem if variants else None, half]
    return Path("runs") / dataset / "-".join(part for part in parts if part)


if __name__ == "__main__":
    sys.exit(run_command(main))
