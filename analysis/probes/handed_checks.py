"""Checks of what `attach` is handed that need a forward pass, or an update, to be made."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .attached_tables import PassRows
from .weight_accuracy import ODD_RESIDUAL

__all__ = ["argument_names", "checked_scale", "parameter_versions", "warn_of_another_form"]


def argument_names(model: nn.Module) -> list[str]:
    """The names of the arguments of the forward pass, those of its class where a wrapper on the instance hides them."""
    names = list(inspect.signature(model.forward).parameters)
    return names if "input_ids" in names else list(inspect.signature(type(model).forward).parameters)[1:]


def checked_scale(scale: Any) -> float:
    """The factor of the loss as a number; UsageError where it is not positive and finite."""
    value = (
        float(scale) if isinstance(scale, int | float) or (isinstance(scale, Tensor) and scale.numel() == 1) else 0.0
    )
    if isinstance(scale, bool) or not math.isfinite(value) or value <= 0:
        raise UsageError(f"loss_scale: expected a positive number, or a function that gives one, got {scale!r}")
    return value


def parameter_versions(model: nn.Module) -> tuple[int, ...]:
    """How often each trained parameter was changed in place; () for a sharded model, whose gathering changes them."""
    if any(type(part).__name__.startswith(("FSDP", "FullySharded")) for part in model.modules()):
        return ()
    return tuple(parameter._version for parameter in model.parameters() if parameter.requires_grad)


def warn_of_another_form(passes: Sequence[PassRows], temperature: float) -> None:
    """Once, after the first update, where most of the gradient is not of the form that weights are defined by."""
    parts, least = [], False
    for rows in passes:
        lost = rows.least_residual is not None
        residual = rows.least_residual if lost else rows.residual
        if residual is not None:
            parts.append(residual[(rows.weight != 0) & torch.isfinite(residual)].cpu())
            least |= lost
    residuals = torch.cat(parts) if parts else torch.zeros(0)
    if len(residuals) and (median := residuals.median().item()) > ODD_RESIDUAL:
        said = (
            "at least " if least else "",
            "" if least else " (column residual)",
            " The logits were changed in place before the backward pass, so that the weight comes from the token's own "
            "entry alone: compute the loss from a copy of them."
            if least
            else "",
        )
        warnings.warn(
            f"attach: expected a gradient of the form w·(e_y − π)/T at T = {temperature:g}, got one that differs from "
            f"it by {said[0]}{median:.0%} for the median token{said[1]}; weights are the part of that form. If the "
            "loss divides logits by a temperature, pass temperature=; if it has further terms (an entropy bonus, a "
            f"full KL), this is what they add.{said[2]}",
            stacklevel=3,
        )
