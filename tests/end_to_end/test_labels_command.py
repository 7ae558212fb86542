"""``python -m pipeline.labels`` as a user runs it: find, correct, train."""

import csv
import os
from pathlib import Path

import pytest

from tests.helpers.clips import render_moving_squares
from tests.helpers.commands import call, message

pytest.importorskip("cleanlab", reason="cleanlab is not installed (pip install -e '.[labels]')")


def test_a_wrong_label_is_found_corrected_and_read_back(tmp_path: Path, tiny_backbone: tuple[str, Path]) -> None:
    """A video in the wrong class folder is suspected, with its strip; its corrected CSV is a dataset that needs no new
    features; and the corrections are not overwritten."""
    videos = tmp_path / "videos"
    render_moving_squares(videos)
    (one, other) = sorted(path for path in videos.iterdir())
    moved = sorted(one.iterdir())[2]
    os.rename(moved, other / f"planted{moved.name}")
    name, weights = tiny_backbone
    features = ("--backbone", name, "--weights", weights, "--sampling", "every:2", "--cache", tmp_path / "cache")
    features = (*features, "--workers", 1)
    dataset = ("--dataset", "folder", "--group-pattern", r"_(g\d+)_")
    output = tmp_path / "out"
    done = call("-m", "pipeline.labels", *dataset, "--root", videos, *features, "--output", output)
    assert done.returncode == 0, done.stderr
    with (output / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and rows[0]["path"].endswith(f"planted{moved.name}"), rows[:2]
    assert (rows[0]["label"], rows[0]["suggested"], rows[0]["suspect"]) == (other.name, one.name, "1")
    page = (output / "labels.html").read_text(encoding="utf-8")
    assert page.count('<img class="strip"') == sum(row["suspect"] == "1" for row in rows)

    rows[0]["label"] = rows[0]["suggested"]
    with (output / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    again = call("-m", "pipeline.labels", *dataset, "--root", videos, *features, "--output", output)
    assert again.returncode == 2 and "--overwrite" in message(again)
    corrected = ("--dataset", "folder", "--root", output / "labels.csv")
    cached = call("-m", "pipeline.cache", *corrected, *features)
    assert cached.returncode == 0 and '"num_extracted": 0' in cached.stdout, cached.stdout + cached.stderr


def test_what_cannot_be_judged_is_an_error(tmp_path: Path) -> None:
    """Unlabelled videos and silly numbers are refused before anything is cached."""
    (tmp_path / "a.avi").touch()
    done = call("-m", "pipeline.labels", "--dataset", "unlabelled", "--root", tmp_path)
    assert done.returncode == 2 and "has no labels" in message(done)
    done = call("-m", "pipeline.labels", "--folds", 1)
    assert done.returncode == 2 and "folds must be at least 2" in message(done)
