"""The feature caching job: extract the features that the store does not contain yet.

python -m pipeline.cache --dataset ucf101                 fill the store; several such jobs may share it
python -m pipeline.cache --dataset ucf101 --engine ray    the same on all machines of a Ray cluster
python -m pipeline.cache --dataset ucf101 --frames FOLDER write the sampled frames as JPEGs instead
python -m pipeline.cache status|verify|gc|compact|relink|export|import   manage the store (each has --help)
"""

import sys
from collections.abc import Sequence
from functools import partial

from data.catalog import load_dataset
from data.command import run_command
from data.errors import did_you_mean
from data.records import VideoDataset, VideoRecord, require_files
from data.video_list import Selection, ids_of
from pipeline.cache.shards import Shard
from pipeline.settings.config import CacheConfig, ConfigError
from pipeline.settings.parsing import parse_command_line


def chosen_videos(dataset: VideoDataset, split: str, shard: Shard) -> Sequence[VideoRecord]:
    """The videos of a split (``all``: the whole dataset) that belong to a shard. Raises ``DatasetError``."""
    videos: Sequence[VideoRecord] = dataset.videos
    if split != "all":
        chosen = dataset.split(split)
        videos = chosen.train + chosen.validation + chosen.test
    return Selection.of(videos, map(shard.contains, ids_of(videos))) if shard.count > 1 else videos


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if every video has features, 1 if some failed."""
    if arguments and not arguments[0].startswith("-"):
        from pipeline.cache.manage import COMMANDS

        command = COMMANDS.get(arguments[0])
        if command is None:
            raise ConfigError(f"unknown command {arguments[0]!r}.{did_you_mean(arguments[0], list(COMMANDS))}")
        return command(arguments[1:])
    config = parse_command_line(CacheConfig, arguments, prog="python -m pipeline.cache")
    shard = Shard.parse(config.job.shard) if config.job.shard else Shard.from_environment()
    dataset = load_dataset(config.data)
    videos = chosen_videos(dataset, config.job.split, shard)
    if shard.count > 1:
        print(f"shard {shard}: {len(videos)} videos", file=sys.stderr)
    if config.job.frames is not None:
        from pipeline.features.pictures import write_pictures

        require_files(videos, dataset.remedy)
        return write_pictures(videos, config.features, config.job.frames)
    from pipeline.cache.job import Extract, FeatureCache
    from pipeline.cache.relink import locate

    cache = FeatureCache(config.features)
    extract: Extract = cache.extract
    if config.job.engine == "ray":
        from pipeline.cache.cluster import extract_on_cluster

        extract = partial(extract_on_cluster, cache, config.job)
    folder = locate(cache.store, dataset)
    summary = cache.fill(folder, videos, extract, dataset.remedy)
    print(summary.to_json())
    if summary.num_failed:
        print(
            f"{summary.num_failed} of {len(videos)} videos have no features. {cache.advice(folder)}",
            file=sys.stderr,
        )
    return 1 if summary.num_failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
