"""The training loop: from initial weights to the best checkpoint."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.tensorboard import SummaryWriter

from data.errors import UserError
from data.progress import Progress
from models.classifier import SequenceClassifier, without_memory
from models.config import ModelConfig
from pipeline.settings.config import Config, TrainingConfig
from pipeline.training.objective import Objective
from pipeline.training.run import Run

NOTABLE_RISE = 0.05  # of the validation loss, in nats


class TrainingError(UserError):
    """Training can't continue. The message says where it stopped and what to change."""


class _Best(TypedDict):
    """The best epoch so far, as checkpoints store it."""

    epoch: int
    rank: list[float]


def fit(run: Run, config: Config, objective: Objective, device: torch.device) -> None:
    """Train a run, or resume it, until the epochs or the patience run out or the objective is reached.

    Each epoch starts from the last checkpoint's weights and its own random seed, so a run that was killed and resumed
    ends with the same weights as one that was not (on a CPU). The checkpoint ``best`` contains the weights of the epoch
    with the best validation, with the temperature that calibrates them, and the names of the model's outputs. Training
    and validation themselves run at temperature 1.

    Mixed precision (bfloat16) is used on a GPU if ``config.training.amp`` is set; never on a CPU, where it can be five
    times slower.

    Raises:
        TrainingError: the loss, its gradient or the validation is not finite.
    """
    settings, (seed,) = config.training, config.run.seeds
    model = new_classifier(config.model, seed, objective.num_inputs, len(objective.outputs))
    if (statistics := objective.input_statistics()) is not None:
        model.set_feature_statistics(*statistics)
    model.to(device)
    num_epochs = settings.num_epochs(objective.steps_per_epoch)
    patience = settings.patience or max(20, math.ceil(num_epochs / 3))
    num_steps = objective.steps_per_epoch * num_epochs
    optimizer, schedule = new_optimizer(model, settings, objective.steps_per_epoch, num_epochs)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.amp and device.type == "cuda")

    first_epoch, best, history = 0, _Best(epoch=-1, rank=[math.inf]), []
    last = run.load_checkpoint("last")
    if last is not None:
        try:
            first_epoch, best = _restore(last, model, optimizer, schedule)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _not_this_classifier(run, "last", error) from error
        history = [line for line in run.history() if line["epoch"] < first_epoch]
        if [line["epoch"] for line in history] != list(range(first_epoch)):
            raise TrainingError(
                f"{run.folder / 'metrics.jsonl'} does not have one line for each of the {first_epoch} epochs of "
                "last.pt. Was it replaced? Restore it, or train the run again with --overwrite."
            )

    board = SummaryWriter(run.tensorboard, purge_step=first_epoch)
    progress = Progress(total=num_steps, done=objective.steps_per_epoch * first_epoch, unit="step")
    with closing(board), closing(progress):
        for epoch in range(first_epoch, num_epochs):
            stage = settings.stage(epoch)
            is_growing = stage is not None and stage.length < settings.grow_length[-1]
            waited = epoch - max(best["epoch"], stage.first_epoch if stage else 0)
            if not is_growing and (waited > patience or objective.can_stop(history)):
                break
            started = time.perf_counter()
            torch.manual_seed(_epoch_seed(seed, epoch))
            model.train()
            total_loss, num_correct, num_seen = 0.0, 0, 0
            for batch in objective.batches(epoch):
                rate = float(schedule.get_last_lr()[0])
                with autocast:
                    outcome = objective.outcome(model, batch.to(device))
                loss, norm = update(model, outcome.loss, settings.clip_gradient, optimizer, schedule)
                if not math.isfinite(loss + norm):
                    raise _diverged(run, epoch, f"the loss is {loss:g}, its gradient's norm {norm:g}")
                total_loss += loss * outcome.size
                num_seen += outcome.size
                num_correct += outcome.num_correct or 0
                progress.advance(loss=f"{loss:.3g}")
            line: dict[str, float] = {"epoch": epoch, "train_loss": total_loss / num_seen}
            if objective.has_classes:
                line["train_accuracy"] = num_correct / num_seen
            line["learning_rate"] = rate
            validation = objective.validate(model)
            if validation is not None:
                if not all(map(math.isfinite, validation.rank)):
                    raise _diverged(run, epoch, f"the validation gives {validation.metrics}")
                line |= validation.metrics
            line["seconds"] = time.perf_counter() - started
            weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
            if validation is None or validation.rank < tuple(best["rank"]):
                best = _Best(epoch=epoch, rank=[] if validation is None else list(validation.rank))
                temperature = torch.tensor(1.0 if validation is None else validation.fit_temperature())
                run.save_checkpoint(
                    "best",
                    {
                        "model": weights | {"temperature": temperature},
                        "epoch": epoch,
                        "classes": list(objective.outputs),
                    },
                )
            history.append(line)
            run.write_history(history)
            for name, value in line.items():
                board.add_scalar(name, value, epoch)
            # Written last, because a resumed run repeats every epoch after this checkpoint.
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
            shown = {name: f"{value:.3g}" for name, value in line.items() if name.startswith(("train_a", "validation"))}
            progress.show(**{"epoch": epoch + 1} | shown)


