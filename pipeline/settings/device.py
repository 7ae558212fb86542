"""Which device PyTorch uses."""

import torch

from pipeline.settings.config import ConfigError


def choose_device(name: str) -> torch.device:
    """``auto`` (a GPU where there is one), ``cpu`` or ``cuda``; raises ``ConfigError`` for what there is not."""
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown --device {name!r}. There are auto, cpu and cuda (which GPU: CUDA_VISIBLE_DEVICES).")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but PyTorch sees no GPU. Use --device cpu, or install PyTorch for CUDA.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
