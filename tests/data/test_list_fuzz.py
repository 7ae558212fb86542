"""Lists of videos with random damage: a message that says what is wrong, or a dataset; never a traceback."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from data.catalog import DataConfig, load_dataset
from data.records import DatasetError, require_files

NUM_QUICK, NUM_SLOW = 100, 5000

CSV = "".join(
    f'{path},"{label}",g{number},{("train", "val", "test")[number % 3]}\r\n'
    for number, (path, label) in enumerate((f"{n}/é {n}.avi", ("run, fast", "sit")[n % 2]) for n in range(12))
)
UCF101 = {
    "classInd.txt": "1 Run\r\n2 Sit\r\n",
    "trainlist01.txt": "".join(f"Run/v_Run_g{n:02d}_c01.avi 1\r\nSit/v_Sit_g{n:02d}_c01.avi 2\r\n" for n in (8, 9, 22)),
    "testlist01.txt": "".join(f"Run/v_Run_g{n:02d}_c01.avi\r\nSit/v_Sit_g{n:02d}_c01.avi\r\n" for n in (1, 2)),
}
HMDB51 = {
    f"{name}_test_split1.txt": "".join(
        f"Film{number}_{name}_f_nm_np1_fr_med_{number}.avi {(1, 1, 2)[number % 3]} \n" for number in range(9)
    )
    for name in ("brush_hair", "wave")
}
LISTS = {"folder": {"videos.csv": "path,label,group,split\r\n" + CSV}, "ucf101": UCF101, "hmdb51": HMDB51}
# What damaged files, other programs and hostile people write.
PIECES = [
    *(b"\0", b'"', b'""', b",", b";", b"\r", b"\n", b"\r\n", b"\t", b" ", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe9"),
    *(b"\x1a", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"\xed\xb3\xa9", "\u0663".encode(), b"..", b"/", b"//"),
    *(b"../" * 40, b".", b"-", b"\\", b"C:\\", b"x" * 300, b"x" * 5000, b"x" * 200_000, b"9" * 5000),
    *(b"_g" + b"1" * 5000 + b"_c01", b"nan", b"=1+1", b"%s", b"{}", b"$HOME", b"~"),
    *(b"path", b"label", b"group", b"split", b"train", b"test"),
]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Apply one to three changes: a bit, a byte, a piece, a line or the end."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(changed) + 1)
        stop = min(len(changed), start + rng.choice([0, 0, 1, 5, 40]))
        changed[start:stop] = rng.choice(
            [
                bytes(byte ^ 1 << rng.randrange(8) for byte in changed[start:stop]),
                rng.randbytes(stop - start),
                rng.choice(PIECES),
                rng.choice(PIECES),
                b"\r\n" + rng.choice(changed.splitlines() or [b""]) + b"\r\n",
                bytes(changed[start:stop]) * 3,
            ]
        )
        if rng.random() < 0.05:
            del changed[start:]
    return bytes(changed)


def fuzz(root: Path, dataset: str, num_files: int) -> Counter[str]:
    """Number of damaged lists that are refused, and that are loaded; each is loaded from ``root``."""
    lists = LISTS[dataset]
    for name, text in lists.items():
        (root / name).write_bytes(text.encode())
    config = DataConfig(dataset, root=root)
    assert load_dataset(config).videos
    outcomes = Counter[str]()
    for seed in range(num_files):
        rng = random.Random(seed)
        name = rng.choice(list(lists))
        (root / name).write_bytes(damaged(lists[name].encode(), rng))
        try:
            loaded = load_dataset(config)
            list(loaded.splits.values())
        except DatasetError as error:
            assert str(root) in str(error) or "split" in str(error) or "group" in str(error), (seed, error)
            outcomes["refused"] += 1
        else:
            assert len({video.video_id for video in loaded.videos}) == len(loaded.videos), seed
            for video in loaded.videos:
                assert ".." not in Path(video.video_id).parts and "\0" not in os.fspath(video.path), seed
            with pytest.raises(DatasetError, match="do not exist"):
                require_files(loaded.videos, loaded.remedy)
            outcomes["loaded"] += 1
        (root / name).write_bytes(lists[name].encode())
    return outcomes


@pytest.mark.parametrize("dataset", LISTS)
def test_damaged_lists(tmp_path: Path, dataset: str) -> None:
    """A hundred damaged lists of each kind are refused by a message, or give videos with usable names."""
    outcomes = fuzz(tmp_path, dataset, NUM_QUICK)
    assert min(outcomes["refused"], outcomes["loaded"]) > NUM_QUICK / 20, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("dataset", LISTS)
def test_thousands_of_damaged_lists(tmp_path: Path, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for many lists of each kind."""
    outcomes = fuzz(tmp_path, dataset, NUM_SLOW)
    with capsys.disabled():
        print(f"\n{NUM_SLOW} damaged lists of {dataset}: {dict(outcomes)}")
