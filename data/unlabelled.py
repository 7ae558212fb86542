"""Videos of which nothing is known, in any folders: to cache their features, not to train on."""

from data.catalog import DataConfig
from data.folder import VIDEO_EXTENSIONS, store_name_of, walk
from data.records import DatasetError, VideoDataset, VideoRecord


def load(config: DataConfig) -> VideoDataset:
    """Every video below ``config.root``, without a split. Hidden files and folders are left out.

    Its features are those of ``--dataset folder`` on the same root: labels given later find them cached.

    Raises ``DatasetError`` where there is no video.
    """
    root = config.root_or("unlabelled")
    if not root.is_dir():
        raise DatasetError(f"looked for videos in {root}, which is no folder. Name one with --root.")
    paths = sorted(path for path in walk(root) if path.suffix.lower() in VIDEO_EXTENSIONS)
    if not paths:
        raise DatasetError(f"no video in {root}. Looked for the endings {' '.join(sorted(VIDEO_EXTENSIONS))}.")
    videos = tuple(VideoRecord(path.relative_to(root).as_posix(), path, label=0, group="") for path in paths)
    resolved = root.resolve()
    return VideoDataset(resolved.name or "unlabelled", store_name_of(root), ("unlabelled",), videos, {})
