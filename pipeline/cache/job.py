"""The feature caching job: extract the features that the store does not contain yet."""

import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from data.atomic import remove_abandoned
from data.objects import local_folder, map_places
from data.progress import Progress
from data.records import VideoRecord, require_files
from data.video_list import Selection
from models.cnn.preprocessing import VIEWS
from pipeline.features.recipe import IMPORTED, Match, Origin, VideoFeatures, imported_recipe
from pipeline.features.sampling import FrameSampling
from pipeline.settings.config import ConfigError, FeatureConfig
from pipeline.store.packed import PackedFeatures, open_packed, pack
from pipeline.store.store import NETWORKS, DamagedEntry, FeatureStore, NameTooLongError

_CLOCK_ERROR = 15 * 60.0  # seconds: S3 refuses requests from clocks that are further off


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
class VideoOutcome:
    """The result of the job for one video.

    Attributes:
        num_frames: frames whose features were stored.
        failure: why the video has no features; ``None`` if it has.
        made_elsewhere: another job stored its features in the meantime.
        shortfall: a note on a file that ends early and was kept.
    """

    record: VideoRecord
    num_frames: int = 0
    failure: str | None = None
    made_elsewhere: bool = False
    shortfall: str | None = None


Extract = Callable[[str, Sequence[VideoRecord]], Generator[VideoOutcome, None, None]]
"""Extracts and stores the features of a dataset's videos, and yields the outcome of each."""


