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

Where the gradient cannot tell, nothing is measured (`Measured.unmeasured`):

- a softmax in half precision, which shows in entries that all have the few digits of that type: 1 − π_y < 64·ε of the
  type, and own entry and other entries disagree by more than 5% but no more than rounding explains;
- logits that were divided by T, or cast, in half precision: the softmax of the loss is then not that of the logits, and
  π_y/(1 − π_y) is off by a factor of about exp(ε·|z_y|/T); where that can be more than 10%;
- underflow: what the smallest number of the gradient's type hides in V entries is more than 0.1% (5% in half precision)
  of their sum, and the own entry is rounding; or the whole row is 0 and would be for the largest weight of the pass.

Every other weight of a loss that sees the policy through log π_y alone is as right as `weight_accuracy` says.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..laws import TokenStatistics
from ..token_stats.sources import Rows, compute_dtype
from .weight_accuracy import HALF_ROUNDINGS, SOFTMAX_OFF

__all__ = ["ChangedLogits", "Measured", "least_residual", "own_entry_part", "scalar_part"]

# Rows and columns at a time: every operation after the first finds its operands in cache, as in token_stats.
_TILES = {"cpu": (64, 2048), "cuda": (4096, 8192)}
_HALF = (torch.bfloat16, torch.float16)
_ROWS_LOOKED_AT = 16  # to see in what type a gradient was computed
_MASS_OFF = 0.01  # by how much Σ π of logits may differ from 1 under their own log Z; sums in float32 differ by 1e-4


class ChangedLogits(ValueError):
    """Logits that are not those which the statistics were taken from."""


class Measured(NamedTuple):
    """What the gradient of n tokens says, (n,) each; float64, and NaN where `unmeasured`."""

    weight: Tensor
    residual: Tensor
    unmeasured: Tensor  # bool


