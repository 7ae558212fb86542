"""The comparison of initialisations: equal budgets, cells that can be broken off, and a report that hides nothing."""

import csv
import dataclasses
import json
import math
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.paper import main, read_outcome, run_cell, run_cells, run_of
from benchmarks.paper_plan import (
    METHODS,
    TUNING_SEED,
    Arguments,
    Cell,
    Chosen,
    Method,
    Outcome,
    Settings,
    Task,
    choose,
    comparison_cells,
    config_of,
    grid_cells,
    settings_for,
)
from benchmarks.paper_report import write_report
from models.classifier import STATE_NETWORKS
from pipeline.experiment import run_experiment
from pipeline.settings.config import ConfigError
from tests.helpers.commands import finish, message, run, start
from tests.helpers.idx import write_small_mnist

UNFINISHED, FAR_AWAY = 0.0, math.inf  # deadlines: long past, never


def asking(folder: Path, **settings: Any) -> Arguments:
    """A comparison of seconds: sequences of 5 steps, trainings of 40."""
    small: dict[str, Any] = {"methods": ("np_rnn", "irnn"), "tasks": ("addition:5",), "tuned_on": "addition:5"}
    small |= {"learning_rates": (0.01, 0.03), "clippings": (1.0,), "seeds": (0, 1), "workers": 1}
    small |= {"grid_steps": 40, "steps": 40, "validate_every": 20, "hidden": 12, "batch_size": 20, "epochs": 2}
    return Arguments(results=folder / "runs", output=folder / "docs" / "paper.md", **(small | settings))


def flags(asked: Arguments) -> list[str]:
    words: list[str] = []
    for name, value in vars(asked).items():
        if value is not None:
            words.append(f"--{name.replace('_', '-')}")
            words += map(str, value if isinstance(value, tuple) else (value,))
    return words


def outcome(**facts: Any) -> Outcome:
    """A training that solved its task, but for ``facts``."""
    solved = {"diverged": False, "solved": True, "epochs": 4, "seconds": 1.0, "validation_loss": 1e-3}
    return Outcome(**(solved | {"steps_to_solve": 500, "mse": 2e-3, "accuracy": None, "made_with": "made up"} | facts))


def trained(cell: Cell, asked: Arguments) -> Outcome:
    found = run_cell(config_of(cell, asked), FAR_AWAY)
    assert found is not None
    return found


FAILED = outcome(solved=False, validation_loss=0.1, steps_to_solve=None, mse=0.1)
DIVERGED = outcome(diverged=True, solved=False, steps_to_solve=None, mse=None)


