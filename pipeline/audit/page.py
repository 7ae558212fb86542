"""The files of an audit: audit.csv, groups.csv, exclude.txt and the page, audit.html."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.audit.findings import AlikeGroups, Finding, group_rows, pair_rows, summary, to_exclude
from pipeline.audit.pairs import Found
from pipeline.objectives.exclusion import exclude_text
from pipeline.reports.pages import csv_bytes, render_page, write_files
from pipeline.reports.strips import make_strips
from pipeline.settings.config import FeatureConfig

_NUM_LISTED = 500  # pairs on the page: it stays small, and all are in audit.csv


def write_audit(
    folder: Path,
    title: str,
    found: Found,
    findings: Sequence[Finding],
    alike: Sequence[AlikeGroups],
    classes: Sequence[str],
    num_strips: int,
    config: FeatureConfig,
) -> Path:
    """Write all files to ``folder``, and return the path of the page.

    Args:
        title: the dataset, the split and the number of videos.
        num_strips: number of pairs whose frames the page shows. Videos without a file are shown without.
    """
    shown = {video.video_id: video for finding in findings[:num_strips] for video in finding.videos}
    strips = {}
    if shown:
        paths = make_strips(
            list(shown.values()), folder, len(shown), workers=config.workers, timeout=config.video_timeout
        )
        strips = {video_id: path.read_bytes() for video_id, path in paths.items()}
    excluded = to_exclude(findings)
    about = (
        f"{title}\n{len(excluded)} videos that are copies of videos in an earlier part (training, validation, test). "
        "Use: train.py --exclude THIS_FILE"
    )
    page = render_page(
        "audit.html.j2",
        ("sortable.js",),
        title=title,
        summary=summary(findings, alike),
        found=found,
        findings=findings[:_NUM_LISTED],
        num_findings=len(findings),
        alike=alike,
        classes=classes,
        num_excluded=len(excluded),
        strips=strips,
    )
    files = {
        "audit.csv": csv_bytes(pair_rows(findings, classes)),
        "groups.csv": csv_bytes(group_rows(alike)),
        "exclude.txt": exclude_text(excluded, about).encode(),
        "audit.html": page.encode(errors="replace"),
    }
    write_files(folder, files)
    return folder / "audit.html"