@torch.no_grad()
def scalar_part(
    logits: Tensor, gradient: Tensor, tokens: Tensor, stats: TokenStatistics, keep: Tensor, *, temperature: float = 1.0
) -> Measured:
    """Weight and residual of the n rows `keep` of logits and their gradient (…, V).

    `keep` (n,) are flat indices of rows, `tokens` (n,) and the fields of `stats` (n,) belong to them. A row whose
    gradient is zero throughout has weight 0 and a residual that is NaN. Cost: one pass over logits and gradient, memory
    of a few tiles. Accuracy: that of the gradient as it came. Raises ChangedLogits where the logits do not sum to the
    log Z of `stats`: something wrote over them.

    >>> from analysis.laws import dense_statistics
    >>> z, y = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([1])
    >>> g = -3.0 * (torch.tensor([[0.0, 1.0, 0.0]]) - z.softmax(-1))
    >>> scalar_part(z, g, y, dense_statistics(z, y), torch.tensor([0])).weight
    tensor([3.0000], dtype=torch.float64)
    """
    n, dtype = len(keep), compute_dtype(torch.promote_types(logits.dtype, gradient.dtype))
    z_rows, g_rows = Rows(logits, keep), Rows(gradient, keep)
    y = tokens[:, None].long()
    own_z = z_rows.values(0, n, y).double() / temperature
    own_g = g_rows.values(0, n, y).double().squeeze(1)
    log_total = own_z.squeeze(1) - stats.log_prob.double()
    rest = stats.one_minus_prob.double()
    computed = _computed_in(g_rows, y, temperature)
    size = 1 + torch.maximum(own_z.squeeze(1).abs(), (own_z.squeeze(1) + torch.log(rest)).abs())
    own_g, replaced, unmeasured = _own_entry(own_g, rest, size, g_rows, y, computed)
    if computed in _HALF and (temperature != 1 or logits.dtype not in _HALF):
        unmeasured |= (torch.finfo(computed).eps * size * stats.prob.double() > SOFTMAX_OFF) & (own_g != 0)
    # below this the own entry is rounding where it was not replaced
    trusted = replaced | (rest > 4 * torch.finfo(dtype).eps)
    first = torch.where(trusted, -temperature * own_g / rest, 0.0)
    first = torch.where(torch.isfinite(first), first, 0.0)
    # powers of two by which each row is multiplied, so that no square underflows
    unit = torch.where(torch.isfinite(own_g) & (own_g != 0), torch.exp2(-own_g.abs().log2().floor()), 1.0)
    unit = unit.clamp(max=2.0**120)

    height, width = _TILES["cuda" if logits.is_cuda else "cpu"]
    # Σ r², Σ r·π, Σ G² over v ≠ y, in those units; Σ π over all v
    sums = torch.zeros(4, n, dtype=torch.float64, device=logits.device)
    scratch = torch.empty(3, min(height, n) * width, dtype=dtype, device=logits.device)
    for start in range(0, n, height):
        stop = min(start + height, n)
        shift = log_total[start:stop, None].to(dtype)
        scale = unit[start:stop, None].to(dtype)
        factor = (first * unit / -temperature)[start:stop, None].to(dtype)
        for left in range(0, z_rows.width, width):
            right = min(left + width, z_rows.width)
            z = z_rows.block(start, stop, slice(left, right))
            probs, g, r = (x[: z.numel()].view(z.shape) for x in scratch)
            torch.mul(g_rows.block(start, stop, slice(left, right)), scale, out=g)
            torch.sub(z.to(dtype) if temperature == 1 else z.to(dtype) / temperature, shift, out=probs).exp_()
            torch.addcmul(g, probs, factor, out=r)
            sums[3, start:stop] += probs.sum(-1).double()
            column = (y[start:stop] - left).clamp(0, right - left - 1)
            own = (y[start:stop] >= left) & (y[start:stop] < right)
            for entries in (g, r):
                entries.scatter_(1, column, torch.where(own, 0, entries.gather(1, column)))
            part = sums[:, start:stop]
            part[0] += torch.linalg.vector_norm(r, dim=-1).double().square()
            part[1] += r.mul_(probs).sum(-1).double()
            part[2] += torch.linalg.vector_norm(g, dim=-1).double().square()

    if bool(((sums[3] - 1).abs() > _MASS_OFF).any()):
        row = int(((sums[3] - 1).abs() > _MASS_OFF).nonzero()[0])
        raise ChangedLogits(
            f"logits: expected those that the statistics are of, got others, whose probabilities add up to "
            f"{float(sums[3, row]):.3g} in row {int(keep[row])}; hand in the logits as they were"
        )
    own_e = (own_g + first * rest / temperature) * unit
    along = own_e * rest - sums[1]
    d_sq = stats.direction_norm.double().square()
    inner = torch.where(d_sq > 0, along / d_sq, 0.0)
    left_over = (own_e.square() + sums[0] - along * inner).clamp(min=0)
    norms = sums[2] + (own_g * unit).square()
    weight, residual = first - temperature * inner / unit, (left_over / norms).sqrt()
    unmeasured |= _vanished(norms, rest, weight.masked_fill(unmeasured, 0.0) / temperature, g_rows.width, computed)
    return Measured(weight.masked_fill(unmeasured, torch.nan), residual.masked_fill(unmeasured, torch.nan), unmeasured)