def row(report: str, head: str, method: str) -> list[str]:
    """A method's row in the first table under a heading, as the report shows it."""
    section = report.split(f"## {head}\n")[1].split("\n## ")[0]
    (line,) = (line for line in section.splitlines() if line.startswith(f"| {method} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_method_has_the_same_budget() -> None:
    """All methods are tuned on the same settings, with a seed and sequences that no result is reported for, and then
    train as long, at each length with the learning rate that one rule gives."""
    asked = Arguments()
    grid = {method: [cell for cell in grid_cells(asked) if cell.method == method] for method in METHODS}
    assert {tuple(cell._replace(method="np_rnn") for cell in cells) for cells in grid.values()} == {
        tuple(grid["np_rnn"])
    }
    assert {cell.seed for cell in grid_cells(asked)} == {TUNING_SEED}
    compared = comparison_cells(asked, dict.fromkeys(METHODS, Settings(0.01, 1.0)))
    assert len(grid_cells(asked)) + len(compared) == asked.num_cells
    for method in METHODS:
        own = [cell for cell in compared if cell.method == method]
        assert [cell._replace(method="np_rnn") for cell in own] == [c for c in compared if c.method == "np_rnn"]
    configs = [config_of(cell, asked) for cell in compared]
    assert (
        len({(c.training.epochs, c.training.batch_size, c.model.hidden_size, c.model.input_scale) for c in configs})
        == 1
    )
    assert set(METHODS) == set(STATE_NETWORKS)


def test_a_small_budget_gives_whole_rows() -> None:
    """Tasks come in the order asked for, each method's seeds together: what is cut off is the end of a table."""
    asked = Arguments(
        methods=("np_rnn", "lstm"), tasks=("addition:100", "multiplication:50"), seeds=(0, 1), tuned_on="addition:100"
    )
    cells = comparison_cells(asked, {"np_rnn": Settings(0.01, 1.0), "lstm": Settings(0.003, 10.0)})
    assert [(str(cell.task), cell.method, cell.seed, cell.learning_rate, cell.clip_gradient) for cell in cells] == [
        ("addition:100", "np_rnn", 0, 0.01, 1.0),
        ("addition:100", "np_rnn", 1, 0.01, 1.0),
        ("addition:100", "lstm", 0, 0.003, 10.0),
        ("addition:100", "lstm", 1, 0.003, 10.0),
        ("multiplication:50", "np_rnn", 0, 0.02, 1.0),
        ("multiplication:50", "np_rnn", 1, 0.02, 1.0),
        ("multiplication:50", "lstm", 0, 0.006, 10.0),
        ("multiplication:50", "lstm", 1, 0.006, 10.0),
    ]


@pytest.mark.parametrize(
    ("outcomes", "best"),
    [
        ([FAILED, outcome(steps_to_solve=750), outcome(), DIVERGED], 2),
        ([outcome(validation_loss=2e-3), FAILED, DIVERGED, outcome(validation_loss=1e-3)], 3),
        ([DIVERGED, dataclasses.replace(FAILED, validation_loss=0.2), FAILED, FAILED], 2),
        ([DIVERGED, outcome(diverged=True, validation_loss=None), DIVERGED, FAILED], 3),
        ([DIVERGED, DIVERGED, DIVERGED, DIVERGED], 0),
    ],
)
def test_the_settings_that_are_chosen(outcomes: list[Outcome], best: int) -> None:
    """Fewest steps first, then the lowest validation error, what diverged last; the test error has no say."""
    asked = Arguments(methods=("irnn",), learning_rates=(0.1, 0.2), clippings=(1.0, 2.0))
    untested = [dataclasses.replace(each, mse=0.5 - number / 10) for number, each in enumerate(outcomes)]
    assert choose(asked, dict(zip(grid_cells(asked), untested, strict=True))) == {"irnn": asked.grid[best]}


def test_nothing_is_chosen_from_half_a_grid() -> None:
    """A method is not compared before every one of its settings has been tried."""
    asked = Arguments(methods=("irnn", "gru"))
    done = dict.fromkeys(grid_cells(asked)[:-1], outcome())
    assert choose(asked, done).keys() == {"irnn"}
    assert {cell.method for cell in comparison_cells(asked, choose(asked, done))} == {"irnn"}


def test_longer_sequences_have_a_lower_learning_rate() -> None:
    """Divided by how many times as long they are, the clipping as chosen; --longer same keeps both."""
    asked = Arguments(tuned_on="addition:100")
    assert settings_for(Task.parse("addition:400"), Settings(1e-3, 10.0), asked) == (2.5e-4, 10.0)
    assert settings_for(Task.parse("pixel_mnist"), Settings(1e-2, 0.1), asked) == (1.28e-3, 0.1)
    same = dataclasses.replace(asked, longer="same")
    assert settings_for(Task.parse("addition:400"), Settings(1e-3, 10.0), same) == (1e-3, 10.0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tasks": ("additon:100",)}, "unknown task 'additon:100'. Did you mean 'addition'?"),
        ({"tasks": ("addition",)}, "wants a length of at least 2, like addition:100"),
        ({"tasks": ("addition:1",)}, "wants a length of at least 2"),
        ({"tasks": ("pixel_mnist:784",)}, "There are: pixel_mnist, pixel_mnist:permuted"),
        ({"tasks": ("addition:7", "addition:07")}, "name one twice"),
        ({"tasks": ()}, "tasks are one or more, each once, not none"),
        ({"seeds": (0, 0)}, "seeds are one or more, each once, not 0 0"),
        ({"seeds": (TUNING_SEED,)}, "is the one that settings are chosen with"),
        ({"steps": 300}, r"steps \(300\) is no multiple of validate_every"),
        ({"workers": 0}, "workers is at least 1, not 0"),
        ({"clippings": (0.0,)}, "learning rates and clippings are above 0"),
        ({"tuned_on": "pixel_mnist"}, "tuned_on is addition:T or multiplication:T"),
    ],
)
def test_what_can_t_be_asked_for(wrong: dict[str, Any], told: str) -> None:
    """A typo or a contradiction is answered before the first training, with what would do."""
    with pytest.raises(ConfigError, match=told):
        Arguments(**wrong)


def test_a_cell_is_a_run_of_train_py(tmp_path: Path) -> None:
    """train.py with the settings in a cell's folder gives the same numbers."""
    asked = asking(tmp_path)
    cell = grid_cells(asked)[0]
    found, saved = trained(cell, asked), run_of(config_of(cell, asked)).config()
    elsewhere = dataclasses.replace(saved, run=dataclasses.replace(saved.run, runs=tmp_path / "train"))
    assert run_experiment(elsewhere) == 0
    metrics = json.loads((run_of(elsewhere).evaluation / "metrics.json").read_text())
    assert (found.mse, found.epochs, found.solved) == (metrics["mse"], 2, metrics["solved"])
    assert found.validation_loss == min(line["validation_loss"] for line in run_of(elsewhere).history())
    assert found == read_outcome(config_of(cell, asked))


def test_divergence_is_a_result(tmp_path: Path) -> None:
    """A training whose loss is not finite is counted as not solved and marked; the others go on; it is chosen last."""
    asked = asking(tmp_path, methods=("irnn",), learning_rates=(1e12, 0.03), clippings=(1e9,))
    bad, good = grid_cells(asked)
    done = {cell: trained(cell, asked) for cell in (bad, good)}
    assert done[bad] == read_outcome(config_of(bad, asked)) and not done[good].diverged
    assert (done[bad].diverged, done[bad].solved, done[bad].mse) == (True, False, None)
    report = write_report(asked, done, choose(asked, done))
    solved = int(done[good].solved)
    assert row(report, "How much of the grid trains", "irnn")[1:4] == [f"{solved} of 2", f"{solved / 2:.0%}", "1"]
    assert row(report, "How much of the grid trains", "irnn")[5:] == ["0.03*", "1e+09"]


def test_digits_are_compared_by_accuracy(tmp_path: Path) -> None:
    """A cell of pixel MNIST trains whole epochs and is told by the share of the test images that it gets right."""
    root = write_small_mnist(tmp_path / "mnist")
    asked = asking(tmp_path, methods=("np_rnn",), tasks=("pixel_mnist:permuted",), mnist_root=root, seeds=(0,))
    chosen: Chosen = {"np_rnn": Settings(1.0, 1.0)}
    (cell,) = comparison_cells(asked, chosen)
    found = trained(cell, asked)
    assert found.accuracy is not None and found.mse is None
    assert found.epochs == 2 and round(40 * found.accuracy, 6).is_integer()
    assert cell.name == "compare-np_rnn-permuted-lr_0.00638-clip_1-seed_0"
    percent = f"{100 * found.accuracy:.1f}"
    report = write_report(asked, {cell: found}, chosen)
    assert row(report, "Pixel MNIST", "np_rnn") == ["np_rnn", f"{percent} ({percent})"]


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    """Cells that were begun or done with other settings are refused by name, never mixed into a table."""
    asked = asking(tmp_path)
    cell = grid_cells(asked)[0]
    trained(cell, asked)
    wider = dataclasses.replace(asked, hidden=13)
    assert read_outcome(config_of(cell, wider)) is None
    with pytest.raises(ConfigError, match="hidden_size: 12 there, 13 now.*Or give other --results"):
        run_cells(grid_cells(wider), wider, UNFINISHED, "grid")


def test_no_cell_begins_after_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--budget 0 writes the report of what there is, and trains nothing; a worker that comes late begins nothing."""
    asked = asking(tmp_path)
    first = grid_cells(asked)[0]
    trained(first, asked)
    assert run_cell(config_of(grid_cells(asked)[1], asked), UNFINISHED) is None
    assert main([*flags(asked), "--budget", "0"]) == 0
    assert "1 of 8 cells are done" in capsys.readouterr().out
    assert [path.name for path in (asked.results / "addition").iterdir()] == [first.name]
    report = asked.output.read_text()
    assert "**1 of 8 trainings are done.** What is missing has a dash" in report
    assert row(report, "How much of the grid trains", "irnn")[1:] == ["–"] * 6
    assert row(report, "Addition", "np_rnn") == ["np_rnn", "–", "–"]


def test_from_nothing_to_the_report_and_on(tmp_path: Path) -> None:
    """All cells are trained; starting it again trains nothing; one that is gone is trained again, to the same numbers,
    and the report is the same."""
    asked = asking(tmp_path, tasks=("addition:5", "multiplication:5"), seeds=(0,))
    assert main(flags(asked)) == 0
    numbers, report = without_seconds(asked), asked.output.read_text()
    assert "**8 of 8 trainings are done.** Nothing is missing." in report
    assert "--learning-rates 0.01 0.03 --clippings 1 --grid-steps 40 --steps 40 --validate-every 20" in report
    pictures = [path for path in asked.output.parent.iterdir() if path.suffix == ".png"]
    assert {path.name for path in pictures} == {"paper_grid.png", "paper_mse.png"}
    assert all(path.name in report for path in pictures)

    outcomes = sorted(asked.results.rglob("outcome.json"))
    times = {path: path.stat().st_mtime_ns for path in outcomes}
    outcomes[3].unlink()
    assert main(flags(asked)) == 0
    assert [path for path in outcomes if path.stat().st_mtime_ns != times[path]] == [outcomes[3]]
    assert without_seconds(asked) == numbers
    assert asked.output.read_text() == report


def without_seconds(asked: Arguments) -> list[dict[str, str]]:
    with asked.output.with_suffix(".csv").open() as file:
        return [{key: value for key, value in line.items() if key != "seconds"} for line in csv.DictReader(file)]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_broken_off_in_the_middle_of_a_cell(tmp_path: Path, sign: signal.Signals) -> None:
    """Ctrl-C and kill -9 leave no process behind; the same command goes on from the last checkpoint and comes to the
    numbers that it would have come to."""
    settings: dict[str, Any] = {"methods": ("np_rnn",), "learning_rates": (0.01,), "seeds": (0,), "grid_steps": 2_000}
    asked, whole = asking(tmp_path / "broken", **settings), asking(tmp_path / "whole", **settings)
    (cell,) = grid_cells(asked)
    own_run = run_of(config_of(cell, asked))
    process = start("-m", "benchmarks.paper", *flags(asked))
    wait_for(lambda: (own_run.checkpoints / "last.pt").exists(), process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sign)
    broken = finish(process)
    assert broken.returncode == (130 if sign == signal.SIGINT else -sign), broken.stderr
    assert workers and psutil.wait_procs(workers, timeout=20)[1] == []
    assert read_outcome(config_of(cell, asked)) is None
    last = own_run.load_checkpoint("last")
    assert last is not None
    before = [line for line in own_run.history() if line["epoch"] <= last["epoch"]]  # one more may have been written
    assert 0 < len(before) < 100

    assert run_cells([cell], asked, FAR_AWAY, "grid") == {cell: read_outcome(config_of(cell, asked))}
    assert own_run.history()[: len(before)] == before  # with their seconds: these epochs were not trained again
    unbroken = trained(cell, whole)
    found = read_outcome(config_of(cell, asked))
    assert found is not None and dataclasses.replace(found, seconds=unbroken.seconds) == unbroken


def test_a_worker_that_is_killed_costs_its_cell_only(tmp_path: Path) -> None:
    """Where a worker dies (out of memory), its cell is named and left for the next time; the others are trained."""
    asked = asking(tmp_path, methods=("np_rnn",), grid_steps=2_000)
    killed, other = grid_cells(asked)
    process = start("-m", "benchmarks.paper", *flags(asked))
    wait_for(lambda: (run_of(config_of(killed, asked)).checkpoints / "last.pt").exists(), process)
    for child in psutil.Process(process.pid).children():
        if any("spawn_main" in word for word in child.cmdline()):
            child.kill()
    done = finish(process)
    assert done.returncode == 0 and f"{killed}: its process was killed" in done.stderr
    assert "1 of 4 cells are done" in done.stdout
    assert [read_outcome(config_of(cell, asked)) is None for cell in (killed, other)] == [True, False]


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    give_up = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < give_up:
        time.sleep(0.002)


def test_a_typo_on_the_command_line(tmp_path: Path) -> None:
    """Exit code 2 and what would do."""
    done = run("-m", "benchmarks.paper", "--results", tmp_path, "--tasks", "additon:5")
    assert done.returncode == 2 and "Did you mean 'addition'?" in message(done)


def cells_of(asked: Arguments, chosen: Chosen, results: dict[tuple[str, Method], list[Outcome]]) -> dict[Cell, Outcome]:
    """Outcomes in the order of the seeds, by task and method."""
    left = {key: list(outcomes) for key, outcomes in results.items()}
    return {
        cell: left[str(cell.task), cell.method].pop(0)
        for cell in comparison_cells(asked, chosen)
        if left.get((str(cell.task), cell.method))
    }


def test_the_tables_tell_what_was_solved_and_what_was_not(tmp_path: Path) -> None:
    """Lengths that all or only some seeds solved, medians, divergence and missing seeds, and np_rnn's losses as plainly
    as its wins."""
    asked = asking(
        tmp_path,
        methods=("np_rnn", "irnn", "lstm"),
        tasks=("addition:100", "addition:200", "addition:400", "pixel_mnist"),
        seeds=(0, 1, 2),
    )
    chosen: Chosen = dict.fromkeys(asked.methods, Settings(0.01, 1.0))
    solved = [outcome(steps_to_solve=steps, mse=mse) for steps, mse in ((750, 4e-3), (500, 2e-3), (1000, 3e-3))]
    digits = [outcome(mse=None, solved=False, steps_to_solve=None, accuracy=share) for share in (0.9, 0.95, 0.97)]
    done = dict(zip(grid_cells(asked), [FAILED, outcome(), FAILED, DIVERGED, outcome(), outcome()], strict=True))
    done |= cells_of(
        asked,
        chosen,
        {
            ("addition:100", "np_rnn"): solved,
            ("addition:100", "irnn"): [outcome(steps_to_solve=250)] * 3,
            ("addition:100", "lstm"): [FAILED, DIVERGED, DIVERGED],
            ("addition:200", "np_rnn"): [solved[0], FAILED, DIVERGED],
            ("addition:200", "irnn"): [outcome(), FAILED],
            ("addition:200", "lstm"): [FAILED, FAILED, FAILED],
            ("addition:400", "np_rnn"): [FAILED],
            ("pixel_mnist", "np_rnn"): digits,
            ("pixel_mnist", "irnn"): [*digits[:2], dataclasses.replace(DIVERGED, accuracy=None)],
        },
    )
    report = write_report(asked, done, chosen)
    assert row(report, "How much of the grid trains", "np_rnn")[1:5] == ["1 of 2", "50%", "0", "500"]
    assert row(report, "How much of the grid trains", "irnn")[1:5] == ["0 of 2", "0%", "1", "–"]
    assert row(report, "Addition", "np_rnn")[1:] == [
        "200 (1 of 3), 100 (3 of 3)",
        "3 of 3; 750 steps; MSE 0.003",
        "1 of 3; MSE 0.1; 1 diverged",
        "0 of 1; MSE 0.1",
    ]
    assert row(report, "Addition", "irnn")[1:] == [
        "200 (1 of 2), 100 (3 of 3)",
        "3 of 3; 250 steps; MSE 0.002",
        "1 of 2; MSE 0.1",
        "–",
    ]
    assert row(report, "Addition", "lstm")[1:] == ["none", "0 of 3; 2 diverged", "0 of 3; MSE 0.1", "–"]
    assert row(report, "Pixel MNIST", "np_rnn")[1] == "94.0 (90.0 95.0 97.0)"
    assert row(report, "Pixel MNIST", "irnn")[1] == "– (90.0 95.0 diverged)"
    assert row(report, "Where np-RNN stands", "grid")[1:] == ["lstm", "–", "irnn"]
    assert row(report, "Where np-RNN stands", "addition:100")[1:] == ["irnn", "–", "lstm"]
    assert row(report, "Where np-RNN stands", "addition:200")[1:] == ["–", "–", "lstm"]
    assert row(report, "Where np-RNN stands", "pixel_mnist")[1:] == ["–", "–", "irnn"]
    assert "| addition:400 " not in report.split("## Where")[1]


def test_the_pictures_of_a_whole_comparison_are_small(tmp_path: Path) -> None:
    """Pictures of all methods, tasks and seeds, for the repository: each under 200 kB."""
    asked = dataclasses.replace(Arguments(), output=tmp_path / "paper.md")
    kinds = [outcome(), FAILED, DIVERGED]
    chosen: Chosen = dict.fromkeys(METHODS, asked.grid[0])
    done = {
        cell: kinds[number % 3] for number, cell in enumerate([*grid_cells(asked), *comparison_cells(asked, chosen)])
    }
    write_report(asked, done, chosen)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert sizes.keys() == {"paper_grid.png", "paper_mse.png"} and all(
        10_000 < size < 200_000 for size in sizes.values()
    )
