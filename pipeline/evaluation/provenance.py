"""Where an evaluation comes from: facts for its readers, and digests that show whether it is up to date."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, FiniteFloat, TypeAdapter, model_validator

from data.checksum import JSON
from pipeline.evaluation.metrics import METRICS
from pipeline.evaluation.predictions import FILE_NAME, Predictions
from pipeline.features.recipe import IMPORTED
from pipeline.training.received import check_file
from pipeline.training.run import Run, RunError

FORMAT = 5  # of an evaluation's files; a new number makes all evaluations unfinished
MODEL_CARD = "MODEL_CARD.md"
_PROJECT = Path(__file__).resolve().parents[2]


def digest(value: object) -> str:
    """The first 64 bits of the SHA-256 of a JSON value, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def run_digest(run: Run) -> str:
    """Digest of a run's name, settings, learning curves and best checkpoint, as far as they exist."""
    files = (run.folder / "config.yaml", run.folder / "metrics.jsonl", run.checkpoints / "best.pt")
    return digest([run.name, *(_sha256(path) for path in files if path.exists())])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def metrics_to_json(metrics: Mapping[str, Any]) -> bytes:
    """The content of ``metrics.json``, with a checksum."""
    return JSON.put(json.dumps(metrics, indent=2, default=str).removesuffix("\n}").encode())


def metrics_from_json(content: bytes) -> dict[str, Any]:
    """What ``metrics_to_json`` wrote, or an older version without a checksum. Raises ``ValueError`` if damaged."""
    metrics = json.loads(content)
    if not isinstance(metrics, dict):
        raise ValueError("it is not a JSON object")
    if metrics.pop("crc32", None) is not None:
        JSON.check(content)
    return metrics


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The content of ``metrics.json`` in an evaluation's folder; ``None`` if it is missing or damaged."""
    path = folder / "metrics.json"
    try:
        check_file(path)
        return metrics_from_json(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def read_provenance(folder: Path) -> dict[str, Any]:
    """The provenance of the evaluation in ``folder``; empty if there is none."""
    provenance = (read_metrics(folder) or {}).get("provenance")
    return provenance if isinstance(provenance, dict) else {}


def finished_metrics(folder: Path, provenance: dict[str, object]) -> dict[str, Any] | None:
    """The metrics of the evaluation in ``folder`` if it is finished and has this provenance; else ``None``.

    An evaluation with missing videos is not finished: they may have features by now. Neither is one with damaged
    metrics or predictions.
    """
    metrics = read_metrics(folder)
    if metrics is None or metrics.get("provenance") != provenance or metrics.get("num_missing"):
        return None
    try:
        _FINISHED.validate_python(metrics, strict=True)
        if "mse" not in metrics:
            Predictions.load(folder / FILE_NAME)
    except ValueError:
        return None
    return metrics


Share = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)]
Scalar = None | bool | int | FiniteFloat | str


class _Order(BaseModel):
    video_top1: Share
    drop: FiniteFloat
    interval: Interval


class _WithoutExcluded(BaseModel):
    video_top1: Share
    num_videos: int
    intervals: dict[str, Interval]


class _Part(BaseModel):
    videos: int
    groups: int
    classes: int


class _Metrics(BaseModel, extra="allow"):
    """What tables and pages rely on. What they show besides is plain values."""

    run: str
    dataset: str
    model: str
    seed: int
    provenance: dict[str, Any]
    __pydantic_extra__: dict[str, Scalar]


class _ClassifierMetrics(_Metrics):
    clip_top1: Share
    clip_top5: Share
    video_top1: Share
    video_top5: Share
    mean_class_accuracy: Share
    num_videos: int
    num_groups: int
    intervals: dict[str, Interval]
    order: dict[str, _Order] | None = None
    without_excluded: _WithoutExcluded | None = None
    parts: dict[str, _Part] | None = None

    @model_validator(mode="after")
    def _has_every_interval(self) -> Self:
        if lacking := set(METRICS) - self.intervals.keys():
            raise ValueError(f"no interval of {', '.join(lacking)}")
        return self


class _RegressionMetrics(_Metrics):
    length: int
    settings: str
    mse: FiniteFloat
    chance_mse: FiniteFloat
    solved: bool
    steps_to_solve: int | None


_FINISHED: TypeAdapter[_ClassifierMetrics | _RegressionMetrics] = TypeAdapter(_ClassifierMetrics | _RegressionMetrics)


def training_facts(run: Run) -> dict[str, object]:
    """Number of epochs, best epoch (counted from 0) and duration of a run's training.

    Raises ``RunError`` if the curves are not those of the best checkpoint.
    """
    history, best = run.history(), run.load_checkpoint("best")
    # One more than there are lines: a process that is killed may have written the checkpoint, but not yet the line.
    if best is not None and not 0 <= best["epoch"] <= len(history):
        raise RunError(
            f"{run.folder / 'metrics.jsonl'} has {len(history)} epochs, and best.pt is of epoch {best['epoch']}. "
            "Restore the one that was removed or replaced."
        )
    return {
        "num_epochs": len(history),
        "best_epoch": None if best is None else best["epoch"],
        "training_seconds": round(sum(line.get("seconds", 0.0) for line in history), 3),
    }


@cache
def versions(backbone: str | None) -> str:
    """Versions of Python, PyTorch and the backbone's library (if any), and this project's commit (if known)."""
    packages = ["torch"]
    if backbone is not None and not backbone.startswith(IMPORTED):
        packages.append("timm" if backbone.startswith(("timm:", "efficientnet_lite0")) else "torchvision")
    parts = [f"Python {platform.python_version()}"]
    parts += [f"{package} {importlib.metadata.version(package)}" for package in packages]
    if commit := _commit():
        parts.append(f"commit {commit}")
    return ", ".join(parts)


def _commit() -> str | None:
    """This project's commit; ``None`` if it is not in a git repository of its own, or git is not installed."""
    if not (_PROJECT / ".git").exists():
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    command = ["git", "--no-optional-locks", "-C", str(_PROJECT), *describe]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