@torch.no_grad()
def own_entry_part(
    own_logits: Tensor, gradient: Tensor, tokens: Tensor, stats: TokenStatistics, keep: Tensor, *, temperature: float
) -> Measured:
    """The weight where the logits are lost: w = −T·G_y/(1 − π_y), for a loss that sees them through log π_y alone.

    Args:
        own_logits: (n,), z_y as the model gave it.
        gradient: (…, V), with respect to the logits as the model gave them.
        tokens: (n,).
        stats: (n,), taken before the logits were lost.
        keep: (n,), flat indices of the rows.
        temperature: T.

    Returns:
        Weights, and residuals that are NaN: whether the loss is of that form cannot be told.

    >>> from analysis.laws import dense_statistics
    >>> z, y = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([1])
    >>> g = -3.0 * (torch.tensor([[0.0, 1.0, 0.0]]) - z.softmax(-1))
    >>> own_entry_part(z[:, 1], g, y, dense_statistics(z, y), torch.tensor([0]), temperature=1.0).weight
    tensor([3.0000], dtype=torch.float64)
    """
    g_rows, y = Rows(gradient, keep), tokens[:, None].long()
    own_z, rest = own_logits.double() / temperature, stats.one_minus_prob.double()
    own_g = g_rows.values(0, len(keep), y).double().squeeze(1)
    computed = _computed_in(g_rows, y, temperature)
    size = 1 + torch.maximum(own_z.abs(), (own_z + torch.log(rest)).abs())
    own_g, replaced, unmeasured = _own_entry(own_g, rest, size, g_rows, y, computed)
    if computed in _HALF:
        unmeasured |= (torch.finfo(computed).eps * size * stats.prob.double() > SOFTMAX_OFF) & (own_g != 0)
    # the own entry of a confident token is rounding where the other entries did not replace it
    unmeasured |= ~replaced & (rest < 1000 * torch.finfo(computed).eps * size) & (own_g != 0)
    weight = torch.where(own_g == 0, 0.0, -temperature * own_g / rest).masked_fill(unmeasured, torch.nan)
    return Measured(weight, torch.full_like(weight, torch.nan), unmeasured)


@torch.no_grad()
def least_residual(
    gradient: Tensor, weight: Tensor, tokens: Tensor, stats: TokenStatistics, keep: Tensor, *, temperature: float
) -> Tensor:
    """What the residual ‖G + w·d/T‖ / ‖G‖ of a weight is at least, without the logits; (n,).

    Of d the entries at y and at the most probable tokens K are known, and the norm of the rest R. So, by the triangle
    inequality,

        ‖G + w·d/T‖² ≥ Σ_{v ∈ K ∪ y} (G_v + w·d_v/T)² + (‖G_R‖ − |w|·‖d_R‖/T)²

    It is 0 where G is of the form −w·d/T, and NaN where the gradient is zero or the weight is not known.

    >>> from analysis.laws import dense_statistics
    >>> z, y = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([1])
    >>> stats, keep = dense_statistics(z, y), torch.tensor([0])
    >>> g = -3.0 * (torch.tensor([[0.0, 1.0, 0.0]]) - z.softmax(-1))
    >>> least_residual(g, torch.tensor([3.0]), y, stats, keep, temperature=1.0).item() < 1e-3
    True
    """
    rows, y = Rows(gradient, keep), tokens[:, None].long()
    squares = torch.zeros(len(keep), dtype=torch.float64, device=gradient.device)
    height, width = _TILES["cuda" if gradient.is_cuda else "cpu"]
    for start in range(0, len(keep), height):
        stop = min(start + height, len(keep))
        for left in range(0, rows.width, width):
            block = rows.block(start, stop, slice(left, min(left + width, rows.width)))
            squares[start:stop] += torch.linalg.vector_norm(block, dim=-1, dtype=torch.float64).square()
    w = weight.double()[:, None] / temperature
    ids = stats.argmax_token[:, None] if stats.top_ids is None else stats.top_ids
    probs = stats.argmax_prob[:, None] if stats.top_probs is None else stats.top_probs
    others = -probs.double().masked_fill(ids == y, 0.0)
    d = torch.cat([stats.one_minus_prob.double()[:, None], others], -1)
    g = rows.values(0, len(keep), torch.cat([y, ids.long()], -1)).double()
    g[:, 1:].masked_fill_(ids == y, 0.0)
    rest_of_g = (squares - g.square().sum(-1)).clamp(min=0).sqrt()
    rest_of_d = (stats.direction_norm.double().square() - d.square().sum(-1)).clamp(min=0).sqrt()
    off = (g + w * d).square().sum(-1) + (rest_of_g - w[:, 0].abs() * rest_of_d).square()
    return torch.where(squares > 0, (off / squares).sqrt(), torch.nan)


