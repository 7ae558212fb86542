"""The comparison of initialisations gives equal budgets, survives interruptions and reports every outcome."""

import csv
import dataclasses
import json
import math
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

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
from pipeline.experiment import run_experiment
from pipeline.settings.config import ConfigError
from tests.helpers.commands import call, finish, message, start
from tests.helpers.idx import write_small_mnist

PASSED, NEVER = 0.0, math.inf  # deadlines


def small_options(folder: Path, **settings: Any) -> Arguments:
    """A comparison that takes seconds: sequences of 5 steps, trainings of 40 steps."""
    small: dict[str, Any] = {"methods": ("np_rnn", "irnn"), "tasks": ("addition:5",), "tuned_on": "addition:5"}
    small |= {"learning_rates": (0.01, 0.03), "clippings": (1.0,), "seeds": (0, 1), "workers": 1}
    small |= {"grid_steps": 40, "steps": 40, "validate_every": 20, "hidden": 12, "batch_size": 20, "epochs": 2}
    return Arguments(results=folder / "runs", output=folder / "docs" / "paper.md", **(small | settings))


def flags(options: Arguments) -> list[str]:
    words: list[str] = []
    for name, value in vars(options).items():
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{name}")
        elif value is not None:
            words.append(f"--{name.replace('_', '-')}")
            words += map(str, value if isinstance(value, tuple) else (value,))
    return words


def outcome(**facts: Any) -> Outcome:
    """The outcome of a training that solved its task, with ``facts`` replaced."""
    solved = {"diverged": False, "solved": True, "epochs": 4, "seconds": 1.0, "validation_loss": 1e-3}
    return Outcome(**(solved | {"steps_to_solve": 500, "mse": 2e-3, "accuracy": None, "made_with": "test"} | facts))


def trained(cell: Cell, options: Arguments) -> Outcome:
    found = run_cell(config_of(cell, options), NEVER)
    assert found is not None
    return found


FAILED = outcome(solved=False, validation_loss=0.1, steps_to_solve=None, mse=0.1)
DIVERGED = outcome(diverged=True, solved=False, steps_to_solve=None, mse=None)


