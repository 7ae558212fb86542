"""How an evaluation came about: what a reader wants to know of it, and whether it would come out the same again."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.features.recipe import IMPORTED
from pipeline.training.run import Run

FORMAT = 1  # of what an evaluation leaves on disk; to be raised when that changes, and all are made again
_PROJECT = Path(__file__).resolve().parents[2]


def digest(value: object) -> str:
    """A short name (64 bits of SHA-256) of anything that JSON can hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def run_digest(run: Run) -> str:
    """Of a run's name, settings, learning curves and best checkpoint, each as far as it is there."""
    files = (run.folder / "config.yaml", run.folder / "metrics.jsonl", run.checkpoints / "best.pt")
    return digest([run.name, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists())])


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """``metrics.json`` of an evaluation's folder; ``None`` where there is none that can be read."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return metrics if isinstance(metrics, dict) else None


def finished_metrics(folder: Path, made_from: dict[str, object]) -> dict[str, Any] | None:
    """The metrics of the evaluation in ``folder`` if there is one, made from the same; else ``None``.

    One in which videos were missing is not finished: they may be there by now.
    """
    metrics = read_metrics(folder)
    if metrics is None or metrics.get("made_from") != made_from or metrics.get("num_missing"):
        return None
    return metrics


def training_facts(run: Run) -> dict[str, object]:
    """How long a run was trained, and in which epoch (as ``metrics.jsonl`` counts them) it was best."""
    history, best = run.history(), run.load_checkpoint("best")
    return {
        "num_epochs": len(history),
        "best_epoch": best and best["epoch"],
        "training_seconds": round(sum(line.get("seconds", 0.0) for line in history), 3),
    }


@cache
def versions(backbone: str | None) -> str:
    """Of Python, PyTorch, what the backbone (if any) is from, and of this project where git knows it."""
    packages = ["torch"]
    if backbone is not None and not backbone.startswith(IMPORTED):
        packages.append("timm" if backbone.startswith(("timm:", "efficientnet_lite0")) else "torchvision")
    named = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    commit = _commit()
    return ", ".join([f"Python {platform.python_version()}", *named, *([f"commit {commit}"] if commit else [])])


def _commit() -> str | None:
    """Of this project; ``None`` where it lies outside a git repository of its own, or there is no git."""
    if not (_PROJECT / ".git").exists():
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    command = ["git", "--no-optional-locks", "-C", str(_PROJECT), *describe]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
