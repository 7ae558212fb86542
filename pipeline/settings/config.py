"""Everything that can be set. Where it is set, ``config_io.py`` says."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from data.catalog import DataConfig
from data.errors import UserError
from models.config import ModelConfig
from models.preprocessing import VIEWS


class ConfigError(UserError):
    """A setting is unknown or can't be used. The message says which, where, and what would do."""


@dataclass(frozen=True)
class FeatureConfig:
    """How a video becomes feature vectors, and where they are kept."""

    backbone: str = "efficientnet_lite0"
    """efficientnet_lite0, a torchvision model (resnet50), a timm model (timm:vit_small_patch14_dinov2), or features
    that another tool made (imported:NAME)"""
    weights: Path | None = None
    """local weights for the backbone"""
    sampling: str = "uniform:25"
    """frames of a video: uniform:K over the whole video, or every:N"""
    views: int = 1
    """how each frame is seen: 1: its centre; 2: also mirrored; up to 10: also its corners. Training draws one view at
    random, evaluation averages all"""
    cache: Path = Path("cache")
    """the feature store"""
    on_short: Literal["keep", "fail"] = "keep"
    """a video with fewer frames than its header says: keep what there is (and record it), or count it as failed"""
    video_timeout: float = 60.0
    """seconds without a new frame, also while it is opened, after which a video is given up and its reader replaced"""
    runtime: Literal["auto", "onnx", "torch"] = "auto"
    """what runs the backbone: ONNX Runtime (auto on a CPU) or PyTorch (auto on a GPU)"""
    workers: int = len(os.sched_getaffinity(0))
    """processes that decode (default: as many as cores that this process may use)"""
    device: str = "auto"
    """auto (a GPU where there is one), cpu or cuda"""

    def __post_init__(self) -> None:
        for name in ("workers", "video_timeout"):
            if not getattr(self, name) >= 1:
                raise ConfigError(f"{name} is at least 1, not {getattr(self, name)}")
        if not 1 <= self.views <= len(VIEWS):
            raise ConfigError(f"views is 1 to {len(VIEWS)}, not {self.views}: {', '.join(VIEWS)}")


@dataclass(frozen=True)
class TrainingConfig:
    """How a classifier is trained."""

    clip_frames: int | None = None
    """stored frames that one forward pass sees (default: the whole video)"""
    clip_stride: int = 1
    """distance between neighbouring frames of a clip, in stored frames"""
    clips_per_video: int = 10
    """clips of each video in evaluation, evenly spread; training draws one at random per epoch"""
    clip_step: int | None = None
    """evaluate on dense clips, one every so many stored frames, instead of --clips-per-video"""
    epochs: int = 60
    """passes over the training videos (addition, multiplication: --steps-per-epoch fresh batches)"""
    steps_per_epoch: int = 500
    """addition, multiplication: batches from one validation to the next"""
    batch_size: int = 32
    """clips, or sequences, per step"""
    learning_rate: float = 1e-3
    """of AdamW, at its height"""
    recurrent_learning_rate: float | None = None
    """of the recurrent matrices, at its height (default: learning_rate); each of their steps counts once per frame, so
    long sequences want less"""
    adam_beta2: float = 0.999
    """of AdamW: how slowly it forgets the size of past gradients; lower is steadier where they can explode"""
    weight_decay: float = 1e-4
    """of AdamW, on matrices only"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """of the learning rate, after a linear warm-up over the first 5 %% of the steps"""
    clip_gradient: float = 1.0
    """largest norm of the gradient (a very large one: never clipped)"""
    label_smoothing: float = 0.0
    """share of the target given to the other classes"""
    patience: int = 20
    """epochs without a better validation accuracy (addition, multiplication: error) after which training stops"""
    amp: bool = True
    """mixed precision on a GPU (never on a CPU)"""

    def __post_init__(self) -> None:
        at_least_one = ("epochs", "steps_per_epoch", "batch_size", "patience")
        of_clips = ("clip_frames", "clip_stride", "clips_per_video", "clip_step")
        for name in at_least_one + of_clips:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.clip_step is not None and self.clip_frames is None:
            raise ConfigError("clip_step slides a clip over the video: give clip_frames too")
        if not 0 <= self.adam_beta2 < 1:
            raise ConfigError(f"adam_beta2 lies in [0, 1), not {self.adam_beta2}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing lies in [0, 1), not {self.label_smoothing}")
        if not self.weight_decay >= 0:
            raise ConfigError(f"weight_decay is at least 0, not {self.weight_decay}")
        for name in ("learning_rate", "recurrent_learning_rate", "clip_gradient"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f"{name} is above 0, not {getattr(self, name)}")


@dataclass(frozen=True)
class RunConfig:
    """Which runs are made, and what becomes of those there are."""

    splits: tuple[str, ...] = ()
    """which of the dataset's splits, one run each (default: its first)"""
    seeds: tuple[int, ...] = (0,)
    """one run each"""
    runs: Path = Path("runs")
    """runs lie in RUNS/<dataset>/<name>"""
    name: str | None = None
    """name of the run (default: model, split and seed)"""
    allow_missing: bool = False
    """go on where videos have no features: not trained on, and wrong answers in evaluation"""
    strips: int = 1000
    """videos whose frames the report shows, mistakes first (0: none)"""
    resume: bool = False
    """go on with an interrupted run"""
    overwrite: bool = False
    """begin an existing run anew"""

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise ConfigError("--resume goes on with a run, --overwrite begins it anew: give one of them")
        if self.name is not None and (self.name in ("", ".", "..") or "/" in self.name):
            raise ConfigError(f"name is the name of one folder, not {self.name!r}; where runs lie is set by runs")
        for name, values in (("splits", self.splits), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ConfigError(f"{name} names one twice: {' '.join(map(str, values))}")
        if self.strips < 0:
            raise ConfigError(f"strips is at least 0, not {self.strips}")
        if not self.seeds or min(self.seeds) < 0:
            raise ConfigError(f"seeds are one or more numbers of at least 0, not {list(self.seeds)}")


@dataclass(frozen=True)
class Config:
    """Train a classifier on cached features: caches what is missing, trains, evaluates, writes the report."""

    config: Path | None = None
    """YAML file of settings; flags go over it"""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    features: Annotated[FeatureConfig, tyro.conf.arg(name="")] = field(default_factory=FeatureConfig)
    model: Annotated[ModelConfig, tyro.conf.arg(name="")] = field(default_factory=ModelConfig)
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)


