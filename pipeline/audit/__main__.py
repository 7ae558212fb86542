"""Find copies among the videos of a dataset, above all across training and test videos.

python -m pipeline.audit --dataset ucf101 --split 1
python train.py --dataset ucf101 --splits 1 --exclude runs/ucf101/audit-split_1/exclude.txt
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from data.catalog import load_dataset
from data.command import run_command
from data.records import DatasetError
from pipeline.audit.options import AuditSettings
from pipeline.settings.parsing import parse_command_line


def main(arguments: Sequence[str]) -> int:
    """Returns 1 if there are copies across the parts of the split, else 0."""
    settings = parse_command_line(AuditSettings, arguments, prog="python -m pipeline.audit")
    options = settings.audit
    dataset = load_dataset(settings.data)
    name = options.split if options.split is not None else next(iter(dataset.splits), None)
    split = None if name is None else dataset.split(name)
    folder = "audit" if name is None else f"audit-split_{name}".replace("/", "_")
    output = options.output or Path("runs") / dataset.name / folder

    # After everything that can be wrong about the arguments, because these take seconds.
    from pipeline.audit.findings import ACROSS_PARTS, alike_groups, describe, parts_of, summary, tables
    from pipeline.audit.page import write_audit
    from pipeline.audit.pairs import find_pairs
    from pipeline.cache.job import FeatureCache
    from pipeline.cache.relink import locate

    cache = FeatureCache(settings.features)
    store_folder = locate(cache.store, dataset)
    packed = cache.load_once(store_folder, dataset.videos, dataset.remedy)
    videos = [video for video in dataset.videos if video.video_id in packed.videos]
    num_missing = len(dataset.videos) - len(videos)
    if num_missing and not options.allow_missing:
        raise DatasetError(
            f"{num_missing} of {len(dataset.videos)} videos have no features. {cache.advice(store_folder)}, or compare "
            "the others with --allow-missing."
        )
    if len(videos) < 2:
        raise DatasetError(f"{dataset.name} has {len(videos)} videos with features: there is nothing to compare.")
    found = find_pairs(packed, videos, parts_of(split))
    findings, alike = describe(found, videos, split), alike_groups(found, videos, split)
    title = f"{dataset.name}{'' if name is None else f', split {name}'}: {len(videos)} videos"
    if num_missing:
        title += f", {num_missing} without features were not compared"
    page = write_audit(output, title, found, findings, alike, dataset.classes, options.strips, settings.features)
    if text := tables(findings, alike):
        print(f"{text}\n")
    print(f"{title}\n{summary(findings, alike)}\n{page}")
    return int(any(finding.kind == ACROSS_PARTS for finding in findings))


if __name__ == "__main__":
    sys.exit(run_command(main))
