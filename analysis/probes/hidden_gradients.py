"""Weights from the gradient on hidden states, where neither logits nor log-probs exist.

A loss kernel that takes hidden states and head (Liger's, or your own) leaves ∂L/∂h, h (D,) the hidden state of
one token. For an objective that sees the policy through log π_y alone,

    −∂L/∂h = w·u,    u = (s / T)·Wᵀ(c' ⊙ (e_y − π))

with W (V, D) the head, s its factor, T the temperature and c' = 1 − (z / cap)² the slope of its soft cap (1 without).
So

    w = −⟨∂L/∂h, u⟩ / ‖u‖²        residual = ‖∂L/∂h + w·u‖ / ‖∂L/∂h‖

by least squares. What is not of this form shows in the residual, unless the head maps it to zero.

The kernel works ∂L/∂z out before, and the entry of a confident token is rounding there (`logit_gradients`), which
∂L/∂h does not tell from the rest: it holds ε·w·W_y too much. `unmeasurable` names the tokens where this can be more
than 2% of w·u; and, where states, head or autocast are in half precision, those whose logits are rounded so much that
1 − π_y of the kernel may be off by 10%. Every other weight is right to 10%.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..laws import TokenStatistics
from ..token_stats.sources import compute_dtype
from .output_heads import OutputHead
from .weight_accuracy import OWN_ENTRY, SOFTMAX_OFF

__all__ = ["own_direction", "scalar_part_of_hidden", "unmeasurable"]

_ROWS, _COLUMNS = 512, 4096


@torch.no_grad()
def own_direction(
    hidden: Tensor, tokens: Tensor, stats: TokenStatistics, head: OutputHead, *, temperature: float = 1.0
) -> Tensor:
    """u (n, D) of hidden states (n, D) and their tokens (n,), whose statistics are `stats`.

    Cost: two products of hidden states and head; memory of u and a tile.
    """
    weight, bias = head.weight(), head.bias()
    dtype = compute_dtype(torch.promote_types(hidden.dtype, weight.dtype))
    out = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    scale, cap = head.logit_scale, head.softcap

    def finish(z: Tensor, offset: Tensor | None) -> Tensor:
        z = scale * (z if offset is None else z + offset.to(z.dtype))
        return z if cap is None else cap * torch.tanh(z / cap)

    for start in range(0, len(tokens), _ROWS):
        rows = slice(start, start + _ROWS)
        h, y = hidden[rows].to(dtype), tokens[rows].long()
        own = (h.double() * weight[y].double()).sum(-1)
        own = finish(own, None if bias is None else bias[y])
        log_total = (own / temperature - stats.log_prob[rows].double()).to(dtype)[:, None]
        for left in range(0, len(weight), _COLUMNS):
            tile = weight[left : left + _COLUMNS].to(dtype)
            z = finish(h @ tile.T, None if bias is None else bias[left : left + _COLUMNS])
            factor = -torch.exp(z / temperature - log_total)
            at = (y - left).clamp(0, len(tile) - 1)[:, None]
            here = ((y >= left) & (y < left + len(tile)))[:, None]
            rest = stats.one_minus_prob[rows, None].to(dtype)
            factor.scatter_(1, at, torch.where(here, rest, factor.gather(1, at)))
            if cap is not None:
                factor *= 1 - (z / cap).square()
            out[rows] += factor @ tile
    return out.mul_(scale / temperature)


@torch.no_grad()
def unmeasurable(
    direction: Tensor,
    hidden: Tensor,
    tokens: Tensor,
    stats: TokenStatistics,
    head: OutputHead,
    *,
    temperature: float = 1.0,
    half: torch.dtype | None = None,
) -> Tensor:
    """(n,) bool: tokens whose weight ∂L/∂h cannot tell.

    Args:
        direction: (n, D), from `own_direction`.
        hidden: (n, D).
        tokens: (n,).
        stats: (n,).
        head: The output head.
        temperature: T.
        half: The type of the kernel's logits where it is a half one.
    """
    weight, bias, y = head.weight(), head.bias(), tokens.long()
    own = weight[y].double()
    z = (hidden.double() * own).sum(-1) + (0.0 if bias is None else bias[y].double())
    rest = stats.one_minus_prob.double()
    z = head.logit_scale * z / temperature
    size = 1 + torch.maximum(z.abs(), (z + torch.log(rest)).abs())
    excess = torch.finfo(direction.dtype).eps * size * torch.linalg.vector_norm(own, dim=-1)
    norm = torch.linalg.vector_norm(direction.double(), dim=-1)
    lost = ~(excess * abs(head.logit_scale) / temperature <= OWN_ENTRY * norm)
    if half is not None:
        lost |= torch.finfo(half).eps * size * stats.prob.double() > SOFTMAX_OFF
    return lost


@torch.no_grad()
def scalar_part_of_hidden(gradient: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """(weight, residual), (n,) each in float64, of ∂L/∂h (n, D) and u (n, D); NaN residuals where nothing flows.

    >>> u = torch.tensor([[1.0, 2.0]])
    >>> scalar_part_of_hidden(-3 * u, u)
    (tensor([3.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    g, u = gradient.double(), direction.double()
    weight = -(g * u).sum(-1) / (u * u).sum(-1)
    return weight, torch.linalg.vector_norm(g + weight[:, None] * u, dim=-1) / torch.linalg.vector_norm(g, dim=-1)
