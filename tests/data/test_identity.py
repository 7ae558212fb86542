"""data/identity.py: what a file is, told from a few bytes."""

import os
from pathlib import Path

import pytest

from data.identity import PIECE_BYTES, SAMPLE_SIZE, identify, name_by_content, sample, stamp_of
from tests.helpers.synthetic import make_record


@pytest.mark.parametrize("num_bytes", [0, 1, PIECE_BYTES, 3 * PIECE_BYTES, 100 * PIECE_BYTES + 1])
def test_an_identity_is_that_of_the_content(tmp_path: Path, num_bytes: int) -> None:
    """A copy has the same digest; a change at the start, in the middle or at the end, or of the size, gives another."""
    content = os.urandom(num_bytes)
    path, copy = tmp_path / "a", tmp_path / "b"
    path.write_bytes(content)
    copy.write_bytes(content)
    digest = identify(path).digest
    assert identify(path).num_bytes == num_bytes and identify(copy).digest == digest
    assert identify(copy).stamp != identify(path).stamp == stamp_of(path.stat())
    for position in {0, num_bytes // 2, num_bytes - 1} if num_bytes else ():
        changed = bytearray(content)
        changed[position] ^= 1
        copy.write_bytes(changed)
        assert identify(copy).digest != digest
    copy.write_bytes(content + b"\0")
    assert identify(copy).digest != digest


def test_what_is_no_file_has_no_identity(tmp_path: Path) -> None:
    """A missing file, a folder and a pipe, which would block, are errors."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        with pytest.raises(OSError):
            identify(tmp_path / name)


def test_a_sample_hardly_changes_with_the_dataset() -> None:
    """When a tenth of the videos is added, most of the sample stays; its order is no matter."""
    videos = [make_record(f"run/{number}.avi") for number in range(1100)]
    before, after = sample(videos[:1000]), sample(videos[::-1])
    assert len(before) == SAMPLE_SIZE and sample(videos[:3]) == sample(videos[2::-1])
    assert len(set(before) & set(after)) > 0.7 * SAMPLE_SIZE


def test_names_of_missing_videos(tmp_path: Path) -> None:
    """Without files, the ids make the name."""
    videos = [make_record(str(tmp_path / f"{number}")) for number in range(3)]
    assert name_by_content("a", videos) == name_by_content("a", videos[::-1]) != name_by_content("a", videos[1:])
