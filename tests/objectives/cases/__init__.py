"""For each objective the parameters at which its weight is compared with its loss, by family as in `entries`."""

from __future__ import annotations

from typing import Any

from . import groups, likelihoods, preferences, regularisers, rewards, selections, sequences, tokens

CASES: dict[str, tuple[dict[str, Any], ...]] = {
    name: cases
    for module in (rewards, groups, tokens, selections, sequences, likelihoods, preferences, regularisers)
    for name, cases in module.CASES.items()
}
