"""The choice of the device that PyTorch uses."""

import torch

from pipeline.settings.config import ConfigError


def choose_device(name: str) -> torch.device:
    """The device for ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``. Raises ``ConfigError`` if unavailable."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown --device {name!r}. Use auto, cpu or cuda (CUDA_VISIBLE_DEVICES selects the GPU).")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but PyTorch sees no GPU. Use --device cpu, or install PyTorch for CUDA.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
