"""Which tokens of a minibatch an objective chooses, from detached values of the whole minibatch.

    high-entropy   H_t at least the ⌈share·N⌉-th greatest of the N tokens                      arXiv 2506.01939
    clip-cov       max(1, ⌊share·N⌋) drawn at random of the tokens that PPO had not clipped and whose covariance lies
                   in (cov_low, cov_high)                                                      arXiv 2505.22617, code
    kl-cov         the max(1, ⌊share·N⌋) tokens of greatest covariance                         arXiv 2505.22617, code

with covariance (A − mean A)(log π_y − mean log π_y), means over the N tokens. share·N is the product of the decimals:
0.28·25 is 7, whatever floats make of it (verl takes int(0.29·100), which is 28 where we take 29).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..common.whole_numbers import ceiling, floor
from .formulas.clipped import clip_of
from .token_batch import TokenBatch

__all__ = ["between_ranks", "covariance", "select"]


def covariance(batch: TokenBatch) -> Tensor:
    """(A − mean A)(log π_y − mean log π_y) of each token, −inf where masked."""
    real, a, log_probs = batch.real(), batch.per_token("advantages"), batch.log_probs.detach()
    product = (a - a[real].mean()) * (log_probs - log_probs[real].mean())
    return product.masked_fill(~real, -torch.inf)


def between_ranks(values: Tensor, real: Tensor, low: int, high: int) -> Tensor:
    """Bool: the real positions whose value has an ascending rank from `low` (0 the least) to below `high`.

    Ties with either end are kept.

    >>> between_ranks(torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.ones(4, dtype=torch.bool), 1, 3)
    tensor([False,  True,  True, False])
    """
    if low >= high:
        return torch.zeros_like(real)
    ordered = values[real].sort().values
    kept = (values >= ordered[low]) & real
    return kept if high == len(ordered) else kept & (values <= ordered[high - 1])


def select(selects: str, batch: TokenBatch, p: Mapping[str, Any], generator: torch.Generator | None) -> Tensor:
    """The choice that `Entry.selects` names: "top_entropy", "drawn_covariance" or "top_covariance".

    Bool (B, T), never true at masked positions; a minibatch of no tokens selects none.
    """
    real = batch.real()
    count = int(real.sum())
    if count == 0:
        return torch.zeros_like(real)
    if selects == "top_entropy":
        assert batch.entropy is not None
        return between_ranks(batch.entropy.detach(), real, count - ceiling(p["share"] * count), count)
    wanted = max(1, floor(p["share"] * count))
    cov = covariance(batch)
    chosen = torch.zeros(real.numel(), dtype=torch.bool, device=real.device)
    if selects == "top_covariance":
        chosen[cov.flatten().topk(wanted).indices] = True
    else:
        open_ = (cov > p["cov_low"]) & (cov < p["cov_high"]) & (clip_of(batch, p) == 0)
        places = open_.flatten().nonzero()[:, 0]
        order = torch.randperm(len(places), generator=generator)[:wanted]
        chosen[places[order.to(places.device)]] = True
    return chosen.view_as(real)
