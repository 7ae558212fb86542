"""Find videos whose label is probably wrong.

python -m pipeline.labels --dataset folder --root my_videos
python train.py --dataset folder --root runs/my_videos/labels/labels.csv      # after its column label was corrected
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from data.catalog import load_dataset
from data.command import run_command
from data.records import DatasetError
from pipeline.labels.options import LabelsSettings
from pipeline.settings.config import ConfigError
from pipeline.settings.parsing import parse_command_line


def main(arguments: Sequence[str]) -> int:
    """Returns 0, or 1 if videos have no features (--allow-missing)."""
    settings = parse_command_line(LabelsSettings, arguments, prog="python -m pipeline.labels")
    options = settings.labels
    dataset = load_dataset(settings.data)
    if not dataset.splits:
        raise DatasetError(f"{dataset.name} has no labels to judge. Use --dataset folder for labelled videos.")

    # After everything that can be wrong about the arguments, because these take seconds.
    import numpy as np

    from pipeline.cache.job import FeatureCache
    from pipeline.cache.relink import locate
    from pipeline.labels.probabilities import fold_numbers, probabilities_out_of_fold, video_vectors
    from pipeline.labels.results import CSV_NAME, agreement_note, csv_table, place_of, write_results
    from pipeline.labels.suspects import find_suspects, require_cleanlab
    from pipeline.reports.strips import make_strips

    require_cleanlab()
    folder = options.output or Path("runs") / dataset.name / "labels"
    if (folder / CSV_NAME).exists() and not options.overwrite:
        raise ConfigError(
            f"{folder / CSV_NAME} exists already, and may contain corrections. Replace it with --overwrite, or choose "
            "another folder with --output."
        )
    cache = FeatureCache(settings.features)
    store_folder = locate(cache.store, dataset)
    packed = cache.load_once(store_folder, dataset.videos, dataset.remedy)
    videos = list(dataset.videos)
    rows = np.array([row for row, video in enumerate(videos) if video.video_id in packed.videos])
    num_missing = len(videos) - len(rows)
    if num_missing and (not options.allow_missing or not len(rows)):
        raise DatasetError(
            f"{num_missing} of {len(videos)} videos have no features. {cache.advice(store_folder)}, or judge the "
            "others with --allow-missing."
        )
    available = [videos[row] for row in rows]
    folds = fold_numbers(available, options.folds)
    labels = np.array([video.label for video in videos])
    probabilities = np.full((len(videos), len(dataset.classes)), np.nan)
    probabilities[rows] = probabilities_out_of_fold(
        video_vectors(packed, available), labels[rows], folds, len(dataset.classes)
    )
    suspects = find_suspects(probabilities, labels)
    strips = {}
    if options.strips and suspects:
        shown = [videos[suspect.video] for suspect in suspects]
        strips = make_strips(
            shown,
            folder,
            options.strips,
            workers=settings.features.workers,
            timeout=settings.features.video_timeout,
        )
    judged = np.isfinite(probabilities).all(axis=1)
    title = f"{dataset.name}, {judged.sum()} of {len(videos)} videos judged in {folds.max() + 1} folds of whole groups"
    notes = [agreement_note(probabilities[judged], labels[judged])]
    if place := place_of(videos):
        notes.append(
            f"Before you use {CSV_NAME}, copy it to {place}: read from another folder, it would give the videos other "
            "names, and their features would not be found."
        )
    listed = dataset.split("listed") if "listed" in dataset.splits else None
    table = csv_table(videos, dataset.classes, suspects, probabilities, listed)
    page = write_results(folder, title, table, videos, dataset.classes, suspects, strips, notes)
    print("\n".join([title, f"{len(suspects)} suspected labels", *notes, str(folder / CSV_NAME), str(page)]))
    return 1 if num_missing else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
