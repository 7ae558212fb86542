"""The training loop: one function, from initial weights to the best checkpoint."""

import math
import time
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

from models.recurrent import SequenceClassifier
from pipeline.batches import ClipSampling, FeatureTable, training_batches
from pipeline.config import Config, TrainingConfig
from pipeline.evaluation import Predictions, true_class_ranks, video_probabilities
from pipeline.progress import Progress
from pipeline.runs import Run
from pipeline.scoring import predict


class TrainingError(ValueError):
    """Training can't go on. The message says where it stopped and what to change."""


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
    """Train a classifier, or go on where ``run`` was left, and return the best one.

    The best is that of the epoch with the highest video-level validation accuracy (then the lowest validation loss);
    without validation videos it is the last. Every epoch begins from the last checkpoint's weights and its own seed,
    so a run that was killed and resumed ends with the same weights as an unbroken one (on the CPU).

    Raises:
        TrainingError: the loss or its gradient is not finite.
    """
    settings = config.training
    clips = clip_sampling(settings)
    device = accelerator.device
    torch.manual_seed(seed)
    model = SequenceClassifier(config.model, training.feature_dim, len(classes))
    model.set_feature_statistics(*training.statistics())
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings), lr=settings.learning_rate)
    steps_per_epoch = math.ceil(len(training) / settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps_per_epoch * settings.epochs, settings.schedule)
    )
    model, optimizer = accelerator.prepare(model, optimizer)

    first_epoch, best, history = 0, {"epoch": -1, "accuracy": -1.0, "loss": math.inf}, []
    last = run.load_checkpoint("last")
    if last is not None:
        model.load_state_dict(last["model"])
        optimizer.load_state_dict(last["optimizer"])
        schedule.load_state_dict(last["schedule"])
        first_epoch, best = last["epoch"] + 1, last["best"]
        history = [line for line in run.history() if line["epoch"] < first_epoch]

    board = SummaryWriter(run.tensorboard, purge_step=first_epoch)
    progress = Progress(total=steps_per_epoch * settings.epochs, done=steps_per_epoch * first_epoch, unit="step")
    for epoch in range(first_epoch, settings.epochs):
        if epoch - best["epoch"] > settings.patience and validation is not None:
            break
        started = time.perf_counter()
        torch.manual_seed(_epoch_seed(seed, epoch))
        rng = np.random.default_rng([seed, epoch])
        model.train()
        total_loss = total_right = 0.0
        for batch in training_batches(training, clips, settings.batch_size, rng):
            batch = batch.to(device)
            scores = model(batch.features, batch.lengths)
            loss = F.cross_entropy(scores, batch.labels, label_smoothing=settings.label_smoothing)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip_gradient)
            if not math.isfinite(loss.item() + float(norm)):
                raise TrainingError(
                    f"{run.folder}: in epoch {epoch} the loss is {loss.item():g}, its gradient's norm {float(norm):g}. "
                    "Begin the run anew (--overwrite) with a lower --learning-rate or --clip-gradient, or with "
                    "--input-scale hidden or fan_in. The checkpoint of the epoch before is kept."
                )
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total_loss += loss.item() * len(batch.labels)
            total_right += (scores.argmax(1) == batch.labels).sum().item()
            progress.advance(loss=f"{loss.item():.3f}")
        line: dict[str, float] = {
            "epoch": epoch,
            "train_loss": total_loss / len(training),
            "train_accuracy": total_right / len(training),
            "learning_rate": float(schedule.get_last_lr()[0]),
        }
        if validation is not None:
            predictions = predict(model, validation, clips, classes, device)
            line |= dict(zip(("validation_accuracy", "validation_loss"), _accuracy_and_loss(predictions), strict=True))
        line["seconds"] = time.perf_counter() - started
        better = validation is None or (-line["validation_accuracy"], line["validation_loss"]) < (
            -best["accuracy"],
            best["loss"],
        )
        weights = {name: tensor.cpu() for name, tensor in accelerator.unwrap_model(model).state_dict().items()}
        if better:
            best = {
                "epoch": epoch,
                "accuracy": line.get("validation_accuracy", -1.0),
                "loss": line.get("validation_loss", math.inf),
            }
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
        shown: dict[str, object] = {"epoch": epoch + 1, "accuracy": f"{line['train_accuracy']:.3f}"}
        if validation is not None:
            shown["validation"] = f"{line['validation_accuracy']:.3f}"
        progress.show(**shown)
    progress.close()
    board.close()
    return load_best(run, config)[0].to(device)


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


def clip_sampling(settings: TrainingConfig) -> ClipSampling:
    return ClipSampling(settings.clip_frames, settings.clip_stride, settings.clips_per_video, settings.clip_step)


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
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and "weight_hh" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim <= 1 or "weight_hh" in name]
    return [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]


def _accuracy_and_loss(predictions: Predictions) -> tuple[float, float]:
    """Video-level top-1 and negative log-likelihood."""
    probabilities = video_probabilities(predictions)
    accuracy = float((true_class_ranks(probabilities, predictions.labels) == 0).mean())
    true = probabilities[np.arange(len(predictions.labels)), predictions.labels]
    return accuracy, float(-np.log(true.clip(1e-12)).mean())


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
