"""data/video.py: correct pixels, order and counts, and clear errors."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.video import Frame, FrameCount, VideoError, count_frames, read_first_frame, read_frames, read_header
from tests.helpers import REPOSITORY

HMDB51_CLIPS = {
    "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": 83,
    "RATRACE_wave_f_nm_np1_fr_goo_37.avi": 72,
    "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi": 74,
    "TrumanShow_wave_f_nm_np1_fr_med_26.avi": 48,
}
WHOLE_CLIPS = {
    "v_SoccerJuggling_g23_c01.avi": 240,
    "v_Biking_g05_c02.avi": 201,
    "v_Punch_g03_c01.avi": 108,
    "xvid_bframes_164.avi": 164,
    "R6llTwEh07w.mp4": 303,
    "flipping_a_pancake.mkv": 310,
    "rotated_0.mov": 3,
    "rotated_90.mov": 3,
    "rotated_180.mov": 3,
    "rotated_270.mov": 3,
    "unordered.mov": 4,
}


def write_clip(path: Path, frames: list[Frame], codec: str = "MJPG") -> Path:
    """Write RGB frames at 25 frames per second."""
    height, width, _ = frames[0].shape
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25, (width, height))
    assert writer.isOpened(), f"OpenCV cannot write {codec} into {path.suffix}"
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    return path


def plain_frames(num_frames: int, height: int = 48, width: int = 64) -> list[Frame]:
    """Frames that encode their position: grey bars, with a mean brightness of 20 + 4 i in the i-th frame."""
    bars = np.where(np.arange(width) // 8 % 2 == 0, 10, -10)
    bars = np.broadcast_to(bars[None, :, None], (height, width, 3))
    return [(20 + 4 * i + bars).astype(np.uint8) for i in range(num_frames)]


def positions(frames: list[tuple[int, Frame]]) -> list[int]:
    """Recover which frames of ``plain_frames`` these are; the conversion to YUV and back darkens them by 0 to 3."""
    return [round((float(frame.mean()) - 18.5) / 4) for _, frame in frames]


def opencv_frames(path: Path) -> list[Frame]:
    """Every frame as OpenCV alone decodes it, RGB, as an independent reference."""
    frames: list[Frame] = []
    capture = cv2.VideoCapture(str(path))
    while True:
        ok, frame = capture.read()
        if not ok:
            return frames
        frames.append(frame[..., ::-1])


@pytest.mark.parametrize("name", WHOLE_CLIPS)
def test_real_clip_gives_every_frame_in_order(action_data: Path, name: str) -> None:
    """An undamaged file yields exactly the frames of its header, with OpenCV's pixels and order."""
    path = action_data / "clips" / name
    frames = read_frames(path)
    expected = opencv_frames(path)
    num_read = 0
    for index, frame in frames:
        assert index == num_read
        np.testing.assert_array_equal(frame, expected[index])
        num_read += 1
    assert num_read == WHOLE_CLIPS[name]
    assert frames.count == FrameCount(WHOLE_CLIPS[name], WHOLE_CLIPS[name], "decord")
    assert not frames.count.is_short


@pytest.mark.parametrize("name", HMDB51_CLIPS)
def test_hmdb51_last_frame_is_not_invented(action_data: Path, name: str) -> None:
    """HMDB51 headers count one frame too many; it is not replaced by decord's copy of the last one, and not damage."""
    path = action_data / "clips" / name
    frames = read_frames(path)
    indices = [index for index, _ in frames]
    assert indices == list(range(HMDB51_CLIPS[name]))
    assert frames.count == FrameCount(HMDB51_CLIPS[name] + 1, HMDB51_CLIPS[name], "decord")
    assert not frames.count.is_short


@pytest.mark.parametrize("name", ["v_Biking_g05_c02.avi", "xvid_bframes_164.avi", "flipping_a_pancake.mkv"])
def test_wanted_frames_are_the_frames_of_a_full_decode(action_data: Path, name: str) -> None:
    """Skipping frames changes neither the pixels nor the indices of the wanted ones, across key frames."""
    path = action_data / "clips" / name
    expected = opencv_frames(path)
    wanted = [len(expected) - 1, 0, 1, 13, 99]
    frames = dict(read_frames(path, wanted))
    assert list(frames) == sorted(wanted)
    for index, frame in frames.items():
        np.testing.assert_array_equal(frame, expected[index])


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [("rotated_0", 320, 568), ("rotated_90", 568, 320), ("rotated_180", 320, 568), ("rotated_270", 568, 320)],
)
def test_rotation_metadata_is_applied(action_data: Path, name: str, height: int, width: int) -> None:
    """A video from a phone held upright is read upright, and the header's size is the size of its frames."""
    path = action_data / "clips" / f"{name}.mov"
    assert (read_header(path).height, read_header(path).width) == (height, width)
    _, frame = next(iter(read_frames(path)))
    assert frame.shape == (height, width, 3)


