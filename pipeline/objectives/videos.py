"""Classification of videos from their cached features."""

import dataclasses
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.records import DatasetError, Split, VideoDataset, VideoRecord
from models.classifier import SequenceClassifier
from models.features import power_normalize
from pipeline.cache.job import FeatureCache
from pipeline.cache.relink import locate
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.properties import Look, look_at, motion_in, video_properties
from pipeline.evaluation.provenance import digest, read_metrics, read_provenance
from pipeline.evaluation.scoring import ORDERS, predict, read_whole_videos
from pipeline.evaluation.slices import Property
from pipeline.evaluation.spectra import spectra
from pipeline.features.recipe import FeatureRecipe
from pipeline.objectives.classification import class_validation, cross_entropy
from pipeline.objectives.exclusion import describe_exclusion, read_excluded, without_excluded
from pipeline.objectives.lists import excluded_in, from_json, require_all, to_json, videos_to_score
from pipeline.objectives.streams import stepwise_cross_entropy, stream_validation
from pipeline.objectives.task import Variant
from pipeline.objectives.wording import group_warning, long_clip_warning, split_parts, split_table, summary
from pipeline.reports.strips import make_strips
from pipeline.settings.config import BASELINE, Config, EvaluationOverrides
from pipeline.store.packed import PackedFeatures
from pipeline.training.batches import (
    Batch,
    FeatureTable,
    num_training_batches,
    training_batches,
)
from pipeline.training.clips import ClipSampling
from pipeline.training.objective import Outcome, Validation
from pipeline.training.run import Run
from pipeline.training.streams import num_stream_batches, stream_batches

_VALIDATION_WINDOWS = 4  # for streams: windows that begin in each validation video, the same ones after every epoch


class VideoTask:
    """A dataset of videos. Its features are cached when they are first needed."""

    def __init__(
        self,
        dataset: VideoDataset,
        open_cache: Callable[[], FeatureCache],
        device: torch.device,
        allow_missing: bool = False,
    ) -> None:
        """Make a task.

        Args:
            open_cache: opens the feature cache. It is called late, because it loads the backbone.
            allow_missing: accept videos without features.
        """
        self.name, self.dataset, self.device = dataset.name, dataset, device
        self._open_cache, self.allow_missing = open_cache, allow_missing
        self._opened = time.perf_counter()
        self._looks: dict[str, Look | None] = {}

    @cached_property
    def cache(self) -> FeatureCache:
        return self._open_cache()

    @cached_property
    def recipe(self) -> FeatureRecipe:
        """How the features are made; imported ones are told apart by their contents. Raises as ``features`` does."""
        recipe = self.cache.store.recipe
        return dataclasses.replace(recipe, contents=self.features.digests()) if recipe.is_imported else recipe

    @cached_property
    def features(self) -> PackedFeatures:
        """The features of all videos except those that failed.

        Raises ``DatasetError`` if videos failed and ``allow_missing`` is not set, or if all failed.
        """
        dataset, folder = self.dataset, locate(self.cache.store, self.dataset)
        packed = self.cache.load_once(folder, dataset.videos, dataset.remedy)
        failed = [record.video_id for record in dataset.videos if record.video_id not in packed.videos]
        if failed and (not self.allow_missing or not packed.videos):
            raise DatasetError(
                f"{len(failed)} of {len(dataset.videos)} videos have no features ({', '.join(failed[:3])}"
                f"{' ...' if len(failed) > 3 else ''}). {self.cache.advice(folder)}, or continue with "
                "--allow-missing: then they are not trained on and count as wrong answers."
            )
        return packed

    def properties(self, table: FeatureTable) -> list[Property]:
        """What slices are made by. Each video file is opened once, however many runs are evaluated."""
        origins = {record.video_id: self.features.videos[record.video_id].origin for record in table.records}
        new = [record for record in table.records if record.video_id not in self._looks]
        self._looks |= look_at(new, origins)
        return video_properties(origins, motion_in(table), self._looks)

    def variants(self, splits: Sequence[str]) -> list[Variant]:
        return [Variant(f"split_{split.name}", (split.name,)) for split in self._chosen(splits)]

    def _chosen(self, splits: Sequence[str]) -> list[Split]:
        if not self.dataset.splits:
            raise DatasetError(
                f"{self.name} has no labels, so there is nothing to train on. Use --dataset folder for labelled videos."
            )
        return [self.dataset.split(name) for name in splits or list(self.dataset.splits)[:1]]

    def describe(self, splits: Sequence[str]) -> str:
        """The size of each split as a table, and a warning where the videos have no groups."""
        parts = [split_table(split) for split in self._chosen(splits)]
        if warning := group_warning(self.dataset.videos):
            parts.append(warning)
        return "\n".join(parts)

    def prepare(self) -> int:
        num_missing = sum(record.video_id not in self.features.videos for record in self.dataset.videos)
        without = f", {num_missing} videos have none" if num_missing else ""
        print(f"{self.name}: features ready after {time.perf_counter() - self._opened:.1f} s{without}", file=sys.stderr)
        return num_missing

    def objective(
        self, config: Config, overrides: EvaluationOverrides | None = None, saved: Mapping[str, Any] | None = None
    ) -> "VideoClassification":
        return VideoClassification(self, config, overrides or EvaluationOverrides(), saved)


