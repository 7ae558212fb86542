"""What indices of large files consist of: arrays in one file with a checksum, and names in little memory."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

Arrays = dict[str, npt.NDArray[Any]]


def to_bytes(arrays: Arrays) -> bytes:
    """The arrays as a safetensors file, with their checksum."""
    return save(arrays | {"crc32": np.array([_checksum(arrays)], dtype=np.int64)})


def from_bytes(content: bytes) -> Arrays | None:
    """The arrays that ``to_bytes`` was given; ``None`` if the content is damaged."""
    try:
        arrays: Arrays = load(content)
        return arrays if int(arrays.pop("crc32")[0]) == _checksum(arrays) else None
    except (SafetensorError, LookupError, TypeError, ValueError):
        return None


def _checksum(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """Checksum of arrays with their names, types and shapes."""
    checksum = 0
    for name, array in sorted(arrays.items()):
        checksum = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
    return checksum


class Names:
    """Names by their numbers from 0, and numbers by names: 32 bytes per name besides its own.

    A dictionary would need 250. Names may occur several times.
    """

    def __init__(self, text: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]):
        """``text``: all names, one after another; ``ends`` and ``hashes``: of each. Raises ``ValueError``."""
        starts = np.concatenate([np.zeros(1, np.int64), ends])
        if len(hashes) != len(ends) or starts[-1] != len(text) or (np.diff(starts) < 0).any():
            raise ValueError("the names are damaged")
        self.text, self._starts, self.hashes = text, starts, hashes
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        text, ends, hashes = bytearray(), [], []
        for name in names:
            encoded = _encode(name)
            text += encoded
            ends.append(len(text))
            hashes.append(_hash(encoded))
        return cls(np.frombuffer(text, np.uint8), np.array(ends, np.int64), np.array(hashes, np.uint64))

    @classmethod
    def of_arrays(cls, arrays: Arrays) -> Self:
        """From what ``arrays`` returns. Raises ``KeyError`` or ``ValueError``."""
        return cls(arrays["names"], arrays["name_ends"], arrays["name_hashes"])

    @classmethod
    def concatenate(cls, tables: Iterable["Names"]) -> Self:
        parts = [*tables]
        offsets = np.cumsum([0, *(len(part.text) for part in parts)])
        ends = [part._starts[1:] + offset for part, offset in zip(parts, offsets, strict=False)]
        return cls(
            np.concatenate([np.empty(0, np.uint8), *(part.text for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *ends]),
            np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)]),
        )

    def select(self, chosen: npt.NDArray[np.bool_]) -> "Names":
        """The chosen ones, a bool per name."""
        lengths = np.diff(self._starts)
        text = self.text[np.repeat(chosen, lengths)]
        return Names(text, np.cumsum(lengths[chosen]), self.hashes[chosen])

    def starting_with(self, character: str) -> npt.NDArray[np.bool_]:
        """Which names start with an ASCII character."""
        filled = np.flatnonzero(np.diff(self._starts))
        found = np.zeros(len(self), bool)
        found[filled] = self.text[self._starts[filled]] == ord(character)
        return found

    def arrays(self) -> Arrays:
        return {"names": self.text, "name_ends": self._starts[1:], "name_hashes": self.hashes}

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, number: int) -> str:
        return _decode(self.text[self._starts[number] : self._starts[number + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def find(self, name: str) -> list[int]:
        """All numbers of a name, ascending."""
        encoded = _encode(name)
        key = np.uint64(_hash(encoded))
        place = int(np.searchsorted(self._sorted, key))
        found = []
        while place < len(self._sorted) and self._sorted[place] == key:
            number = int(self._order[place])
            if self.text[self._starts[number] : self._starts[number + 1]].tobytes() == encoded:
                found.append(number)
            place += 1
        return found

    def repeated(self) -> list[list[int]]:
        """The numbers of each name that occurs several times, ascending."""
        same = self._sorted[1:] == self._sorted[:-1]
        names = {self[int(number)] for number in self._order[:-1][same]}
        return [numbers for numbers in map(self.find, names) if len(numbers) > 1]


def _encode(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _decode(encoded: bytes) -> str:
    return encoded.decode(errors="surrogateescape")


def _hash(encoded: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")
