"""Datasets without video files through the real command lines: imported features, and what needs the files."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from pipeline.cache.imports import import_command
from tests.helpers.commands import call, message

NUM_VIDEOS = 24
pytestmark = pytest.mark.usefixtures("without_pictures")  # of what is called in this process


def write_features(folder: Path, names: list[str]) -> None:
    """Write features of two classes that are easy to tell apart; even numbers are of the first class."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).normal(size=(4, 6))
        np.save(folder / f"{name}.npy", (noise + 3 * (number % 2)).astype(np.float16))


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """A CSV of videos that do not exist, without groups."""
    rows = "".join(f"{('run', 'walk')[n % 2]}/{n}.avi,{('run', 'walk')[n % 2]}\n" for n in range(NUM_VIDEOS))
    (tmp_path / "videos.csv").write_text("path,label\n" + rows)
    return tmp_path / "videos.csv"


@pytest.fixture
def ucf101_lists(tmp_path: Path) -> Path:
    """Lists in UCF101's format, of two classes with three groups, without videos."""
    lists: dict[str, list[str]] = {"trainlist01.txt": [], "testlist01.txt": []}
    for number, name in enumerate(("Biking", "Diving")):
        for group, part in ((1, "testlist01.txt"), (9, "trainlist01.txt"), (22, "trainlist01.txt")):
            line = f"{name}/v_{name}_g{group:02d}_c01.avi"
            lists[part].append(line if part.startswith("test") else f"{line} {number + 1}")
    (tmp_path / "classInd.txt").write_text("1 Biking\n2 Diving\n")
    for part, lines in lists.items():
        (tmp_path / part).write_text("\n".join(lines) + "\n")
    return tmp_path


def check_end(done: "subprocess.CompletedProcess[str]", exit_code: int = 0) -> list[str]:
    """Check the exit code and that there is no traceback; returns the lines of standard error."""
    assert done.returncode == exit_code and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stderr.splitlines()


def test_a_csv_of_missing_videos(csv: Path, tmp_path: Path) -> None:
    """Features of videos that are not on this disk are imported, trained on and evaluated. train.py shows the split
    and warns of missing groups; the report has no strips, which one line explains."""
    data = ["--dataset", "folder", "--root", csv, "--cache", tmp_path / "cache"]
    train = ["train.py", *data, "--backbone", "imported:mine", "--epochs", 2, "--hidden-size", 8]
    train += ["--runs", tmp_path / "runs"]
    lines = check_end(call(*train), 2)
    (error,) = (line for line in lines if "imported:mine" in line or "no features" in line)
    assert f"{NUM_VIDEOS} of {NUM_VIDEOS} videos" in error and "pipeline.cache import --name mine" in error
    assert not list((tmp_path / "cache").rglob("errors.jsonl")) and not (tmp_path / "runs").exists()

    write_features(tmp_path / "made", [f"{('run', 'walk')[n % 2]}/{n}" for n in range(NUM_VIDEOS)])
    check_end(call("-m", "pipeline.cache", "import", *data, "--from", tmp_path / "made", "--name", "mine"))
    lines = check_end(call(*train))
    table = {line.split()[0]: line.split()[1:] for line in lines if line.split()[0] in ("train", "validation", "test")}
    assert sum(int(cells[0]) for cells in table.values()) == NUM_VIDEOS
    for num_videos, num_groups, num_classes in table.values():
        assert num_videos == num_groups and num_classes == "2"
    (warning,) = (line for line in lines if line.startswith("warning: ") and "no groups" in line)
    assert "--group-pattern" in warning and "group" in warning

    lines = check_end(call("evaluate.py", tmp_path / "runs", "--again"))
    (note,) = (line for line in lines if "strips" in line)
    assert f"{table['test'][0]} videos" in note