def row(report: str, head: str, method: str) -> list[str]:
    """The cells of a method's row in the first table under a heading of the report."""
    section = report.split(f"## {head}\n")[1].split("\n## ")[0]
    (line,) = (line for line in section.splitlines() if line.startswith(f"| {method} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_method_has_the_same_budget() -> None:
    """All methods are tuned on the same grid, with a seed that no result is reported for, and then trained for as long,
    with learning rates that follow from one rule."""
    options = Arguments()
    grid = {method: [cell for cell in grid_cells(options) if cell.method == method] for method in METHODS}
    assert {tuple(cell._replace(method="np_rnn") for cell in cells) for cells in grid.values()} == {
        tuple(grid["np_rnn"])
    }
    assert {cell.seed for cell in grid_cells(options)} == {TUNING_SEED}
    compared = comparison_cells(options, dict.fromkeys(METHODS, Settings(0.01, 1.0)))
    assert len(grid_cells(options)) + len(compared) == options.num_cells
    for method in METHODS:
        cells = [cell for cell in compared if cell.method == method]
        assert [cell._replace(method="np_rnn") for cell in cells] == [c for c in compared if c.method == "np_rnn"]
    configs = [config_of(cell, options) for cell in compared]
    budgets = {(c.training.epochs, c.training.batch_size, c.model.hidden_size, c.model.input_scale) for c in configs}
    assert len(budgets) == 1


def test_units_that_do_not_read_each_other_have_two_layers() -> None:
    """A single layer of them can't multiply its inputs, which addition needs; IndRNN's bound is that of the task."""
    options = Arguments(methods=("np_rnn", "indrnn", "lru", "lem"), tasks=("addition:70",))
    models = [
        config_of(cell, options).model
        for cell in comparison_cells(options, dict.fromkeys(get_args(Method), Settings(0.01, 1.0)))
    ]
    assert {model.model: model.num_layers for model in models} == {"np_rnn": 1, "indrnn": 2, "lru": 2, "lem": 1}
    assert {model.memory_steps for model in models if model.model == "indrnn"} == {70}


def test_np_rnn_is_compared_as_in_the_paper_and_with_more_identity() -> None:
    """The two differ in the identity weight alone."""
    cells = comparison_cells(
        Arguments(methods=("np_rnn", "np_rnn_c1000"), tasks=("pixel_mnist",), seeds=(0,)),
        {"np_rnn": Settings(0.01, 1.0), "np_rnn_c1000": Settings(0.01, 1.0)},
    )
    paper, identity = (config_of(cell, Arguments()).model for cell in cells)
    assert paper.identity_weight == 1 and identity == dataclasses.replace(paper, identity_weight=1000.0)


def test_growing_sequences_cost_the_same_steps_and_follow_the_same_rule() -> None:
    """With --grow every method takes as many steps as without, and has the same rate on a length as a task of that
    length; digits have a fixed length."""
    options = Arguments(
        methods=("np_rnn", "np_rnn_memory"), tasks=("addition:1000", "pixel_mnist"), seeds=(0,), grow=True, steps=2_500
    )
    cells = comparison_cells(options, dict.fromkeys(options.methods, Settings(0.01, 1.0)))
    plain, memory, digits, _ = (config_of(cell, options) for cell in cells)
    for config in (plain, memory):
        assert config.training.grow_length == (100, 333, 1000) and config.training.grow_epochs == (6, 2, 2)
        assert config.training.num_epochs(config.training.steps_per_epoch) * config.training.steps_per_epoch == 2_500
        assert config.training.learning_rate == pytest.approx(0.01 * 50 / 100)
    assert (memory.model.model, memory.model.memory_units, memory.model.memory_steps) == ("np_rnn", 10, 100)
    assert plain.model.memory_units == 0 and not digits.training.grow_length


def test_a_small_budget_gives_whole_rows() -> None:
    """Tasks run in the given order with each method's seeds together, so a short budget cuts off the end of a table."""
    options = Arguments(
        methods=("np_rnn", "lstm"), tasks=("addition:100", "multiplication:50"), seeds=(0, 1), tuned_on="addition:100"
    )
    cells = comparison_cells(options, {"np_rnn": Settings(0.01, 1.0), "lstm": Settings(0.003, 10.0)})
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
    """Fewest steps win, then the lowest validation error; diverged settings rank last; the test error is ignored."""
    options = Arguments(methods=("irnn",), learning_rates=(0.1, 0.2), clippings=(1.0, 2.0))
    untested = [dataclasses.replace(each, mse=0.5 - number / 10) for number, each in enumerate(outcomes)]
    assert choose(options, dict(zip(grid_cells(options), untested, strict=True))) == {"irnn": options.grid[best]}


def test_nothing_is_chosen_from_half_a_grid() -> None:
    """A method is compared only after all its settings in the grid have been tried."""
    options = Arguments(methods=("irnn", "gru"))
    done = dict.fromkeys(grid_cells(options)[:-1], outcome())
    assert choose(options, done).keys() == {"irnn"}
    assert {cell.method for cell in comparison_cells(options, choose(options, done))} == {"irnn"}


def test_longer_sequences_have_a_lower_learning_rate() -> None:
    """The learning rate is divided by the ratio of the lengths and the clipping is kept; --longer same keeps both."""
    options = Arguments(tuned_on="addition:100")
    assert settings_for(Task.parse("addition:400"), Settings(1e-3, 10.0), options) == (2.5e-4, 10.0)
    assert settings_for(Task.parse("pixel_mnist"), Settings(1e-2, 0.1), options) == (1.28e-3, 0.1)
    same = dataclasses.replace(options, longer="same")
    assert settings_for(Task.parse("addition:400"), Settings(1e-3, 10.0), same) == (1e-3, 10.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ("additon:100",)}, "'additon:100'. Did you mean 'addition'?"),
        ({"tasks": ("addition",)}, "'addition'.*at least 2, such as addition:100"),
        ({"tasks": ("addition:1",)}, "'addition:1'.*at least 2"),
        ({"tasks": ("pixel_mnist:784",)}, "'pixel_mnist:784'.*pixel_mnist:permuted"),
        ({"tasks": ("addition:7", "addition:07")}, "twice: addition:7 addition:07"),
        ({"tasks": ()}, "tasks .* not none"),
        ({"seeds": (0, 0)}, "seeds .* distinct .* not 0 0"),
        ({"seeds": (TUNING_SEED,)}, f"seed {TUNING_SEED} is reserved"),
        ({"steps": 300}, r"steps \(300\) .* multiple of validate_every \(250\)"),
        ({"grow": True, "longer": "same"}, "leave out longer=same"),
        ({"grow": True, "steps": 750}, "at least 1000 steps.* not 750"),
        ({"grow": True, "tasks": ("addition:19",)}, "at least 20 steps, not addition:19"),
        ({"workers": 0}, "workers .* at least 1, not 0"),
        ({"clippings": (0.0,)}, "clippings .* greater than 0"),
        ({"tuned_on": "pixel_mnist"}, "tuned_on .* addition:T or multiplication:T, not pixel_mnist"),
    ],
)
def test_contradictory_arguments_are_refused(settings: dict[str, Any], message: str) -> None:
    """A typo or a contradiction is reported before the first training, with the value and what is allowed."""
    with pytest.raises(ConfigError, match=message):
        Arguments(**settings)


