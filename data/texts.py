"""Millions of strings in one buffer: each takes its length and 8 bytes, where a ``str`` takes its length and 57."""

from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt


class Texts:
    """Strings by their numbers from 0."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._content: bytearray | memoryview = bytearray()
        self._ends: array[int] | memoryview = array("q", [0])
        for text in texts:
            self.append(text)

    @classmethod
    def from_arrays(cls, content: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> "Texts":
        """From ``content`` and ``ends`` of others, which are not copied; nothing can be appended.

        Raises ``ValueError`` if the ends are not those of the content.
        """
        starts = np.concatenate([np.zeros(1, np.int64), ends])
        if starts[-1] != len(content) or (starts[1:] < starts[:-1]).any():
            raise ValueError("the texts are damaged")
        made = cls()
        made._content, made._ends = np.ascontiguousarray(content).data, starts.data
        return made

    @classmethod
    def concatenate(cls, parts: Sequence["Texts"]) -> "Texts":
        offsets = np.cumsum([0, *(len(part._content) for part in parts)])
        ends = [part.ends + offset for part, offset in zip(parts, offsets, strict=False)]
        content = np.concatenate([np.empty(0, np.uint8), *(part.content for part in parts)])
        return cls.from_arrays(content, np.concatenate([np.empty(0, np.int64), *ends]))

    def append(self, text: str) -> None:
        assert isinstance(self._content, bytearray) and isinstance(self._ends, array)
        self._content += encode(text)
        self._ends.append(len(self._content))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> str:
        return str(self.encoded(number), "utf-8", "surrogatepass")

    def encoded(self, number: int) -> bytearray | memoryview:
        """A string in UTF-8."""
        return self._content[self._ends[number] : self._ends[number + 1]]

    # Both are views. Nothing can be appended while one exists.

    @property
    def content(self) -> npt.NDArray[np.uint8]:
        """All strings in UTF-8, one after another."""
        return np.frombuffer(self._content, np.uint8)

    @property
    def ends(self) -> npt.NDArray[np.int64]:
        """Where each string ends in ``content``."""
        return np.frombuffer(self._ends, np.int64)[1:]

    def first_bytes(self) -> bytes:
        """The first byte of each string that is not empty."""
        starts = np.frombuffer(self._ends, np.int64)[:-1]
        return self.content[starts[starts < self.ends]].tobytes()

    def select(self, chosen: npt.NDArray[np.bool_]) -> "Texts":
        """The chosen ones, a bool per string."""
        starts = np.frombuffer(self._ends, np.int64)
        lengths = starts[1:] - starts[:-1]
        return Texts.from_arrays(self.content[np.repeat(chosen, lengths)], np.cumsum(lengths[chosen]))


def encode(text: str) -> bytes:
    # Names of files that are not UTF-8 contain surrogates.
    return text.encode(errors="surrogatepass")
