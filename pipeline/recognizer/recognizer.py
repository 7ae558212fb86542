"""A trained run, ready to recognise actions in new videos and streams."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from data.video import Frame
from models.backbones import load_backbone
from models.preprocessing import VIEWS, Preprocessing, resize_and_crop
from pipeline.cache.store import NETWORKS
from pipeline.features.encoders import Encoder, make_encoder
from pipeline.features.extract import make_recipe
from pipeline.features.recipe import IMPORTED
from pipeline.features.sampling import FrameSampling
from pipeline.recognizer.head import Array, ClassifierHead, Head
from pipeline.settings.config import ConfigError, FeatureConfig
from pipeline.settings.device import choose_device
from pipeline.training.clips import ClipSampling
from pipeline.training.loop import load_best
from pipeline.training.run import Run


@dataclass(frozen=True, eq=False)
class Recognizer:
    """A backbone and a classifier that was trained on its features.

    Attributes:
        labels: class names, in the order of the probabilities.
        sampling: the frames that it reads of a video.
        clips: the clips that it scores a video by.
        views: the views of a frame that a video's score is averaged over; a stream reads only the first.
        head: the classifier of features.
        preprocessing, encoder: turn frames into features.
    """

    labels: tuple[str, ...]
    sampling: FrameSampling
    clips: ClipSampling
    views: tuple[str, ...]
    head: Head
    preprocessing: Preprocessing
    encoder: Encoder

    @classmethod
    def load(cls, source: Path | str, device: Literal["auto", "cpu", "cuda"] = "auto") -> Self:
        """Load a run folder. Raises ``UserError`` if it can't be used on new videos."""
        run, chosen = Run(Path(source)), choose_device(device)
        config = run.config()
        if not config.data.has_video:
            raise ConfigError(f"{run.folder} was trained on {config.data.dataset}, not on video. Name another run.")
        if config.features.backbone.startswith(IMPORTED):
            raise ConfigError(
                f"{run.folder} was trained on {config.features.backbone}, features from another tool, which this "
                "project can't compute for a new video. Import the features of the new videos too, and evaluate the "
                "run on them."
            )
        views, sampling = VIEWS[: config.features.views], FrameSampling.parse(config.features.sampling)
        backbone = load_backbone(config.features.backbone, config.features.weights)
        run.check_recipe(make_recipe(backbone, sampling))
        model, labels = load_best(run, config)
        # Not in the run's own cache: a run from somebody else does not decide where this machine writes.
        networks = FeatureConfig().cache / NETWORKS
        encoder = make_encoder(backbone, chosen, config.features.runtime, networks, views)
        clips = ClipSampling.from_config(config.training)
        return cls(labels, sampling, clips, views, ClassifierHead(model), backbone.preprocessing, encoder)

    def encode(self, frames: Sequence[Frame]) -> Array:
        """The features of frames: RGB uint8 ``[height, width, 3]`` each -> float32 ``[num_frames, feature_dim]``.

        They have the precision of stored features, float16.
        """
        if self.encoder.takes_whole_frames:
            features = [self.encoder.encode(self.encoder.stage(frame[None])) for frame in frames]
        else:
            features = [self.encoder.encode(resize_and_crop(frame, self.preprocessing)) for frame in frames]
        return np.concatenate(features).astype(np.float32)