def test_features_imported_again_are_not_taken_for_the_old_ones(csv: Path, tmp_path: Path) -> None:
    """A run is neither evaluated nor resumed on other features that were imported under the same name since; features
    of further videos make no difference. If the classes have changed, too, that is the message."""
    data = ["--dataset", "folder", "--root", csv, "--cache", tmp_path / "cache"]
    train = ["train.py", *data, "--backbone", "imported:mine", "--epochs", 1, "--hidden-size", 8, "--allow-missing"]
    train += ["--runs", tmp_path / "runs", "--strips", 0]
    again = ["evaluate.py", tmp_path / "runs", "--again"]
    names = [f"{('run', 'walk')[n % 2]}/{n}" for n in range(NUM_VIDEOS)]

    def import_files() -> int:
        return import_command([*map(str, data), "--from", str(tmp_path / "made"), "--name", "mine"])

    write_features(tmp_path / "made", names[:-1])
    assert import_files() == 1
    check_end(call(*train), 1)
    write_features(tmp_path / "made", names)
    assert import_files() == 0
    check_end(call(*again))
    np.save(tmp_path / "made" / f"{names[0]}.npy", np.zeros((4, 6)))
    assert import_files() == 0
    for command, exit_code in (again, 1), ([*train, "--resume"], 2):
        done = call(*command)
        check_end(done, exit_code)
        assert "imported:mine: 1 videos were imported again, such as run/0.avi" in message(done)
    csv.write_text(csv.read_text().replace("walk", "stroll"))
    for command, exit_code in (again, 1), ([*train, "--resume"], 2):
        done = call(*command)
        check_end(done, exit_code)
        assert "gone: walk; new: stroll" in message(done)


def test_ucf101_without_videos(ucf101_lists: Path, tmp_path: Path) -> None:
    """The official lists and a tree <Class>/<video>.npy are enough to import and to train."""
    videos = [f"{name}/v_{name}_g{group:02d}_c01" for group in (1, 9, 22) for name in ("Biking", "Diving")]
    write_features(tmp_path / "made", videos)
    data = ["--dataset", "ucf101", "--root", ucf101_lists, "--cache", tmp_path / "cache"]
    check_end(call("-m", "pipeline.cache", "import", *data, "--from", tmp_path / "made", "--name", "mine"))
    train = ["train.py", *data, "--backbone", "imported:mine", "--epochs", 1, "--hidden-size", 8]
    lines = check_end(call(*train, "--runs", tmp_path / "runs"))
    assert any(line.split() == ["validation", "2", "2", "2"] for line in lines)
    assert not any("no groups" in line for line in lines)
    assert len(list((tmp_path / "runs").rglob("metrics.json"))) == 1


@pytest.mark.parametrize(
    "command", [["train.py"], ["-m", "pipeline.cache"], ["-m", "pipeline.cache", "--frames", "pictures"]]
)
def test_what_decodes_needs_every_video(
    command: list[str], ucf101_lists: Path, tmp_path: Path, tiny_backbone: tuple[str, Path]
) -> None:
    """A missing video stops training and caching in one message, with the command that gets it, even with the other
    videos there; --allow-missing is for videos that can't be decoded."""
    (tmp_path / "v_Biking_g01_c01.avi").touch()
    name, weights = tiny_backbone
    command = [word if word != "pictures" else str(tmp_path / "pictures") for word in command]
    flags = ["--dataset", "ucf101", "--root", ucf101_lists, "--cache", tmp_path / "cache"]
    flags += ["--backbone", name, "--weights", weights]
    if command == ["train.py"]:
        flags += ["--allow-missing", "--runs", tmp_path / "runs"]
    done = call(*command, *flags)
    check_end(done, 2)
    (error,) = (line for line in done.stderr.splitlines() if "do not exist" in line)
    assert "5 of 6 videos" in error and "v_Biking_g09_c01.avi" in error
    assert f"python -m data.ucf101 download --root {ucf101_lists}" in message(done)
    assert not list(tmp_path.rglob("errors.jsonl")) and not (tmp_path / "runs").exists()


def test_overfitting_is_reported_after_training(csv: Path, tmp_path: Path) -> None:
    """A network that learns noise by heart ends with a warning that says what to change."""
    for number in range(NUM_VIDEOS):
        path = tmp_path / "made" / f"{number}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.random.default_rng(number).normal(size=(4, 64)))
    data = ["--dataset", "folder", "--root", csv, "--cache", tmp_path / "cache"]
    check_end(call("-m", "pipeline.cache", "import", *data, "--from", tmp_path / "made", "--name", "noise"))
    settings = ["--hidden-size", 32, "--dropout", 0, "--epochs", 60, "--patience", 60, "--learning-rate", 0.01]
    done = call("train.py", *data, "--backbone", "imported:noise", *settings, "--runs", tmp_path / "runs")
    (warning,) = (line for line in check_end(done) if line.startswith("warning: ") and "training accuracy" in line)
    assert "--weight-decay" in warning and "--epochs" in warning
