"""The training loop: one function, from initial weights to the best checkpoint, and what it trains video for."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol, TypedDict, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from data.errors import UserError
from data.progress import Progress
from models.classifier import SequenceClassifier
from models.config import ModelConfig
from pipeline.evaluation.predictions import Predictions, true_class_ranks
from pipeline.evaluation.scoring import predict
from pipeline.settings.config import Config, TrainingConfig
from pipeline.training.batches import Batch, FeatureTable, training_batches
from pipeline.training.clips import clip_sampling
from pipeline.training.run import Run


class TrainingError(UserError):
    """Training can't go on. The message says where it stopped and what to change."""


class Outcome(NamedTuple):
    """What a model made of one batch."""

    loss: Tensor
    """mean over the batch; what is minimised"""
    size: int
    num_right: int | None = None
    """``None`` where an answer is a number, not a class"""


class Validation(NamedTuple):
    """How well a model does on what it is chosen by."""

    figures: dict[str, float]
    """for ``metrics.jsonl``, by name"""
    rank: tuple[float, ...]
    """of all epochs, the one with the lowest is the best"""


class _Best(TypedDict):
    """The best epoch so far, as checkpoints hold it."""

    epoch: int
    rank: list[float]


AnyBatch = TypeVar("AnyBatch")


class Objective(Protocol[AnyBatch]):
    """What a model is trained for. ``fit`` does the rest."""

    steps_per_epoch: int

    def batches(self, epoch: int) -> Iterable[AnyBatch]:
        """``steps_per_epoch`` batches. They depend on the epoch alone: a resumed run gets the same."""

    def outcome(self, model: nn.Module, batch: AnyBatch) -> Outcome:
        """One forward pass in training."""

    def validate(self, model: SequenceClassifier) -> Validation | None:
        """``None`` where there is nothing to choose an epoch by: then the last is the best."""

    def is_reached(self, history: Sequence[dict[str, float]]) -> bool:
        """Whether the lines of ``metrics.jsonl`` so far show that nothing is left to learn."""


def make_accelerator(device: torch.device, amp: bool) -> Accelerator:
    """bfloat16 autocast on a GPU if ``amp``; never on a CPU, where it can be five times slower."""
    on_gpu = device.type == "cuda"
    return Accelerator(cpu=not on_gpu, mixed_precision="bf16" if amp and on_gpu else "no")


def train(
    run: Run,
    config: Config,
    seed: int,
    classes: tuple[str, ...],
    training: FeatureTable,
    validation: FeatureTable | None,
    accelerator: Accelerator,
) -> SequenceClassifier:
    """Train a classifier of videos, or go on where ``run`` was left, and return the best one; see ``fit``.

    The best is that of the epoch with the highest video-level validation accuracy (then the lowest validation loss);
    without validation videos it is the last.
    """
    model = new_classifier(config.model, seed, training.feature_dim, len(classes))
    model.set_feature_statistics(*training.statistics())
    objective = _VideoObjective(config.training, seed, classes, training, validation, accelerator.device)
    fit(run, config.training, seed, model, classes, objective, accelerator)
    return load_best(run, config)[0].to(accelerator.device)


def new_classifier(config: ModelConfig, seed: int, num_inputs: int, num_outputs: int) -> SequenceClassifier:
    """The classifier that a training from ``seed`` begins with; seeds PyTorch's generator."""
    torch.manual_seed(seed)
    return SequenceClassifier(config, num_inputs, num_outputs)


class _VideoObjective:
    """Cross-entropy on one random clip of each video per epoch."""

    def __init__(
        self,
        settings: TrainingConfig,
        seed: int,
        classes: tuple[str, ...],
        training: FeatureTable,
        validation: FeatureTable | None,
        device: torch.device,
    ) -> None:
        self.steps_per_epoch = math.ceil(len(training) / settings.batch_size)
        self._settings, self._clips = settings, clip_sampling(settings)
        self._seed, self._classes, self._device = seed, classes, device
        self._training, self._validation = training, validation

    def batches(self, epoch: int) -> Iterator[Batch]:
        rng = np.random.default_rng([self._seed, epoch])
        return training_batches(self._training, self._clips, self._settings.batch_size, rng)

    def outcome(self, model: nn.Module, batch: Batch) -> Outcome:
        batch = batch.to(self._device)
        scores = model(batch.features, batch.lengths)
        loss = F.cross_entropy(scores, batch.labels, label_smoothing=self._settings.label_smoothing)
        return Outcome(loss, len(batch.labels), int((scores.argmax(1) == batch.labels).sum()))

    def validate(self, model: SequenceClassifier) -> Validation | None:
        if self._validation is None:
            return None
        return class_validation(predict(model, self._validation, self._clips, self._classes, self._device))

    def is_reached(self, history: Sequence[dict[str, float]]) -> bool:
        return False


