"""How far first order reaches: the first logit step at which it is off by a given fraction of the exact change.

Along Δz = ηd with d = w(e_y − π), let E(η) = π' − π be the exact change, L(η) its first order, Var(η) the variance of d
under the distribution at η, and R = max d − min d. Every third central moment of d is at most R·Var, so that
Var(η + δ) ≤ Var(η)·e^{Rδ}, and Σ|π''| ≤ 2Var. Two bounds follow (derived here, †):

    Σ|E − L| ≤ Rη·Σ|E|,                     so that the first crossing of tolerance t lies at or beyond η = t/R;
    t·Σ|E| − Σ|E − L| at η + δ  ≥  t·Σ sign(E)(E + δπ') − Σ|E − L + δ(π' − π'(0))| − (1 + t)δ²·Var(η)·e^{Rδ}.

The right side of the second is concave in δ: where it is positive, there is no crossing between η and η + δ. The search
goes on by such steps, so it cannot skip a crossing, however many there are.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UsageError
from .checks import PerToken, check_tokens
from .gradient import logit_gradient
from .mass_flow import logit_step_flow

__all__ = ["first_order_reach"]

_FARTHEST = 2.0**20
_RESOLUTION = 1e-10  # relative, of the step at which the search ends


@torch.no_grad()
def first_order_reach(
    logits: Float[Tensor, "*batch vocab"], tokens: Int[Tensor, "*batch"], weight: PerToken, *, tolerance: float = 0.1
) -> Float[Tensor, "*batch"]:
    """The smallest logit step η at which first order is off by `tolerance`: ½Σ|exact − linear| = tolerance·½Σ|exact|.

    Up to it first order is within the tolerance at every step. Farther out the two may agree again (π'_y passes through
    the line once more on its way to 0 or 1); that is not counted. The finite step is that of `mass_flow`.

    Cost: some tens of passes over the logits in float64, with memory of a few copies of them.

    Args:
        logits: z; −inf masks a token.
        tokens: sampled ids y.
        weight: w = −∂L/∂log π_y, one number or one for each token.
        tolerance: the relative error that is allowed, between 0 and 1.

    Returns:
        η in units of the logits, to a relative 1e-9 in float64; at most 2^20, beyond which first order is exact enough
        for any use (a token that cannot move).

    Raises:
        UsageError: a tolerance outside (0, 1), input that is not finite, shapes that do not fit.

    Source: derived here (†).

    >>> first_order_reach(torch.zeros(2), torch.tensor(0), 1.0) > first_order_reach(
    ...     torch.zeros(2), torch.tensor(0), 1.0, tolerance=0.01)
    tensor(True)
    >>> first_order_reach(torch.tensor([3.9477, 1.9823]), torch.tensor(0), -0.9871)
    tensor(1.1658)
    """
    if not 0 < tolerance < 1:
        raise UsageError(f"tolerance: expected a number between 0 and 1, got {tolerance}")
    check_tokens(logits, tokens)
    direction = logit_gradient(logits.double(), tokens, weight)
    z = rearrange(logits.double(), "... vocab -> (...) vocab")
    d = rearrange(direction, "... vocab -> (...) vocab")
    span = d.amax(-1) - d.amin(-1)
    reach = torch.full_like(span, _FARTHEST)
    rows = (span * _FARTHEST > tolerance).nonzero()[:, 0]
    if len(rows):
        reach[rows] = _first_crossing(z[rows], d[rows], span[rows], tolerance)
    return reach.clamp(max=_FARTHEST).reshape(tokens.shape).to(logits.dtype)


def _first_crossing(z: Tensor, d: Tensor, span: Tensor, tolerance: float) -> Tensor:
    """The first η > 0 with Σ|E − L| = tolerance·Σ|E|, for rows z and directions d (n, vocab) with spans R > 0."""
    at = tolerance / (2 * span)  # half of where the first bound ends, so that the margin is positive
    delta = at.clone()
    found = at.clone()
    rows = torch.arange(len(z), device=z.device)
    path = _Path(z, d, tolerance)
    margin = path.margin(at)
    while len(rows):
        safe = margin.after(delta, span) > 0
        at = torch.where(safe, at + delta, at)
        delta = torch.where(safe, (2 * delta).minimum(1 / span), delta / 2)
        found[rows] = at
        going = (delta > _RESOLUTION * at) & (at < _FARTHEST)
        if not bool(going.all()):
            rows, at, delta, span, path = rows[going], at[going], delta[going], span[going], path.at_rows(going)
        margin = path.margin(at)
    return found


class _Path:
    """The logits z + ηd of some rows, with π'(0)."""

    def __init__(self, z: Tensor, d: Tensor, tolerance: float, slope: Tensor | None = None) -> None:
        self._z, self._d, self._tolerance = z, d, tolerance
        self._slope = logit_step_flow(z, d) if slope is None else slope

    def at_rows(self, rows: Tensor) -> _Path:
        return _Path(self._z[rows], self._d[rows], self._tolerance, self._slope[rows])

    def margin(self, eta: Tensor) -> _Margin:
        step = self._d * eta[:, None]
        exact = logit_step_flow(self._z, step, exact=True)
        slope = logit_step_flow(self._z + step, self._d)
        # Σπ' = 0, so that d may be taken relative to the most probable token, which keeps a saturated row's accuracy
        top = self._z.argmax(-1, keepdim=True)
        variance = ((self._d - self._d.gather(-1, top)) * slope).sum(-1)
        return _Margin(exact, exact - self._slope * eta[:, None], slope, slope - self._slope, variance, self._tolerance)


class _Margin:
    """tolerance·Σ|E| − Σ|E − L| at one η of each row, bounded from below beyond it."""

    def __init__(
        self, exact: Tensor, error: Tensor, slope: Tensor, error_slope: Tensor, variance: Tensor, tolerance: float
    ) -> None:
        self._error, self._error_slope, self._variance, self._tolerance = error, error_slope, variance, tolerance
        self._size = tolerance * exact.abs().sum(-1)
        self._growth = tolerance * (exact.sign() * slope).sum(-1)

    def after(self, delta: Tensor, span: Tensor) -> Tensor:
        error = (self._error + delta[:, None] * self._error_slope).abs().sum(-1)
        remainder = (1 + self._tolerance) * delta.square() * self._variance * torch.exp(span * delta)
        return self._size + delta * self._growth - error - remainder