def test_upside_down_video_is_turned(action_data: Path) -> None:
    """A rotation by 180 degrees, which does not change the size, is applied too."""
    path = action_data / "clips" / "rotated_180.mov"
    _, upright = next(iter(read_frames(path)))
    raw = cv2.VideoCapture(str(path))
    raw.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    _, as_stored = raw.read()
    np.testing.assert_array_equal(upright, as_stored[::-1, ::-1, ::-1])


def test_file_broken_in_the_middle_keeps_each_good_frame_once(action_data: Path) -> None:
    """If decord fails half-way, OpenCV continues: the same frames each time, none twice, and the loss is counted."""
    path = action_data / "clips" / "corrupted.mp4"
    for _ in range(3):
        frames = read_frames(path)
        indices = [index for index, _ in frames]
        assert indices == list(range(28))
        assert frames.count == FrameCount(header_frames=50, decoded_frames=28, decoder="opencv")
        assert frames.count.is_short


def test_frames_before_a_break_are_kept_in_order(tmp_path: Path) -> None:
    """All frames before a destroyed one are kept once, while decord alone drops some, depending on thread timing.

    Frames after the break are not used: they depend on what was lost, and their indices would be wrong.
    """
    path = write_clip(tmp_path / "clip.avi", plain_frames(20))
    data = bytearray(path.read_bytes())
    starts = [start for start in range(len(data)) if data[start : start + 3] == b"\xff\xd8\xff"]
    data[starts[10] : starts[10] + 200] = bytes(200)
    path.write_bytes(data)
    for _ in range(5):
        frames = read_frames(path)
        assert positions(list(frames)) == list(range(10))
        assert frames.count == FrameCount(header_frames=20, decoded_frames=10, decoder="opencv")


def test_colours_are_rgb(tmp_path: Path) -> None:
    """A red video is red with either decoder: BGR frames in an RGB network would silently cost accuracy."""
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 250
    for name, decoder in [("red.avi", "decord"), ("red.mpg", "opencv")]:
        frames = read_frames(write_clip(tmp_path / name, [red] * 3, "MJPG" if decoder == "decord" else "MPEG"))
        for _, frame in frames:
            assert frame[..., 0].min() > 200 and frame[..., 1:].max() < 50
        assert frames.count.decoder == decoder


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *(("a.avi", codec) for codec in ("XVID", "MJPG", "HFYU")),
        *((f"a.{ending}", "mp4v") for ending in ("mp4", "m4v", "mov", "3gp", "mkv")),
        *((f"a.{ending}", "VP80") for ending in ("webm", "ogv")),
        *((f"a.{ending}", "mpg2") for ending in ("mpg", "vob", "m2v", "mxf")),
        *((f"a.{ending}", "WMV2") for ending in ("wmv", "asf")),
        ("a.flv", "FLV1"),
        ("a.y4m", "I420"),
    ],
)
def test_frames_come_in_order_from_every_container(tmp_path: Path, name: str, codec: str) -> None:
    """The third frame read is the third frame of the video, in containers with an index and without."""
    frames = read_frames(write_clip(tmp_path / name, plain_frames(30), codec))
    assert positions(list(frames)) == list(range(30))
    assert (frames.count.header_frames, frames.count.decoded_frames) == (30, 30)


