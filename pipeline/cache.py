"""The feature caching job: extract what the store lacks. ``python -m pipeline.cache --dataset ucf101``"""

import json
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from data.atomic import remove_abandoned
from data.catalog import load_dataset
from data.records import VideoRecord
from pipeline.command import run_command
from pipeline.config import CacheConfig, FeatureConfig, parse_command_line
from pipeline.progress import Progress
from pipeline.sampling import FrameSampling
from pipeline.store import DamagedEntry, FeatureStore, Origin, VideoFeatures


@dataclass(frozen=True)
class CacheSummary:
    """What a caching job did."""

    num_videos: int
    num_cached_before: int
    num_extracted: int
    num_failed: int
    num_frames: int
    seconds: float
    store: str

    def to_json(self) -> str:
        return json.dumps(self.__dict__)


class FeatureCache:
    """A store, and what fills it: the backbone and the settings of one recipe."""

    def __init__(self, config: FeatureConfig) -> None:
        """Loads the backbone (its weights are part of the recipe) and opens the store.

        Raises ``BackboneError``, ``SamplingError``, ``StoreError``.
        """
        from models.backbones import load_backbone
        from pipeline.extract import make_recipe

        self.config = config
        self.sampling = FrameSampling.parse(config.sampling)
        self.backbone = load_backbone(config.backbone, config.weights)
        self.store = FeatureStore(config.cache, make_recipe(self.backbone, self.sampling))

    def fill(self, dataset: str, records: Sequence[VideoRecord]) -> CacheSummary:
        """Extract the features of those videos that the store lacks; each is published as soon as it is whole.

        A video that fails is named in the store's ``errors.jsonl`` with the reason, and the others go on. Raises
        ``StoreError`` where the store can't be written.
        """
        lacking = [
            record for record in records if not self._usable(record, self.store.origin(dataset, record.video_id))
        ]
        return self._extract(dataset, lacking, len(records))

    def load(self, dataset: str, records: Sequence[VideoRecord]) -> tuple[list[VideoFeatures | None], CacheSummary]:
        """The features of the videos, extracted where the store lacks them or holds a damaged entry.

        Returns:
            the features in the order of ``records``, ``None`` for a video that failed; and what was done.
        """
        features = [self._read(dataset, record) for record in records]
        lacking = [record for record, found in zip(records, features, strict=True) if found is None]
        summary = self._extract(dataset, lacking, len(records))
        if lacking:
            features = [found or self._read(dataset, record) for record, found in zip(records, features, strict=True)]
        return features, summary

    def _usable(self, record: VideoRecord, origin: Origin | None) -> bool:
        """Whether features made from ``origin`` will do: the file is still that one, and not shorter than allowed."""
        if origin is None or (origin.is_short and self.config.on_short == "fail"):
            return False
        return not record.path.exists() or record.path.stat().st_size == origin.source_bytes

    def _read(self, dataset: str, record: VideoRecord) -> VideoFeatures | None:
        try:
            found = self.store.read(dataset, record.video_id)
        except DamagedEntry as error:
            print(f"damaged entry, made again: {error}", file=sys.stderr)
            self.store.remove(dataset, record.video_id)
            return None
        return found if found is not None and self._usable(record, found.origin) else None

    def _extract(self, dataset: str, records: Sequence[VideoRecord], num_wanted: int) -> CacheSummary:
        started = time.perf_counter()
        num_extracted = num_failed = num_frames = 0
        networks = self.config.cache / "onnx"
        for folder in (self.store.folder, networks):
            remove_abandoned(folder)
        if records:
            from pipeline.encoders import choose_device, make_encoder
            from pipeline.extract import ExtractionFailure, extract

            device = choose_device(self.config.device)
            encoder = make_encoder(self.backbone, device, self.config.runtime, networks)
            results = extract(
                [record.path for record in records],
                self.backbone,
                self.sampling,
                encoder,
                workers=min(self.config.workers, len(records)),
                timeout=self.config.video_timeout,
                on_short=self.config.on_short,
            )
            progress = Progress(total=len(records), unit="video", what="caching features")
            with closing(results), closing(progress):
                for position, result in results:
                    record = records[position]
                    if isinstance(result, ExtractionFailure):
                        num_failed += 1
                        self.store.note_failure(dataset, record.video_id, record.path, result.reason)
                        progress.note(f"failed: {record.video_id}: {result.reason}")
                    else:
                        self.store.write(dataset, record.video_id, result)
                        num_extracted += 1
                        num_frames += len(result.features)
                        if result.origin.is_short:
                            progress.note(
                                f"short: {record.video_id}: {result.origin.decoded_frames} of "
                                f"{result.origin.header_frames} frames decode; kept (--on-short fail would not)"
                            )
                    rate = num_frames / (time.perf_counter() - started)
                    progress.advance(frames_per_s=f"{rate:.0f}", failed=num_failed)
        return CacheSummary(
            num_videos=num_wanted,
            num_cached_before=num_wanted - len(records),
            num_extracted=num_extracted,
            num_failed=num_failed,
            num_frames=num_frames,
            seconds=round(time.perf_counter() - started, 2),
            store=str(self.store.folder),
        )


def main(arguments: Sequence[str]) -> int:
    """0: every video has features; 1: some failed."""
    config = parse_command_line(CacheConfig, arguments)
    dataset = load_dataset(config.data.dataset, config.data.options)
    cache = FeatureCache(config.features)
    summary = cache.fill(dataset.store_name, dataset.videos)
    print(summary.to_json())
    if summary.num_failed:
        print(f"{summary.num_failed} videos failed: {cache.store.errors_path(dataset.store_name)}", file=sys.stderr)
    return 1 if summary.num_failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
