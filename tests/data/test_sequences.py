"""data/sequences.py: the sequences, what each batch depends on, and files that are not MNIST's."""

import functools
import gzip
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import sequences as module
from data.catalog import DataConfig
from data.download import RemoteFile
from data.records import DatasetError
from data.sequences import ArithmeticTask, PixelMNIST, SequenceBatch, load_task
from tests.helpers.idx import NAMES, bright_rows, idx, write_small_mnist

ADDITION, MULTIPLICATION = ArithmeticTask("addition", 30), ArithmeticTask("multiplication", 30)


def load_mnist(root: Path | None, permuted: bool = False) -> PixelMNIST:
    task = load_task(DataConfig("pixel_mnist", root=root, permuted=permuted))
    assert isinstance(task, PixelMNIST)
    return task


def equal(first: SequenceBatch, second: SequenceBatch) -> bool:
    return np.array_equal(first.inputs, second.inputs) and np.array_equal(first.targets, second.targets)


@given(length=st.integers(2, 41), seed=st.integers(0, 2**32), step=st.integers(0, 10**6), size=st.integers(1, 20))
def test_two_numbers_are_marked_one_in_each_half(length: int, seed: int, step: int, size: int) -> None:
    """At any length, numbers are in [0, 1), one step in each half is marked, and the target combines these two."""
    for name, operation in (("addition", np.add), ("multiplication", np.multiply)):
        task = load_task(DataConfig(name, length=length))
        assert isinstance(task, ArithmeticTask)
        inputs, targets = task.training_batch(seed, step, size)
        assert inputs.shape == (length, size, 2) and inputs.dtype == targets.dtype == np.float32
        numbers, marks = inputs[..., 0], inputs[..., 1]
        assert numbers.min() >= 0 and numbers.max() < 1
        half = length // 2
        for column in range(size):
            (first, second) = np.flatnonzero(marks[:, column])
            assert first < half <= second and marks[first, column] == marks[second, column] == 1
            assert targets[column] == operation(numbers[first, column], numbers[second, column])


def test_marks_reach_every_step() -> None:
    """Over many sequences every step of both halves is marked, including the first and the last."""
    marks = ArithmeticTask("addition", 7).training_batch(0, 0, 1000).inputs[..., 1].sum(1)
    assert (marks > 150).all() and marks[:3].sum() == marks[3:].sum() == 1000


def test_a_batch_depends_only_on_task_seed_and_step() -> None:
    """A resumed run gets the batches it would have had, whatever was drawn before; other steps, seeds, tasks differ."""
    batch = ADDITION.training_batch(3, 8, 20)
    ADDITION.training_batch(3, 7, 5)
    np.random.default_rng().random(7)
    assert equal(batch, ArithmeticTask("addition", 30).training_batch(3, 8, 20))
    others = [
        *(ADDITION.training_batch(3, 9, 20), ADDITION.training_batch(4, 8, 20), ADDITION.training_batch(8, 3, 20)),
        MULTIPLICATION.training_batch(3, 8, 20),
    ]
    numbers = {other.inputs.tobytes() for other in others}
    assert len(numbers) == 4 and batch.inputs.tobytes() not in numbers


@pytest.mark.parametrize("task", [ADDITION, MULTIPLICATION], ids=lambda task: task.name)
def test_validation_and_test_are_fixed_and_fresh(task: ArithmeticTask) -> None:
    """There are 1,000 and 10,000 sequences, the same every time, all different, and none in a training batch."""
    training = [task.training_batch(seed, step, 250) for seed in range(3) for step in range(4)]
    drawn = {"training": training, "validation": list(task.validation_batches()), "test": list(task.test_batches())}
    columns = {
        part: [batch.inputs[:, column].tobytes() for batch in batches for column in range(len(batch.targets))]
        for part, batches in drawn.items()
    }
    assert {part: len(each) for part, each in columns.items()} == {"training": 3000, "validation": 1000, "test": 10000}
    assert len(set().union(*columns.values())) == 14000
    assert all(equal(*pair) for pair in zip(drawn["test"], task.test_batches(), strict=True))


