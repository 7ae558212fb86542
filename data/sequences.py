"""The tasks without video: addition and multiplication, generated when needed, and MNIST pixel by pixel.

Addition (Hochreiter & Schmidhuber 1997, in the form of Le, Jaitly & Hinton, arXiv 1504.00941): each step shows a number
from [0, 1) and a mark; two numbers are marked, one in each half of the sequence, and the target is their sum. In
multiplication it is their product. Pixel MNIST shows a digit one pixel at a time, row by row or in one fixed random
order (``permuted``), and the target is the digit.
"""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from data.catalog import SEQUENCE_TASKS, DataConfig
from data.download import DownloadError, RemoteFile, fetch
from data.errors import did_you_mean
from data.records import DatasetError

NUM_VALIDATION = 1_000
NUM_TEST = 10_000
EVALUATION_BATCH = 250  # sequences per batch; limits the memory for a network's states
PERMUTATION_SEED = 0
NUM_DIGITS = 10

FloatArray = npt.NDArray[np.float32]

# First entry of every random seed: training, validation and test draw from separate streams.
_TRAINING, _VALIDATION, _TEST = range(3)
_IDX_OF_BYTES = 0x08

_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"
MNIST_FILES = {
    "train-images-idx3-ubyte": RemoteFile(
        f"{_MNIST}/train-images-idx3-ubyte.gz",
        9_912_422,
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    ),
    "train-labels-idx1-ubyte": RemoteFile(
        f"{_MNIST}/train-labels-idx1-ubyte.gz",
        28_881,
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    ),
    "t10k-images-idx3-ubyte": RemoteFile(
        f"{_MNIST}/t10k-images-idx3-ubyte.gz",
        1_648_877,
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
    "t10k-labels-idx1-ubyte": RemoteFile(
        f"{_MNIST}/t10k-labels-idx1-ubyte.gz",
        4_542,
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}


class SequenceBatch(NamedTuple):
    """Sequences of equal length, time first."""

    inputs: FloatArray
    """float32 ``[T, B, num_inputs]``"""
    targets: npt.NDArray[Any]
    """``[B]``: float32 numbers (addition, multiplication) or int64 labels (pixel MNIST)"""


@dataclass(frozen=True)
class ArithmeticTask:
    """Addition or multiplication over sequences of ``length`` steps, at least 2."""

    name: Literal["addition", "multiplication"]
    length: int

    num_inputs = 2

    @property
    def chance_mse(self) -> float:
        """The mean squared error of always answering with the mean.

        That is the variance of the sum (1/6) or product (7/144) of two uniform numbers.
        """
        return 1 / 6 if self.name == "addition" else 7 / 144

    def training_batch(self, seed: int, step: int, batch_size: int) -> SequenceBatch:
        """Draw the sequences for one training step. They depend only on the task, the seed and the step."""
        return self._draw(batch_size, _TRAINING, seed, step)

    def validation_batches(self) -> Iterator[SequenceBatch]:
        """Yield 1,000 sequences, the same for every seed of a run. None is in a training batch."""
        return self._draw_many(NUM_VALIDATION, _VALIDATION)

    def test_batches(self) -> Iterator[SequenceBatch]:
        """Yield 10,000 further sequences, the same for every seed of a run."""
        return self._draw_many(NUM_TEST, _TEST)

    def _draw_many(self, number: int, part: int) -> Iterator[SequenceBatch]:
        for chunk, first in enumerate(range(0, number, EVALUATION_BATCH)):
            yield self._draw(min(EVALUATION_BATCH, number - first), part, chunk)

    def _draw(self, num_sequences: int, *seed: int) -> SequenceBatch:
        rng = np.random.default_rng([SEQUENCE_TASKS.index(self.name), *seed])
        inputs = np.zeros((self.length, num_sequences, 2), dtype=np.float32)
        inputs[:, :, 0] = rng.random((self.length, num_sequences), dtype=np.float32)
        half, columns = self.length // 2, np.arange(num_sequences)
        first = rng.integers(half, size=num_sequences)
        second = rng.integers(half, self.length, size=num_sequences)
        inputs[first, columns, 1] = inputs[second, columns, 1] = 1
        operation = np.add if self.name == "addition" else np.multiply
        return SequenceBatch(inputs, operation(inputs[first, columns, 0], inputs[second, columns, 0]))


@dataclass(frozen=True, eq=False)
class Digits:
    """Images as sequences of pixels.

    Attributes:
        name: the file that the images come from, ``"train"`` or ``"t10k"``.
        numbers: int64 ``[N]``, the images' indices in that file.
        pixels: uint8 ``[N, T]``, in the order in which they are shown.
        labels: int64 ``[N]``, 0 to 9.
    """

    name: str
    numbers: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def statistics(self) -> tuple[float, float]:
        """Return mean and standard deviation of all pixels, scaled to [0, 1] as in ``batch``."""
        counts = np.bincount(self.pixels.ravel(), minlength=256)
        levels = np.arange(256) / 255
        mean = np.average(levels, weights=counts)
        return float(mean), float(np.sqrt(np.average((levels - mean) ** 2, weights=counts)))

    def batch(self, chosen: npt.NDArray[np.int64] | slice) -> SequenceBatch:
        """Return the chosen images: pixels in [0, 1], float32 ``[T, B, 1]``, and labels, int64 ``[B]``."""
        shown = self.pixels[chosen].T.astype(np.float32, order="C")
        shown /= 255
        return SequenceBatch(shown[:, :, None], self.labels[chosen])

    def batches(self) -> Iterator[SequenceBatch]:
        """Yield all images, in order."""
        for first in range(0, len(self), EVALUATION_BATCH):
            yield self.batch(slice(first, first + EVALUATION_BATCH))

    def training_batches(self, seed: int, epoch: int, batch_size: int) -> Iterator[SequenceBatch]:
        """Yield each image once, in a random order that depends only on the seed and the epoch."""
        order = np.random.default_rng([_TRAINING, seed, epoch]).permutation(len(self))
        for first in range(0, len(order), batch_size):
            yield self.batch(order[first : first + batch_size])


@dataclass(frozen=True, eq=False)
class PixelMNIST:
    """MNIST pixel by pixel. The last twelfth of the training images (5,000 of 60,000) is for validation."""

    permuted: bool
    training: Digits
    validation: Digits
    test: Digits

    name = "pixel_mnist"
    num_inputs = 1
    classes = tuple(str(digit) for digit in range(NUM_DIGITS))

    @property
    def length(self) -> int:
        return self.test.pixels.shape[1]


SequenceTask = ArithmeticTask | PixelMNIST


def load_task(config: DataConfig) -> SequenceTask:
    """Load the task that ``config`` names, one of ``SEQUENCE_TASKS``.

    Raises:
        DatasetError: ``config`` names a video dataset, or a file of MNIST is missing or damaged.
    """
    match config.dataset:
        case "pixel_mnist":
            return load_pixel_mnist(config.root, config.permuted)
        case "addition" | "multiplication":
            return ArithmeticTask(config.dataset, config.length)
    raise DatasetError(f"{config.dataset} is not a task without video.{did_you_mean(config.dataset, SEQUENCE_TASKS)}")


def load_pixel_mnist(root: Path | None, permuted: bool) -> PixelMNIST:
    """Load MNIST, or another dataset with the same four files, such as Fashion-MNIST.

    Args:
        root: folder of the files; ``None``: ``datasets/mnist``, to which missing files are downloaded.
        permuted: show the pixels in one fixed random order, the same for all images and runs.

    Raises:
        DatasetError: a file is missing, cannot be downloaded, or is invalid.
    """
    folder, files = root or Path("datasets") / "mnist", list(MNIST_FILES)
    paths = {name: _find(folder, name) for name in files}
    if missing := [name for name, path in paths.items() if path is None]:
        if root is not None:
            raise DatasetError(
                f"{folder} lacks {', '.join(missing)}, plain or with the ending .gz. Name the folder with MNIST's four "
                "files with --root, or leave --root out to download them."
            )
        for name in missing:
            paths[name] = _fetch(MNIST_FILES[name], folder)
    training = _read_digits("train", paths[files[0]], paths[files[1]])
    test = _read_digits("t10k", paths[files[2]], paths[files[3]])
    num_pixels, num_validation = test.pixels.shape[1], len(training) // 12
    if training.pixels.shape[1] != num_pixels or not num_validation or not len(test):
        raise DatasetError(
            f"{folder} contains {len(training)} training images of {training.pixels.shape[1]} pixels and {len(test)} "
            f"test images of {num_pixels}. All must have one size, and there must be at least 12 training images and "
            "one test image. Get the files again."
        )
    order = np.random.default_rng(PERMUTATION_SEED).permutation(num_pixels) if permuted else slice(None)
    return PixelMNIST(
        permuted,
        training=_part(training, slice(None, -num_validation), order),
        validation=_part(training, slice(-num_validation, None), order),
        test=_part(test, slice(None), order),
    )


def read_idx(path: Path, num_dimensions: int) -> npt.NDArray[np.uint8]:
    """Read the array of bytes in an idx file, plain or ``.gz`` (format: http://yann.lecun.com/exdb/mnist).

    Raises:
        DatasetError: the file can't be read or unpacked, is not such a file, or its length does not match its header.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} can't be read ({error}). Get it again.") from error
    header_size = 4 + 4 * num_dimensions
    if len(content) < header_size or content[:4] != bytes([0, 0, _IDX_OF_BYTES, num_dimensions]):
        raise DatasetError(
            f"{path} is not an idx file of bytes in {num_dimensions} dimensions: it begins with "
            f"{content[:4].hex(' ')}. Was another file given this name? Get it again."
        )
    shape = [int(size) for size in np.frombuffer(content, ">u4", num_dimensions, offset=4)]
    expected = header_size + int(np.prod(shape, dtype=np.uint64))
    if len(content) != expected:
        raise DatasetError(
            f"{path} has {len(content)} bytes, but its header, for an array of {' x '.join(map(str, shape))}, promises "
            f"{expected}: it is cut off or damaged. Get it again."
        )
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(shape)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _fetch(remote: RemoteFile, folder: Path) -> Path:
    try:
        return fetch(remote, folder)
    except DownloadError as error:
        raise DatasetError(f"{error} Or name a folder with MNIST's four files with --root.") from error


def _read_digits(name: str, images: Path | None, labels: Path | None) -> Digits:
    assert images is not None and labels is not None
    pixels, digits = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(digits):
        raise DatasetError(
            f"{images} contains {len(pixels)} images, but {labels} {len(digits)} labels. Get both again."
        )
    if len(digits) and digits.max() >= NUM_DIGITS:
        raise DatasetError(f"{labels} contains the label {digits.max()}; digits are 0 to 9. Get it again.")
    numbers = np.arange(len(pixels))
    return Digits(name, numbers, pixels.reshape(len(pixels), -1), digits.astype(np.int64))


def _part(digits: Digits, part: slice, order: npt.NDArray[np.int64] | slice) -> Digits:
    """Return some of the images, with their pixels in another order."""
    return Digits(digits.name, digits.numbers[part], digits.pixels[part][:, order], digits.labels[part])
