"""Weights from the gradient on logits: how much of it is a multiple of the token's own direction.

With G = ∂L/∂z of one token (V,), T the temperature and d = e_y − π, π = softmax(z / T),

    w = −T·⟨G, d⟩ / ‖d‖²            the weight −∂L/∂log π_y, by least squares
    residual = ‖G + w·d/T‖ / ‖G‖    0 for an objective that sees the policy through log π_y alone

A first value w₀ = −T·G_y/(1 − π_y) comes from the token's own entry and is exact for such an objective. The sums are
then over the remainder e = G + w₀·d/T, so that nothing cancels: w = w₀ − T·⟨e, d⟩/‖d‖² and
‖G + w·d/T‖² = ‖e‖² − ⟨e, d⟩²/‖d‖².

Confident tokens: autograd computes G_y as a difference of numbers near 1, so that its error is the rounding ε of a
weight, however small 1 − π_y is. The entries of the other tokens keep their relative accuracy, and every loss of the
softmax has Σ_v G_v = 0. Where 1 − π_y < 1000·ε and the sum is 0 within 8·ε of the weight that the other tokens imply,
G_y is therefore replaced by −Σ_{v≠y} G_v. A larger sum belongs to the loss (a penalty on log Z, say) and is kept.
Limit: a softmax in half precision has the ε of that precision, and stays as it came.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..laws import TokenStatistics
from ..token_stats.sources import Rows, compute_dtype

__all__ = ["scalar_part"]

# Rows and columns at a time: every operation after the first finds its operands in cache, as in token_stats.
_TILES = {"cpu": (64, 2048), "cuda": (4096, 8192)}


@torch.no_grad()
def scalar_part(
    logits: Tensor, gradient: Tensor, tokens: Tensor, stats: TokenStatistics, keep: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(weight, residual), (n,) each in float64, of the n rows `keep` of logits and their gradient (…, V).

    `keep` (n,) are flat indices of rows, `tokens` (n,) and the fields of `stats` (n,) belong to them. A row whose
    gradient is zero throughout has weight 0 and a residual that is NaN. Cost: one pass over logits and gradient, memory
    of a few tiles. Accuracy: that of the gradient as it came.

    >>> from analysis.laws import dense_statistics
    >>> z, y = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([1])
    >>> g = -3.0 * (torch.tensor([[0.0, 1.0, 0.0]]) - z.softmax(-1))
    >>> scalar_part(z, g, y, dense_statistics(z, y), torch.tensor([0]))[0]
    tensor([3.0000], dtype=torch.float64)
    """
    n, dtype = len(keep), compute_dtype(torch.promote_types(logits.dtype, gradient.dtype))
    z_rows, g_rows = Rows(logits, keep), Rows(gradient, keep)
    y = tokens[:, None].long()
    own_z = z_rows.values(0, n, y).double() / temperature
    own_g = g_rows.values(0, n, y).double().squeeze(1)
    log_total = own_z.squeeze(1) - stats.log_prob.double()
    rest = stats.one_minus_prob.double()
    own_g = _own_entry(own_g, rest, gradient, keep, y, dtype)
    # below this the own entry is rounding where it was not replaced
    first = torch.where(rest > 4 * torch.finfo(dtype).eps, -temperature * own_g / rest, 0.0)
    first = torch.where(torch.isfinite(first), first, 0.0)

    height, width = _TILES["cuda" if logits.is_cuda else "cpu"]
    sums = torch.zeros(3, n, dtype=torch.float64, device=logits.device)  # Σ_{v≠y} r², Σ_{v≠y} r·π, Σ G²
    scratch = torch.empty(2, min(height, n) * width, dtype=dtype, device=logits.device)
    for start in range(0, n, height):
        stop = min(start + height, n)
        shift = log_total[start:stop, None].to(dtype)
        factor = (first[start:stop, None] / -temperature).to(dtype)
        for left in range(0, z_rows.width, width):
            right = min(left + width, z_rows.width)
            z = z_rows.block(start, stop, slice(left, right))
            g = g_rows.block(start, stop, slice(left, right)).to(dtype)
            probs, r = (x[: g.numel()].view(g.shape) for x in scratch)
            torch.sub(z.to(dtype) if temperature == 1 else z.to(dtype) / temperature, shift, out=probs).exp_()
            torch.addcmul(g, probs, factor, out=r)
            column = (y[start:stop] - left).clamp(0, right - left - 1)
            own = (y[start:stop] >= left) & (y[start:stop] < right)
            r.scatter_(1, column, torch.where(own, 0, r.gather(1, column)))
            part = sums[:, start:stop]
            part[0] += torch.linalg.vector_norm(r, dim=-1).double().square()
            part[1] += r.mul_(probs).sum(-1).double()
            part[2] += torch.linalg.vector_norm(g, dim=-1).double().square()

    own_e = own_g + first * rest / temperature
    along = own_e * rest - sums[1]
    d_sq = stats.direction_norm.double().square()
    inner = torch.where(d_sq > 0, along / d_sq, 0.0)
    left_over = (own_e.square() + sums[0] - along * inner).clamp(min=0)
    return first - temperature * inner, (left_over / sums[2]).sqrt()


def _own_entry(own: Tensor, rest: Tensor, gradient: Tensor, keep: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """G_y (n,), from the other entries of its row where rounding hides it; `rest` (n,) is 1 − π_y."""
    eps = torch.finfo(dtype).eps
    confident = ((rest > 0) & (rest < 1000 * eps)).nonzero().squeeze(1)
    out = own.clone()
    for at in confident.split(_TILES["cuda" if gradient.is_cuda else "cpu"][0]):
        block = Rows(gradient, keep[at]).block(0, len(at))
        others = block.scatter(1, y[at], 0.0).sum(-1, dtype=torch.float64)
        rounding = (own[at] + others).abs() <= 8 * eps * (others / rest[at]).abs()
        out[at] = torch.where(rounding, -others, own[at])
    return out