def new_optimizer(
    model: SequenceClassifier, settings: TrainingConfig, steps_per_epoch: int, num_epochs: int
) -> tuple[Optimizer, LambdaLR]:
    """AdamW and its learning rate schedule.

    If sequences grow, each length has a schedule of its own, at rates in proportion to 1 / length.
    """
    betas = (0.9, settings.adam_beta2)
    optimizer = torch.optim.AdamW(_parameter_groups(model, settings), betas=betas, fused=True)

    def factor(step: int) -> float:
        stage = settings.stage(step // steps_per_epoch)
        if stage is None:
            return learning_rate_factor(step, steps_per_epoch * num_epochs, settings.schedule)
        of_stage = step - steps_per_epoch * stage.first_epoch, steps_per_epoch * stage.num_epochs
        return learning_rate_factor(*of_stage, settings.schedule) * settings.grow_length[0] / stage.length

    return optimizer, LambdaLR(optimizer, factor)


def _restore(
    last: Mapping[str, Any], model: SequenceClassifier, optimizer: Optimizer, schedule: LambdaLR
) -> tuple[int, _Best]:
    """Continue where a checkpoint ends: the first epoch to train, and the best so far.

    The settings of the optimizer and the schedule are not the checkpoint's, which may come from anybody. Raises many
    types if the checkpoint is not one of this classifier.
    """
    epoch, best = last["epoch"], _Best(epoch=last["best"]["epoch"], rank=list(last["best"]["rank"]))
    num_steps = last["schedule"]["last_epoch"]
    if not all(isinstance(number, int) and number >= 0 for number in (epoch, best["epoch"], num_steps)):
        raise TypeError("the epoch or the step is no number")
    if not all(isinstance(value, float | int) for value in best["rank"]):
        raise TypeError("the best validation is no number")
    model.load_state_dict(last["model"])
    optimizer.load_state_dict(optimizer.state_dict() | {"state": last["optimizer"]["state"]})
    for parameter, state in optimizer.state.items():
        shapes = {name: tensor.shape for name, tensor in state.items() if _is_plain(tensor)}
        if shapes != {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}:
            raise ValueError("the state of the optimizer is that of other weights")
    rates = [rate * factor(num_steps) for rate, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    progress = {"last_epoch": num_steps, "_step_count": num_steps + 1, "_last_lr": rates}
    schedule.load_state_dict(schedule.state_dict() | progress)
    return epoch + 1, best


def update(
    model: nn.Module, loss: Tensor, clip_gradient: float, optimizer: Optimizer, schedule: LambdaLR
) -> tuple[float, float]:
    """The backward pass of a loss and one step of the optimizer, with the gradient's norm clipped.

    Returns:
        the loss, and the norm before clipping. If one of them is not finite, the weights are not changed.
    """
    loss.backward()
    norm = nn.utils.get_total_norm([weight.grad for weight in model.parameters() if weight.grad is not None])
    if norm > clip_gradient:
        nn.utils.clip_grads_with_norm_(model.parameters(), clip_gradient, norm)
    value = loss.item()
    if math.isfinite(value + norm):
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return value, float(norm)


def overfitting_warning(history: Sequence[Mapping[str, float]]) -> str | None:
    """A warning if the training accuracy reached 1 and the validation loss has risen since its best epoch.

    ``history`` contains the lines of ``metrics.jsonl``. Rises of less than ``NOTABLE_RISE`` are taken for noise.
    """
    losses = [line["validation_loss"] for line in history if "validation_loss" in line]
    if not losses or max(line.get("train_accuracy", 0.0) for line in history) < 1:
        return None
    lowest = min(losses)
    if losses[-1] < lowest + NOTABLE_RISE:
        return None
    return (
        f"warning: the training accuracy reached 1, and the validation loss rose from {lowest:.2f} (epoch "
        f"{losses.index(lowest)}) to {losses[-1]:.2f} (epoch {len(losses) - 1}): the model overfits. Try a higher "
        "--weight-decay or --dropout, or fewer --epochs."
    )


def new_classifier(config: ModelConfig, seed: int, num_inputs: int, num_outputs: int) -> SequenceClassifier:
    """The untrained classifier of a run with this seed. Seeds PyTorch's global generator."""
    torch.manual_seed(seed)
    return SequenceClassifier(config, num_inputs, num_outputs)


def load_best(run: Run, config: Config) -> tuple[SequenceClassifier, tuple[str, ...]]:
    """The classifier of a run's best epoch, on the CPU and in evaluation mode, and the names of its outputs.

    Raises:
        TrainingError: there is no checkpoint yet, or it does not belong to ``config``.
        RunError: the checkpoint is damaged.
    """
    state = run.load_checkpoint("best")
    if state is None:
        raise TrainingError(f"{run.folder} has no checkpoint yet. Train it: train.py --config ... --resume")
    try:
        if not (isinstance(state["epoch"], int) and all(isinstance(name, str) for name in state["classes"])):
            raise TypeError("the epoch is no number, or a class no text")
        if not all(_is_plain(weight) for weight in state["model"].values()):
            raise TypeError("a weight is not an array of numbers on the CPU")
        # Not allocated, whatever size the settings and the checkpoint claim: the checkpoint's own tensors are used.
        model = without_memory(config.model, len(state["model"]["feature_mean"]), len(state["classes"]))
        model.load_state_dict(state["model"], assign=True)
        model.float()
        if not 0 < model.temperature < math.inf:
            raise ValueError(f"the temperature is {model.temperature}")
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _not_this_classifier(run, "best", error) from error
    saved = run.split()
    if saved is not None and saved.get("classes", state["classes"]) != state["classes"]:
        raise TrainingError(
            f"{run.checkpoints / 'best.pt'} has other classes than {run.folder / 'split.json'}. Was one of them "
            "replaced? Restore it, or train the run again with --overwrite."
        )
    return model.eval(), tuple(state["classes"])


def _not_this_classifier(run: Run, name: str, error: Exception) -> TrainingError:
    return TrainingError(
        f"{run.checkpoints / name}.pt does not contain the classifier that {run.folder / 'config.yaml'} describes "
        f"({error}). Was one of them changed? Train the run again with --overwrite."
    )


def _is_plain(weight: Any) -> bool:
    return (
        isinstance(weight, Tensor)
        and weight.is_floating_point()
        and weight.layout == torch.strided
        and weight.device.type == "cpu"
    )


def learning_rate_factor(step: float, num_steps: int, schedule: str) -> float:
    """Factor of the peak learning rate: linear warm-up over the first 5 % of the steps, then half a cosine."""
    warm_up = max(1, num_steps // 20)
    if step < warm_up:
        return (step + 1) / warm_up
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, num_steps - warm_up))))


