"""Residual sums of a part of the vocabulary, and how the parts of a row are put together.

A part knows its largest logit, that token, a reference r at or near its runner-up, and the sums of the others relative
to r. When parts meet, the largest tokens that lose join the residual sums with their weight, and all is brought to the
row's runner-up, in float64: no number is subtracted from one that contains it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..laws.softmax import FAR, ResidualSums

__all__ = ["NEGLIGIBLE", "VOID", "Partial", "merge", "residual_sums"]

# Stands for "nothing there": far below any logit, and finite, so that 0·VOID is 0.
VOID = -1e30
# What t is held above: e^-87 beside the runner-up's 1 is nothing at any precision, and still a normal float32 (below,
# a processor's exponential takes thirty times longer). Masked tokens, whose logit is −inf, end there too.
NEGLIGIBLE = -87.0


class Partial(NamedTuple):
    """One part of n rows; (n,) each, logits not divided by the temperature."""

    top: Tensor  # largest logit
    top_id: Tensor  # its token, the lower id of a tie
    reference: Tensor  # r
    e0: Tensor  # Σ e^t, t = (z − r)/T
    t1: Tensor  # Σ e^t·t
    e2: Tensor  # Σ e^{2t}
    q1: Tensor  # Σ e^{2t}·t


def merge(parts: list[Partial], inv_temperature: float) -> Partial:
    """The parts of the same rows, in the order of their tokens, as one part in float64."""
    top, reference, e0, t1, e2, q1 = (torch.stack([part[i] for part in parts]).double() for i in (0, 2, 3, 4, 5, 6))
    ids = torch.stack([part.top_id for part in parts])
    top, reference = top.clamp(min=VOID), reference.clamp(min=VOID)
    best, winner = top.max(0)  # the first of equals: the lower id
    losers = top.scatter(0, winner[None], VOID)
    runner_up = torch.maximum(reference.amax(0), losers.amax(0)).maximum(best - FAR / inv_temperature)

    d, u = (reference - runner_up) * inv_temperature, (losers - runner_up) * inv_temperature
    w, x = torch.exp(d), torch.exp(u)
    w2, x2 = w.square(), x.square()
    return Partial(
        best,
        ids.gather(0, winner[None]).squeeze(0),
        runner_up,
        (w * e0 + x).sum(0),
        (w * (t1 + d * e0) + x * u).sum(0),
        (w2 * e2 + x2).sum(0),
        (w2 * (q1 + d * e2) + x2 * u).sum(0),
    )


def residual_sums(sums: Partial, inv_temperature: float) -> ResidualSums:
    """The sums of whole rows in the form of `laws.softmax.ResidualSums`."""
    gap = (sums.top - sums.reference) * inv_temperature
    return ResidualSums(gap, sums.e0, sums.t1, sums.e2, sums.q1)