@pytest.mark.parametrize("name", ["a.ts", "a.m2ts"])
def test_transport_stream_starts_at_its_first_frame(tmp_path: Path, name: str) -> None:
    """The first frames of an MPEG stream are not lost to decord's rewind, which lands late without an index."""
    path = write_clip(tmp_path / name, plain_frames(30, 240, 320), "MPEG")
    assert positions(list(read_frames(path))) == list(range(30))


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "XVID"), ("a.avi", "MJPG"), ("a.mkv", "mp4v")])
def test_file_cut_in_half_is_reported_short(tmp_path: Path, name: str, codec: str) -> None:
    """Half a download opens and decodes without an error; only the header's frame count reveals it."""
    path = write_clip(tmp_path / name, plain_frames(50, 96, 128), codec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    frames = read_frames(path)
    read = positions(list(frames))
    assert read[:-1] == list(range(len(read) - 1))  # the last frame may be incomplete
    assert 10 <= len(read) < 40
    assert (frames.count.header_frames, frames.count.decoded_frames) == (50, len(read))
    assert frames.count.is_short


@pytest.mark.parametrize("codec", ["XVID", "MJPG"])
def test_header_that_counts_too_few_is_corrected(tmp_path: Path, codec: str) -> None:
    """If the header counts half the frames, sampling still covers the whole video, not only its first half."""
    path = write_clip(tmp_path / "clip.avi", plain_frames(40), codec)
    data = bytearray(path.read_bytes())
    for offset in (data.index(b"avih") + 8 + 16, data.index(b"strh") + 8 + 32):
        assert data[offset : offset + 4] == (40).to_bytes(4, "little")
        data[offset : offset + 4] = (20).to_bytes(4, "little")
    path.write_bytes(data)
    frames = read_frames(path, wanted=lambda num_frames, fps: [0, num_frames - 1])
    assert positions(list(frames)) == [0, 39]
    assert frames.count == FrameCount(header_frames=40, decoded_frames=40, decoder="decord")


def test_is_short_tolerates_what_real_headers_overcount() -> None:
    """Headers of old AVIs count two frames too many; three missing frames are a loss."""
    assert not FrameCount(50, 48, "decord").is_short
    assert FrameCount(50, 47, "decord").is_short
    assert not FrameCount(50, 60, "decord").is_short


def test_variable_frame_rate_is_counted_not_estimated(tmp_path: Path) -> None:
    """20 frames over 3 s are 20 frames, not duration x rate = 146, or uniform sampling would see only the beginning."""
    path = tmp_path / "variable.mkv"
    options = [cv2.VIDEOWRITER_PROP_RAW_VIDEO, 1]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 50, (64, 48), options)
    for i, frame in enumerate(plain_frames(20)):
        writer.set(cv2.VIDEOWRITER_PROP_PTS, i if i < 10 else 15 * (i - 9))
        writer.set(cv2.VIDEOWRITER_PROP_KEY_FLAG, 1)
        writer.write(cv2.imencode(".jpg", frame[..., ::-1])[1].reshape(-1))
    writer.release()
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) > 100
    frames = read_frames(path)
    assert positions(list(frames)) == list(range(20))
    assert (frames.count.header_frames, frames.count.decoded_frames) == (20, 20)


# Widths at which decord misreads padded rows on some processors, so that either decoder may have read the file.
EITHER = ("decord", "opencv")


@pytest.mark.parametrize(
    ("height", "width", "decoders"),
    [
        (30, 2, EITHER),
        (30, 32, EITHER),
        (30, 48, EITHER),
        (30, 96, EITHER),
        (46, 62, ("decord",)),
        (2, 64, ("decord",)),
        (426, 240, ("decord",)),
        (2160, 3840, ("decord",)),
    ],
)
def test_every_frame_size_is_read_exactly(tmp_path: Path, height: int, width: int, decoders: tuple[str, ...]) -> None:
    """Tiny, odd, portrait and 4K frames are read exactly as written (lossless codec)."""
    rng = np.random.default_rng(0)
    written = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2)]
    frames = read_frames(write_clip(tmp_path / "clip.avi", written, "HFYU"))
    for (_, frame), expected in zip(frames, written, strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert frames.count in [FrameCount(2, 2, decoder) for decoder in decoders]


def test_grayscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    """A black-and-white video is read with the three channels that a network needs."""
    path = tmp_path / "gray.avi"
    codec = cv2.VideoWriter.fourcc(*"FFV1")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, 25, (64, 48), isColor=False)
    gradient = np.tile(np.arange(64, dtype=np.uint8) * 3, (48, 1))
    writer.write(gradient)
    writer.release()
    [(_, frame)] = read_frames(path)
    np.testing.assert_array_equal(frame, np.repeat(gradient[..., None], 3, axis=2))


def test_video_of_one_frame(tmp_path: Path) -> None:
    """A single frame is a video."""
    path = write_clip(tmp_path / "one.avi", plain_frames(1), "XVID")
    assert positions(list(read_frames(path))) == [0]
    assert count_frames(path) == FrameCount(1, 1, "decord")


