"""MNIST's four files, with small images."""

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(values: ArrayLike) -> bytes:
    """An idx file of bytes: two zeros, type 8, number of dimensions, big-endian sizes, values."""
    array = np.asarray(values, dtype=np.uint8)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def bright_rows(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy dark images of 4 x 4 pixels with one bright row; its index is the label."""
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 60, (number, 4, 4)), rng.integers(0, 4, number)
    images[np.arange(number), labels] += 180
    return images, labels


def write_small_mnist(folder: Path, num_train: int = 240, num_test: int = 40, compress: bool = False) -> Path:
    """Write the four files with ``bright_rows``, plain or as ``.gz``; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = (*bright_rows(num_train, seed=0), *bright_rows(num_test, seed=1))
    for name, values in zip(NAMES, arrays, strict=True):
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
        else:
            (folder / name).write_bytes(idx(values))
    return folder
