"""All settings, as dataclasses. The attribute docstrings are the help texts of the command line."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from data.catalog import DataConfig
from data.errors import UserError
from data.objects import Place
from data.processes import available_cores
from models.cnn.preprocessing import VIEWS
from models.config import ModelConfig


class ConfigError(UserError):
    """A setting is unknown or unusable. The message says which one, where it is, and what is accepted."""


def _require(section: Any, requirement: str, is_met: Callable[[Any], bool], *names: str) -> None:
    """Raise ``ConfigError`` unless each named setting is ``None`` or meets the requirement."""
    for name in names:
        value = getattr(section, name)
        if value is not None and not is_met(value):
            raise ConfigError(f"{name} must be {requirement}, not {value!r}")


# What a setting may ask for. A config.yaml may come from anybody, and must not exhaust the machine that reads it.
_MOST = 10**9


def _is_finite(value: float) -> bool:
    return math.isfinite(value)


def _is_at_most(most: int) -> Callable[[int], bool]:
    return lambda value: value <= most


def _are_ascending(values: tuple[int, ...]) -> bool:
    return min(values, default=2) >= 2 and all(a < b for a, b in itertools.pairwise(values))


@dataclass(frozen=True)
class FeatureConfig:
    """How a video becomes feature vectors, and where they are stored."""

    backbone: str = "efficientnet_lite0"
    """efficientnet_lite0, a torchvision model (resnet50), a timm model (timm:vit_small_patch14_dinov2), or imported
    features (imported:NAME)"""
    weights: Path | None = None
    """local file with the backbone's weights"""
    sampling: str = "uniform:25"
    """frames taken from a video: uniform:K (K frames spread over the video), every:N (every N-th frame) or fps:F (F
    frames per second)"""
    views: int = 1
    """crops of each frame: 1 (centre), 2 (also mirrored), up to 10 (also the corners); training draws one at random,
    evaluation averages all"""
    cache: Place = Path("cache")
    """folder of the feature store, or an address in an object store (s3://bucket/prefix; docs/scale.md)"""
    on_short: Literal["keep", "fail"] = "keep"
    """what to do with a video that has fewer frames than its header says: keep those frames and record it, or fail"""
    video_timeout: float = 60.0
    """seconds without a new frame after which a video fails; this includes the time to open it"""
    runtime: Literal["auto", "onnx", "torch"] = "auto"
    """what runs the backbone: auto picks ONNX Runtime on a CPU and PyTorch on a GPU"""
    workers: int = available_cores()
    """number of decoding processes; one per available CPU core is a good choice"""
    device: str = "auto"
    """auto (a GPU if there is one), cpu or cuda; CUDA_VISIBLE_DEVICES selects the GPU"""

    def __post_init__(self) -> None:
        _require(self, "at least 1", lambda value: value >= 1, "workers", "video_timeout")
        _require(self, "at most 1024", _is_at_most(1024), "workers")
        _require(self, "finite", _is_finite, "video_timeout")
        _require(self, f"1 to {len(VIEWS)} ({', '.join(VIEWS)})", lambda value: 1 <= value <= len(VIEWS), "views")


class Stage(NamedTuple):
    """Consecutive epochs on sequences of one length."""

    length: int
    first_epoch: int
    num_epochs: int


