"""Checksums inside files that are read back: a flipped bit is an error, and never another number."""

import zlib
from typing import NamedTuple


class Seal(NamedTuple):
    """The place of a checksum at the end of a file, where other readers of its format ignore it."""

    before: bytes
    after: bytes

    def put(self, body: bytes) -> bytes:
        """``body``, followed by its CRC-32."""
        return b"".join((body, self.before, b"%08x" % zlib.crc32(body), self.after))

    def check(self, content: bytes) -> bytes:
        """The ``body`` that ``put`` made ``content`` of. Raises ``ValueError`` if the checksum is wrong or missing."""
        body = content[: -len(self.before) - 8 - len(self.after)]
        if content != self.put(body):
            raise ValueError("its checksum does not match its content")
        return body


YAML = Seal(b"# crc32 ", b"\n")
"""The last line, a comment."""
JSON = Seal(b', "crc32": "', b'"}\n')
"""The last key of an object. The body is the text of the object without the closing bracket."""
ZIP = Seal(b"\x08\x00", b"")
"""The comment of an archive. The body lacks the last two bytes of an archive without one: the comment's length."""
