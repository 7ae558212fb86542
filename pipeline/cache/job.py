"""The feature caching job: extract what the store lacks."""

import json
import random
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from data.atomic import remove_abandoned
from data.progress import Progress
from data.records import VideoRecord
from models.preprocessing import VIEWS
from pipeline.cache.packed import PackedFeatures, open_packed, pack
from pipeline.cache.store import NETWORKS, FeatureStore, NameTooLongError
from pipeline.features.recipe import IMPORTED, Origin, imported_recipe
from pipeline.features.sampling import FrameSampling
from pipeline.settings.config import ConfigError, FeatureConfig


@dataclass(frozen=True)
class CacheSummary:
    """What a caching job did."""

    num_videos: int
    num_cached_before: int
    num_extracted: int = 0
    num_made_elsewhere: int = 0
    num_failed: int = 0
    num_frames: int = 0
    seconds: float = 0.0
    store: str = ""

    def to_json(self) -> str:
        return json.dumps(self.__dict__)


@dataclass(frozen=True)
class Made:
    """What became of one video.

    Attributes:
        num_frames: that its features are of.
        failure: why it has none.
        made_elsewhere: another job had stored it meanwhile.
        shortfall: what is to be said of a file that ends early and was kept.
    """

    record: VideoRecord
    num_frames: int = 0
    failure: str | None = None
    made_elsewhere: bool = False
    shortfall: str | None = None


Make = Callable[[str, Iterable[VideoRecord]], Generator[Made, None, None]]
"""Extracts and stores the features of a dataset's videos, and says what became of each."""


