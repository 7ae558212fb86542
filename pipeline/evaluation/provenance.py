"""Where an evaluation comes from: facts for its readers, and digests that show whether it is up to date."""

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

FORMAT = 4  # of an evaluation's files; a new number makes all evaluations unfinished
_PROJECT = Path(__file__).resolve().parents[2]


def digest(value: object) -> str:
    """The first 64 bits of the SHA-256 of a JSON value, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def run_digest(run: Run) -> str:
    """Digest of a run's name, settings, learning curves and best checkpoint, as far as they exist."""
    files = (run.folder / "config.yaml", run.folder / "metrics.jsonl", run.checkpoints / "best.pt")
    return digest([run.name, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists())])


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """The content of ``metrics.json`` in an evaluation's folder; ``None`` if it is missing or damaged."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return metrics if isinstance(metrics, dict) else None


def read_provenance(folder: Path) -> dict[str, Any]:
    """The provenance of the evaluation in ``folder``; empty if there is none."""
    provenance = (read_metrics(folder) or {}).get("provenance")
    return provenance if isinstance(provenance, dict) else {}


def finished_metrics(folder: Path, provenance: dict[str, object]) -> dict[str, Any] | None:
    """The metrics of the evaluation in ``folder`` if it is finished and has this provenance; else ``None``.

    An evaluation with missing videos is not finished: they may have features by now.
    """
    metrics = read_metrics(folder)
    if metrics is None or metrics.get("provenance") != provenance or metrics.get("num_missing"):
        return None
    return metrics


def training_facts(run: Run) -> dict[str, object]:
    """Number of epochs, best epoch (counted from 0) and duration of a run's training."""
    history, best = run.history(), run.load_checkpoint("best")
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
