"""What the comparison of ``benchmarks.paper`` consists of: its cells, their settings, and how these are chosen."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from benchmarks.workers import NUM_CORES
from data.catalog import SEQUENCE_TASKS, DataConfig
from data.errors import did_you_mean
from data.sequences import ArithmeticTask
from models.config import ModelConfig
from pipeline.settings.config import Config, ConfigError, FeatureConfig, RunConfig, TrainingConfig

Method = Literal["np_rnn", "irnn", "scaled_irnn", "nrnn", "rnn_relu", "rnn_tanh", "orthogonal", "lstm", "gru"]
METHODS: tuple[Method, ...] = get_args(Method)

# The seed that settings are chosen with, never one that results are reported for.
TUNING_SEED = 1000
NUM_PIXELS = 28 * 28

_ARITHMETIC = (ArithmeticTask("addition", length=2), ArithmeticTask("multiplication", length=2))
CHANCE_MSE: dict[str, float] = {task.name: task.chance_mse for task in _ARITHMETIC}  # at any length


@dataclass(frozen=True)
class Task:
    """What is to be learnt, over sequences of how many steps."""

    dataset: str
    length: int
    permuted: bool = False

    @classmethod
    def parse(cls, text: str) -> "Task":
        """``addition:T``, ``multiplication:T``, ``pixel_mnist`` or ``pixel_mnist:permuted``, else ``ConfigError``."""
        dataset, _, variant = text.partition(":")
        if dataset not in SEQUENCE_TASKS:
            raise ConfigError(f"unknown task {text!r}.{did_you_mean(dataset, SEQUENCE_TASKS)}")
        if dataset == "pixel_mnist":
            if variant not in ("", "permuted"):
                raise ConfigError(f"{text!r} is no task. There are: pixel_mnist, pixel_mnist:permuted.")
            return cls(dataset, NUM_PIXELS, permuted=bool(variant))
        if not variant.isdecimal() or int(variant) < 2:
            raise ConfigError(f"{text!r} is no task: {dataset} wants a length of at least 2, like {dataset}:100.")
        return cls(dataset, int(variant))

    @property
    def has_classes(self) -> bool:
        return self.dataset == "pixel_mnist"

    def __str__(self) -> str:
        return self.dataset + self.permuted * ":permuted" if self.has_classes else f"{self.dataset}:{self.length}"


class Cell(NamedTuple):
    """One training."""

    stage: Literal["grid", "compare"]
    task: Task
    method: Method
    learning_rate: float
    clip_gradient: float
    seed: int

    @property
    def name(self) -> str:
        variant = "permuted" if self.task.permuted else f"length_{self.task.length}"
        settings = f"lr_{self.learning_rate:g}-clip_{self.clip_gradient:g}"
        return f"{self.stage}-{self.method}-{variant}-{settings}-seed_{self.seed}"

    def __str__(self) -> str:
        return f"{self.task.dataset}/{self.name}"


@dataclass(frozen=True)
class Outcome:
    """What came of a cell."""

    diverged: bool
    """the loss, its gradient or the validation was no longer finite: there is nothing to test"""
    solved: bool
    """test error below 0.01"""
    epochs: int
    """trained, whole ones"""
    seconds: float
    """that they took"""
    validation_loss: float | None
    """the lowest; ``None`` where the first epoch diverged"""
    steps_to_solve: int | None
    """before the first validation with an error below 0.01"""
    mse: float | None
    """on 10,000 fresh sequences (addition, multiplication)"""
    accuracy: float | None
    """on the 10,000 test images (pixel MNIST)"""
    made_with: str
    """versions"""


class Settings(NamedTuple):
    """What is tuned."""

    learning_rate: float
    clip_gradient: float


Chosen = Mapping[Method, Settings]
Outcomes = Mapping[Cell, Outcome]
Scores = Mapping[tuple[Task, Method], Sequence[Outcome]]


@dataclass(frozen=True)
class Arguments:
    """Which part of the comparison to run, and where its results lie."""

    results: Path = Path("runs/paper")
    """folder of the runs, one for each cell"""
    output: Path = Path("docs/paper.md")
    """the report; its pictures and a CSV of all cells lie beside it"""
    budget: float | None = None
    """minutes after which no new cell is started (default: go on to the end; 0: write the report of what there is)"""
    methods: tuple[Method, ...] = METHODS
    """which to compare"""
    tasks: tuple[str, ...] = ("addition:100", "addition:200", "multiplication:100")
    """in this order: addition:T, multiplication:T, pixel_mnist, pixel_mnist:permuted"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """trainings of each method on each task, after its settings are chosen"""
    workers: int = NUM_CORES
    """trainings at a time, one thread each"""
    device: Literal["cpu", "cuda"] = "cpu"
    """what they run on"""
    mnist_root: Path | None = None
    """folder with MNIST's four files (default: fetched into datasets/mnist)"""
    tuned_on: str = "addition:50"
    """the task that every method's learning rate and clipping are chosen on"""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """of the grid"""
    clippings: tuple[float, ...] = (0.1, 1.0, 10.0)
    """of the grid: largest norms of the gradient"""
    longer: Literal["scaled", "same"] = "scaled"
    """learning rate for sequences r times as long as those it was chosen on: divided by r, or the same"""
    grid_steps: int = 2_000
    """longest training of a cell of the grid"""
    steps: int = 4_000
    """longest training after that"""
    validate_every: int = 250
    """steps; training ends early after three validations with an error below 0.0005"""
    epochs: int = 20
    """pixel MNIST: passes over the training images"""
    hidden: int = 100
    """units of each network"""
    batch_size: int = 50
    """sequences per step"""

    def __post_init__(self) -> None:
        for name in ("methods", "tasks", "seeds", "learning_rates", "clippings"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ConfigError(f"{name} are one or more, each once, not {' '.join(map(str, values)) or 'none'}")
        for name in ("workers", "grid_steps", "steps", "validate_every", "epochs", "hidden", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("grid_steps", "steps"):
            if getattr(self, name) % self.validate_every:
                raise ConfigError(f"{name} ({getattr(self, name)}) is no multiple of validate_every")
        if min(self.learning_rates + self.clippings) <= 0:
            raise ConfigError("learning rates and clippings are above 0")
        if TUNING_SEED in self.seeds:
            raise ConfigError(f"seed {TUNING_SEED} is the one that settings are chosen with: take another")
        if self.tuning_task.has_classes:
            raise ConfigError(f"tuned_on is addition:T or multiplication:T, not {self.tuned_on}")
        if len(set(self.all_tasks)) < len(self.tasks):
            raise ConfigError(f"tasks name one twice: {' '.join(self.tasks)}")

    @property
    def tuning_task(self) -> Task:
        return Task.parse(self.tuned_on)

    @property
    def all_tasks(self) -> tuple[Task, ...]:
        return tuple(map(Task.parse, self.tasks))

    @property
    def grid(self) -> list[Settings]:
        return [Settings(rate, norm) for rate in self.learning_rates for norm in self.clippings]

    @property
    def num_cells(self) -> int:
        return len(self.methods) * (len(self.grid) + len(self.tasks) * len(self.seeds))


def grid_cells(asked: Arguments) -> list[Cell]:
    """Every method with every setting, the settings of a method in a row."""
    return [
        Cell("grid", asked.tuning_task, method, *settings, TUNING_SEED)
        for method in asked.methods
        for settings in asked.grid
    ]


def comparison_cells(asked: Arguments, chosen: Chosen) -> list[Cell]:
    """Task after task every method whose settings are chosen, with every seed."""
    return [
        Cell("compare", task, method, *settings_for(task, chosen[method], asked), seed)
        for task in asked.all_tasks
        for method in asked.methods
        if method in chosen
        for seed in asked.seeds
    ]


def choose(asked: Arguments, outcomes: Outcomes) -> dict[Method, Settings]:
    """For each method whose grid is done, the settings that solved the task in the fewest steps.

    Where several did, or none, the lowest validation error counts; one that diverged comes last.
    """

    def rank(cell: Cell) -> tuple[float, ...]:
        outcome = outcomes[cell]
        return outcome.diverged, _or_inf(outcome.steps_to_solve), _or_inf(outcome.validation_loss)

    chosen = {}
    for method in asked.methods:
        cells = [cell for cell in grid_cells(asked) if cell.method == method]
        if all(cell in outcomes for cell in cells):
            best = min(cells, key=rank)
            chosen[method] = Settings(best.learning_rate, best.clip_gradient)
    return chosen


def settings_for(task: Task, chosen: Settings, asked: Arguments) -> Settings:
    """The settings for a task, from those that were chosen on the tuning task: one rule for all methods.

    A gradient through r times as many steps has r times as many terms, and a step in the wrong direction is
    multiplied r times as often; so the learning rate is divided by r (``longer="scaled"``).
    """
    if asked.longer == "same":
        return chosen
    rate = chosen.learning_rate * asked.tuning_task.length / task.length
    return chosen._replace(learning_rate=float(f"{rate:.3g}"))


def config_of(cell: Cell, asked: Arguments) -> Config:
    """The settings that ``train.py`` would train this cell with. A run that was left is gone on with."""
    steps = asked.grid_steps if cell.stage == "grid" else asked.steps
    epochs = asked.epochs if cell.task.has_classes else steps // asked.validate_every
    if cell.task.has_classes:
        data = DataConfig(cell.task.dataset, root=asked.mnist_root, permuted=cell.task.permuted)
    else:
        data = DataConfig(cell.task.dataset, length=cell.task.length)
    return Config(
        data=data,
        features=FeatureConfig(device=asked.device),
        model=ModelConfig(
            model=cell.method,
            hidden_size=asked.hidden,
            readout="last",
            dropout=0.0,
            input_scale="sqrt_hidden",
            identity_weight=1.0,  # the paper's
        ),
        training=TrainingConfig(
            epochs=epochs,
            steps_per_epoch=asked.validate_every,
            batch_size=asked.batch_size,
            learning_rate=cell.learning_rate,
            adam_beta2=0.99,
            weight_decay=0.0,
            schedule="cosine",
            clip_gradient=cell.clip_gradient,
            patience=epochs,  # long plateaus at chance belong to these tasks
            amp=False,
        ),
        run=RunConfig(seeds=(cell.seed,), runs=asked.results, name=cell.name, resume=True),
    )


def scores_of(asked: Arguments, done: Outcomes, chosen: Chosen) -> Scores:
    """What came of the seeds of each task and method; no entry where none is done."""
    scores: dict[tuple[Task, Method], list[Outcome]] = {}
    for cell in comparison_cells(asked, chosen):
        if cell in done:
            scores.setdefault((cell.task, cell.method), []).append(done[cell])
    return scores


def median_steps(outcomes: Sequence[Outcome]) -> float:
    """Until solved; infinite where half of the seeds or more never were. Of an even number the higher one."""
    return statistics.median_high(
        _or_inf(outcome.steps_to_solve) if outcome.solved else math.inf for outcome in outcomes
    )


def median_error(outcomes: Sequence[Outcome]) -> float:
    """On the test; infinite where half of the seeds or more diverged. Of an even number the higher one."""
    return statistics.median_high(_or_inf(outcome.mse) for outcome in outcomes)


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else value
