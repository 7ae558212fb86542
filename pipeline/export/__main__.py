"""Write a run as one file for other programs: python -m pipeline.export RUN --to FILE.zip"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from data.command import parse_arguments, run_command


@dataclass(frozen=True)
class Arguments:
    """Write a run as one zip file (docs/export.md), after it was checked on frames of the run's test videos."""

    run: tyro.conf.Positional[Path]
    """folder of a run, made by train.py"""
    to: Path
    """zip file to write; an existing one is replaced"""
    root: Path | None = None
    """the dataset's folder, if it has moved"""


def main(arguments: Sequence[str]) -> int:
    """Return 0: the bundle was checked and written. Everything else is an error."""
    options = parse_arguments(Arguments, arguments, prog="python -m pipeline.export")
    from pipeline.export.frames import find_videos, made_clips, read_clips
    from pipeline.export.write import export
    from pipeline.training.run import Run

    run = Run(options.run)
    with run.lock("export", shared=True):
        videos, reason = find_videos(run, options.root)
        if not videos:
            print(f"checked on made videos: {reason}", file=sys.stderr)
        checked = export(run, options.to, read_clips(videos) if videos else made_clips())
    print(
        f"{options.to}  ({options.to.stat().st_size / 1e6:.1f} MB; {checked.num_frames} frames of {checked.num_clips} "
        f"{'test' if videos else 'made'} videos: probabilities differ by at most {checked.difference:.1g})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