def _parameter_groups(model: SequenceClassifier, settings: TrainingConfig) -> list[dict[str, Any]]:
    """The parameters, each with its learning rate and weight decay.

    Adam moves each weight by about the learning rate, whatever its size. In a recurrent layer these moves add up over
    the features and the previous states, so its rate falls with their number (muP: Yang & Hu, "Tensor Programs V",
    arXiv 2203.03466, table 8). The linear layers keep the full rate.

    In layers that are not PyTorch's own, this is each matrix's own number of inputs.

    Only matrices decay, and W_hh does not: that would pull its slow eigenvalue below 1.
    """
    groups = []
    for name, parameter in model.named_parameters():
        rate = settings.learning_rate
        if name.startswith("layers."):
            if parameter.ndim > 1:
                fan_in = parameter.shape[1]
                if isinstance(layer := model.get_submodule(name.rpartition(".")[0]), nn.RNNBase):
                    fan_in = layer.input_size + layer.hidden_size
                rate *= min(1.0, settings.base_fan_in / fan_in)
            if "weight_hh" in name and settings.recurrent_learning_rate is not None:
                rate = settings.recurrent_learning_rate
        decays = parameter.ndim > 1 and "weight_hh" not in name
        groups.append({"params": [parameter], "lr": rate, "weight_decay": settings.weight_decay if decays else 0.0})
    return groups


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])


def _diverged(run: Run, epoch: int, problem: str) -> TrainingError:
    return TrainingError(
        f"{run.folder}: in epoch {epoch} {problem}. Start over (--overwrite) with a lower --learning-rate or "
        "--clip-gradient, or with --input-scale hidden or fan_in. The checkpoint of the previous epoch is kept."
    )
