"""What the scripts of the report know: every video with its prediction, its place on the map and its frames."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.analysis import confusion_order
from pipeline.evaluation.metrics import confusion_matrix
from pipeline.evaluation.predictions import NOT_PREDICTED, FloatArray, Predictions

MAP_STEPS = 10_000  # positions on the page are whole numbers from 0 to this
NUM_CURVE_POINTS = 32  # of a curve of probabilities over time; more would only make the page larger

OverTime = Mapping[str, NDArray[np.floating]]


def page_data(predictions: Predictions, over_time: OverTime, strips: Mapping[str, str], unit: str) -> dict[str, object]:
    """Every video, and what the videos share. For JSON: names of classes and groups are replaced by their numbers.

    Probabilities of classes are in tenths of a percent, curves in percent.
    """
    groups = list(dict.fromkeys(predictions.groups)) if predictions.num_groups < len(predictions.video_ids) else []
    dots = {} if predictions.positions is None else _dots(predictions.positions)
    videos = []
    for index, video_id in enumerate(predictions.video_ids):
        label, predicted = int(predictions.labels[index]), int(predictions.predicted[index])
        top = predictions.top_classes[index].tolist()
        video: dict[str, object] = {"id": video_id, "true": label}
        if predicted != NOT_PREDICTED:
            video["predicted"] = predicted
            video["top"] = [[name, round(1000 * predictions.video_probabilities[index, name])] for name in top]
            if predicted != label:
                video["truth"] = round(1000 * predictions.true_probability[index])
        if groups:
            video["group"] = int(predictions.group_indices[index])
        if index in dots:
            video["at"] = dots[index]
        if video_id in strips:
            video["strip"] = strips[video_id]
        if video_id in over_time:
            num_curves = 2 if predicted == label else 3
            shown = list(dict.fromkeys([label, predicted, *top]))[:num_curves]
            video["frames"] = len(over_time[video_id])
            video["curves"] = [[name, curve_points(over_time[video_id][:, name])] for name in shown]
        videos.append(video)
    return {
        "unit": unit,
        "classes": predictions.classes,
        "clusters": confusion_order(confusion_matrix(predictions)),
        "groups": groups,
        "videos": videos,
        "hasStrips": bool(strips),
    }


def _dots(positions: FloatArray) -> dict[int, list[int]]:
    """Whole numbers ``[x, y]`` from 0 to ``MAP_STEPS``, by the index of each video that is on the map."""
    low, high = np.nanmin(positions, axis=0), np.nanmax(positions, axis=0)
    scaled = (positions - low) / np.where(high > low, high - low, 1)
    on_map = np.flatnonzero(~np.isnan(positions[:, 0])).tolist()
    return {video: (scaled[video] * MAP_STEPS).round().astype(int).tolist() for video in on_map}


def curve_points(probabilities: NDArray[np.floating]) -> list[int]:
    """At most ``NUM_CURVE_POINTS`` evenly spaced points of a curve, including both ends, in whole percent."""
    chosen = np.linspace(0, len(probabilities) - 1, min(len(probabilities), NUM_CURVE_POINTS)).round().astype(int)
    return [round(100 * float(value)) for value in probabilities[chosen]]