def test_a_cell_is_a_run_of_train_py(tmp_path: Path) -> None:
    """train.py gives the same numbers with the settings in a cell's folder."""
    options = small_options(tmp_path)
    cell = grid_cells(options)[0]
    found, saved = trained(cell, options), run_of(config_of(cell, options)).config()
    elsewhere = dataclasses.replace(saved, run=dataclasses.replace(saved.run, runs=tmp_path / "train"))
    assert run_experiment(elsewhere) == 0
    metrics = json.loads((run_of(elsewhere).evaluation / "metrics.json").read_text())
    assert (found.mse, found.epochs, found.solved) == (metrics["mse"], 2, metrics["solved"])
    assert found.validation_loss == min(line["validation_loss"] for line in run_of(elsewhere).history())
    assert found == read_outcome(config_of(cell, options))


def test_divergence_is_a_result(tmp_path: Path) -> None:
    """A training with a non-finite loss counts as diverged and unsolved, and its settings are chosen last."""
    options = small_options(tmp_path, methods=("irnn",), learning_rates=(1e12, 0.03), clippings=(1e9,))
    bad, good = grid_cells(options)
    done = {cell: trained(cell, options) for cell in (bad, good)}
    assert done[bad] == read_outcome(config_of(bad, options)) and not done[good].diverged
    assert (done[bad].diverged, done[bad].solved, done[bad].mse) == (True, False, None)
    report = write_report(options, done, choose(options, done))
    solved = int(done[good].solved)
    assert row(report, "How much of the grid trains", "irnn")[1:4] == [f"{solved} of 2", f"{solved / 2:.0%}", "1"]
    assert row(report, "How much of the grid trains", "irnn")[5:] == ["0.03*", "1e+09"]


def test_digits_are_compared_by_accuracy(tmp_path: Path) -> None:
    """A cell of pixel MNIST trains for whole epochs and is reported with its test accuracy."""
    root = write_small_mnist(tmp_path / "mnist")
    options = small_options(tmp_path, methods=("np_rnn",), tasks=("pixel_mnist:permuted",), mnist_root=root, seeds=(0,))
    chosen: Chosen = {"np_rnn": Settings(1.0, 1.0)}
    (cell,) = comparison_cells(options, chosen)
    found = trained(cell, options)
    assert found.accuracy is not None and found.mse is None
    assert found.epochs == 2 and round(40 * found.accuracy, 6).is_integer()
    assert cell.name == "compare-np_rnn-permuted-lr_0.00638-clip_1-seed_0"
    percent = f"{100 * found.accuracy:.1f}"
    report = write_report(options, {cell: found}, chosen)
    assert row(report, "Pixel MNIST", "np_rnn") == ["np_rnn", f"{percent} ({percent})"]


