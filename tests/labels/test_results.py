"""pipeline/labels/results.py: labels.csv and the page."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from data.catalog import DataConfig, load_dataset
from data.records import Split, VideoRecord
from pipeline.labels.results import agreement_note, csv_table, place_of, write_results
from pipeline.labels.suspects import Suspect
from pipeline.reports.pages import csv_bytes

HOSTILE = "</script><img src=x onerror=alert(1)>"


def make_videos(root: Path, names: tuple[str, ...]) -> list[VideoRecord]:
    return [VideoRecord(name, root / name, number % 2, f"g{number // 2}") for number, name in enumerate(names)]


def test_the_csv_reads_as_the_same_dataset(tmp_path: Path) -> None:
    """Read by --dataset folder, labels.csv names the same videos with the same labels, groups and split, wherever it
    is; suspects come first; and an edited label is another label."""
    videos = make_videos(tmp_path / "data", tuple(f"{name}/v{name}, 1.avi" for name in "abcdefgh"))
    classes, suspects = ("run", HOSTILE), [Suspect(3, 1, 0, 0.1, 0.9)]
    listed = Split("listed", tuple(videos[:4]), tuple(videos[4:6]), tuple(videos[6:]))
    probabilities = np.full((8, 2), 0.5)
    probabilities[7] = np.nan
    path = tmp_path / "out" / "labels.csv"
    path.parent.mkdir()
    path.write_bytes(csv_bytes(csv_table(videos, classes, suspects, probabilities, listed)))
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [rows[0][name] for name in ("path", "suspect", "suggested", "probability")] == [
        str(videos[3].path),
        "1",
        "run",
        "0.5000",
    ]
    assert [row["suspect"] for row in rows[1:]] == ["0"] * 7 and rows[-1]["probability"] == ""
    dataset = load_dataset(DataConfig(dataset="folder", root=path))
    found = {video.video_id: (dataset.classes[video.label], video.group) for video in dataset.videos}
    assert found == {video.video_id: (classes[video.label], video.group) for video in videos}
    for part in ("train", "validation", "test"):
        ids = [{video.video_id for video in getattr(split, part)} for split in (dataset.split("listed"), listed)]
        assert ids[0] == ids[1]
    path.write_text(path.read_text().replace(f'{videos[3].path}",{HOSTILE}', f'{videos[3].path}",run'))
    corrected = {video.video_id: video.label for video in load_dataset(DataConfig("folder", path)).videos}
    assert corrected[videos[3].video_id] == corrected[videos[0].video_id]


def test_videos_in_one_subfolder_need_the_csv_beside_it(tmp_path: Path) -> None:
    """Otherwise a CSV elsewhere would give them other names, and their features would be extracted again."""
    assert place_of(make_videos(tmp_path, ("clips/a.avi", "clips/b.avi"))) == tmp_path
    assert place_of(make_videos(tmp_path, ("run/a.avi", "walk/b.avi"))) is None
    assert place_of([VideoRecord("v_a", tmp_path / "run" / "a.avi", 0, "g")]) is None


@pytest.mark.parametrize("num_suspects", [0, 1])
def test_the_page_shows_hostile_names_as_text(tmp_path: Path, num_suspects: int) -> None:
    """Labels, names and notes are text, with and without suspects, and without strips."""
    videos = make_videos(tmp_path, (f"{HOSTILE}.avi", "b.avi"))
    suspects = [Suspect(0, 0, 1, 0.1, 0.9)][:num_suspects]
    page = write_results(tmp_path, HOSTILE, iter([["path"]]), videos, (HOSTILE, "run"), suspects, {}, [HOSTILE])
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text and text.count("&lt;img src=x") >= 3
    assert ("No label is suspect" in text) == (not num_suspects)


def test_suspects_of_a_model_that_knows_little_come_with_a_warning() -> None:
    """Where the models disagree with most labels, the features are to blame, not the labels."""
    labels = np.arange(10) % 2
    assert agreement_note(np.eye(2)[labels], labels) == "The models agree with 100.0 % of the labels."
    assert "suspects say little" in agreement_note(np.eye(2)[1 - labels], labels)
