"""What indices of large files consist of: arrays in one file with a checksum, and names that are found quickly."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save

from data.objects import ObjectStoreError, Place
from data.texts import Texts, encode

Arrays = dict[str, npt.NDArray[Any]]


def to_bytes(arrays: Arrays) -> bytes:
    """The arrays as a safetensors file, with their checksum."""
    return save(arrays | {"crc32": np.array([_checksum(arrays)], dtype=np.int64)})


def read(place: Place) -> Arrays | None:
    """The arrays in a file or object that ``to_bytes`` made; ``None`` if it is damaged.

    Raises ``OSError`` or ``ObjectStoreError`` if it can't be read.
    """
    try:
        # A file is mapped, so that it is not in memory twice.
        arrays: Arrays = load_file(place) if isinstance(place, Path) else load(place.read_bytes())
        return arrays if int(arrays.pop("crc32")[0]) == _checksum(arrays) else None
    except ObjectStoreError:  # a ValueError, too
        raise
    except (SafetensorError, LookupError, TypeError, ValueError):
        return None


def _checksum(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Checksum of arrays with their names, types and shapes."""
    checksum = 0
    for name, values in sorted(arrays.items()):
        checksum = zlib.crc32(f"{name} {values.dtype.str} {values.shape}".encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(values).data, checksum)
    return checksum


class Names:
    """Names by their numbers from 0, and numbers by names: 32 bytes per name besides its own.

    A dictionary would need 250. Names may occur several times.
    """

    def __init__(self, texts: Texts, hashes: npt.NDArray[np.uint64] | None = None) -> None:
        """``hashes``: those of an earlier table with these names. Raises ``ValueError`` if their number differs."""
        if hashes is None:
            hashed = (_hash(texts.encoded(number)) for number in range(len(texts)))
            hashes = np.fromiter(hashed, np.uint64, len(texts))
        if len(hashes) != len(texts):
            raise ValueError("the names are damaged")
        self.texts, self.hashes = texts, hashes
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    @classmethod
    def concatenate(cls, parts: Sequence["Names"]) -> Self:
        hashes = np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)])
        return cls(Texts.concatenate([part.texts for part in parts]), hashes)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """From what ``to_arrays`` returned. Raises ``KeyError`` or ``ValueError``."""
        return cls(Texts.from_arrays(arrays["names"], arrays["name_ends"]), arrays["name_hashes"])

    def to_arrays(self) -> Arrays:
        return {"names": self.texts.content, "name_ends": self.texts.ends, "name_hashes": self.hashes}

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, name: str) -> list[int]:
        """All numbers of a name, ascending."""
        encoded = encode(name)
        key = np.uint64(_hash(encoded))
        first = int(self._sorted.searchsorted(key))
        last = first
        while last < len(self._sorted) and self._sorted[last] == key:
            last += 1
        return [number for number in self._order[first:last].tolist() if bytes(self.texts.encoded(number)) == encoded]

    def repeated(self) -> list[list[int]]:
        """The numbers of each name that occurs several times, ascending."""
        same = self._sorted[1:] == self._sorted[:-1]
        names = {self.texts[int(number)] for number in self._order[:-1][same]}
        return [numbers for numbers in map(self.find, names) if len(numbers) > 1]

    def select(self, chosen: npt.NDArray[np.bool_]) -> "Names":
        """The chosen ones, a bool per name."""
        return Names(self.texts.select(chosen), self.hashes[chosen])


def _hash(encoded: bytes | bytearray | memoryview) -> int:
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")
