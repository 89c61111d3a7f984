"""Is a loss a weight on one direction? Its weight and the part of its gradient that no weight explains.

With G = ∂L/∂z at one context, sampled token y and d = e_y − π,

    w = −⟨G, d⟩/‖d‖²,    r = G + w·d,    residual = ‖r‖/‖G‖

w and r are the best split G = −w·d + r, r orthogonal to d: the loss is of scalar form there iff r = 0. The weight of a
sum of an objective and a regulariser therefore contains the regulariser's part along d as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..common.short_repr import short_repr
from ..errors import UsageError, at_index, first_index
from .token_batch import TokenBatch

__all__ = ["Analysis", "Example", "analyze"]


@short_repr
@dataclass(frozen=True)
class Example:
    """Where a loss is analysed.

    Attributes:
        logits: z of each context; random ones show more than a special point does.
        tokens: sampled ids y.
        fields: other fields of `TokenBatch` by name.

    Raises:
        UsageError: tokens that are not one for each context.
    """

    logits: Float[Tensor, "*rows position vocab"]
    tokens: Int[Tensor, "*rows position"]
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.logits.ndim < 2 or self.tokens.shape != self.logits.shape[:-1]:
            raise UsageError(
                f"tokens: expected one for each context of the logits, shape {tuple(self.logits.shape[:-1])}, got "
                f"{tuple(self.tokens.shape)}"
            )


@short_repr
@dataclass(frozen=True)
class Analysis:
    """The gradient of a loss in the logits as G = −w·(e_y − π) + r.

    Attributes:
        weight: w of each token.
        regularizer: r of each context, orthogonal to e_y − π.
        residual: ‖r‖/‖G‖, between 0 and 1.
        scalar: whether the residuals are no more than rounding.
    """

    weight: Float[Tensor, "*rows position"]
    regularizer: Float[Tensor, "*rows position vocab"]
    residual: Float[Tensor, "*rows position"]
    scalar: bool

    def __str__(self) -> str:
        verdict = "of scalar form" if self.scalar else "not of scalar form"
        return (
            f"{verdict}: residual at most {float(self.residual.max()):.1e}, weights from "
            f"{float(self.weight.min()):.4g} to {float(self.weight.max()):.4g}"
        )


def analyze(loss_fn: Callable[[Tensor, TokenBatch], Tensor], example: Example, *, of: str = "log_probs") -> Analysis:
    """Split the gradient of a differentiable loss into a weight on e_y − π and the rest, at an example.

    Args:
        loss_fn: (log_probs (B, T), batch) -> loss, or with `of="logits"` (logits (B, T, V), batch) -> loss. Whatever
            it returns is summed. Where it reads `batch`, that holds the example's fields and the detached log-probs.
        example: where the loss is analysed. A token whose clip binds has weight 0.
        of: "log_probs" or "logits", what the loss takes first.

    Returns:
        The weight, the rest, its relative size, and whether the loss is of scalar form.

    Raises:
        UsageError: shapes that do not fit, logits that are not finite, a loss that does not depend on them.

    >>> z = torch.tensor([[[1.0, 0.0, -1.0]]], dtype=torch.float64)
    >>> example = Example(z, torch.tensor([[1]]))
    >>> weight = analyze(lambda log_probs, batch: -log_probs.exp(), example).weight  # w = π_y
    >>> torch.allclose(weight, z.softmax(-1)[..., 1], rtol=1e-12)
    True
    >>> print(analyze(lambda z, batch: -torch.special.entr(z.softmax(-1)), example, of="logits").scalar)
    False
    """
    if of not in ("log_probs", "logits"):
        raise UsageError(f"of: expected log_probs or logits, got {of!r}")
    logits, tokens = example.logits, example.tokens
    if not torch.isfinite(logits).all():
        index = first_index(~torch.isfinite(logits))
        raise UsageError(f"logits: expected finite numbers, got {float(logits[index])}{at_index(index)}")
    leaf = logits.detach().clone().requires_grad_()
    log_probs = leaf.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    batch = TokenBatch(log_probs.detach(), **example.fields)
    loss = loss_fn(log_probs if of == "log_probs" else leaf, batch).sum()
    if not loss.requires_grad:
        raise UsageError(f"loss_fn: expected a loss that depends on {of}, got one that does not; is it detached?")
    (gradient,) = torch.autograd.grad(loss, leaf)
    direction = -leaf.detach().softmax(-1)
    direction.scatter_add_(-1, tokens[..., None], torch.ones_like(log_probs)[..., None].detach())
    squared = direction.square().sum(-1)
    weight = torch.where(squared > 0, -(gradient * direction).sum(-1) / squared, 0.0)
    rest = gradient + weight[..., None] * direction
    size = gradient.norm(dim=-1)
    residual = torch.where(size > 0, rest.norm(dim=-1) / size, 0.0)
    return Analysis(weight, rest, residual, bool(residual.max() <= torch.finfo(logits.dtype).eps ** 0.5))