class FeatureCache:
    """A feature store, with the backbone and the settings that fill it."""

    def __init__(self, config: FeatureConfig, read_only: bool = False) -> None:
        """Load the backbone (its weights are part of the recipe) and open the store.

        Args:
            read_only: write nothing to ``config.cache``, and extract nothing.

        Raises ``BackboneError``, ``SamplingError``, ``StoreError``, ``ConfigError``.
        """
        self._read_only = read_only
        self._loaded: dict[tuple[str, tuple[str, ...]], PackedFeatures] = {}
        self.config = config
        self.views = VIEWS[: config.views]
        self.sampling = FrameSampling.parse(config.sampling)
        if config.backbone.startswith(IMPORTED):
            self.backbone = None
            if config.views > 1:
                raise ConfigError(
                    f"--views {config.views}: imported features ({config.backbone}) have one view only. Leave out "
                    "--views"
                )
            recipe = imported_recipe(config.backbone.removeprefix(IMPORTED))
        else:
            from models.backbones import load_backbone
            from pipeline.features.extract import make_recipe

            self.backbone = load_backbone(config.backbone, config.weights)
            recipe = make_recipe(self.backbone, self.sampling)
        if read_only and not (config.cache / recipe.folder_name).is_dir():
            raise ConfigError(f"{config.cache} has no features of this recipe. {self._only_read}")
        self.store = FeatureStore(config.cache, recipe)

    def fill(
        self, dataset: str, records: Sequence[VideoRecord], extract: Extract | None = None, remedy: str = ""
    ) -> CacheSummary:
        """Extract the features that the store does not contain; each video is published as soon as it is complete.

        A video that fails is recorded in the store's ``errors.jsonl`` with the reason, and the job continues. Imported
        features can't be extracted: videos without them fail, and are counted only.

        Args:
            extract: extracts and stores the features (default: ``self.extract``).
            remedy: what to do if video files are missing; ends the error message.

        Raises ``DatasetError`` before it starts if a video to extract has no file, and ``StoreError`` if the store
        can't be written or an import was interrupted.
        """
        self.store.check_import(dataset)
        self.store.remove_abandoned()
        remove_abandoned(self._networks)
        missing = self._missing(dataset, records)
        if not missing:
            return self._nothing_to_do(len(records))
        if self.backbone is None:
            summary = self._nothing_to_do(len(records))
            return replace(summary, num_cached_before=len(records) - len(missing), num_failed=len(missing))
        require_files(missing, remedy)
        # Jobs that share a store rarely extract the same video if each takes its own order.
        outcomes = (extract or self.extract)(dataset, missing.shuffled())
        return self._summarize(dataset, outcomes, len(missing), len(records))

    def load(
        self, dataset: str, records: Sequence[VideoRecord], remedy: str = ""
    ) -> tuple[PackedFeatures, CacheSummary]:
        """The features of the videos. Missing and damaged ones are extracted first, as by ``fill``.

        Returns:
            the features of all videos except those that failed; and a summary of the extraction.
        """
        self.store.check_import(dataset)
        packed = open_packed(self.store, dataset, [record.video_id for record in records], self.views)
        if packed is not None and all(
            self._is_usable(record, packed.videos[record.video_id].origin) for record in records
        ):
            return packed, self._nothing_to_do(len(records))
        if self._read_only:
            return self._in_memory(dataset, records), self._nothing_to_do(len(records))
        summary = self.fill(dataset, records, remedy=remedy)
        packed, damaged = self._pack(dataset, records, summary.num_failed)
        if damaged:
            second = self.fill(dataset, [record for record in records if record.video_id in damaged], remedy=remedy)
            summary = replace(
                summary,
                num_cached_before=summary.num_cached_before - len(damaged),
                num_extracted=summary.num_extracted + second.num_extracted,
                num_made_elsewhere=summary.num_made_elsewhere + second.num_made_elsewhere,
                num_failed=summary.num_failed + second.num_failed,
                num_frames=summary.num_frames + second.num_frames,
                seconds=summary.seconds + second.seconds,
            )
            packed, _ = self._pack(dataset, records, summary.num_failed)
        return packed, summary

    def load_once(self, dataset: str, records: Sequence[VideoRecord], remedy: str = "") -> PackedFeatures:
        """The features of the videos, as ``load`` returns them, kept for the next call with the same videos."""
        key = (dataset, tuple(record.video_id for record in records))
        if key not in self._loaded:
            self._loaded[key], _ = self.load(dataset, records, remedy)
        return self._loaded[key]

    def _in_memory(self, dataset: str, records: Sequence[VideoRecord]) -> PackedFeatures:
        """The intact features that the store contains; nothing is written or removed."""

        def read(record: VideoRecord) -> list[VideoFeatures]:
            if self._is_stored(dataset, record):
                with suppress(DamagedEntry):
                    views = [self.store.read(dataset, record.video_id, view) for view in self.views]
                    return [view for view in views if view is not None]
            return []

        found = zip(records, map_places(self.store.folder, read, records), strict=True)
        return PackedFeatures.in_memory({record.video_id: views for record, views in found if views}, self.views)

    @property
    def _only_read(self) -> str:
        return (
            "It is only read, because a run does not decide where an evaluation writes. To extract what is missing, "
            f"name the store: --cache {self.config.cache}"
        )

    def advice(self, dataset: str) -> str:
        """What to do about videos of the dataset that have no features."""
        if self._read_only:
            return self._only_read
        if self.backbone is None:
            name = self.config.backbone.removeprefix(IMPORTED)
            return f"Import them (python -m pipeline.cache import --name {name} --from DIR)"
        return f"Fix or remove them ({self.store.errors_path(dataset)} says why)"

    def _nothing_to_do(self, num_videos: int) -> CacheSummary:
        return CacheSummary(num_videos, num_videos, store=str(self.store.folder))

    def _pack(self, dataset: str, records: Sequence[VideoRecord], num_failed: int) -> tuple[PackedFeatures, set[str]]:
        """The features that the store contains, packed; and the ids of videos with damaged entries."""
        missing = {record.video_id for record in (self._missing(dataset, records) if num_failed else ())}
        stored = [record.video_id for record in records if record.video_id not in missing]
        packed = open_packed(self.store, dataset, stored, self.views)
        damaged: list[str] = []
        if packed is None:
            packed, damaged = pack(self.store, dataset, stored, self.views)
        return packed, {*damaged, *self._discard_changed(dataset, records, packed)}

    def _discard_changed(self, dataset: str, records: Sequence[VideoRecord], packed: PackedFeatures) -> list[str]:
        """Remove objects of other files than the videos, which ``_missing`` can overlook; the ids of these videos."""
        if isinstance(self.store.folder, Path):
            return []
        packed_records = [record for record in records if record.video_id in packed.videos]
        changed = [r.video_id for r in packed_records if not self._is_usable(r, packed.videos[r.video_id].origin)]
        for video_id in changed:
            for view in self.views:
                self.store.remove(dataset, video_id, view)
        return changed

    def _missing(self, dataset: str, records: Sequence[VideoRecord]) -> Selection:
        """The videos of which the store lacks a view.

        Objects are listed, a thousand per request. One is looked into only if the video file has changed since it was
        written, or if short videos are not accepted.
        """
        if isinstance(self.store.folder, Path):
            return Selection.of(records, (not self._is_stored(dataset, record) for record in records))
        video_ids = {record.video_id for record in records}
        views = [self.store.listed(dataset, video_ids, view) for view in self.views]
        listed = {record for record in records if all(record.video_id in view for view in views)}
        doubtful = [
            record
            for record in records
            if record in listed
            and (
                self.config.on_short == "fail"
                or _changed_since(record.path, min(view[record.video_id].written for view in views))
            )
        ]
        stored = map_places(self.store.folder, partial(self._is_stored, dataset), doubtful)
        listed -= {record for record, is_stored in zip(doubtful, stored, strict=True) if not is_stored}
        return Selection.of(records, (record not in listed for record in records))

    def _is_stored(self, dataset: str, record: VideoRecord) -> bool:
        return all(self._is_view_stored(dataset, record, view) for view in self.views)

    def _is_view_stored(self, dataset: str, record: VideoRecord, view: str) -> bool:
        origin = self.store.origin(dataset, record.video_id, view)
        return origin is not None and self._is_usable(record, origin)

    def _is_usable(self, record: VideoRecord, origin: Origin) -> bool:
        """Whether features are usable: the video file has not changed since, and ``on_short`` allows its length."""
        if origin.is_short and self.config.on_short == "fail":
            return False
        return origin.match(record.path) is not Match.OTHER

    @property
    def _networks(self) -> Path:
        return local_folder(self.config.cache) / NETWORKS

    def extract(self, dataset: str, records: Iterable[VideoRecord]) -> Generator[VideoOutcome, None, None]:
        """Extract and store the features of videos, and yield their outcomes in order of completion.

        Args:
            records: read lazily, a few videos ahead. A video that is in the store by its turn is skipped.
        """
        assert self.backbone is not None
        from pipeline.features.encoders import make_encoder
        from pipeline.features.extract import ExtractionFailure, extract
        from pipeline.settings.device import choose_device

        in_progress: dict[int, VideoRecord] = {}
        made_elsewhere: deque[VideoRecord] = deque()

        def look_up(record: VideoRecord) -> tuple[VideoRecord, bool]:
            return record, self._is_stored(dataset, record)

        def paths() -> Iterator[Path]:
            number = 0
            for record, is_stored in map_places(self.store.folder, look_up, records):
                if is_stored:
                    made_elsewhere.append(record)
                else:
                    in_progress[number] = record
                    number += 1
                    yield record.path

        device = choose_device(self.config.device)
        encoder = make_encoder(self.backbone, device, self.config.runtime, self._networks, self.views)
        results = extract(
            paths(),
            self.backbone.preprocessing,
            self.sampling,
            encoder,
            views=self.views,
            workers=self.config.workers,
            timeout=self.config.video_timeout,
            on_short=self.config.on_short,
        )

        def keep(numbered: tuple[int, tuple[VideoFeatures, ...] | ExtractionFailure]) -> VideoOutcome:
            number, result = numbered
            record = in_progress.pop(number)
            if isinstance(result, ExtractionFailure):
                return VideoOutcome(record, failure=result.reason)
            try:
                for view, features in zip(self.views, result, strict=True):
                    if not self._is_view_stored(dataset, record, view):
                        self.store.write(dataset, record.video_id, features, view)
            except NameTooLongError as error:
                return VideoOutcome(record, failure=str(error))
            origin = result[0].origin
            shortfall = None
            if origin.is_short:
                shortfall = f"{origin.decoded_frames} of {origin.header_frames} frames decode"
            return VideoOutcome(record, num_frames=len(result[0].features), shortfall=shortfall)

        with closing(results), closing(map_places(self.store.folder, keep, results)) as outcomes:
            for outcome in outcomes:
                while made_elsewhere:
                    yield VideoOutcome(made_elsewhere.popleft(), made_elsewhere=True)
                yield outcome
        yield from (VideoOutcome(record, made_elsewhere=True) for record in made_elsewhere)

    def _summarize(
        self, dataset: str, outcomes: Generator[VideoOutcome, None, None], num_missing: int, num_videos: int
    ) -> CacheSummary:
        """Consume the outcomes: show progress, record failures, count."""
        started = time.perf_counter()
        num_elsewhere = num_failed = num_frames = 0
        progress = Progress(total=num_missing, unit="video", what="caching features")
        with closing(outcomes), closing(progress):
            for outcome in outcomes:
                video_id = outcome.record.video_id
                if outcome.failure is not None:
                    num_failed += 1
                    self.store.note_failure(dataset, video_id, outcome.record.path, outcome.failure)
                    progress.note(f"failed: {video_id}: {outcome.failure}")
                elif outcome.shortfall is not None:
                    progress.note(f"short: {video_id}: {outcome.shortfall}; kept (--on-short fail rejects such videos)")
                num_elsewhere += outcome.made_elsewhere
                num_frames += outcome.num_frames
                rate = num_frames / (time.perf_counter() - started)
                progress.advance(frames_per_s=f"{rate:.0f}", failed=num_failed)
        return CacheSummary(
            num_videos=num_videos,
            num_cached_before=num_videos - num_missing,
            num_extracted=num_missing - num_elsewhere - num_failed,
            num_made_elsewhere=num_elsewhere,
            num_failed=num_failed,
            num_frames=num_frames,
            seconds=round(time.perf_counter() - started, 2),
            store=str(self.store.folder),
        )


def _changed_since(path: Path, written: float) -> bool:
    """Whether a file may have changed after a time of the object store's clock. A file that is missing has not."""
    with suppress(OSError):
        return path.stat().st_ctime > written - _CLOCK_ERROR
    return False
