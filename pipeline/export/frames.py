"""Frames to check a bundle on: of the run's test videos, or of made ones where there are none."""

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.catalog import DataConfig, load_dataset
from data.demo.dataset import DemoVideo, draw_frames, require_rendered
from data.errors import UserError
from pipeline.features.readers import Frames, read_videos
from pipeline.features.sampling import FrameSampling
from pipeline.training.run import Run

NUM_CLIPS, CLIP_FRAMES = 20, 16


def find_videos(run: Run, root: Path | None) -> tuple[list[Path], str]:
    """Test videos of a run that are on the disk, at most ``NUM_CLIPS``, and why there are none, if so.

    Args:
        root: the dataset's folder, if it has moved.
    """
    config, listed = run.config(), (run.split() or {}).get("test", [])
    data = config.data if root is None else dataclasses.replace(config.data, root=root)
    try:
        if data.dataset == "demo":
            # Loading a demo dataset would render it.
            require_rendered(data if data.root is not None else dataclasses.replace(data, root=Path("datasets/demo")))
        paths = _paths(data, {entry[0] for entry in listed}, config.run.splits[0])
    except (OSError, UserError, LookupError, TypeError) as error:
        return [], str(error)
    if not paths:
        return [], f"no test video of {run.folder} is in {data.root or 'its folder'}"
    chosen = np.linspace(0, len(paths) - 1, min(NUM_CLIPS, len(paths))).round().astype(int)
    return [paths[number] for number in chosen], ""


def _paths(data: DataConfig, listed: set[str], split: str) -> list[Path]:
    dataset = load_dataset(data)
    videos = [video for video in dataset.videos if video.video_id in listed] or dataset.split(split).test
    return [video.path for video in videos if video.path.is_file()]


def read_clips(videos: list[Path]) -> Iterator[npt.NDArray[np.uint8]]:
    """``CLIP_FRAMES`` whole frames of each video that can be read, uint8 ``[n, H, W, 3]``."""
    sampling = FrameSampling("uniform", CLIP_FRAMES)
    blocks: dict[int, list[npt.NDArray[np.uint8]]] = {}
    with closing(read_videos(videos, sampling, None, workers=1, timeout=60.0)) as events:
        for event in events:
            if isinstance(event, Frames):
                blocks.setdefault(event.job, []).append(event.pixels)
            elif (found := blocks.pop(event.job, None)) is not None:
                # A video's frame size may change half-way.
                yield np.concatenate([block for block in found if block.shape[1:] == found[0].shape[1:]])


def made_clips() -> Iterator[npt.NDArray[np.uint8]]:
    """The same of ``NUM_CLIPS`` videos of the demo dataset, drawn in memory."""
    for number in range(NUM_CLIPS):
        frames = draw_frames(DemoVideo(number % 4, number % 2 == 1, 1 + number // 4, 1), seed=0)
        chosen = FrameSampling("uniform", CLIP_FRAMES).indices(len(frames))
        yield np.stack([frames[index][..., ::-1] for index in chosen])
