"""Checks of what the toys are given: ValueError with the argument, what was expected, what came and how to mend it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_correct", "check_logits", "check_uniforms", "check_weights"]


def check_logits(name: str, logits: Tensor) -> None:
    """Raises ValueError, naming the argument and the first bad index, for logits that are no policy."""
    if not logits.is_floating_point() or logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"{name}: expected floating-point logits (…, arms) with at least one arm, got {logits.dtype} of shape "
            f"{tuple(logits.shape)}"
        )
    if bool(torch.isfinite(logits.sum())):  # one pass; a sum that overflows is looked at closely
        return
    bad = ~torch.isfinite(logits)
    if bool(bad.any()):
        index = tuple(bad.nonzero()[0].tolist())
        raise ValueError(
            f"{name}: expected finite logits, got {float(logits[index])} at index {index}; leave an arm "
            "out rather than give it −inf"
        )


def check_correct(correct: Tensor, shape: torch.Size) -> None:
    """Raises ValueError for anything but a bool mask that spreads over responses of `shape`."""
    if correct.dtype != torch.bool:
        raise ValueError(f"correct: expected a bool mask, got {correct.dtype}; compare with a threshold")
    _check_spread("correct", correct, shape)


def check_weights(weights: Tensor, shape: torch.Size) -> Tensor:
    """The weights as a tensor; raises ValueError unless they are finite and spread over responses of `shape`."""
    w = torch.as_tensor(weights)
    _check_spread("weights", w, shape)
    if w.is_floating_point() and not bool(torch.isfinite(w.sum())) and not bool(torch.isfinite(w).all()):
        index = tuple((~torch.isfinite(w)).nonzero()[0].tolist())
        raise ValueError(f"weights: expected finite numbers, got {float(w[index])} at index {index}")
    return w


def check_uniforms(uniforms: Tensor, batch: torch.Size) -> None:
    """Raises ValueError unless `uniforms` (…, draws) are numbers in [0, 1) for each entry of `batch`."""
    if uniforms.shape[: len(batch)] != batch:
        raise ValueError(f"uniforms: expected batch axes {tuple(batch)} before the draws, got {tuple(uniforms.shape)}")
    if not bool(((uniforms >= 0) & (uniforms < 1)).all()):
        raise ValueError(
            f"uniforms: expected numbers in [0, 1), got {float(uniforms.min()):g} to "
            f"{float(uniforms.max()):g}; torch.rand makes them"
        )


def _check_spread(name: str, value: Tensor, shape: torch.Size) -> None:
    try:
        fits = torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: expected a shape that spreads over the responses {tuple(shape)}, got {tuple(value.shape)}"
        )
