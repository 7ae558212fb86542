"""How an evaluation came about: facts for its readers, and whether it would come out the same again."""

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

FORMAT = 2  # of an evaluation's files; raise it when they change, and every evaluation is repeated
_PROJECT = Path(__file__).resolve().parents[2]


def digest(value: object) -> str:
    """A short name (64 bits of SHA-256) for anything that JSON can represent."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def run_digest(run: Run) -> str:
    """Digest of a run's name, settings, learning curves and best checkpoint, as far as they exist."""
    files = (run.folder / "config.yaml", run.folder / "metrics.jsonl", run.checkpoints / "best.pt")
    return digest([run.name, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists())])


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """``metrics.json`` of an evaluation's folder; ``None`` if it is missing or can't be read."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return metrics if isinstance(metrics, dict) else None


def read_provenance(folder: Path) -> dict[str, Any]:
    """The provenance of the evaluation in ``folder``; empty where there is none."""
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
    """How long a run was trained, and its best epoch (as ``metrics.jsonl`` counts them)."""
    history, best = run.history(), run.load_checkpoint("best")
    return {
        "num_epochs": len(history),
        "best_epoch": None if best is None else best["epoch"],
        "training_seconds": round(sum(line.get("seconds", 0.0) for line in history), 3),
    }


@cache
def versions(backbone: str | None) -> str:
    """Versions of Python, PyTorch, the backbone's library (if any), and of this project if git knows it."""
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
