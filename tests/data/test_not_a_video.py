"""data/video.py: what is not a video, or contains no frame, is refused with its reason."""

import struct
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import pytest

from data.video import VideoError, count_frames, read_frames
from tests.data.test_video import plain_frames, run_python, write_clip


def empty_file(path: Path) -> None:
    path.touch()


def text_file(path: Path) -> None:
    path.write_text("This is not a video.\n" * 50)


def sound_only(path: Path) -> None:
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))


def picture(path: Path, ending: str) -> None:
    path.write_bytes(cv2.imencode(ending, plain_frames(1)[0])[1].tobytes())


def header_only(path: Path) -> None:
    write_clip(path, plain_frames(20))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"movi") + 4])


def webm_header_only(path: Path) -> None:
    write_clip(path.with_suffix(".webm"), plain_frames(20), "VP80")
    data = path.with_suffix(".webm").read_bytes()
    path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75") + 20])  # ends in the first cluster, before any frame


def mp4_without_its_end(path: Path) -> None:
    write_clip(path.with_suffix(".mp4"), plain_frames(20), "mp4v")
    path.write_bytes(path.with_suffix(".mp4").read_bytes()[:-200])


def with_a_cover(path: Path) -> None:
    """Make a sound recording with a cover: an MP4 whose only track is sound, and a picture in its metadata."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(content), kind) + content

    content = write_clip(path.with_suffix(".mp4"), plain_frames(30), "mp4v").read_bytes()
    content = content.replace(b"vide", b"soun").replace(b"vmhd", b"smhd")
    start = content.rindex(b"moov") - 4
    jpeg = cv2.imencode(".jpg", plain_frames(1)[0])[1].tobytes()
    pictures = box(b"ilst", box(b"covr", box(b"data", struct.pack(">II", 13, 0) + jpeg)))
    handler = box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9))
    metadata = box(b"udta", box(b"meta", bytes(4) + handler + pictures))
    path.write_bytes(content[:start] + box(b"moov", content[start + 8 :] + metadata))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file or directory"),
        (Path.mkdir, "Is a directory"),
        (empty_file, r"is empty \(0 bytes\)"),
        (text_file, "is not a video that can be read"),
        (sound_only, "is not a video that can be read"),
        *(
            (partial(picture, ending=ending), "is a picture")
            for ending in (".png", ".jpg", ".bmp", ".gif", ".webp", ".tiff")
        ),
        (header_only, "contains no frame that can be decoded, although its header promises 20"),
        (webm_header_only, "contains no frame that can be decoded"),
        (mp4_without_its_end, "is not a video that can be read"),
        (with_a_cover, "contains the cover of a recording"),
    ],
)
def test_unreadable_file_is_refused_with_its_reason(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    """A file without a readable frame raises an error with the path and the reason, instead of yielding nothing."""
    path = tmp_path / "v_Punch_g01_c01.avi"
    make(path)
    with pytest.raises(VideoError, match=reason) as error:
        list(read_frames(path))
    assert str(path) in str(error.value)
    with pytest.raises(VideoError, match=reason):
        count_frames(path)


TEXTS = {
    "prose": "This is not a video.\n" * 50,
    "text art": "\x1b[31m####\x1b[0m\n" * 50,
    "list of videos": "videos/one.mp4\nvideos/two.mp4\n",
    "SubRip": "1\n00:00:01,000 --> 00:00:02,000\nHello\n\n",
    "WebVTT": "WEBVTT\n\n00:01.000 --> 00:02.000\nHello\n\n",
    "ASS": "[Script Info]\nScriptType: v4.00+\n\n[Events]\nFormat: Start, End, Text\nDialogue: 0:00:01,0:00:02,Hello\n",
    "MicroDVD": "{1}{25}Hello\n" * 20,
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nreal.ts\n#EXT-X-ENDLIST\n",
    "list to join": "ffconcat version 1.0\nfile real.ts\n",
    "SDP": "v=0\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period/></MPD>',
    "SVG": '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>',
    "XPM": '/* XPM */\nstatic char *x[] = {"1 1 1 1", "a c #fff", "a"};\n',
    "PPM": "P3\n2 2\n255\n" + "0 0 0\n" * 4,
    "empty lines": "\n" * 1000,
}


@pytest.mark.parametrize("ending", [".txt", ".avi", ".mp4"])
@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_not_a_video(tmp_path: Path, kind: str, ending: str) -> None:
    """Text that FFmpeg would draw, and lists that it would follow to other files, are refused under any name."""
    write_clip(tmp_path / "real.ts", plain_frames(30), "MPEG")
    path = tmp_path / f"clip{ending}"
    path.write_text(TEXTS[kind])
    with pytest.raises(VideoError, match=r"is not a video|is a picture"):
        count_frames(path)


@pytest.mark.parametrize("brand", [b"heic", b"avif", b"mif1"])
def test_picture_in_an_mp4_is_not_a_video(tmp_path: Path, brand: bytes) -> None:
    """HEIC and AVIF are containers of the MP4 family, but contain pictures."""
    path = write_clip(tmp_path / "clip.mp4", plain_frames(1), "mp4v")
    content = path.read_bytes()
    path.write_bytes(content[:8] + brand + content[12:])
    with pytest.raises(VideoError, match="is a picture"):
        count_frames(path)


def test_ffmpeg_options_of_the_user_are_kept(tmp_path: Path) -> None:
    """Options for FFmpeg in the environment do not open the door to text again."""
    text_file(tmp_path / "clip.avi")
    code = "import sys; from data.video import *; count_frames(Path(sys.argv[1]))"
    for options in ("threads;1", "nonsense", "|"):
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", options)
            result = run_python(code, tmp_path / "clip.avi")
        assert "VideoError" in result.stderr, options
