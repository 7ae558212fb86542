"""A trained run, ready to recognise actions in new videos and streams."""

import dataclasses
import shlex
import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from data.objects import user_cache_folder
from data.video import Frame, VideoError
from models.backbones import Backbone, load_backbone
from models.cnn.preprocessing import VIEWS, Preprocessing, resize_and_crop
from pipeline.features.encoders import Encoder, Runtime, make_encoder
from pipeline.features.extract import ExtractionFailure, extract, make_recipe
from pipeline.features.recipe import IMPORTED, FeatureRecipe, VideoFeatures
from pipeline.features.sampling import FrameSampling
from pipeline.recognizer.bundle import Bundle, read_bundle
from pipeline.recognizer.head import Array, ClassifierHead, Head
from pipeline.recognizer.prediction import Prediction, probabilities_over_time, ranked, video_probabilities
from pipeline.recognizer.stream import Stream
from pipeline.recognizer.tempo import StreamError, Tempo
from pipeline.settings.config import ConfigError
from pipeline.settings.device import choose_device
from pipeline.store.store import NETWORKS
from pipeline.training.clips import ClipSampling
from pipeline.training.loop import load_best
from pipeline.training.run import Run


@dataclass(frozen=True, eq=False)
class Recognizer:
    """A backbone and a classifier that was trained on its features.

        recognizer = Recognizer.load("runs/demo/np_rnn-split_1-seed_0")
        prediction = recognizer.predict("clip.mp4")
        print(prediction.label, prediction.probabilities)

    Attributes:
        source: the run or the bundle that it was loaded from.
        labels: class names, in the order of the probabilities.
        sampling: the frames that it reads of a video.
        clips: the clips that it scores a video by.
        views: the views of a frame that a video's score is averaged over; a stream reads only the first.
        head: the classifier of features.
        preprocessing, encoder: turn frames into features.
        recipe: names these features in a feature store.
    """

    source: Path
    labels: tuple[str, ...]
    sampling: FrameSampling
    clips: ClipSampling
    views: tuple[str, ...]
    head: Head
    preprocessing: Preprocessing
    encoder: Encoder
    recipe: FeatureRecipe

    @classmethod
    def load(cls, source: Path | str, device: Literal["auto", "cpu", "cuda"] = "auto") -> Self:
        """Load a run folder, or a bundle that ``python -m pipeline.export`` wrote. A bundle runs on the CPU.

        Raises ``UserError`` if it can't be used on new videos.
        """
        if Path(source).is_file():
            return cls.from_bundle(read_bundle(Path(source)))
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
        recipe = make_recipe(backbone, sampling)
        run.check_recipe(recipe)
        model, labels = load_best(run, config)
        encoder = _user_encoder(backbone, chosen, config.features.runtime, views)
        clips, head = ClipSampling.from_config(config.training), ClassifierHead(model)
        return cls(run.folder, labels, sampling, clips, views, head, backbone.preprocessing, encoder, recipe)

    def predict(self, video: Path | str) -> Prediction:
        """Classify one video file, decoded in this process.

        Raises ``VideoError`` if it can't be read.
        """
        with closing(self.extract([Path(video)], workers=0)) as results:
            ((_, views),) = results
        if isinstance(views, ExtractionFailure):
            raise VideoError(views.reason)
        probabilities = ranked(self.labels, self.probabilities(views))
        times, over_time = probabilities_over_time(self.head, self.clips, views[0])
        return Prediction(next(iter(probabilities)), probabilities, times, over_time)

    def probabilities(self, views: Sequence[VideoFeatures]) -> npt.NDArray[np.float64]:
        """The class probabilities of a video, ``[num_classes]``, from its features in each of ``self.views``."""
        return video_probabilities(self.head, self.clips, views)

    def extract(
        self, videos: Iterable[Path], workers: int, timeout: float = 60.0
    ) -> Generator[tuple[int, tuple[VideoFeatures, ...] | ExtractionFailure], None, None]:
        """The features of many videos, as they become complete; see ``pipeline.features.extract.extract``."""
        return extract(
            videos,
            self.preprocessing,
            self.sampling,
            self.encoder,
            views=self.views,
            workers=workers,
            timeout=timeout,
        )

    def stream(self, fps: float | None = None, horizon: float | None = None) -> Stream:
        """Begin to read frames that arrive one by one: ``stream.push(frame)`` returns the class probabilities.

        Args:
            fps: frames per second of the stream, if it is known. It is needed for a ``horizon``, for frames that are
                pushed without times if the tempo is one of time (``fps:F``), and to count lost frames if it is one of
                frames (``every:N``).
            horizon: the most seconds that an answer depends on. ``None``: the length of the training clips.

        Raises ``StreamError`` as ``tempo`` and ``Tempo.horizon`` do.
        """
        tempo = self.tempo(fps)
        return Stream(self.encode, self.head, tempo, tempo.horizon(horizon, self.clips.frames))

    def tempo(self, fps: float | None = None) -> Tempo:
        """How often the network reads a frame of a stream with this frame rate.

        Raises ``StreamError`` if it reads frames that are spread over a whole video, which a stream does not have.
        """
        if not self.sampling.has_tempo:
            config = self.source / "config.yaml"
            dataset = "--dataset DATASET"
            like = f"--config {shlex.quote(str(config))}" if config.is_file() else dataset
            raise StreamError(
                f"{self.source} can't read a stream: its sampling {self.sampling} spreads frames over a whole video, "
                "and a stream has no end. Train a run that reads frames at a tempo, with the settings for streams: "
                f"python train.py --config configs/stream.yaml {dataset}; or with those of this run: python train.py "
                f"{like} --sampling every:2 --clip-frames 16 --name stream"
            )
        return Tempo(self.sampling, self.clips.stride, fps)

    @classmethod
    def from_bundle(cls, bundle: Bundle) -> Self:
        """The recogniser in a bundle, which turns whole frames into features.

        Nobody knows whether they are those of the recipe in the bundle, so they get a place of their own in a store.
        """
        return cls(
            source=bundle.path,
            labels=tuple(bundle.description.labels),
            sampling=bundle.sampling,
            clips=bundle.clips,
            views=bundle.views,
            head=bundle.head,
            preprocessing=bundle.preprocessing,
            encoder=bundle.encoder(),
            recipe=dataclasses.replace(bundle.recipe, weights_sha256=bundle.sha256),
        )

    def encode(self, frames: Sequence[Frame]) -> Array:
        """The features of frames: RGB uint8 ``[height, width, 3]`` each -> float32 ``[num_frames, feature_dim]``.

        They have the precision of stored features, float16.
        """
        if self.encoder.takes_whole_frames:
            features = [self.encoder.encode(self.encoder.stage(frame[None]))[:1] for frame in frames]
        else:
            features = [self.encoder.encode(resize_and_crop(frame, self.preprocessing)) for frame in frames]
        return np.concatenate(features).astype(np.float32)


def _user_encoder(backbone: Backbone, device: torch.device, runtime: Runtime, views: tuple[str, ...]) -> Encoder:
    """The backbone, ready to run. The exported network is kept in the user's cache folder.

    Not in the run's own cache: a run from somebody else does not decide where this machine writes.
    """
    try:
        return make_encoder(backbone, device, runtime, user_cache_folder() / NETWORKS, views)
    except OSError:  # no home, or a read-only one
        with tempfile.TemporaryDirectory() as folder:
            return make_encoder(backbone, device, runtime, Path(folder), views)
