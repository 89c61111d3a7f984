"""Which device a run uses."""

from __future__ import annotations

import torch

from ..errors import UsageError

__all__ = ["pick_device"]


def pick_device(name: str) -> torch.device:
    """The device of a name: `auto` is CUDA where there is one. UsageError for a CUDA device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(
            f"device: expected an available device, got {name}, but torch {torch.__version__} finds no CUDA device; "
            "choose auto or cpu"
        )
    return torch.device(name)
