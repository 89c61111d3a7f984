"""Rows of logits on which shorter formulas lose their digits, and how far statistics may be off."""

from __future__ import annotations

import torch
from torch import Tensor

from analysis.laws import TokenStatistics

STATISTICS = (
    "log_prob",
    "one_minus_prob",
    "entropy",
    "collision",
    "collision_log_prob",
    "direction_norm",
    "argmax_prob",
)
KINDS = ("random", "spread", "uniform", "tied", "peaked20", "peaked40", "peaked80", "bimodal", "far below", "masked")


def hard_rows(kind: str, vocab: int, n: int = 12) -> tuple[Tensor, Tensor]:
    """float32 logits (n, vocab) and tokens, the likeliest, some other and an unlikely one in turn."""
    g = torch.Generator().manual_seed(KINDS.index(kind) + vocab)
    z = torch.randn(n, vocab, generator=g)
    top = torch.randint(0, vocab, (n,), generator=g)
    rows = torch.arange(n)
    if kind == "spread":
        z = z * 12
    elif kind == "uniform":
        z = torch.full((n, vocab), 0.7)
    elif kind == "tied":
        z = z.round()
    elif kind.startswith("peaked"):
        z[rows, top] = z.amax(1) + float(kind.removeprefix("peaked"))
    elif kind == "bimodal":
        z[rows, top] = 30.0
        z[rows, (top + vocab // 2) % vocab] = 30.5
    elif kind == "far below":
        z = z * 3 - 1e4
    elif kind == "masked":
        z[:, 1::3] = float("-inf")
        z[:, 0] = 1.0
    y = torch.stack(
        [
            z[i].argmax() if i % 3 == 0 else top[i] if i % 3 == 1 else z[i].nan_to_num(neginf=99).argmin()
            for i in range(n)
        ]
    )
    return z, torch.where(torch.isinf(z[rows, y]), 0, y)


def worst(got: TokenStatistics, want: TokenStatistics, name: str) -> float:
    """Largest relative error of a statistic, where float32 can hold it (from 1e-37 up)."""
    a, b = getattr(got, name).double(), getattr(want, name).double()
    held = b.abs() > 1e-37
    assert bool((a[~held].abs() <= 1e-37).all())
    return float(((a - b).abs() / b.abs())[held].max()) if held.any() else 0.0


def covariance_error(got: TokenStatistics, want: TokenStatistics, *, of_each_term: bool = False) -> float:
    """Largest error of the covariance, relative to π_y|log π_y + H| + |S + cH|, or to the sum of all four terms."""
    h, p = want.entropy.double(), want.log_prob.double().exp()
    pushed, rest = (p * want.log_prob.double(), p * h), (want.collision_log_prob.double(), want.collision.double() * h)
    if of_each_term:
        scale = sum(term.abs() for term in (*pushed, *rest)) + 1e-30
    else:
        scale = sum(pushed).abs() + sum(rest).abs() + 1e-30
    return float(((got.covariance.double() - want.covariance.double()).abs() / scale).max())
