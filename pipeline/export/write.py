"""Write a bundle of a run, after it was checked on real frames."""

import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.atomic import write_atomically
from data.errors import UserError
from models.backbones import load_backbone
from models.cnn.preprocessing import resize_and_crop
from pipeline.evaluation.provenance import read_metrics
from pipeline.export.graphs import backbone_graph, step_graph
from pipeline.recognizer.bundle import (
    BACKBONE,
    CONSUMER,
    DESCRIPTION,
    FORMAT,
    HEAD,
    SAMPLE,
    SAMPLE_ARRAYS,
    SUMS,
    TOLERANCE,
    Bundle,
    answers_over_time,
    checksums,
    parse_bundle,
)
from pipeline.recognizer.head import Array
from pipeline.recognizer.recognizer import Recognizer
from pipeline.settings.parsing import to_flat
from pipeline.training.loop import load_best
from pipeline.training.run import Run

Frames = npt.NDArray[np.uint8]
SAMPLE_FRAMES = 8
THRESHOLDS = {"enter": 0.6, "leave": 0.45}
# Settings that are paths of this machine, or say how fast it is.
_LOCAL = ("root", "weights", "cache", "runs", "workers", "device", "runtime", "video_timeout", "resume", "overwrite")


class ExportError(UserError):
    """A run can't be exported, or the exported networks answer differently. The message says which."""


@dataclass(frozen=True)
class Checked:
    """What a bundle was checked on, and the largest difference of a probability from the run's."""

    num_clips: int
    num_frames: int
    difference: float


def export(run: Run, path: Path, clips: Iterable[Frames]) -> Checked:
    """Write the bundle of a run.

    Args:
        path: the zip file to write. An existing one is replaced.
        clips: frames uint8 ``[N, H, W, 3]`` to check it on; the first become its sample.

    Raises:
        ExportError: the bundle's answers differ from the run's by more than ``TOLERANCE``; nothing is written.
        UserError: the run can't be used on new videos.
    """
    reference = Recognizer.load(run.folder, device="cpu")
    iterator = iter(clips)
    first = next(iterator)
    content = _zipped(_files(run, reference, first[:SAMPLE_FRAMES]))
    checked = _check(parse_bundle(content, path), reference, chain([first], iterator))
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    return checked


def _files(run: Run, recognizer: Recognizer, frames: Frames) -> dict[str, bytes]:
    config = run.config()
    classifier, labels = load_best(run, config)
    backbone = load_backbone(config.features.backbone, config.features.weights)
    metadata = {"labels": json.dumps(labels, ensure_ascii=False), "run": run.name, "format": str(FORMAT)}
    state = {name: value.shape[1] for name, value in recognizer.head.initial_state(1).items()}
    features = _features(recognizer, frames)
    clips = recognizer.clips
    description = {
        "format": FORMAT,
        "run": run.name,
        "labels": list(labels),
        "sampling": str(recognizer.sampling),
        "clips": {"frames": clips.frames, "stride": clips.stride, "per_video": clips.per_video, "step": clips.step},
        "views": list(recognizer.views),
        "feature_dim": features.shape[1],
        "state": state,
        "horizon": clips.frames,
        "thresholds": THRESHOLDS,
        "temperature": classifier.temperature.item(),
        "recipe": json.loads(run.recipe().to_json()),
        "settings": {name: value for name, value in to_flat(config).items() if name not in _LOCAL},
        "split": run.split(),
        "metrics": read_metrics(run.evaluation),
    }
    answers = answers_over_time(recognizer.head, features[:: len(recognizer.views)])
    files = {
        BACKBONE: backbone_graph(backbone, recognizer.views, metadata),
        HEAD: step_graph(classifier, metadata),
        DESCRIPTION: (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode(errors="surrogateescape"),
        SAMPLE: _npz(dict(zip(SAMPLE_ARRAYS, (frames, features, answers), strict=True))),
        CONSUMER: (Path(__file__).parent / CONSUMER).read_bytes(),
    }
    return {**files, SUMS: checksums(files)}


def _check(bundle: Bundle, reference: Recognizer, clips: Iterable[Frames]) -> Checked:
    """Compare a bundle's probabilities after every frame with the run's. Raises ``ExportError`` if they differ."""
    num_clips = num_frames = 0
    worst, views = 0.0, len(bundle.views)
    for frames in clips:
        expected = answers_over_time(reference.head, _features(reference, frames)[::views])
        found = answers_over_time(bundle.head, bundle.encode(frames)[::views])
        difference = float(np.abs(found - expected).max())
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the exported networks give other probabilities than the run: they differ by {difference:.2g} in "
                f"clip {num_clips} of {len(frames)} frames of {frames.shape[2]} x {frames.shape[1]} pixels; at most "
                f"{TOLERANCE:g} is accepted. Nothing was written."
            )
        worst, num_clips, num_frames = max(worst, difference), num_clips + 1, num_frames + len(frames)
    return Checked(num_clips, num_frames, worst)


def _features(recognizer: Recognizer, frames: Frames) -> Array:
    """Features as the run's own path gives them, ``[N * views, feature_dim]``."""
    pixels = [resize_and_crop(frame, recognizer.preprocessing, recognizer.views) for frame in frames]
    return np.concatenate([recognizer.encoder.encode(cut) for cut in pixels]).astype(np.float32)


def _npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip file that depends on nothing but these files: no date, no compression."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = 0o644 << 16
            archive.writestr(member, data)
    return content.getvalue()
