"""For each objective the parameters at which its weight is compared with its loss, by family as in `entries`."""

from __future__ import annotations

from typing import Any

from . import (
    batches,
    distillation,
    divergences,
    group_baselines,
    groups,
    likelihoods,
    preferences,
    regressions,
    regularisers,
    rewards,
    selections,
    sequences,
    tokens,
    winners,
)

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    name: cases
    for module in (
        rewards,
        winners,
        groups,
        group_baselines,
        batches,
        tokens,
        divergences,
        selections,
        sequences,
        regressions,
        likelihoods,
        preferences,
        distillation,
        regularisers,
    )
    for name, cases in module.CASES.items()
}
