"""Ways to damage a video file. The same content and random state give the same damage.

A function that finds nothing to damage (such as a frame count in a Matroska file) returns the content unchanged.
"""

import io
import struct
import wave
import zipfile
from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import safetensors.numpy

Mutation = Callable[[bytes, np.random.Generator], bytes]

HEADER_BYTES = 4096  # at the start and the end of a file, where headers and indices are


def cut(content: bytes, rng: np.random.Generator, tenth: int) -> bytes:
    return content[: len(content) * tenth // 10]


def cut_anywhere(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(1, len(content))]


def flipped(content: bytes, rng: np.random.Generator, start: int, stop: int | None) -> bytes:
    """Flip 1 to 200 bits of ``content[start:stop]``."""
    damaged = bytearray(content)
    positions = range(len(content))[start:stop]
    for position in rng.choice(positions, size=rng.integers(1, 201)):
        damaged[position] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def _block(content: bytes, rng: np.random.Generator) -> slice:
    """A random block of the file: a sector, a page or a twentieth of it."""
    size = int(rng.choice([512, 4096, len(content) // 20])) % len(content)
    start = int(rng.integers(len(content) - size))
    return slice(start, start + size)


def zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    block = _block(content, rng)
    damaged[block] = bytes(block.stop - block.start)
    return bytes(damaged)


def left_out(content: bytes, rng: np.random.Generator) -> bytes:
    block = _block(content, rng)
    return content[: block.start] + content[block.stop :]


def repeated(content: bytes, rng: np.random.Generator) -> bytes:
    block = _block(content, rng)
    return content[: block.stop] + content[block.start :]


def swapped(content: bytes, rng: np.random.Generator) -> bytes:
    """Swap two adjacent blocks."""
    block = _block(content, rng)
    middle = (block.start + block.stop) // 2
    return content[: block.start] + content[middle : block.stop] + content[block.start : middle] + content[block.stop :]


def miscounted(content: bytes, rng: np.random.Generator, wrong: Callable[[int], int]) -> bytes:
    """Replace each frame count in an AVI or MP4 header by ``wrong(count)``."""
    damaged = bytearray(content)
    for tag, offset, layout in (
        (b"avih", 8 + 16, "<I"),  # dwTotalFrames of the file
        (b"strh\x38\0\0\0vids", 8 + 32, "<I"),  # dwLength of the stream
        (b"stsz", 4 + 8, ">I"),  # samples that have a size
        (b"stts", 4 + 8, ">I"),  # samples of the first duration
    ):
        position = content.find(tag) + offset
        if position >= offset and position + 4 <= len(content):
            (count,) = struct.unpack_from(layout, content, position)
            struct.pack_into(layout, damaged, position, wrong(count))
    return bytes(damaged)


def header_only(content: bytes, rng: np.random.Generator) -> bytes:
    pictures = content.find(b"movi")
    return content[: pictures + 4] if content.startswith(b"RIFF") else content[:32]


def picture(content: bytes, rng: np.random.Generator, ending: str) -> bytes:
    pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return cv2.imencode(ending, pixels)[1].tobytes()


def text(content: bytes, rng: np.random.Generator) -> bytes:
    return b"<html><body><h1>404 Not Found</h1></body></html>\n" * int(rng.integers(1, 100))


def sound(content: bytes, rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(8000)
        writer.writeframes(rng.bytes(8000))
    return file.getvalue()


def sound_in_avi(content: bytes, rng: np.random.Generator) -> bytes:
    """A valid AVI whose only stream is half a second of 8-bit sound."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    samples = rng.bytes(4000)
    main_header = struct.pack("<14I", 500_000, 8000, 0, 0, 1, 0, 1, 4000, 0, 0, 0, 0, 0, 0)
    stream_header = struct.pack("<4s4sIHHIIIIIIII8x", b"auds", bytes(4), 0, 0, 0, 0, 1, 8000, 0, 4000, 4000, 0, 1)
    wave_format = struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)
    stream = chunk(b"LIST", b"strl" + chunk(b"strh", stream_header) + chunk(b"strf", wave_format))
    headers = chunk(b"LIST", b"hdrl" + chunk(b"avih", main_header) + stream)
    return chunk(b"RIFF", b"AVI " + headers + chunk(b"LIST", b"movi" + chunk(b"00wb", samples)))


def archive(content: bytes, rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("clip.avi", content[:10_000])
    return file.getvalue()


def tensors(content: bytes, rng: np.random.Generator) -> bytes:
    return safetensors.numpy.save({"features": rng.normal(size=(25, 96)).astype(np.float16)})


def noise(content: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(int(rng.integers(1, 20_000)))


def empty(content: bytes, rng: np.random.Generator) -> bytes:
    return b""


CUTS: dict[str, Mutation] = {f"cut at {tenth}/10": partial(cut, tenth=tenth) for tenth in range(1, 10)}

MISCOUNTS: dict[str, Mutation] = {
    "no frames counted": partial(miscounted, wrong=lambda count: 0),
    "half the frames counted": partial(miscounted, wrong=lambda count: count // 2),
    "ten frames too many counted": partial(miscounted, wrong=lambda count: count + 10),
    "twice the frames counted": partial(miscounted, wrong=lambda count: 2 * count),
    "a thousand times the frames counted": partial(miscounted, wrong=lambda count: 1000 * count % 2**32),
    "billions of frames counted": partial(miscounted, wrong=lambda count: 2**32 - 1),
}

NO_VIDEO: dict[str, Mutation] = {
    "empty": empty,
    "header only": header_only,
    "PNG": partial(picture, ending=".png"),
    "JPEG": partial(picture, ending=".jpg"),
    "text": text,
    "WAV": sound,
    "AVI with sound only": sound_in_avi,
    "ZIP": archive,
    "safetensors": tensors,
    "noise": noise,
}

MUTATIONS: dict[str, Mutation] = (
    CUTS
    | MISCOUNTS
    | NO_VIDEO
    | {
        "cut anywhere": cut_anywhere,
        "bits flipped": partial(flipped, start=0, stop=None),
        "bits flipped at the beginning": partial(flipped, start=0, stop=HEADER_BYTES),
        "bits flipped at the end": partial(flipped, start=-HEADER_BYTES, stop=None),
        "block zeroed": zeroed,
        "block left out": left_out,
        "block repeated": repeated,
        "blocks swapped": swapped,
    }
)