@pytest.mark.parametrize(("task", "chance"), [(ADDITION, 0.167), (MULTIPLICATION, 0.049)])
def test_chance_is_the_error_of_the_constant_answer(task: ArithmeticTask, chance: float) -> None:
    """The stated chance level is the published one and equals the variance of the test targets."""
    answers = np.concatenate([batch.targets for batch in task.test_batches()])
    assert task.chance_mse == pytest.approx(chance, abs=5e-4)
    assert answers.var() == pytest.approx(task.chance_mse, rel=0.05)


def test_a_name_that_is_not_a_task_is_refused() -> None:
    """A typo, a video dataset and a sequence too short for two marks are errors that say what is valid."""
    with pytest.raises(DatasetError, match="unknown dataset 'adition'. Did you mean 'addition'"):
        load_task(DataConfig("adition"))
    with pytest.raises(DatasetError, match="ucf101 is not a task without video. There are: addition, multiplication"):
        load_task(DataConfig("ucf101"))
    with pytest.raises(DatasetError, match="length is at least 2, not 1"):
        load_task(DataConfig("addition", length=1))


@pytest.fixture(scope="module")
def mnist(action_data: Path) -> PixelMNIST:
    return load_mnist(action_data / "mnist")


def test_the_real_mnist(mnist: PixelMNIST, action_data: Path) -> None:
    """55,000 images are for training, the last 5,000 for validation, 10,000 for testing, with pixels in [0, 1]."""
    parts = (mnist.training, mnist.validation, mnist.test)
    assert [len(part) for part in parts] == [55_000, 5_000, 10_000] and mnist.length == 784
    assert mnist.training.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (mnist.validation.numbers[0], mnist.validation.numbers[-1]) == (55_000, 59_999)
    content = gzip.decompress((action_data / "mnist" / f"{NAMES[0]}.gz").read_bytes())
    image = np.frombuffer(content[16 + 59_999 * 784 :], np.uint8)
    inputs, labels = mnist.validation.batch(np.array([4_999, 0]))
    assert inputs.shape == (784, 2, 1) and inputs.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_allclose(inputs[:, 0, 0], image / 255, rtol=1e-6)
    assert inputs.max() <= 1 and labels[0] == mnist.validation.labels[-1]


def test_statistics_cover_all_pixels(mnist: PixelMNIST) -> None:
    """Inputs are standardised with the mean and standard deviation of all their pixels."""
    pixels = mnist.validation.pixels / 255
    mean, std = mnist.validation.statistics()
    assert mean == pytest.approx(pixels.mean(), rel=1e-12) and std == pytest.approx(pixels.std(), rel=1e-12)


def test_permuted_is_one_fixed_order(mnist: PixelMNIST, action_data: Path) -> None:
    """All images of all parts have their pixels in the same new order, and that order never changes."""
    permuted = load_mnist(action_data / "mnist", permuted=True)
    order = np.random.default_rng(0).permutation(784)
    assert order[:5].tolist() == [318, 2, 606, 446, 758]
    for name in ("training", "validation", "test"):
        straight, mixed = getattr(mnist, name), getattr(permuted, name)
        assert np.array_equal(mixed.pixels[:500], straight.pixels[:500][:, order])
        assert np.array_equal(mixed.labels, straight.labels)


def test_an_epoch_shows_every_training_image_once(tmp_path: Path) -> None:
    """Each image is shown once, in an order that differs between seeds and epochs and is reproducible."""
    digits = load_mnist(write_small_mnist(tmp_path)).training

    def shown(seed: int, epoch: int) -> list[bytes]:
        batches = list(digits.training_batches(seed, epoch, batch_size=32))
        assert [len(batch.targets) for batch in batches] == [32] * 6 + [28]
        return [batch.inputs[:, column].tobytes() for batch in batches for column in range(len(batch.targets))]

    (all_images,) = digits.batches()
    first = shown(0, 0)
    assert sorted(first) == sorted(all_images.inputs[:, column].tobytes() for column in range(len(digits)))
    assert first == shown(0, 0)
    assert first != shown(0, 1) and first != shown(1, 0) and shown(0, 1) != shown(1, 0)