def test_other_settings_need_another_folder(tmp_path: Path) -> None:
    """Cells that were started with other settings are refused, never mixed into a table."""
    options = small_options(tmp_path)
    cell = grid_cells(options)[0]
    trained(cell, options)
    wider = dataclasses.replace(options, hidden=13)
    assert read_outcome(config_of(cell, wider)) is None
    with pytest.raises(ConfigError, match="another --results.*hidden_size: 12 .*13 "):
        run_cells(grid_cells(wider), wider, PASSED, "grid")


def test_no_cell_starts_after_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--budget 0 trains nothing and reports the finished cells; a worker starts no cell after the deadline."""
    options = small_options(tmp_path)
    first = grid_cells(options)[0]
    trained(first, options)
    assert run_cell(config_of(grid_cells(options)[1], options), PASSED) is None
    assert main([*flags(options), "--budget", "0"]) == 0
    assert "1 of 8 cells are done" in capsys.readouterr().out
    assert [path.name for path in (options.results / "addition").iterdir()] == [first.name]
    report = options.output.read_text()
    assert "1 of 8 trainings" in report
    assert row(report, "How much of the grid trains", "irnn")[1:] == ["–"] * 6
    assert row(report, "Addition", "np_rnn") == ["np_rnn", "–", "–"]


def test_from_nothing_to_the_report_and_again(tmp_path: Path) -> None:
    """The command trains all cells. Run again, it trains only a cell whose outcome is missing, to the same numbers and
    the same report."""
    options = small_options(tmp_path, tasks=("addition:5", "multiplication:5"), seeds=(0,))
    assert main(flags(options)) == 0
    numbers, report = without_seconds(options), options.output.read_text()
    assert "8 of 8 trainings" in report
    assert "--learning-rates 0.01 0.03 --clippings 1 --grid-steps 40 --steps 40 --validate-every 20" in report
    pictures = [path for path in options.output.parent.iterdir() if path.suffix == ".png"]
    assert {path.name for path in pictures} == {"paper_grid.png", "paper_mse.png"}
    assert all(path.name in report for path in pictures)

    outcomes = sorted(options.results.rglob("outcome.json"))
    times = {path: path.stat().st_mtime_ns for path in outcomes}
    outcomes[3].unlink()
    assert main(flags(options)) == 0
    assert [path for path in outcomes if path.stat().st_mtime_ns != times[path]] == [outcomes[3]]
    assert without_seconds(options) == numbers
    assert options.output.read_text() == report


def without_seconds(options: Arguments) -> list[dict[str, str]]:
    with options.output.with_suffix(".csv").open() as file:
        return [{key: value for key, value in line.items() if key != "seconds"} for line in csv.DictReader(file)]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_in_the_middle_of_a_cell(tmp_path: Path, sign: signal.Signals) -> None:
    """Ctrl-C and kill -9 leave no process behind, and the same command resumes from the last checkpoint and reaches the
    numbers of an uninterrupted training."""
    settings: dict[str, Any] = {"methods": ("np_rnn",), "learning_rates": (0.01,), "seeds": (0,), "grid_steps": 2_000}
    options = small_options(tmp_path / "interrupted", **settings)
    whole = small_options(tmp_path / "whole", **settings)
    (cell,) = grid_cells(options)
    cell_run = run_of(config_of(cell, options))
    process = start("-m", "benchmarks.paper", *flags(options))
    wait_for(lambda: (cell_run.checkpoints / "last.pt").exists(), process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sign)
    done = finish(process)
    assert done.returncode == (130 if sign == signal.SIGINT else -sign), done.stderr
    assert workers and psutil.wait_procs(workers, timeout=20)[1] == []
    assert read_outcome(config_of(cell, options)) is None
    last = cell_run.load_checkpoint("last")
    assert last is not None
    before = [line for line in cell_run.history() if line["epoch"] <= last["epoch"]]  # one more may be written
    assert 0 < len(before) < 100

    assert run_cells([cell], options, NEVER, "grid") == {cell: read_outcome(config_of(cell, options))}
    assert cell_run.history()[: len(before)] == before  # with their seconds: these epochs were not repeated
    uninterrupted = trained(cell, whole)
    resumed = read_outcome(config_of(cell, options))
    assert resumed is not None and dataclasses.replace(resumed, seconds=uninterrupted.seconds) == uninterrupted


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_cell_only(tmp_path: Path) -> None:
    """If a worker is killed (out of memory), its cell is named and stays unfinished; the others are trained."""
    options = small_options(tmp_path, methods=("np_rnn",), grid_steps=2_000)
    killed, other = grid_cells(options)
    process = start("-m", "benchmarks.paper", *flags(options))
    wait_for(lambda: (run_of(config_of(killed, options)).checkpoints / "last.pt").exists(), process)
    for child in psutil.Process(process.pid).children():
        if any("spawn_main" in word for word in child.cmdline()):
            child.kill()
    done = finish(process)
    assert done.returncode == 0 and f"{killed}: its process was killed" in done.stderr
    assert "1 of 4 cells are done" in done.stdout
    assert [read_outcome(config_of(cell, options)) is None for cell in (killed, other)] == [True, False]


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def test_a_typo_on_the_command_line(tmp_path: Path) -> None:
    """An unknown task ends the command with exit code 2 and the nearest name."""
    done = call("-m", "benchmarks.paper", "--results", tmp_path, "--tasks", "additon:5")
    assert done.returncode == 2 and "Did you mean 'addition'?" in message(done)


def cells_of(
    options: Arguments, chosen: Chosen, results: dict[tuple[str, Method], list[Outcome]]
) -> dict[Cell, Outcome]:
    """Assign outcomes, listed by task and method in the order of the seeds, to their cells."""
    left = {key: list(outcomes) for key, outcomes in results.items()}
    return {
        cell: left[str(cell.task), cell.method].pop(0)
        for cell in comparison_cells(options, chosen)
        if left.get((str(cell.task), cell.method))
    }


def test_the_tables_show_successes_and_failures(tmp_path: Path) -> None:
    """The tables show lengths that all or only some seeds solved, medians, divergence, missing seeds, and the methods
    that beat np_rnn as well as those that do not."""
    options = small_options(
        tmp_path,
        methods=("np_rnn", "irnn", "lstm"),
        tasks=("addition:100", "addition:200", "addition:400", "pixel_mnist"),
        seeds=(0, 1, 2),
    )
    chosen: Chosen = dict.fromkeys(options.methods, Settings(0.01, 1.0))
    solved = [outcome(steps_to_solve=steps, mse=mse) for steps, mse in ((750, 4e-3), (500, 2e-3), (1000, 3e-3))]
    digits = [outcome(mse=None, solved=False, steps_to_solve=None, accuracy=share) for share in (0.9, 0.95, 0.97)]
    done = dict(zip(grid_cells(options), [FAILED, outcome(), FAILED, DIVERGED, outcome(), outcome()], strict=True))
    done |= cells_of(
        options,
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
    report = write_report(options, done, chosen)
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


def test_the_figures_of_a_whole_comparison_are_small(tmp_path: Path) -> None:
    """The figures of all methods, tasks and seeds are committed, so each stays under 200 kB."""
    options = dataclasses.replace(Arguments(), output=tmp_path / "paper.md")
    kinds = [outcome(), FAILED, DIVERGED]
    chosen: Chosen = dict.fromkeys(METHODS, options.grid[0])
    cells = [*grid_cells(options), *comparison_cells(options, chosen)]
    done = {cell: kinds[number % 3] for number, cell in enumerate(cells)}
    write_report(options, done, chosen)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert sizes.keys() == {"paper_grid.png", "paper_mse.png"}
    assert all(10_000 < size < 200_000 for size in sizes.values())
