"""The plan of ``benchmarks.paper``: its cells, the settings of each cell, and how they are chosen."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from data.catalog import SEQUENCE_TASKS, DataConfig
from data.errors import did_you_mean
from data.processes import available_cores
from data.sequences import ArithmeticTask
from models.config import ModelConfig, ModelName
from pipeline.settings.config import Config, ConfigError, FeatureConfig, RunConfig, TrainingConfig

Method = Literal[ModelName, "np_rnn_memory", "np_rnn_c1000"]
"""The names of models, and np_rnn with memory units or with an identity weight of 1,000 (docs/np_rnn.md)."""
METHODS: tuple[Method, ...] = (
    *("np_rnn", "irnn", "scaled_irnn", "nrnn", "rnn_relu", "rnn_tanh", "orthogonal"),
    *("lstm", "gru"),
)
"""Those of the paper, and the LSTM and the GRU. The others are compared if --methods names them."""
# One layer of units that do not read each other has no product of two inputs: their papers stack two or more.
TWO_LAYERS: tuple[Method, ...] = ("min_gru", "min_lstm", "indrnn", "lru")

# The seed for choosing settings. No results are reported for it.
TUNING_SEED = 1000
NUM_PIXELS = 28 * 28

_ARITHMETIC = (ArithmeticTask("addition", length=2), ArithmeticTask("multiplication", length=2))
CHANCE_MSE: dict[str, float] = {task.name: task.chance_mse for task in _ARITHMETIC}  # the same at every length


@dataclass(frozen=True)
class Task:
    """A dataset without video, with sequences of ``length`` steps."""

    dataset: str
    length: int
    permuted: bool = False

    @classmethod
    def parse(cls, text: str) -> "Task":
        """Parse ``addition:T``, ``multiplication:T``, ``pixel_mnist`` or ``pixel_mnist:permuted``.

        Raises ``ConfigError`` for anything else.
        """
        dataset, _, variant = text.partition(":")
        if dataset not in SEQUENCE_TASKS:
            raise ConfigError(f"unknown task {text!r}.{did_you_mean(dataset, SEQUENCE_TASKS)}")
        if dataset == "pixel_mnist":
            if variant not in ("", "permuted"):
                raise ConfigError(f"unknown task {text!r}. Choose pixel_mnist or pixel_mnist:permuted.")
            return cls(dataset, NUM_PIXELS, permuted=bool(variant))
        if not variant.isdecimal() or int(variant) < 2:
            raise ConfigError(f"unknown task {text!r}. {dataset} needs a length of at least 2, such as {dataset}:100.")
        return cls(dataset, int(variant))

    @property
    def has_classes(self) -> bool:
        return self.dataset == "pixel_mnist"

    def __str__(self) -> str:
        if not self.has_classes:
            return f"{self.dataset}:{self.length}"
        return f"{self.dataset}:permuted" if self.permuted else self.dataset


class Cell(NamedTuple):
    """One training."""

    stage: Literal["grid", "compare", "grow"]
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
    """The result of a cell, as stored in outcome.json and in the CSV file."""

    diverged: bool
    """whether the loss, its gradient or the validation loss became non-finite; then nothing is tested"""
    solved: bool
    """whether the test error is below 0.01"""
    epochs: int
    """number of complete epochs"""
    seconds: float
    """time spent in these epochs"""
    validation_loss: float | None
    """lowest validation loss; ``None`` if the first epoch diverged"""
    steps_to_solve: int | None
    """training steps before the first validation with an error below 0.01"""
    mse: float | None
    """error on 10,000 fresh sequences (addition, multiplication)"""
    accuracy: float | None
    """accuracy on the 10,000 test images (pixel MNIST)"""
    made_with: str
    """versions and hardware"""


class Settings(NamedTuple):
    """The tuned settings."""

    learning_rate: float
    clip_gradient: float


Chosen = Mapping[Method, Settings]
Outcomes = Mapping[Cell, Outcome]
Scores = Mapping[tuple[Task, Method], Sequence[Outcome]]


@dataclass(frozen=True)
class Arguments:
    """Which part of the comparison to run, and where its results are."""

    results: Path = Path("runs/paper")
    """folder of the runs, one per cell"""
    output: Path = Path("docs/paper.md")
    """the report; its figures and a CSV file of all cells are written next to it"""
    budget: float | None = None
    """minutes after which no new cell starts; by default no limit, and 0 only writes the report"""
    methods: tuple[Method, ...] = METHODS
    """methods to compare"""
    tasks: tuple[str, ...] = ("addition:100", "addition:200", "multiplication:100")
    """tasks, in this order: addition:T, multiplication:T, pixel_mnist, pixel_mnist:permuted"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of the trainings on the tasks"""
    workers: int = available_cores()
    """parallel trainings, one thread each"""
    device: Literal["cpu", "cuda"] = "cpu"
    """device of the trainings"""
    mnist_root: Path | None = None
    """folder of MNIST's four files; by default they are downloaded to datasets/mnist"""
    tuned_on: str = "addition:50"
    """task on which the learning rate and clipping of every method are chosen"""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """learning rates in the grid"""
    clippings: tuple[float, ...] = (0.1, 1.0, 10.0)
    """maximum gradient norms in the grid"""
    grow: bool = False
    """addition and multiplication: train on a tenth of the length for half of the steps, on a third for a quarter, and
    on the whole length for the rest, by the rule of --longer scaled"""
    longer: Literal["scaled", "same"] = "scaled"
    """learning rate for sequences r times as long as those of the tuning task: divided by r, or the same"""
    grid_steps: int = 2_000
    """maximum training steps of a grid cell"""
    steps: int = 4_000
    """maximum training steps on a task"""
    validate_every: int = 250
    """steps between validations; training stops early after three validation errors below 0.0005"""
    epochs: int = 20
    """passes over the training images of pixel MNIST"""
    hidden: int = 100
    """units of each network"""
    batch_size: int = 50
    """sequences per training step"""

    def __post_init__(self) -> None:
        for name in ("methods", "tasks", "seeds", "learning_rates", "clippings"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                shown = " ".join(map(str, values)) or "none"
                raise ConfigError(f"{name} must be one or more distinct values, not {shown}")
        for name in ("workers", "grid_steps", "steps", "validate_every", "epochs", "hidden", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("grid_steps", "steps"):
            if getattr(self, name) % self.validate_every:
                raise ConfigError(
                    f"{name} ({getattr(self, name)}) must be a multiple of validate_every ({self.validate_every})"
                )
        if min(self.learning_rates + self.clippings) <= 0:
            raise ConfigError("learning_rates and clippings must be greater than 0")
        if self.grow and self.longer == "same":
            raise ConfigError("grow lowers the learning rates as lengths grow: leave out longer=same")
        if self.grow and self.steps < 4 * self.validate_every:
            raise ConfigError(
                f"grow needs at least {4 * self.validate_every} steps, four validations; not {self.steps}"
            )
        for task in self.all_tasks:
            if self.grow and not task.has_classes and task.length < 20:
                raise ConfigError(f"grow needs tasks of at least 20 steps, not {task}")
        if TUNING_SEED in self.seeds:
            raise ConfigError(f"seed {TUNING_SEED} is reserved for choosing settings. Use another in --seeds.")
        if self.tuning_task.has_classes:
            raise ConfigError(f"tuned_on must be addition:T or multiplication:T, not {self.tuned_on}")
        if len(set(self.all_tasks)) < len(self.tasks):
            raise ConfigError(f"tasks contain a task twice: {' '.join(self.tasks)}")

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


def grid_cells(options: Arguments) -> list[Cell]:
    """Every method with every setting of the grid, grouped by method."""
    return [
        Cell("grid", options.tuning_task, method, *settings, TUNING_SEED)
        for method in options.methods
        for settings in options.grid
    ]


def comparison_cells(options: Arguments, chosen: Chosen) -> list[Cell]:
    """Every task with every method whose settings are chosen and every seed, grouped by task, then by method."""
    return [
        Cell(
            "grow" if options.grow and not task.has_classes else "compare",
            task,
            method,
            *settings_for(task, chosen[method], options),
            seed,
        )
        for task in options.all_tasks
        for method in options.methods
        if method in chosen
        for seed in options.seeds
    ]


def choose(options: Arguments, outcomes: Outcomes) -> dict[Method, Settings]:
    """For each method whose grid is done, the settings that solved the task in the fewest steps.

    If several did, or none, the lowest validation error decides. Settings that diverged rank last.
    """

    def rank(cell: Cell) -> tuple[float, ...]:
        outcome = outcomes[cell]
        return outcome.diverged, _or_inf(outcome.steps_to_solve), _or_inf(outcome.validation_loss)

    chosen = {}
    for method in options.methods:
        cells = [cell for cell in grid_cells(options) if cell.method == method]
        if all(cell in outcomes for cell in cells):
            best = min(cells, key=rank)
            chosen[method] = Settings(best.learning_rate, best.clip_gradient)
    return chosen


def settings_for(task: Task, chosen: Settings, options: Arguments) -> Settings:
    """Adapt the settings ``chosen`` on the tuning task to another task, by one rule for all methods.

    A gradient through r times as many steps has r times as many terms, and an error in the recurrent matrix is
    multiplied r times as often. So the learning rate is divided by r (``longer="scaled"``).
    """
    if options.longer == "same":
        return chosen
    rate = chosen.learning_rate * options.tuning_task.length / task.length
    return chosen._replace(learning_rate=float(f"{rate:.3g}"))


def config_of(cell: Cell, options: Arguments) -> Config:
    """The settings with which ``train.py`` would train this cell, resuming an interrupted run."""
    steps = options.grid_steps if cell.stage == "grid" else options.steps
    epochs = options.epochs if cell.task.has_classes else steps // options.validate_every
    length, rate = cell.task.length, cell.learning_rate
    lengths: tuple[int, ...] = ()
    if cell.stage == "grow":
        lengths = length // 10, length // 3, length
        rate *= length / lengths[0]  # that of the first length
    if cell.task.has_classes:
        data = DataConfig(cell.task.dataset, root=options.mnist_root, permuted=cell.task.permuted)
    else:
        data = DataConfig(cell.task.dataset, length=cell.task.length)
    return Config(
        data=data,
        features=FeatureConfig(device=options.device),
        model=ModelConfig(
            model="np_rnn" if cell.method == "np_rnn_memory" or cell.method == "np_rnn_c1000" else cell.method,
            hidden_size=options.hidden,
            num_layers=2 if cell.method in TWO_LAYERS else 1,
            memory_units=max(1, options.hidden // 10) if cell.method == "np_rnn_memory" else 0,
            memory_steps={"indrnn": length, "np_rnn_memory": (lengths or (length,))[0]}.get(cell.method, 100),
            readout="last",
            inputs="frames",
            skip_connection=False,
            power_norm=False,
            dropout=0.0,
            # A memory has no inputs, so they can be large without filling it.
            input_scale="sqrt_fan_in" if cell.method == "np_rnn_memory" else "sqrt_hidden",
            identity_weight=1000.0 if cell.method == "np_rnn_c1000" else 1.0,  # 1 in the paper
        ),
        training=TrainingConfig(
            epochs=epochs,
            steps_per_epoch=options.validate_every,
            grow_length=lengths,
            grow_epochs=(epochs - 2 * (epochs // 4), epochs // 4, epochs // 4) if lengths else (),
            batch_size=options.batch_size,
            learning_rate=rate,
            adam_beta2=0.99,
            weight_decay=0.0,
            schedule="cosine",
            clip_gradient=cell.clip_gradient,
            patience=epochs,  # never stop early: these tasks have long plateaus at chance
            amp=False,
        ),
        run=RunConfig(seeds=(cell.seed,), runs=options.results, name=cell.name, resume=True),
    )


def scores_of(options: Arguments, done: Outcomes, chosen: Chosen) -> Scores:
    """The outcomes of the finished seeds of each task and method that has any."""
    scores: dict[tuple[Task, Method], list[Outcome]] = {}
    for cell in comparison_cells(options, chosen):
        if cell in done:
            scores.setdefault((cell.task, cell.method), []).append(done[cell])
    return scores


def median_steps(outcomes: Sequence[Outcome]) -> float:
    """Median steps until the task was solved, counting unsolved seeds as infinite; the higher of two middle values."""
    return statistics.median_high(
        _or_inf(outcome.steps_to_solve) if outcome.solved else math.inf for outcome in outcomes
    )


def median_error(outcomes: Sequence[Outcome]) -> float:
    """Median test error, counting diverged seeds as infinite; the higher of two middle values."""
    return statistics.median_high(_or_inf(outcome.mse) for outcome in outcomes)


def _or_inf(value: float | None) -> float:
    return math.inf if value is None else value
