"""Features of new videos that are kept in a feature store, so that they are decoded once."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from data.identity import identify
from data.objects import Place
from pipeline.features.extract import ExtractionFailure
from pipeline.features.recipe import VideoFeatures
from pipeline.recognizer.recognizer import Recognizer
from pipeline.store.store import DamagedEntry, FeatureStore

DATASET = "predict"
"""The folder in the store. Its videos are named by their content, so that they are found wherever they lie."""

Result = tuple[int, tuple[VideoFeatures, ...] | ExtractionFailure]


def extract_and_keep(
    recognizer: Recognizer, videos: Sequence[Path], cache: Place, workers: int, timeout: float
) -> Generator[Result, None, None]:
    """``Recognizer.extract``, but videos whose features are in the store at ``cache`` are not decoded.

    Raises ``StoreError`` if the store can't be read or written.
    """
    store = FeatureStore(cache, recognizer.recipe)
    store.remove_abandoned()
    stored: deque[tuple[int, str]] = deque()
    positions: list[int] = []

    def missing() -> Iterator[Path]:
        for position, video in enumerate(videos):
            video_id = _content(video)
            if video_id is not None and _read(store, video_id, recognizer.views) is not None:
                stored.append((position, video_id))
            else:
                positions.append(position)
                yield video

    def read_stored() -> Iterator[Result]:
        while stored:
            position, video_id = stored.popleft()
            views = _read(store, video_id, recognizer.views)
            yield position, views or ExtractionFailure(f"its features were removed from {store.folder} meanwhile")

    with closing(recognizer.extract(missing(), workers, timeout)) as results:
        for number, views in results:
            yield from read_stored()
            if not isinstance(views, ExtractionFailure):
                for name, features in zip(recognizer.views, views, strict=True):
                    store.write(DATASET, features.origin.source_digest, features, name)
            yield positions[number], views
    yield from read_stored()


def _content(video: Path) -> str | None:
    """A digest of the file; ``None`` if it can't be read, as the extraction will say."""
    with suppress(OSError):
        return identify(video).digest
    return None


def _read(store: FeatureStore, video_id: str, views: Sequence[str]) -> tuple[VideoFeatures, ...] | None:
    """The features of a video in all views; ``None`` if some are missing or damaged."""
    with suppress(DamagedEntry):
        found = [store.read(DATASET, video_id, view) for view in views]
        if all(found):
            return tuple(view for view in found if view is not None)
    return None
