"""What exports and imports share: the ``.npy`` file of a video, and how its problems are named."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.atomic import write_atomically
from data.errors import UserError

EXAMPLES = 3


class ExchangeError(UserError):
    """Features can't be exported or imported. The message says which, where and what to do."""


def open_npy(path: Path) -> npt.NDArray[np.floating]:
    """Memory-map an array. Raises ``ExchangeError`` if it can't be read, or its type, shape or length is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers that Python 2 wrote, and escapes in damaged ones
            array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r")
        num_left = path.stat().st_size - array.offset - array.nbytes
    except Exception as error:  # NumPy raises many types for damaged headers, such as TokenError and MemoryError
        reason = " ".join(str(error).split())[:200]  # NumPy quotes the header, which may be long
        raise ExchangeError(f"{path} can't be read as .npy: {reason or type(error).__name__}") from error
    if not np.issubdtype(array.dtype, np.floating):
        raise ExchangeError(
            f"{path} contains {array.dtype}, but features are floating point: save them as float16 or float32."
        )
    if array.ndim not in (1, 2) or array.size == 0:
        raise ExchangeError(
            f"{path} has shape {list(array.shape)}, but features are [frames, features], at least one of each, or "
            "[features]. Average or flatten other axes first."
        )
    if num_left:
        raise ExchangeError(
            f"{path} has {num_left} bytes more than its header's {array.dtype} {list(array.shape)} needs: the header "
            "is damaged, or two arrays are in one file."
        )
    return array


def read_npy(path: Path) -> npt.NDArray[np.float16]:
    """Read the features in one file, float16 ``[num_frames, feature_dim]``; ``[feature_dim]`` is one frame.

    Raises ``ExchangeError`` if the type or shape is wrong, or a value is not finite in float16.
    """
    array = np.atleast_2d(open_npy(path))
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(array, dtype=np.float16)
    if not np.isfinite(features).all():
        largest = np.abs(array).max()
        if np.isfinite(largest):
            raise ExchangeError(f"{path} contains {largest:g}, beyond float16 (65504): scale the features")
        raise ExchangeError(f"{path} contains NaN or infinity")
    return features


def write_npy(path: Path, features: npt.NDArray[np.float16]) -> None:
    """Write the features of one video, ``[num_frames, feature_dim]``."""

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a path, np.save would append .npy to its name
            np.save(file, features, allow_pickle=False)

    write_atomically(path, save)


def print_problems(what: str, problems: Mapping[str, str]) -> None:
    """Name each video with its problem on standard error."""
    for video_id, reason in problems.items():
        print(f"{what}: {video_id}: {reason}", file=sys.stderr)


def examples(video_ids: Sequence[str]) -> str:
    """The number of the videos, and the first of them."""
    more = ", ..." if len(video_ids) > EXAMPLES else ""
    return f"{len(video_ids)} videos ({', '.join(video_ids[:EXAMPLES])}{more})"
