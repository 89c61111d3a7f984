"""Checks of the kind of an argument: whether it is a tensor, a number or an array, before anything is done with it.

Each raises `UsageError`, which names the argument, what was expected and what came.
"""

from __future__ import annotations

import math
import sys
from numbers import Integral, Real
from typing import Any

import numpy as np

from ..errors import UsageError

__all__ = ["check_count", "check_flags", "check_float", "check_number", "check_numbers", "check_real", "check_tensor"]


def check_tensor(name: str, value: Any) -> None:
    """Raise UsageError, with the conversion that helps, for anything but a tensor.

    >>> check_tensor("tokens", 2)
    Traceback (most recent call last):
    analysis.errors.UsageError: tokens: expected torch.Tensor, got int; use torch.tensor
    """
    if _is_tensor(value):
        return
    kind = type(value)
    got = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    conversion = "torch.from_numpy" if got == "numpy.ndarray" else "torch.tensor"
    raise UsageError(f"{name}: expected torch.Tensor, got {got}; use {conversion}")


def check_float(name: str, value: Any) -> None:
    """Raise UsageError for anything but a floating-point tensor.

    >>> import torch
    >>> check_float("probs", torch.tensor([True]))
    Traceback (most recent call last):
    analysis.errors.UsageError: probs: expected a floating-point tensor, got torch.bool
    """
    check_tensor(name, value)
    if not value.is_floating_point():
        raise UsageError(f"{name}: expected a floating-point tensor, got {value.dtype}")


def check_real(name: str, value: Any) -> None:
    """Raise UsageError for anything but a tensor of real numbers; whole numbers and bool count as such.

    >>> import torch
    >>> check_real("rewards", torch.tensor([1j]))
    Traceback (most recent call last):
    analysis.errors.UsageError: rewards: expected real numbers, got torch.complex64
    """
    check_tensor(name, value)
    if value.is_complex():
        raise UsageError(f"{name}: expected real numbers, got {value.dtype}")


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise UsageError for anything but a whole number from `least` up.

    >>> check_count("group_size", 0.5)
    Traceback (most recent call last):
    analysis.errors.UsageError: group_size: expected a whole number of at least 1, got 0.5
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise UsageError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def check_number(name: str, value: object) -> None:
    """Raise UsageError for anything but one finite number.

    >>> check_number("step", "0.1")
    Traceback (most recent call last):
    analysis.errors.UsageError: step: expected one finite number, got '0.1'
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, Real) or not math.isfinite(value):
        raise UsageError(f"{name}: expected one finite number, got {value!r}")


def check_numbers(name: str, values: object) -> np.ndarray:
    """`values` (a NumPy array, a list or a tensor) as float64; UsageError where they are not numbers.

    >>> check_numbers("times", [0, 1]).tolist()
    [0.0, 1.0]
    """
    array = _array(name, values, "numbers")
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{name}: expected an array of numbers, got {array.dtype}")
    return array.astype(np.float64, copy=False)


def check_flags(name: str, values: object) -> np.ndarray:
    """`values` (a NumPy array, a list or a tensor) as an array of bool; UsageError where they are something else.

    >>> check_flags("correct", [True, False]).tolist()
    [True, False]
    """
    array = _array(name, values, "bool")
    if array.dtype != bool:
        raise UsageError(f"{name}: expected an array of bool, got {array.dtype}")
    return array


def _array(name: str, values: object, kind: str) -> np.ndarray:
    if isinstance(values, str | bytes | None):
        raise UsageError(f"{name}: expected an array of {kind}, got {values!r}")
    try:
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    except (TypeError, ValueError) as error:  # a ragged list
        raise UsageError(f"{name}: expected an array of {kind} ({error})") from error
    if array.dtype == object:
        raise UsageError(f"{name}: expected an array of {kind}, got {type(values).__qualname__}")
    return array


def _is_tensor(value: object) -> bool:
    """Nothing is a tensor before torch was imported, which this module leaves to others."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