@dataclass(frozen=True)
class JobConfig:
    """Which videos a caching job takes, and where it runs."""

    split: str = "all"
    """cache the videos of this split only"""
    shard: str | None = None
    """I/N: cache the I-th of N parts, from 0 (default: RANK/WORLD_SIZE or SLURM_ARRAY_TASK_ID/COUNT, where set)"""
    frames: Path | None = None
    """write the sampled frames as JPEGs into this folder, and no features"""
    engine: Literal["local", "ray"] = "local"
    """this machine, or all machines of a Ray cluster (docs/scale.md)"""
    ray_address: str | None = None
    """of the cluster (default: RAY_ADDRESS, or the cluster that runs here, or one of this machine for this job)"""
    ray_cpus: float = 1.0
    """CPUs of one worker: it decodes on so many processes, and computes on so many threads"""
    ray_gpus: float = 0.0
    """GPU of one worker; less than 1: several share one"""

    def __post_init__(self) -> None:
        if self.engine == "local" and (self.ray_address, self.ray_cpus, self.ray_gpus) != (None, 1.0, 0.0):
            raise ConfigError("--ray-address, --ray-cpus and --ray-gpus are for --engine ray")
        if self.engine == "ray" and self.frames is not None:
            raise ConfigError("--frames is written by this machine only: leave out --engine ray, or divide by --shard")
        if not 0.1 <= self.ray_cpus < float("inf"):
            raise ConfigError(f"ray_cpus is at least 0.1, not {self.ray_cpus}")
        if not 0 <= self.ray_gpus <= 1:
            raise ConfigError(f"ray_gpus is 0 to 1, not {self.ray_gpus}: a worker uses one GPU, or a part of it")


@dataclass(frozen=True)
class CacheConfig:
    """Cache the features of a dataset's videos. Other commands: status, verify, gc, export, import."""

    config: Path | None = None
    """YAML file of settings; flags go over it"""
    data: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    features: Annotated[FeatureConfig, tyro.conf.arg(name="")] = field(default_factory=FeatureConfig)
    job: Annotated[JobConfig, tyro.conf.arg(name="")] = field(default_factory=JobConfig)


VALIDATION = "validation"
"""For ``--split``: each run's own validation videos."""
BASELINE = "mean"
"""The model that knows nothing of order."""


@dataclass(frozen=True)
class EvaluationOverrides:
    """What an evaluation may set otherwise than the run did; ``None`` leaves the run's own."""

    split: str | None = None
    """of the runs, those trained on this split; where none was, all of them, on its test videos (if they were not
    trained on any of these). validation: each run's own validation videos"""
    clips: int | None = None
    """clips of each video"""
    clip_frames: int | None = None
    """stored frames of a clip"""
    strips: int | None = None
    """videos whose frames the report shows, mistakes first (0: none)"""
    root: Path | None = None
    """the dataset's folder, where it has moved"""
    cache: Path | None = None
    """the feature store, where it has moved"""
    allow_missing: bool = False
    """count videos without features as wrong answers instead of stopping"""

    def apply(self, config: Config) -> Config:
        def replaced(section: Any, **values: Any) -> Any:
            return dataclasses.replace(section, **{key: value for key, value in values.items() if value is not None})

        return dataclasses.replace(
            config,
            data=replaced(config.data, root=self.root),
            features=replaced(config.features, cache=self.cache),
            training=replaced(config.training, clips_per_video=self.clips, clip_frames=self.clip_frames),
            run=replaced(config.run, allow_missing=self.allow_missing or None, strips=self.strips),
        )

    def folder_name(self, config: Config) -> str:
        """Of the evaluation of a run of these settings: ``evaluation``, or one that says what is not the run's own."""
        asked: dict[str, tuple[object, object]] = {
            "split": (self.split, config.run.splits[0] if config.run.splits else None),
            "clips": (self.clips, config.training.clips_per_video),
            "clip_frames": (self.clip_frames, config.training.clip_frames),
        }
        parts = [f"{name}_{value}" for name, (value, own) in asked.items() if value is not None and value != own]
        return "-".join(["evaluation", *parts]).replace("/", "_")