def test_plain_and_compressed_files_are_the_same(tmp_path: Path) -> None:
    """The files are read with and without .gz; images, labels and their order agree."""
    plain = load_mnist(write_small_mnist(tmp_path / "plain"))
    packed = load_mnist(write_small_mnist(tmp_path / "packed", compress=True))
    assert [len(part) for part in (plain.training, plain.validation, plain.test)] == [220, 20, 40]
    for name in ("training", "validation", "test"):
        ours, theirs = getattr(plain, name), getattr(packed, name)
        assert np.array_equal(ours.pixels, theirs.pixels) and np.array_equal(ours.labels, theirs.labels)
    assert np.array_equal(plain.test.pixels.reshape(-1, 4, 4), bright_rows(40, seed=1)[0])


def test_missing_files_are_named(tmp_path: Path) -> None:
    """The error for a --root without the files names them; nothing is downloaded to a folder that the user named."""
    (write_small_mnist(tmp_path) / NAMES[1]).unlink()
    with pytest.raises(DatasetError, match=rf"lacks {NAMES[1]}, plain or with the ending .gz.*--root"):
        load_mnist(tmp_path)
    with pytest.raises(DatasetError, match=", ".join(NAMES)):
        load_mnist(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (NAMES[0], lambda whole: whole[:-1], r"has 3855 bytes, but its header, for .* 240 x 4 x 4, promises 3856"),
        (NAMES[0], lambda whole: whole + b"\0", "cut off or damaged"),
        (NAMES[0], lambda whole: whole[:10], "is not an idx file"),
        (NAMES[2], lambda whole: b"", "is not an idx file"),
        (NAMES[2], lambda whole: idx([1, 2, 3]), "idx file of bytes in 3 dimensions: it begins with 00 00 08 01"),
        (NAMES[2], lambda whole: b"<!DOCTYPE html>" + whole, "it begins with 3c 21 44 4f"),
        (NAMES[1], lambda whole: idx([1] * 239), "240 images, .* 239 labels"),
        (NAMES[3], lambda whole: idx([10] * 40), "the label 10; digits are 0 to 9"),
        (NAMES[2], lambda whole: idx(np.zeros((40, 3, 5))), "of 16 pixels and 40 test images of 15"),
        (f"{NAMES[0]}.gz", lambda whole: gzip.compress(whole)[:-20], r"\.gz can't be read"),
        (f"{NAMES[0]}.gz", lambda whole: whole, r"\.gz can't be read"),
        (f"{NAMES[0]}.gz", lambda whole: gzip.compress(whole)[:40] + b"xxxx" * 900, r"\.gz can't be read"),
    ],
)
def test_an_invalid_file_is_named(tmp_path: Path, name: str, damage: Callable[[bytes], bytes], message: str) -> None:
    """A file that is cut off, too long, empty, of another kind, or does not match the others is named in the error."""
    write_small_mnist(tmp_path)
    original = tmp_path / name.removesuffix(".gz")
    whole = original.read_bytes()
    original.unlink()
    (tmp_path / name).write_bytes(damage(whole))
    with pytest.raises(DatasetError, match=message):
        load_mnist(tmp_path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serves a small MNIST locally in place of the real one; the current folder is empty."""
    folder = write_small_mnist(tmp_path / "server", compress=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    address = ("127.0.0.1", 0)
    with http.server.ThreadingHTTPServer(address, functools.partial(Handler, directory=str(folder))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_address[1]}"
        remote = {}
        for name in NAMES:
            content = (folder / f"{name}.gz").read_bytes()
            remote[name] = RemoteFile(f"{url}/{name}.gz", len(content), hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(module, "MNIST_FILES", remote)
        (tmp_path / "current").mkdir()
        monkeypatch.chdir(tmp_path / "current")
        yield folder
        running.shutdown()


def test_files_are_downloaded_once(server: Path) -> None:
    """Without --root the files are downloaded to datasets/mnist, and the second time read from there."""
    fetched = load_mnist(None)
    for name in NAMES:
        (server / f"{name}.gz").unlink()
    assert np.array_equal(load_mnist(None).test.pixels, fetched.test.pixels)
    assert sorted(path.name for path in Path("datasets/mnist").iterdir()) == sorted(f"{name}.gz" for name in NAMES)


def test_a_file_with_another_checksum_is_not_used(server: Path) -> None:
    """A file that is not the real one is refused, and the message suggests --root."""
    path = server / f"{NAMES[2]}.gz"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DatasetError, match=rf"{NAMES[2]}.gz .*is not the file expected.*--root"):
        load_mnist(None)
    assert not (Path("datasets/mnist") / f"{NAMES[2]}.gz").exists()
