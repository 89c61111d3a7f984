"""The optimal token baseline: a baseline for each position of a group, weighted by the energy of the responses.

With π_t the probability of token t of a response under the policy that sampled, ‖e_y − π‖² = 1 − 2π_t + Σ_v π_v² the
squared score in logits, and W_t = Σ_{s ≤ t} ‖e_y − π‖² its sum so far,

    A_t = r − B_t,    B_t = Σ_i W_it·r_i / (Σ_i W_it + 1e-8)    over the responses of the group that have a token t.

Where one response is longer than all others, B is 0 beyond the second longest. Positions are counted in a response's
own tokens. Source: Li et al., "The Optimal Token Baseline" (ICML 2026), as verl's tir_optimal_token_baseline has it,
which is its optimal_token_baseline where no token is masked between others.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from .responses import ResponseBatch

__all__ = ["token_baseline_advantages"]

_EPSILON = 1e-8


def token_baseline_advantages(responses: ResponseBatch) -> Tensor:
    """A (n, T) of each token, 0 where masked; `old_log_probs`, `collision` and `mask` are given."""
    old, collision, mask = responses.old_log_probs, responses.collision, responses.mask
    assert old is not None
    assert collision is not None
    assert mask is not None
    energy = (1 - 2 * old.double().exp() + collision.double()).masked_fill(~mask, 0).cumsum(-1)
    # tokens to the front, so that column t holds the t-th token of each response
    order = (~mask).to(torch.int8).argsort(dim=-1, stable=True)
    present = mask.gather(-1, order)
    weights = energy.gather(-1, order).masked_fill(~present, 0)
    size = responses.group_size
    grouped = rearrange(weights, "(group response) position -> group response position", response=size)
    rewards = rearrange(responses.rewards.double(), "(group response) -> group response 1", response=size)
    baseline = (grouped * rewards).sum(1, keepdim=True) / (grouped.sum(1, keepdim=True) + _EPSILON)
    count = rearrange(present, "(group response) position -> group response position", response=size).sum(
        1, keepdim=True
    )
    baseline = torch.where(count > 1, baseline, 0.0)  # a response alone at its position has nothing to be compared with
    front = (rewards - baseline.expand_as(grouped)).flatten(0, 1).masked_fill(~present, 0)
    return torch.zeros_like(front).scatter(-1, order, front).to(responses.rewards.dtype)
