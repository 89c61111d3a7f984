"""From the sums over a whole vocabulary to the statistics, in float64."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..laws.softmax import TokenStatistics, statistics_from_sums
from .partial_sums import Partial, residual_sums

__all__ = ["OwnLogits", "concatenate", "finish"]


class OwnLogits(NamedTuple):
    """What was picked from a block's logits, and where y stands among them."""

    y: Tensor  # (n,)
    rank: Tensor | None
    top: Tensor | None  # (n, k)
    top_ids: Tensor | None
    listed: Tensor | None  # (n, L)


def finish(sums: Partial, y: Tensor, logits: OwnLogits, inv_temperature: float, dtype: torch.dtype) -> TokenStatistics:
    """Statistics of a block of rows from the sums over the whole vocabulary."""
    s_y = (logits.y.double() - sums.top) * inv_temperature
    residuals = residual_sums(sums, inv_temperature)
    stats, total = statistics_from_sums(residuals, s_y, sums.top_id, sums.top_id == y, dtype=dtype)

    def probs(some: Tensor | None) -> Tensor | None:
        if some is None:
            return None
        return (torch.exp((some.double() - sums.top[:, None]) * inv_temperature) / total[:, None]).to(dtype)

    return replace(
        stats,
        token_rank=logits.rank,
        top_ids=logits.top_ids,
        top_probs=probs(logits.top),
        probs_of=probs(logits.listed),
    )


def concatenate(parts: list[TokenStatistics]) -> TokenStatistics:
    """Statistics of several blocks of rows as those of all."""
    names = [field.name for field in fields(TokenStatistics)]
    columns: dict[str, list[Any]] = {name: [getattr(part, name) for part in parts] for name in names}
    joined: dict[str, Any] = {name: None if xs[0] is None else torch.cat(xs) for name, xs in columns.items()}
    return TokenStatistics(**joined)