def test_header_gives_size_rate_and_length(tmp_path: Path) -> None:
    """Width and height are not swapped, and the rate is in frames per second."""
    header = read_header(write_clip(tmp_path / "clip.avi", plain_frames(7, height=48, width=64)))
    assert (header.num_frames, header.fps, header.width, header.height) == (7, 25.0, 64, 48)


def test_wanted_past_the_end_and_none_wanted(tmp_path: Path) -> None:
    """Indices past the end are ignored, and the count covers the whole file whatever is wanted."""
    path = write_clip(tmp_path / "clip.avi", plain_frames(9))
    frames = read_frames(path, wanted=np.array([2, 8, 9, 100], dtype=np.int32))
    assert [index for index, _ in frames] == [2, 8]
    assert frames.count.decoded_frames == 9
    assert list(read_frames(path, wanted=[])) == []
    assert [index for index, _ in read_frames(path, wanted=lambda num_frames, fps: [0, num_frames - 1])] == [0, 8]
    assert count_frames(path) == FrameCount(9, 9, "decord")


def test_on_frame_is_called_for_every_decoded_frame(tmp_path: Path) -> None:
    """``on_frame`` is called for wanted and skipped frames, also while OpenCV catches up on a broken file."""
    calls: list[None] = []
    path = write_clip(tmp_path / "clip.avi", plain_frames(20))
    list(read_frames(path, wanted=[3], on_frame=lambda: calls.append(None)))
    assert len(calls) == 20
    path.write_bytes(path.read_bytes()[:-3000])
    calls.clear()
    frames = read_frames(path, wanted=[3], on_frame=lambda: calls.append(None))
    list(frames)
    assert len(calls) >= frames.count.decoded_frames


def test_returned_frames_do_not_change(tmp_path: Path) -> None:
    """A returned frame belongs to the caller: further decoding does not write into it."""
    path = write_clip(tmp_path / "clip.avi", plain_frames(12))
    assert positions(list(read_frames(path))) == list(range(12))


def test_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative "walk:1.avi" is read as a file, although FFmpeg would take it for an address."""
    write_clip(tmp_path / "clip.avi", plain_frames(3)).rename(tmp_path / "walk:1.avi")
    monkeypatch.chdir(tmp_path)
    assert count_frames(Path("walk:1.avi")).decoded_frames == 3


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_decoders_print_nothing(tmp_path: Path) -> None:
    """FFmpeg's messages about a broken file do not appear between progress bars."""
    paths = [tmp_path / "text.avi"]
    paths[0].write_text("This is not a video.\n" * 50)
    for name, codec in [("decord.avi", "XVID"), ("opencv.mpg", "MPEG")]:
        path = write_clip(tmp_path / name, plain_frames(50, 96, 128), codec)
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 1500] = np.random.default_rng(0).bytes(1500)
        path.write_bytes(data)
        paths.append(path)
    code = """
import sys
from pathlib import Path
from data.video import VideoError, count_frames
for path in map(Path, sys.argv[1:]):
    try:
        print(count_frames(path).decoder)
    except VideoError:
        print("refused")
"""
    result = run_python(code, *paths)
    assert (result.returncode, result.stdout.split(), result.stderr) == (0, ["refused", "decord", "opencv"], "")


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    """Reading 280 MB of frames takes less than half of that memory: a long video is never in memory as a whole."""
    path = write_clip(tmp_path / "long.avi", [*plain_frames(40, 480, 640)] * 8, "XVID")
    code = """
import resource, sys
from pathlib import Path
from data.video import read_frames
def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak_mib()
for index, frame in read_frames(Path(sys.argv[1])):
    pass
assert index == 319, index
print(peak_mib() - before)
"""
    result = run_python(code, path)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 140


def test_import_does_not_load_torch() -> None:
    """``data`` does not import torch, so that its commands start fast and decoding workers stay small."""
    result = run_python("import sys, data.video; print('torch' in sys.modules)")
    assert result.stdout == "False\n", result.stderr


def test_the_first_frame_is_that_of_the_whole_video(tmp_path: Path) -> None:
    """Reading it alone gives the same pixels as reading all; a file without a frame is an error that names it."""
    path = write_clip(tmp_path / "a.avi", plain_frames(5))
    _, first = next(iter(read_frames(path)))
    assert np.array_equal(read_first_frame(path), first)
    (tmp_path / "cut.avi").write_bytes(path.read_bytes()[:300])
    with pytest.raises(VideoError, match=r"cut\.avi"):
        read_first_frame(tmp_path / "cut.avi")
