"""A dataset with the features of its videos."""

from collections.abc import Sequence
from dataclasses import dataclass

from data.records import DatasetError, VideoDataset, VideoRecord
from pipeline.cache.job import FeatureCache
from pipeline.cache.packed import PackedFeatures
from pipeline.training.batches import FeatureTable


@dataclass(frozen=True)
class DatasetFeatures:
    """A dataset with the features of its videos; those that failed have none."""

    dataset: VideoDataset
    packed: PackedFeatures

    def table(self, records: Sequence[VideoRecord]) -> FeatureTable | None:
        """The features of those videos that have some; ``None`` for no videos."""
        there = [record for record in records if record.video_id in self.packed.videos]
        return FeatureTable(there, self.packed) if there else None

    def missing(self, records: Sequence[VideoRecord]) -> list[VideoRecord]:
        return [record for record in records if record.video_id not in self.packed.videos]

    def seconds(self, records: Sequence[VideoRecord]) -> dict[str, float]:
        """How long the videos are, by id: those that have features and tell their frame rate."""
        origins = {
            record.video_id: self.packed.videos[record.video_id].origin
            for record in records
            if record.video_id in self.packed.videos
        }
        return {name: origin.decoded_frames / origin.fps for name, origin in origins.items() if origin.fps > 0}


def load_features(cache: FeatureCache, dataset: VideoDataset, allow_missing: bool) -> DatasetFeatures:
    """All features of a dataset, cached first where they are not.

    Raises ``DatasetError`` where videos failed and ``allow_missing`` is not set.
    """
    packed, _ = cache.load(dataset.store_name, dataset.videos)
    features = DatasetFeatures(dataset, packed)
    failed = [record.video_id for record in features.missing(dataset.videos)]
    if failed and (not allow_missing or not packed.videos):
        raise DatasetError(
            f"{len(failed)} of {len(dataset.videos)} videos gave no features ({', '.join(failed[:3])}"
            f"{' ...' if len(failed) > 3 else ''}). Reasons: {cache.store.errors_path(dataset.store_name)}. Mend or "
            "remove them, or go on with --allow-missing: then they are not trained on and count as wrong answers."
        )
    return features