class FeatureCache:
    """A store, and what fills it: the backbone and the settings of one recipe."""

    def __init__(self, config: FeatureConfig) -> None:
        """Loads the backbone (its weights are part of the recipe) and opens the store.

        Raises ``BackboneError``, ``SamplingError``, ``StoreError``.
        """
        self.config = config
        self.views = VIEWS[: config.views]
        self.sampling = FrameSampling.parse(config.sampling)
        if config.backbone.startswith(IMPORTED):
            self.backbone = None  # other tools made the features
            if config.views > 1:
                raise ConfigError(f"--views {config.views}: of {config.backbone} there is one view. Leave --views out")
            recipe = imported_recipe(config.backbone.removeprefix(IMPORTED))
        else:
            from models.backbones import load_backbone
            from pipeline.features.extract import make_recipe

            self.backbone = load_backbone(config.backbone, config.weights)
            recipe = make_recipe(self.backbone, self.sampling)
        self.store = FeatureStore(config.cache, recipe)

    def fill(self, dataset: str, records: Sequence[VideoRecord], make: Make | None = None) -> CacheSummary:
        """Extract the features of those videos that the store lacks; each is published as soon as it is whole.

        Args:
            make: what extracts and stores them, instead of ``self.make``.

        A video that fails is named in the store's ``errors.jsonl`` with the reason, and the others go on. Raises
        ``StoreError`` where the store can't be written.
        """
        for folder in (self.store.folder, self._networks):
            remove_abandoned(folder)
        lacking = self.lacking(dataset, records)
        if not lacking:
            return self._nothing_lacking(len(records))
        # Jobs that share a store meet seldom if each goes its own way.
        random.Random().shuffle(lacking)
        made = (make or self.make)(dataset, lacking)
        return self.summarize(dataset, made, len(lacking), len(records))

    def load(self, dataset: str, records: Sequence[VideoRecord]) -> tuple[PackedFeatures, CacheSummary]:
        """The features of the videos, extracted where the store lacks them or holds a damaged entry.

        Returns:
            the features of all videos but those that failed; and what was done.
        """
        packed = open_packed(self.store, dataset, [record.video_id for record in records], self.views)
        if packed is not None and all(
            self._usable(record, packed.videos[record.video_id].origin) for record in records
        ):
            return packed, self._nothing_lacking(len(records))
        summary = self.fill(dataset, records)
        packed, damaged = self._pack(dataset, records)
        if damaged:
            again = self.fill(dataset, [record for record in records if record.video_id in damaged])
            summary = replace(
                summary,
                num_cached_before=summary.num_cached_before - len(damaged),
                num_extracted=summary.num_extracted + again.num_extracted,
                num_made_elsewhere=summary.num_made_elsewhere + again.num_made_elsewhere,
                num_failed=summary.num_failed + again.num_failed,
                num_frames=summary.num_frames + again.num_frames,
                seconds=summary.seconds + again.seconds,
            )
            packed, _ = self._pack(dataset, records)
        return packed, summary

    def _nothing_lacking(self, num_videos: int) -> CacheSummary:
        return CacheSummary(num_videos, num_videos, store=str(self.store.folder))

    def _pack(self, dataset: str, records: Sequence[VideoRecord]) -> tuple[PackedFeatures, set[str]]:
        """What is there, packed; and which entries were found damaged."""
        lacking = {record.video_id for record in self.lacking(dataset, records)}
        there = [record.video_id for record in records if record.video_id not in lacking]
        packed = open_packed(self.store, dataset, there, self.views)
        if packed is not None:
            return packed, set()
        packed, damaged = pack(self.store, dataset, there, self.views)
        return packed, set(damaged)

    def lacking(self, dataset: str, records: Sequence[VideoRecord]) -> list[VideoRecord]:
        """Those videos of which the store lacks a view."""
        return [record for record in records if not self._has(dataset, record)]

    def _has(self, dataset: str, record: VideoRecord) -> bool:
        return all(self._has_view(dataset, record, view) for view in self.views)

    def _has_view(self, dataset: str, record: VideoRecord, view: str) -> bool:
        origin = self.store.origin(dataset, record.video_id, view)
        return origin is not None and self._usable(record, origin)

    def _usable(self, record: VideoRecord, origin: Origin) -> bool:
        """Whether features made from ``origin`` will do: the file is still that one, and not shorter than allowed."""
        if origin.is_short and self.config.on_short == "fail":
            return False
        return not origin.source_bytes or not record.path.exists() or record.path.stat().st_size == origin.source_bytes

    @property
    def _networks(self) -> Path:
        return self.config.cache / NETWORKS

    def make(self, dataset: str, records: Iterable[VideoRecord]) -> Generator[Made, None, None]:
        """Extract and store the features of videos, in the order in which they come to be whole.

        Args:
            records: read lazily, a few videos ahead; one that the store has by the time it is its turn is left alone.
        """
        if self.backbone is None:
            what = f"there are no features of it in {self.config.backbone}: python -m pipeline.cache import --help"
            yield from (Made(record, failure=what) for record in records)
            return
        from pipeline.features.encoders import make_encoder
        from pipeline.features.extract import ExtractionFailure, extract
        from pipeline.settings.device import choose_device

        under_way: dict[int, VideoRecord] = {}
        made_elsewhere: deque[VideoRecord] = deque()

        def paths() -> Iterator[Path]:
            number = 0
            for record in records:
                if self._has(dataset, record):
                    made_elsewhere.append(record)
                else:
                    under_way[number] = record
                    number += 1
                    yield record.path

        device = choose_device(self.config.device)
        encoder = make_encoder(self.backbone, device, self.config.runtime, self._networks, self.views)
        results = extract(
            paths(),
            self.backbone,
            self.sampling,
            encoder,
            views=self.views,
            workers=self.config.workers,
            timeout=self.config.video_timeout,
            on_short=self.config.on_short,
        )
        with closing(results):
            for number, result in results:
                while made_elsewhere:
                    yield Made(made_elsewhere.popleft(), made_elsewhere=True)
                record = under_way.pop(number)
                if isinstance(result, ExtractionFailure):
                    yield Made(record, failure=result.reason)
                    continue
                try:
                    for view, features in zip(self.views, result, strict=True):
                        if not self._has_view(dataset, record, view):
                            self.store.write(dataset, record.video_id, features, view)
                except NameTooLongError as error:
                    yield Made(record, failure=str(error))
                    continue
                origin = result[0].origin
                yield Made(
                    record,
                    num_frames=len(result[0].features),
                    shortfall=f"{origin.decoded_frames} of {origin.header_frames} frames decode" * origin.is_short
                    or None,
                )
        yield from (Made(record, made_elsewhere=True) for record in made_elsewhere)

    def summarize(
        self, dataset: str, made: Generator[Made, None, None], num_lacking: int, num_wanted: int
    ) -> CacheSummary:
        """Take what is made as it comes: show it, write failures down, count."""
        started = time.perf_counter()
        num_elsewhere = num_failed = num_frames = 0
        progress = Progress(total=num_lacking, unit="video", what="caching features")
        with closing(made), closing(progress):
            for video in made:
                name = video.record.video_id
                if video.failure is not None:
                    num_failed += 1
                    self.store.note_failure(dataset, name, video.record.path, video.failure)
                    progress.note(f"failed: {name}: {video.failure}")
                elif video.shortfall is not None:
                    progress.note(f"short: {name}: {video.shortfall}; kept (--on-short fail would not)")
                num_elsewhere += video.made_elsewhere
                num_frames += video.num_frames
                rate = num_frames / (time.perf_counter() - started)
                progress.advance(frames_per_s=f"{rate:.0f}", failed=num_failed)
        return CacheSummary(
            num_videos=num_wanted,
            num_cached_before=num_wanted - num_lacking,
            num_extracted=num_lacking - num_elsewhere - num_failed,
            num_made_elsewhere=num_elsewhere,
            num_failed=num_failed,
            num_frames=num_frames,
            seconds=round(time.perf_counter() - started, 2),
            store=str(self.store.folder),
        )
