"""The entries of the ledger, one module for each kind of evidence."""

from __future__ import annotations

from ..claim import Claim
from . import (
    clipping,
    decomposition,
    displacement,
    diversity,
    dynamics,
    entropy_prediction,
    gradient_limits,
    gradient_noise,
    groups,
    identity,
    kept_diversity,
    noise_robustness,
    off_policy,
    optimizers,
    pass_at_k,
    regularisers,
    single_steps,
    stability,
    token_masks,
    trade_off,
    weighting,
)

__all__ = ["ENTRIES"]

# Every claim of the ledger; `registry.all_claims` has them by id and in order.
ENTRIES: tuple[Claim, ...] = (
    *regularisers.CLAIMS,
    *single_steps.CLAIMS,
    *gradient_limits.CLAIMS,
    *identity.CLAIMS,
    *dynamics.CLAIMS,
    *pass_at_k.CLAIMS,
    *trade_off.CLAIMS,
    *noise_robustness.CLAIMS,
    *groups.CLAIMS,
    *decomposition.CLAIMS,
    *gradient_noise.CLAIMS,
    *kept_diversity.CLAIMS,
    *off_policy.CLAIMS,
    *clipping.CLAIMS,
    *token_masks.CLAIMS,
    *weighting.CLAIMS,
    *stability.CLAIMS,
    *displacement.CLAIMS,
    *optimizers.CLAIMS,
    *entropy_prediction.CLAIMS,
    *diversity.CLAIMS,
)