def fit(
    run: Run,
    settings: TrainingConfig,
    seed: int,
    model: SequenceClassifier,
    classes: tuple[str, ...],
    objective: Objective[Any],
    accelerator: Accelerator,
) -> None:
    """Train ``model``, or go on where ``run`` was left, until the epochs, the patience or what can be learnt is spent.

    Every epoch begins from the last checkpoint's weights and its own seed, so a run that was killed and resumed ends
    with the same weights as an unbroken one (on the CPU). The best epoch's weights are in the checkpoint ``best``, with
    ``classes``, the names of the model's outputs.

    Raises:
        TrainingError: the loss, its gradient or the validation is not finite.
    """
    betas = (0.9, settings.adam_beta2)
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings), lr=settings.learning_rate, betas=betas)
    steps_per_epoch = objective.steps_per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps_per_epoch * settings.epochs, settings.schedule)
    )
    model, optimizer = accelerator.prepare(model, optimizer)

    first_epoch, best, history = 0, _Best(epoch=-1, rank=[math.inf]), []
    last = run.load_checkpoint("last")
    if last is not None:
        model.load_state_dict(last["model"])
        optimizer.load_state_dict(last["optimizer"])
        schedule.load_state_dict(last["schedule"])
        first_epoch, best = last["epoch"] + 1, last["best"]
        history = [line for line in run.history() if line["epoch"] < first_epoch]

    board = SummaryWriter(run.tensorboard, purge_step=first_epoch)
    progress = Progress(total=steps_per_epoch * settings.epochs, done=steps_per_epoch * first_epoch, unit="step")
    with closing(board), closing(progress):
        for epoch in range(first_epoch, settings.epochs):
            if epoch - best["epoch"] > settings.patience or objective.is_reached(history):
                break
            started = time.perf_counter()
            torch.manual_seed(_epoch_seed(seed, epoch))
            model.train()
            total_loss, num_right, num_seen = 0.0, 0, 0
            for batch in objective.batches(epoch):
                outcome = objective.outcome(model, batch)
                accelerator.backward(outcome.loss)
                norm = float(accelerator.clip_grad_norm_(model.parameters(), settings.clip_gradient))
                loss = outcome.loss.item()
                if not math.isfinite(loss + norm):
                    raise _diverged(run, epoch, f"the loss is {loss:g}, its gradient's norm {norm:g}")
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                total_loss += loss * outcome.size
                num_seen += outcome.size
                num_right += outcome.num_right or 0
                progress.advance(loss=f"{loss:.3g}")
            line: dict[str, float] = {"epoch": epoch, "train_loss": total_loss / num_seen}
            if outcome.num_right is not None:
                line["train_accuracy"] = num_right / num_seen
            line["learning_rate"] = float(schedule.get_last_lr()[0])
            validation = objective.validate(model)
            if validation is not None:
                if not all(map(math.isfinite, validation.rank)):
                    raise _diverged(run, epoch, f"the validation gives {validation.figures}")
                line |= validation.figures
            line["seconds"] = time.perf_counter() - started
            weights = {name: tensor.cpu() for name, tensor in accelerator.unwrap_model(model).state_dict().items()}
            if validation is None or validation.rank < tuple(best["rank"]):
                best = _Best(epoch=epoch, rank=[] if validation is None else list(validation.rank))
                run.save_checkpoint("best", {"model": weights, "epoch": epoch, "classes": list(classes)})
            history.append(line)
            run.write_history(history)
            for name, value in line.items():
                board.add_scalar(name, value, epoch)
            # Last of all: what an epoch leaves behind counts only once this is there.
            run.save_checkpoint(
                "last",
                {
                    "model": weights,
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "epoch": epoch,
                    "best": best,
                },
            )
            told = {name: f"{value:.3g}" for name, value in line.items() if name.startswith(("train_a", "validation"))}
            progress.show(**{"epoch": epoch + 1} | told)


def _diverged(run: Run, epoch: int, what: str) -> TrainingError:
    return TrainingError(
        f"{run.folder}: in epoch {epoch} {what}. Begin the run anew (--overwrite) with a lower --learning-rate or "
        "--clip-gradient, or with --input-scale hidden or fan_in. The checkpoint of the epoch before is kept."
    )


def load_best(run: Run, config: Config) -> tuple[SequenceClassifier, tuple[str, ...]]:
    """The classifier of a run's best epoch, on the CPU, and its classes.

    Raises ``RunError`` or ``TrainingError`` where there is none yet, or it is damaged or not that of ``config``.
    """
    state = run.load_checkpoint("best")
    if state is None:
        raise TrainingError(f"{run.folder} has no checkpoint yet: train it (train.py --config ... --resume).")
    try:
        model = SequenceClassifier(config.model, len(state["model"]["feature_mean"]), len(state["classes"]))
        model.load_state_dict(state["model"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise TrainingError(
            f"{run.checkpoints / 'best.pt'} does not hold the classifier of {run.folder / 'config.yaml'} ({error}). "
            "Was one of them changed? Train the run again with --overwrite."
        ) from error
    return model.eval(), tuple(state["classes"])


def learning_rate_factor(step: int, num_steps: int, schedule: str) -> float:
    """What the learning rate is multiplied by: linear warm-up over the first 5 % of the steps, then half a cosine."""
    warm_up = max(1, num_steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, num_steps - warm_up))))


def _parameter_groups(model: nn.Module, settings: TrainingConfig) -> list[dict[str, Any]]:
    """Weight decay on input and output matrices: decaying W_hh would pull its slow eigenvalue below 1."""
    recurrent = [p for name, p in model.named_parameters() if "weight_hh" in name]
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "weight_hh" not in name]
    others = [p for p in model.parameters() if p.ndim <= 1]
    recurrent_rate = settings.recurrent_learning_rate or settings.learning_rate
    return [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
        {"params": recurrent, "weight_decay": 0.0, "lr": recurrent_rate},
    ]


def class_validation(predictions: Predictions) -> Validation:
    """Video-level top-1 and negative log-likelihood; the best has the highest accuracy, then the lowest loss."""
    probabilities = predictions.video_probabilities
    accuracy = float((true_class_ranks(probabilities, predictions.labels) == 0).mean())
    true = probabilities[np.arange(len(predictions.labels)), predictions.labels]
    loss = float(-np.log(true.clip(1e-12)).mean())
    return Validation({"validation_accuracy": accuracy, "validation_loss": loss}, (-accuracy, loss))


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