def _computed_in(gradient: Rows, y: Tensor, temperature: float) -> torch.dtype:
    """The narrowest type that holds the entries of other tokens: what the gradient was once rounded to, if not more.

    The division by T may have come after that, and rounds again in the type of the gradient.
    """
    at = torch.arange(0, len(y), max(1, len(y) // _ROWS_LOOKED_AT), device=y.device)
    entries = gradient.choose(at).block(0, len(at)).scatter(1, y[at], 0.0)
    own, slack = entries.dtype, 4 * torch.finfo(entries.dtype).eps
    if own not in _HALF and bool(entries.any()):
        for dtype in (narrow for narrow in (*_HALF, torch.float32) if torch.finfo(narrow).eps > torch.finfo(own).eps):
            for scaled in (entries, entries * temperature) if temperature != 1 else (entries,):
                if torch.isclose(scaled.to(dtype).to(own), scaled, rtol=slack, atol=0.0).all():
                    return dtype
    return own


def _own_entry(
    own: Tensor, rest: Tensor, size: Tensor, gradient: Rows, y: Tensor, computed: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """G_y (n,); where it was taken from the other entries of its row; and where these cannot tell either.

    `rest` is 1 − π_y and `size` that of the logits, on which the rounding of log Σ e^z depends; `computed` is the type
    that the gradient was rounded to, if only on its way out of a softmax in float32.
    """
    half = computed in _HALF
    fine = torch.finfo(torch.float32 if half else computed).eps * size
    coarse, slack = torch.finfo(computed).eps, 0.05 if half else 1e-3
    hidden = gradient.width * torch.finfo(computed).smallest_normal * torch.finfo(computed).eps / 2
    out, replaced, unmeasured = own.clone(), *torch.zeros(2, len(own), dtype=torch.bool, device=own.device)
    height, width = _TILES["cuda" if own.is_cuda else "cpu"]
    examined = (rest < (HALF_ROUNDINGS * coarse if half else 1000 * fine)).nonzero().squeeze(1)
    for at in examined.split(height):
        rows = gradient.choose(at)
        others = torch.zeros(len(at), dtype=torch.float64, device=own.device)
        for left in range(0, gradient.width, width):
            block = rows.block(0, len(at), slice(left, left + width))
            column = (y[at] - left).clamp(0, block.shape[1] - 1)
            here = (y[at] >= left) & (y[at] < left + block.shape[1])
            block = block.scatter(1, column, torch.where(here, 0, block.gather(1, column)))
            others += block.sum(-1, dtype=torch.float64)
        implied, gap = (others / rest[at]).abs(), (own[at] + others).abs()
        confident = rest[at] < 1000 * fine[at]
        rounding = confident & (gap <= 8 * fine[at] * implied)
        out[at], replaced[at] = torch.where(rounding, -others, own[at]), rounding
        lost = confident & (rounding | (others == 0)) & (hidden > slack * others.abs())
        if half:
            lost |= ~rounding & (gap <= 8 * coarse * implied + hidden) & (gap > slack * others.abs())
        unmeasured[at] = lost & ((others != 0) | (own[at] != 0))
    return out, replaced, unmeasured


def _vanished(norms: Tensor, rest: Tensor, weight: Tensor, width: int, computed: torch.dtype) -> Tensor:
    """Rows of zeros that the largest weight / T of the pass would have left as zeros too."""
    info = torch.finfo(computed)
    smallest = info.smallest_normal * info.eps
    finite = weight[torch.isfinite(weight)]
    largest = finite.abs().max() if len(finite) else weight.new_tensor(0.0)
    size = torch.where(largest > 0, largest, 1.0) * rest
    # the own entry is 0 as well where the softmax rounds π_y to 1, or where it is too small itself
    return (norms == 0) & ((rest < info.eps) | (size < smallest)) & (size < width * smallest / 2)
