"""data/verify.py: every bad video is named, and no video can stop the check."""

import os
import re
import signal
from pathlib import Path

from data.verify import ExpectedVideo, Problem, fault_of_video, find_problems, report_of


def fault_by_name(path: Path) -> str:
    """A decoder that misbehaves on some files, in a way that only the kernel can end."""
    if path.stem == "hang":
        re.match(r"(a+)+$", "a" * 60 + "b")  # spins in native code and holds the GIL, as a decoder may
    if path.stem == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.stem == "raise":
        raise MemoryError("frame too large")
    return "short: 3 of 9 frames" if path.stem == "short" else ""


def test_a_worker_that_hangs_dies_or_raises_costs_one_video() -> None:
    """Every other video is still checked, and the bad ones are named with their reason."""
    names = ["a", "hang", "b", "die", "c", "raise", "short", "d"]
    videos = [ExpectedVideo(name, "Run", Path(f"{name}.avi")) for name in names]
    problems = find_problems(videos, workers=1, timeout_s=3.0, fault_of=fault_by_name)
    assert {problem.video.video_id: problem.reason for problem in problems} == {
        "hang": "unreadable: the decoder hung for 3 s and was stopped",
        "die": "unreadable: the decoder died (exit code -9)",
        "raise": "unreadable: MemoryError: frame too large",
        "short": "short: 3 of 9 frames",
    }


def test_a_missing_video_is_a_problem_without_a_worker() -> None:
    """A listed video without a file is reported, not skipped."""
    video = ExpectedVideo("v", "Run", None)
    assert find_problems([video], workers=1) == [Problem(video, "missing")]


def test_the_report_is_grouped_by_class() -> None:
    """The report counts per class, names each video, and adds up."""
    videos = [ExpectedVideo(f"{name}{number}", name, None) for name in ("Run", "Jump") for number in range(3)]
    problems = [Problem(videos[0], "missing"), Problem(videos[4], "short: 1 of 9 frames")]
    assert report_of(videos, problems).splitlines() == [
        "Jump: 1 of 3 videos",
        "  Jump1  short: 1 of 9 frames",
        "Run: 1 of 3 videos",
        "  Run0  missing",
        "6 videos, 4 good, 1 missing, 0 unreadable, 1 short",
    ]


def test_real_videos_are_judged_correctly(action_data: Path) -> None:
    """HMDB51's headers that promise one frame too many are not damage; a video broken in the middle is."""
    clips = action_data / "clips"
    for name in ("v_Biking_g05_c02.avi", "TrumanShow_wave_f_nm_np1_fr_med_26.avi", "xvid_bframes_164.avi"):
        assert fault_of_video(clips / name) == ""
    assert fault_of_video(clips / "corrupted.mp4").startswith(("short:", "unreadable:"))
