"""The exact first-order effect of an actual parameter step: J·Δθ by forward-mode automatic differentiation.

    dz = d/dε logits(θ + ε·Δθ) at ε = 0,    dπ_v = π_v (dz_v − Σ_u π_u dz_u) / T,    dH = −Σ_v dπ_v log π_v

It holds for any optimiser, since it depends on the step alone. Scaled dot-product attention has a forward-mode
rule in its composite ("math") kernel only, which is selected for the duration of the pass; nothing of the model is
changed. Cost: about four forward passes (and 0.4 s once, when torch builds its rules), memory of two. Several steps at
once share the pass through the model, and each after the first adds about one forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import UsageError

__all__ = ["DistributionChange", "distribution_change", "jvp_step", "jvp_steps"]


class _Call(nn.Module):
    """A module around the model, so that parameters can be exchanged while a function calls the model itself."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Tensor]) -> Tensor:
        return function()


def jvp_step(
    model: nn.Module,
    logits_fn: Callable[[], Tensor],
    params_before: Mapping[str, Tensor],
    step: Mapping[str, Tensor],
) -> Tensor:
    """First-order change of logits under a parameter step: dz = d/dε logits(θ + ε·Δθ) at ε = 0.

    Args:
        model: whose parameters θ move. They, their gradients and the configuration are left as they are.
        logits_fn: takes nothing, calls `model` and returns logits of any shape.
        params_before: θ by the names of `model.named_parameters()`; parameters without an entry keep their present
            value.
        step: Δθ by the same names; parameters without an entry do not move.

    Returns:
        dz, of the shape and dtype of the logits; exact up to rounding. Cost: about four forward passes.

    Raises:
        UsageError: the model has no parameter of a given name, or its attention has no forward-mode rule.

    Example:
        >>> linear = nn.Linear(1, 2, bias=False)
        >>> inputs = torch.tensor([[2.0]])
        >>> jvp_step(linear, lambda: linear(inputs), {}, {"weight": torch.tensor([[1.0], [0.0]])})
        tensor([[2., 0.]])
    """
    known = _known(model, params_before=params_before, step=step)
    values = {f"model.{name}": value.detach() for name, value in params_before.items()}
    with _forward_mode(), forward_ad.dual_level():
        for name, tangent in step.items():
            primal = params_before.get(name, known[name]).detach()
            values[f"model.{name}"] = forward_ad.make_dual(primal, tangent.detach())
        logits = torch.func.functional_call(_Call(model), values, (logits_fn,))
        primal, tangent = forward_ad.unpack_dual(logits)
        return torch.zeros_like(primal) if tangent is None else tangent


def jvp_steps(
    model: nn.Module,
    logits_fn: Callable[[], Tensor],
    params_before: Mapping[str, Tensor],
    steps: Sequence[Mapping[str, Tensor]],
) -> Tensor:
    """`jvp_step` of several steps, stacked along a first axis, by one pass through the model.

    Each is what `jvp_step` gives. Raises UsageError as `jvp_step` does, and without steps.
    """
    if not steps:
        raise UsageError("steps: expected at least one, got none")
    names = {name: None for step in steps for name in step}
    known = _known(model, params_before=params_before, steps=names)
    fixed = {f"model.{name}": value.detach() for name, value in params_before.items()}
    start = {f"model.{name}": params_before.get(name, known[name]).detach() for name in names}
    tangents = {
        f"model.{name}": torch.stack([step.get(name, torch.zeros_like(known[name])).detach() for step in steps])
        for name in names
    }

    def logits(moving: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(_Call(model), fixed | moving, (logits_fn,))

    with _forward_mode():
        return torch.func.vmap(lambda tangent: torch.func.jvp(logits, (start,), (tangent,))[1])(tangents)


def _known(model: nn.Module, **named: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parameters of the model by name; UsageError for an argument that names others."""
    known: dict[str, Tensor] = dict(model.named_parameters())
    for argument, names in named.items():
        if unknown := sorted(set(names) - set(known)):
            raise UsageError(f"{argument}: expected names of parameters of the model, got {unknown[0]!r}")
    return known


@contextmanager
def _forward_mode() -> Iterator[None]:
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    except NotImplementedError as error:
        raise UsageError(
            f"model: expected attention with a forward-mode derivative, got none ({str(error).splitlines()[0]}); "
            "load it with attn_implementation='sdpa' or 'eager'"
        ) from error


@dataclass(frozen=True)
class DistributionChange:
    """First-order changes of softmax(z / T): of log π_y (N,), of H in nats (N,) and of all probabilities (N, V)."""

    log_prob: Tensor
    entropy: Tensor
    probs: Tensor


def distribution_change(log_probs: Tensor, tokens: Tensor, dlogits: Tensor, temperature: float) -> DistributionChange:
    """The change of a distribution with `log_probs` (N, V) as its logits move by `dlogits` (N, V) to first order.

    >>> uniform = torch.log(torch.full((1, 2), 0.5))
    >>> change = distribution_change(uniform, torch.tensor([0]), torch.tensor([[1.0, 0.0]]), 1.0)
    >>> change.log_prob.item(), change.probs.tolist()
    (0.5, [[0.25, -0.25]])
    """
    probs = log_probs.exp()
    scaled = dlogits / temperature
    dlog_probs = scaled - (probs * scaled).sum(-1, keepdim=True)
    dprobs = probs * dlog_probs
    # π log π → 0 as π → 0, where log π may be −inf
    dentropy = -torch.where(probs > 0, dprobs * log_probs, 0).sum(-1)
    return DistributionChange(dlog_probs.gather(-1, tokens[:, None]).squeeze(-1), dentropy, dprobs)
