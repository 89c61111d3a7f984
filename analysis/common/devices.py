"""Which device a run uses."""

from __future__ import annotations

import torch

from ..errors import UsageError

__all__ = ["pick_device"]


def pick_device(name: str) -> torch.device:
    """The device of a recipe: auto is CUDA when there is one. UsageError where a CUDA device is asked for in vain."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"device: {name} was asked for, but torch {torch.__version__} sees no CUDA device; use auto or cpu"
        )
    return torch.device(name)
