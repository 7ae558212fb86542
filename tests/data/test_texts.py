"""The buffer of strings behaves as a list of them."""

import numpy as np
import pytest

from data.texts import Texts

LISTED = ["b", "", "a/ü", "\udcff", "b"]


def test_texts_are_those_of_a_list() -> None:
    """Strings come back by number and in order, whatever characters they have, also from arrays."""
    texts = Texts(LISTED)
    assert list(texts) == LISTED and len(texts) == 5 and texts[2] == "a/ü"
    again = Texts.from_arrays(texts.content, texts.ends)
    assert list(again) == LISTED and again.encoded(0) == b"b"
    assert list(Texts.concatenate([texts, Texts(), again])) == [*LISTED, *LISTED]
    assert list(texts.select(np.array([False, True, True, False, True]))) == ["", "a/ü", "b"]
    assert texts.first_bytes() == b"ba\xedb"
    assert list(Texts()) == [] and not Texts()


@pytest.mark.parametrize("ends", [[1], [2, 1, 3], [1, 4], []])
def test_texts_with_wrong_ends_are_refused(ends: list[int]) -> None:
    """Ends that do not belong to the content are an error, not other texts."""
    with pytest.raises(ValueError, match="damaged"):
        Texts.from_arrays(np.frombuffer(b"abc", np.uint8), np.array(ends, np.int64))
