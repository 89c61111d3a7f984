"""Checks of the tensors that exact policies are given; each error says what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["check_correct", "check_logits", "check_uniforms", "check_weights", "first_index"]


def first_index(bad: Tensor) -> tuple[int, ...] | None:
    """Index of the first true entry of a bool tensor, None where there is none.

    >>> first_index(torch.tensor([[False, False], [True, True]]))
    (1, 0)
    """
    indices = bad.nonzero()
    return tuple(indices[0].tolist()) if len(indices) else None


def check_logits(name: str, logits: Tensor) -> None:
    """Raises ValueError, naming the argument and the first bad index, unless the logits are finite and have an arm."""
    if not logits.is_floating_point() or logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"{name}: expected floating-point logits (…, arms) with at least one arm, got {logits.dtype} of shape "
            f"{tuple(logits.shape)}"
        )
    _check_finite(name, "finite logits", logits, "; leave an arm out rather than give it −inf")


def check_correct(correct: Tensor, shape: torch.Size) -> None:
    """Raises ValueError for anything but a bool mask that broadcasts to responses of `shape`."""
    if correct.dtype != torch.bool:
        raise ValueError(f"correct: expected a bool mask, got {correct.dtype}; compare with a threshold")
    _check_shape("correct", correct, shape)


def check_weights(weights: Tensor, shape: torch.Size) -> Tensor:
    """The weights as a tensor; raises ValueError unless they are finite and broadcast to responses of `shape`."""
    values = torch.as_tensor(weights)
    _check_shape("weights", values, shape)
    _check_finite("weights", "finite numbers", values)
    return values


def check_uniforms(uniforms: Tensor, batch: torch.Size) -> None:
    """Raises ValueError unless `uniforms` (…, draws) are numbers in [0, 1) for each entry of `batch`."""
    if uniforms.shape[: len(batch)] != batch:
        raise ValueError(f"uniforms: expected batch axes {tuple(batch)} before the draws, got {tuple(uniforms.shape)}")
    index = first_index(~((uniforms >= 0) & (uniforms < 1)))
    if index is not None:
        raise ValueError(
            f"uniforms: expected numbers in [0, 1), got {float(uniforms[index]):g} at index {index}; draw them with "
            "torch.rand"
        )


def _check_finite(name: str, expected: str, values: Tensor, fix: str = "") -> None:
    # One pass in the usual case: only where the sum is not finite are the entries looked at.
    if not values.is_floating_point() or bool(torch.isfinite(values.sum())):
        return
    index = first_index(~torch.isfinite(values))
    if index is not None:
        raise ValueError(f"{name}: expected {expected}, got {float(values[index])} at index {index}{fix}")


def _check_shape(name: str, value: Tensor, shape: torch.Size) -> None:
    try:
        fits = torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: expected a shape that broadcasts to the responses {tuple(shape)}, got {tuple(value.shape)}"
        )