@dataclass(frozen=True)
class TrainingConfig:
    """How the classifier is trained, and on which clips."""

    clip_frames: int | None = None
    """number of stored frames in a clip; the whole video if unset"""
    clip_stride: int = 1
    """distance between neighbouring frames of a clip, in stored frames"""
    clips_per_video: int = 10
    """clips per video in evaluation, evenly spaced; training draws one at random per epoch"""
    clip_step: int | None = None
    """in evaluation, start a clip every CLIP_STEP stored frames, instead of --clips-per-video"""
    stream_pause: int | None = None
    """train for streams: a clip is CLIP_FRAMES frames of videos one after another, from a random moment on, and every
    frame of it has a target. The first and the last frame of each video are held still for up to STREAM_PAUSE stored
    frames, in which no class is right"""
    epochs: int | None = None
    """passes over the training videos (addition, multiplication: over --steps-per-epoch new batches); if unset, 60, or
    as many as 600 steps need"""
    steps_per_epoch: int = 500
    """addition, multiplication: training steps between two validations"""
    grow_length: tuple[int, ...] = ()
    """addition, multiplication: train on sequences of these lengths, one after another; the last one is --length.
    Learning rates fall as lengths grow: twice the length, half the rate. Each length has a --schedule of its own"""
    grow_epochs: tuple[int, ...] = ()
    """number of epochs on each of these lengths, instead of --epochs"""
    batch_size: int = 32
    """clips or sequences per step"""
    learning_rate: float = 1e-3
    """peak learning rate of AdamW"""
    base_fan_in: int = 2048
    """recurrent layers with more inputs than this (features and states together) learn at --learning-rate *
    BASE_FAN_IN / inputs, because the steps of all inputs' weights add up"""
    recurrent_learning_rate: float | None = None
    """peak learning rate of the recurrent matrices; that of their layer if unset. Long sequences need a lower one,
    because a change of these weights acts once per frame"""
    adam_beta2: float = 0.999
    """decay rate of AdamW's squared-gradient average; a lower one is more stable if gradients can explode"""
    weight_decay: float = 1.0
    """weight decay of AdamW, applied to matrices only"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """learning rate schedule after a linear warm-up over the first 5 % of the steps"""
    clip_gradient: float = 1.0
    """maximum gradient norm; a very large value turns clipping off"""
    label_smoothing: float = 0.0
    """share of the target probability that is spread over all classes"""
    best_by: Literal["loss", "accuracy"] = "loss"
    """what the best epoch has the best of, in validation (addition, multiplication: always the error). The accuracy of
    few validation videos is mostly chance"""
    patience: int | None = None
    """epochs without a better validation before training stops; if unset, 20, or a third of all epochs if that is
    more"""
    amp: bool = True
    """mixed precision on a GPU; no effect on a CPU"""

    def __post_init__(self) -> None:
        counts = ("epochs", "steps_per_epoch", "batch_size", "patience", "base_fan_in")
        clips = ("clip_frames", "clip_stride", "clips_per_video", "clip_step")
        rates = ("learning_rate", "recurrent_learning_rate", "clip_gradient")
        _require(self, "at least 1", lambda value: value >= 1, *counts, *clips)
        _require(self, f"at most {_MOST:,}", _is_at_most(_MOST), *counts, *clips, "stream_pause")
        _require(self, "finite", _is_finite, *rates, "weight_decay")
        _require(self, "above 0", lambda value: value > 0, *rates)
        _require(self, "at least 0", lambda value: value >= 0, "weight_decay", "stream_pause")
        _require(self, "in [0, 1)", lambda value: 0 <= value < 1, "adam_beta2", "label_smoothing")
        _require(self, "lengths of at least 2, each longer than the one before", _are_ascending, "grow_length")
        _require(self, "numbers of at least 1", lambda value: min(value, default=1) >= 1, "grow_epochs")
        _require(self, f"at most {_MOST:,} in all", lambda value: sum(value) <= _MOST, "grow_epochs")
        if len(self.grow_length) != len(self.grow_epochs):
            raise ConfigError(
                f"grow_length has {len(self.grow_length)} numbers and grow_epochs {len(self.grow_epochs)}: give the "
                "epochs of each length"
            )
        if self.clip_step is not None and self.clip_frames is None:
            raise ConfigError("clip_step needs a clip length: set clip_frames too")
        if self.stream_pause is not None and (self.clip_frames is None or self.clip_stride > 1):
            raise ConfigError("stream_pause needs clip_frames, and a clip_stride of 1: set the tempo with sampling")

    def num_epochs(self, steps_per_epoch: int) -> int:
        """``epochs``, or the default. A small dataset has few steps per epoch, and training needs steps, not epochs."""
        if self.grow_epochs:
            return sum(self.grow_epochs)
        return self.epochs or max(60, math.ceil(600 / steps_per_epoch))

    def stage(self, epoch: int) -> Stage | None:
        """The length that an epoch's sequences have; ``None`` if lengths do not grow. No stage follows the last."""
        ends = list(itertools.accumulate(self.grow_epochs))
        for length, end, num_epochs in zip(self.grow_length, ends, self.grow_epochs, strict=True):
            if epoch < end or end == ends[-1]:
                return Stage(length, end - num_epochs, num_epochs)
        return None


