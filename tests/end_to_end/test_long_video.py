"""The memory of training and evaluation where one video is far longer than the others, through the real commands."""

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.commands import run

NUM_FRAMES, NUM_FEATURES = 100_000, 1280
MEASURED = """
import atexit, resource, runpy, sys
atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module", params=["train", "test"])
def long_video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[object]]:
    """Imported features of a long video of one list among 60 short ones: the list, and the dataset's flags."""
    folder = tmp_path_factory.mktemp("long")
    rng = np.random.default_rng(0)
    rows = [f"0.avi,walk,{request.param}"]
    rows += [
        f"{n}.avi,{('walk', 'run')[n % 2]},{('train', 'train', 'validation', 'test')[n % 4]}" for n in range(1, 61)
    ]
    (folder / "videos.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    for number in range(61):
        features = rng.random((25 if number else NUM_FRAMES, NUM_FEATURES), np.float32)
        np.save(folder / f"{number}.npy", features.astype(np.float16))
    data = ["--dataset", "folder", "--root", folder / "videos.csv", "--cache", folder / "cache"]
    done = run("-m", "pipeline.cache", "import", *data, "--from", folder, "--name", "long")
    assert done.returncode == 0, done.stderr
    return request.param, data


@pytest.mark.slow
@pytest.mark.parametrize("model", ["np_rnn", "gru"])
def test_the_memory_does_not_grow_with_a_video(
    model: str, long_video: tuple[str, list[object]], tmp_path: Path
) -> None:
    """A video of 100,000 frames takes at most 2.5 GB in training and 1.5 GB in evaluation. Prints what it measures:
    python -m pytest -m slow -s -k memory_does_not_grow"""
    part, data = long_video
    train = ["train.py", *data, "--backbone", "imported:long", "--model", model, "--epochs", 1]
    done = run("-c", MEASURED, *train, "--runs", tmp_path)
    assert done.returncode == 0, done.stderr
    gigabytes = float(done.stderr.splitlines()[-1])
    print(f"{model}, {NUM_FRAMES:,} frames in the {part} list: peak memory {gigabytes:.2f} GB")
    assert gigabytes < (2.5 if part == "train" else 1.5)