class VideoClassification:
    """Video classification: cross-entropy, on one random clip of each training video per epoch.

    With ``stream_pause``, on one window of a made stream that begins in each training video, at every step of it.
    """

    has_classes = True

    def __init__(
        self,
        task: VideoTask,
        config: Config,
        overrides: EvaluationOverrides,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        """Make an objective.

        Args:
            config: the run's settings; ``overrides`` go on top of them.
            saved: the run's ``split.json``; ``None``: the lists are those of the dataset.

        Raises:
            DatasetError: the dataset has no such split, its classes are not those of ``saved``, or the file of excluded
                videos can't be used.
        """
        self.config, self.overrides = overrides.apply(config), overrides
        self.evaluation_name = overrides.folder_name(config)
        (split,), (self._seed,) = config.run.splits, config.run.seeds
        self._task = task
        self._saved = saved
        self._split = task.dataset.split(split) if saved is None else from_json(saved, task.dataset)
        self._excluded = excluded_in(saved)
        if saved is None and config.run.exclude is not None:
            self._excluded = read_excluded(config.run.exclude, task.dataset)
            self._split = without_excluded(self._split, self._excluded)
        self._clips = ClipSampling.from_config(self.config.training)
        self.outputs = task.dataset.classes

    @cached_property
    def _training(self) -> FeatureTable:
        table = self._trained_on("training")
        if table is None:
            raise DatasetError(f"split {self._split.name} of {self._task.name} has no training video with features.")
        if self._saved is None and (file := self.config.run.exclude):
            print(describe_exclusion(file, self._task.dataset.split(self._split.name), self._excluded), file=sys.stderr)
        if warning := long_clip_warning(table, self._clips):
            print(warning, file=sys.stderr)
        return table

    @cached_property
    def _validation(self) -> FeatureTable | None:
        return self._trained_on("validation")

    def _trained_on(self, part: str) -> FeatureTable | None:
        records = self._split.train if part == "training" else self._split.validation
        if self._saved is not None:
            remedy = "Restore them, or train a new run (--name)."
            require_all(f"{part} videos", records, self._task.features.videos, remedy)
        return self._table(records)

    @property
    def split(self) -> dict[str, Any]:
        """The lists for the run's ``split.json``. Videos without features are tested on, but not trained on."""
        videos = self._task.features.videos
        train, validation = (
            tuple(record for record in part if record.video_id in videos)
            for part in (self._split.train, self._split.validation)
        )
        split = dataclasses.replace(self._split, train=train, validation=validation)
        return to_json(split, self.outputs, self._excluded)

    def _table(self, records: Sequence[VideoRecord]) -> FeatureTable | None:
        return FeatureTable.from_available(records, self._task.features)

    @property
    def num_inputs(self) -> int:
        return self._training.feature_dim

    @property
    def steps_per_epoch(self) -> int:
        settings = self.config.training
        if settings.clip_frames is not None and settings.stream_pause is not None:
            return num_stream_batches(self._training, settings.clip_frames, settings.batch_size)
        return num_training_batches(self._training, self._clips, self.config.training.batch_size)

    @property
    def _is_for_streams(self) -> bool:
        return self.config.training.stream_pause is not None

    def _windows(self, table: FeatureTable, rng: np.random.Generator) -> Iterator[Batch]:
        settings = self.config.training
        assert settings.clip_frames is not None and settings.stream_pause is not None
        return stream_batches(table, settings.clip_frames, settings.stream_pause, settings.batch_size, rng)

    def input_statistics(self) -> tuple[Tensor, ...]:
        stride = self.config.training.clip_stride
        if self.config.model.power_norm:
            return self._training.statistics(power_normalize, stride)
        return self._training.statistics(stride=stride)

    def batches(self, epoch: int) -> Iterator[Batch]:
        rng = np.random.default_rng([self._seed, epoch])
        if self._is_for_streams:
            return self._windows(self._training, rng)
        return training_batches(self._training, self._clips, self.config.training.batch_size, rng)

    def outcome(self, model: SequenceClassifier, batch: Batch) -> Outcome:
        if self._is_for_streams:
            return stepwise_cross_entropy(model, batch, self.config.training.label_smoothing)
        return cross_entropy(model, batch, self.config.training.label_smoothing)

    def validate(self, model: SequenceClassifier) -> Validation | None:
        if self._validation is None:
            return None
        if self._is_for_streams:
            epochs = [self._windows(self._validation, np.random.default_rng(n)) for n in range(_VALIDATION_WINDOWS)]
            batches = itertools.chain.from_iterable(epochs)
            return stream_validation(model, batches, self._task.device, self.config.training.best_by)
        predictions = predict(model, self._validation, self._clips, self.outputs, self._task.device)["forward"]
        return class_validation(predictions, self.config.training.best_by)

    def can_stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        return False

    @cached_property
    def _scored(self) -> tuple[tuple[VideoRecord, ...], str | None]:
        return videos_to_score(self._task.dataset, self._split, self.overrides.split)

    def provenance(self, run: Run) -> dict[str, object]:
        baseline = self.baseline(run)
        return {
            "protocol": self._protocol(run),
            "strips": self.config.run.strips,
            "baseline": None if baseline is None else read_provenance(baseline).get("run"),
        }

    def _protocol(self, run: Run) -> str:
        """Digest of videos, features and clips. Evaluations with the same digest can be compared video by video."""
        dataset, (videos, _) = self._task.dataset, self._scored
        return digest(
            [
                *(dataset.name, dataset.classes, [(record.video_id, record.label) for record in videos]),
                *(run.recipe().fingerprint, self.config.features.views, dataclasses.asdict(self._clips)),
            ]
        )

    def baseline(self, run: Run) -> Path | None:
        """Evaluation folder of the frame average to compare with; ``None`` if there is none."""
        if self.config.model.model == BASELINE:
            return None
        return find_baseline(run, self._protocol(run), self._seed)

    def facts(self, run: Run) -> dict[str, object]:
        return {
            "dataset": self._task.name,
            "split": self._split.name,
            "evaluated_on": self._scored[1],
            "holdout_group": self.config.data.holdout_group,
            "backbone": self.config.features.backbone,
            "clips": str(self._clips),
            "fingerprint": run.recipe().fingerprint,
            "parts": split_parts(self._split),
        }

    def evaluate(
        self, run: Run, model: SequenceClassifier, folder: Path, facts: Mapping[str, object]
    ) -> dict[str, Any]:
        task, config, (videos, evaluated_on) = self._task, self.config, self._scored
        run.check_recipe(task.recipe)
        if not task.allow_missing:
            known = {record.video_id for record in task.dataset.videos}
            remedy = "Restore them, or count them as wrong answers with --allow-missing."
            require_all("videos to score", videos, known, remedy)
        table = self._table(videos)
        if table is None:
            raise DatasetError(
                f"split {self._split.name} of {task.name} has no {evaluated_on or 'test videos'} with features."
            )
        missing = [record for record in videos if record.video_id not in task.features.videos]
        orders = predict(model, table, self._clips, self.outputs, task.device, missing, orders=ORDERS)
        predictions = orders.pop("forward")
        strips = None
        if config.run.strips:
            strips = make_strips(
                [(*table.records, *missing)[video] for video in mistakes_first(predictions)],
                folder,
                config.run.strips,
                workers=config.features.workers,
                timeout=config.features.video_timeout,
            )
        from pipeline.reports.report import write_evaluation  # here, because matplotlib takes a second

        whole_videos = read_whole_videos(model, table, task.device)
        return write_evaluation(
            folder,
            predictions,
            facts,
            run.history(),
            reordered=orders,
            probabilities_over_time=whole_videos.probabilities,
            representations=whole_videos.representations,
            properties=task.properties(table),
            strips=strips,
            spectra=spectra(config.model, self._seed, model),
            baseline=self.baseline(run),
            temperature=model.temperature.item(),
            excluded=self._excluded,
        )

    def summarize(self, metrics: Mapping[str, Any]) -> str:
        return summary(metrics)


def find_baseline(run: Run, protocol: str, seed: int) -> Path | None:
    """The evaluation folder of a frame average next to this run with the same protocol.

    A baseline with the same seed is preferred.
    """
    found = []
    for path in sorted(run.folder.parent.glob("*/evaluation*/metrics.json")):
        metrics = read_metrics(path.parent)
        if metrics is None or metrics.get("model") != BASELINE:
            continue
        if read_provenance(path.parent).get("protocol") == protocol:
            found.append((metrics.get("seed") != seed, path.parent))
    return min(found)[1] if found else None


def mistakes_first(predictions: Predictions) -> list[int]:
    """Indices of all videos: mistakes, then correct ones, then missing ones, each by decreasing confidence."""
    order: list[int] = np.lexsort((-predictions.confidence, predictions.correct, predictions.missing)).tolist()
    return order
