"""What indices of large files consist of: arrays in one file with a checksum, and texts and names in little memory."""

import hashlib
import zlib
from array import array
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
    for name, values in sorted(arrays.items()):
        checksum = zlib.crc32(f"{name} {values.dtype.str} {values.shape}".encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(values).data, checksum)
    return checksum


class TextWriter:
    """Collects texts one by one."""

    def __init__(self) -> None:
        self._content, self._ends = bytearray(), array("q")

    def add(self, text: str) -> None:
        self._content += _encode(text)
        self._ends.append(len(self._content))

    def texts(self) -> "Texts":
        return Texts(np.array(self._content, np.uint8), np.array(self._ends, np.int64))


class Texts:
    """Texts by their numbers from 0, each in 8 bytes besides its own.

    Attributes:
        content: uint8; all texts in UTF-8, one after another.
    """

    def __init__(self, content: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        """``ends``: where each text ends. Raises ``ValueError`` if they are not those of the content."""
        self.content = content
        self._starts = np.concatenate([np.zeros(1, np.int64), ends])
        if self._starts[-1] != len(content) or (self._starts[1:] < self._starts[:-1]).any():
            raise ValueError("the texts are damaged")

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        writer = TextWriter()
        for text in texts:
            writer.add(text)
        return writer.texts()

    @classmethod
    def concatenate(cls, parts: Iterable["Texts"]) -> Self:
        parts = [*parts]
        offsets = np.cumsum([0, *(len(part.content) for part in parts)])
        ends = [part._starts[1:] + offset for part, offset in zip(parts, offsets, strict=False)]
        content = np.concatenate([np.empty(0, np.uint8), *(part.content for part in parts)])
        return cls(content, np.concatenate([np.empty(0, np.int64), *ends]))

    @classmethod
    def from_arrays(cls, arrays: Arrays, name: str) -> Self:
        """From what ``to_arrays`` returned. Raises ``KeyError`` or ``ValueError``."""
        return cls(arrays[name], arrays[f"{name}_ends"])

    def to_arrays(self, name: str) -> Arrays:
        return {name: self.content, f"{name}_ends": self._starts[1:]}

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> str:
        return self.encoded(number).decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def encoded(self, number: int) -> bytes:
        return self.content[self._starts[number] : self._starts[number + 1]].tobytes()

    def first_bytes(self) -> bytes:
        """The first byte of each text that is not empty."""
        starts = self._starts[:-1]
        return self.content[starts[starts < self._starts[1:]]].tobytes()

    def select(self, chosen: npt.NDArray[np.bool_]) -> "Texts":
        """The chosen ones, a bool per text."""
        lengths = np.diff(self._starts)
        return Texts(self.content[np.repeat(chosen, lengths)], np.cumsum(lengths[chosen]))


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
    def concatenate(cls, parts: Iterable["Names"]) -> Self:
        parts = [*parts]
        hashes = np.concatenate([np.empty(0, np.uint64), *(part.hashes for part in parts)])
        return cls(Texts.concatenate(part.texts for part in parts), hashes)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """From what ``to_arrays`` returned. Raises ``KeyError`` or ``ValueError``."""
        return cls(Texts.from_arrays(arrays, "names"), arrays["hashes"])

    def to_arrays(self) -> Arrays:
        return self.texts.to_arrays("names") | {"hashes": self.hashes}

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, name: str) -> list[int]:
        """All numbers of a name, ascending."""
        encoded = _encode(name)
        key = _hash(encoded)
        place = int(self._sorted.searchsorted(np.uint64(key)))
        found = []
        while place < len(self._sorted) and self._sorted[place] == key:
            number = int(self._order[place])
            if self.texts.encoded(number) == encoded:
                found.append(number)
            place += 1
        return found

    def repeated(self) -> list[list[int]]:
        """The numbers of each name that occurs several times, ascending."""
        same = self._sorted[1:] == self._sorted[:-1]
        names = {self.texts[int(number)] for number in self._order[:-1][same]}
        return [numbers for numbers in map(self.find, names) if len(numbers) > 1]

    def select(self, chosen: npt.NDArray[np.bool_]) -> "Names":
        """The chosen ones, a bool per name."""
        return Names(self.texts.select(chosen), self.hashes[chosen])


def _encode(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _hash(encoded: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")
