"""A loss that you write as an objective: registered by decorator, or named by the file or module that holds it.

    @objectives.register("square")
    def square(log_probs, batch):                    # (B, T) and a TokenBatch -> loss of each token (B, T)
        return -batch.per_token("advantages") * log_probs.exp() ** 2

`objectives.get("square")` finds it in this process. A recipe, whose runs are separate processes, names it
"square.py:square"; there the decorator is not needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from toy_models.messages import nearest
from toy_models.user_functions import load_function

from ..errors import UsageError
from .definition import Entry
from .entries import ENTRIES, FAMILIES
from .rules import is_own, own_entry
from .token_batch import TokenBatch

__all__ = ["checked_loss", "load", "register", "registered", "weight_of"]

Loss = Callable[[Tensor, TokenBatch], Tensor]
_F = TypeVar("_F", bound=Loss)
_OWN: dict[str, tuple[Entry, Loss]] = {}
_GIVEN = (
    "old_log_probs",
    "advantages",
    "rewards",
    "accuracy",
    "ref_log_probs",
    "rollout_log_probs",
    "teacher_log_probs",
)


def register(name: str, *, needs: tuple[str, ...] = ("advantages",), coupling: str = "token") -> Callable[[_F], _F]:
    """Decorator that makes a loss function (log_probs, batch) -> loss of each token an objective.

    Its weight is the derivative of the loss by autograd. Its advantages are ±1, normalised as the parameter `advantage`
    says.

    Args:
        name: a name that no objective has, without a colon.
        needs: the fields of `TokenBatch` that the function reads: old_log_probs, advantages, rewards, accuracy,
            ref_log_probs, rollout_log_probs, teacher_log_probs.
        coupling: "response" where the weight of a token depends on other tokens of its response, otherwise "token".

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        UsageError: a name that is taken, an unknown field or coupling.
    """
    if name in ENTRIES or name in FAMILIES or is_own(name):
        raise UsageError(f"name: expected one that no objective has, without a colon, got {name!r}")
    for field in needs:
        if field not in _GIVEN:
            raise UsageError(f"needs: unknown field {field!r}; {nearest(field, _GIVEN)}")
    if coupling not in ("token", "response"):
        raise UsageError(f"coupling: expected token or response, got {coupling!r}")

    def keep(function: _F) -> _F:
        _OWN[name] = own_entry(name, needs, coupling), function
        return function

    return keep


def registered(name: str) -> bool:
    """Whether `register` gave the name in this process."""
    return name in _OWN


def load(name: str) -> tuple[Entry, Loss]:
    """Entry and function of a registered name, of "file.py:name" or of "package.module:name".

    Raises UsageError where there is no such file, module or function.
    """
    if name in _OWN:
        return _OWN[name]
    try:
        function = load_function(name, "objective")
    except ValueError as error:
        raise UsageError(f"objective.name = {name!r}: {error}") from error
    known = [entry for entry, registered_function in _OWN.values() if registered_function is function]
    return (replace(known[0], name=name) if known else own_entry(name)), function


def checked_loss(function: Loss, log_probs: Tensor, batch: TokenBatch) -> Tensor:
    """The function's loss; UsageError where it is not one number for each token."""
    loss = function(log_probs, batch)
    if not isinstance(loss, Tensor) or loss.shape != log_probs.shape:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise UsageError(
            f"{getattr(function, '__name__', 'loss')}: expected a loss for each token, shape "
            f"{tuple(log_probs.shape)}, got {got}"
        )
    return loss


def weight_of(function: Loss, batch: TokenBatch, factor: Tensor | None = None) -> Tensor:
    """−∂(Σ loss)/∂log_probs over unmasked positions, by autograd, with the losses times `factor` where there is one."""
    with torch.enable_grad():
        leaf = batch.log_probs.detach().clone().requires_grad_()
        loss = checked_loss(function, leaf, batch).masked_fill(~batch.real(), 0)
        loss = loss.sum() if factor is None else (loss * factor).sum()
        if not loss.requires_grad:
            raise UsageError(
                f"{getattr(function, '__name__', 'loss')}: expected a loss that depends on log_probs, got "
                "one that does not; is it detached?"
            )
        (gradient,) = torch.autograd.grad(loss, leaf)
    return -gradient