@dataclass(frozen=True)
class RunConfig:
    """Which runs are made, and where they are written."""

    splits: tuple[str, ...] = ()
    """splits of the dataset, one run each; the first split if none is given"""
    seeds: tuple[int, ...] = (0,)
    """random seeds, one run each"""
    runs: Path = Path("runs")
    """parent folder: runs are written to RUNS/<dataset>/<name>"""
    name: str | None = None
    """name of the run; built from model, split and seed if unset"""
    allow_missing: bool = False
    """continue if videos have no features: skip them in training, count them as wrong answers in evaluation"""
    exclude: Path | None = None
    """file of video ids, one per line, such as the exclude.txt of python -m pipeline.audit: these videos are neither
    trained nor validated on, and the test is scored with and without them"""
    strips: int = 1000
    """number of videos whose frames the report shows, mistakes first; 0 for none"""
    resume: bool = False
    """resume an interrupted run"""
    overwrite: bool = False
    """delete an existing run and start over"""

    def __post_init__(self) -> None:
        _require(self, "at least 0", lambda value: value >= 0, "strips")
        _require(self, f"at most {_MOST:,}", _is_at_most(_MOST), "strips")
        folder_name = "a folder name (--runs sets where the folder is)"
        _require(self, folder_name, lambda value: value not in ("", ".", "..") and "/" not in value, "name")
        _require(self, "one or more numbers of at least 0", lambda value: value and min(value) >= 0, "seeds")
        _require(self, "below 2^63 each", lambda value: max(value) < 2**63, "seeds")
        _require(self, "all different", lambda value: len(set(value)) == len(value), "splits", "seeds")
        if self.resume and self.overwrite:
            raise ConfigError("--resume and --overwrite exclude each other: give one of them")


@dataclass(frozen=True)
class Config:
    """Train a classifier: cache the missing features, train, evaluate, and write the report."""

    config: Path | None = None
    """YAML file of settings; flags override it"""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    run: Annotated[RunConfig, tyro.conf.arg(name="output")] = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if (lengths := self.training.grow_length) and lengths[-1] != self.data.length:
            raise ConfigError(f"grow_length ends with {lengths[-1]}, and length is {self.data.length}: make them equal")
        if lengths and self.data.dataset not in ("addition", "multiplication"):
            raise ConfigError(f"grow_length is for addition and multiplication; {self.data.dataset} has no use for it")
        # An evaluation keeps the states of 250 sequences: 4 GB at this limit.
        if not self.data.has_video and self.data.length * self.model.hidden_size > 2**22:
            raise ConfigError(
                f"length times hidden_size must be at most {2**22:,}, not {self.data.length} * {self.model.hidden_size}"
            )
        if not self.data.has_video and self.run.exclude is not None:
            raise ConfigError(f"exclude names videos, and {self.data.dataset} has none: leave out --exclude")


