"""data/checksum.py: checksums that other readers ignore, and that no flipped bit escapes."""

import io
import json
import zipfile

import pytest
import yaml

from data.checksum import JSON, YAML, ZIP, Seal


def empty_archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr("a", "content")
    return file.getvalue()


BODIES = {"yaml": (YAML, b"a: 1\n"), "json": (JSON, b'{"a": 1'), "zip": (ZIP, empty_archive()[:-2])}


@pytest.mark.parametrize(("seal", "body"), BODIES.values(), ids=BODIES.keys())
def test_every_flipped_bit_and_every_cut_is_found(seal: Seal, body: bytes) -> None:
    """No other content passes the check: with a bit flipped, cut off, extended, or without a checksum."""
    content = seal.put(body)
    assert seal.check(content) == body
    damaged = [content[:length] for length in range(len(content))]
    damaged += [content + b"0", body, content + content]
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for one in damaged:
        with pytest.raises(ValueError, match="checksum"):
            seal.check(one)


def test_other_readers_ignore_the_checksum() -> None:
    """YAML has a comment more, JSON a key more, and an archive a comment."""
    assert yaml.safe_load(YAML.put(b"a: 1\n")) == {"a": 1}
    assert json.loads(JSON.put(b'{"a": 1')).keys() == {"a", "crc32"}
    with zipfile.ZipFile(io.BytesIO(ZIP.put(BODIES["zip"][1]))) as archive:
        assert archive.testzip() is None and archive.read("a") == b"content"