@dataclass(frozen=True)
class JobConfig:
    """Which videos a caching job processes, and where it runs."""

    split: str = "all"
    """cache only the videos of this split"""
    shard: str | None = None
    """I/N: cache the I-th of N parts, counted from 0; if unset, taken from RANK and WORLD_SIZE, or SLURM_ARRAY_TASK_ID
    and SLURM_ARRAY_TASK_COUNT, if those are set"""
    frames: Path | None = None
    """write the sampled frames as JPEGs to this folder instead of caching features"""
    engine: Literal["local", "ray"] = "local"
    """run on this machine, or on all machines of a Ray cluster (docs/scale.md)"""
    ray_address: str | None = None
    """address of the Ray cluster; if unset, RAY_ADDRESS, else a cluster that runs on this machine, else a new one for
    this job"""
    ray_cpus: float = 1.0
    """CPUs per Ray worker: its number of decoding processes and of compute threads"""
    ray_gpus: float = 0.0
    """GPUs per Ray worker; several workers share a GPU if below 1"""

    def __post_init__(self) -> None:
        if self.engine == "local" and (self.ray_address, self.ray_cpus, self.ray_gpus) != (None, 1.0, 0.0):
            raise ConfigError("--ray-address, --ray-cpus and --ray-gpus are only for --engine ray")
        if self.engine == "ray" and self.frames is not None:
            raise ConfigError("--frames works on this machine only: leave out --engine ray, or use --shard")
        _require(self, "at least 0.1 and finite", lambda value: 0.1 <= value < float("inf"), "ray_cpus")
        _require(self, "0 to 1 (a worker uses one GPU or a part of it)", lambda value: 0 <= value <= 1, "ray_gpus")


@dataclass(frozen=True)
class CacheConfig:
    """Cache the features of a dataset's videos. Other commands: status, verify, gc, relink, export, import."""

    config: Path | None = None
    """YAML file of settings; flags override it"""
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    job: JobConfig = field(default_factory=JobConfig)


VALIDATION = "validation"
"""For ``--split``: each run's own validation videos."""
BASELINE = "mean"
"""The model that knows nothing of order."""


@dataclass(frozen=True)
class EvaluationOverrides:
    """Settings that an evaluation changes. What is unset stays as the run had it."""

    split: str | None = None
    """evaluate only the runs that were trained on this split; if there are none, evaluate all runs on its test videos,
    provided that they were not trained on any of these. validation: the validation videos of each run"""
    clips: int | None = None
    """clips per video"""
    clip_frames: int | None = None
    """number of stored frames in a clip"""
    strips: int | None = None
    """number of videos whose frames the report shows, mistakes first; 0 for none"""
    root: Path | None = None
    """the dataset's folder, if it has moved"""
    cache: Place | None = None
    """the feature store, if it has moved"""
    allow_missing: bool = False
    """count videos without features as wrong answers instead of stopping"""

    def apply(self, config: Config) -> Config:
        """The settings of a run with these overrides. Raises ``ConfigError`` if a value is out of range."""

        def override(section: Any, **values: Any) -> Any:
            return dataclasses.replace(section, **{key: value for key, value in values.items() if value is not None})

        allow_missing = config.run.allow_missing or self.allow_missing
        return dataclasses.replace(
            config,
            data=override(config.data, root=self.root),
            features=override(config.features, cache=self.cache),
            training=override(config.training, clips_per_video=self.clips, clip_frames=self.clip_frames),
            run=override(config.run, allow_missing=allow_missing, strips=self.strips),
        )

    def folder_name(self, config: Config) -> str:
        """The folder in the run that the evaluation is written to.

        ``evaluation`` for the run's own settings; otherwise the name lists what differs: ``evaluation-clips_4``.
        """
        run_split = config.run.splits[0] if config.run.splits else None
        parts = ["evaluation"]
        for name, value, run_value in (
            ("split", self.split, run_split),
            ("clips", self.clips, config.training.clips_per_video),
            ("clip_frames", self.clip_frames, config.training.clip_frames),
        ):
            if value is not None and value != run_value:
                parts.append(f"{name}_{value}")
        return "-".join(parts).replace("/", "_")
