"""DPPO: tokens are dropped by how far their probability moved, not by its ratio."""

from __future__ import annotations

from ..definition import Entry
from ..parameters import DIVERGENCE_LOW, DRIFT, Parameter
from .shared import OLD, advantage

__all__ = ["ENTRIES", "TITLE"]

TITLE = "Tokens dropped by the divergence of the policies"

_HIGH = Parameter("divergence_high", "a token with A > 0 is dropped beyond this divergence upwards", low=0)
_CAP = Parameter("ratio_cap", "ρ is lowered to this; unset: not", low=1)


def _bounds(value: float) -> tuple[Parameter, ...]:
    return DIVERGENCE_LOW.with_(default=value), _HIGH.with_(default=value)


_PAPER = "Qi et al., arXiv 2602.04879"
_OLD_IS = "The old policy is the one that sampled, by the inference engine's log-probs"

ENTRIES = (
    Entry(
        name="dppo-tv",
        title="DPPO, TV",
        weight="A·min(ρ, cap)·1[not dropped]; dropped: A > 0 and π − π_old > high, A < 0 and π − π_old < −low",
        source=f"{_PAPER}; verl, compute_policy_loss_dppo_tv",
        verl="loss_mode = dppo_tv: clip_ratio_low, clip_ratio_high, ratio_cap = clip_ratio_c",
        formula="divergences.dppo_tv",
        parameters=(*advantage("group_mean_std"), *_bounds(0.2), _CAP),
        needs=OLD,
        note="the paper's loss has no cap; verl's clip_ratio_c, 3 by default, is one. verl's bounds are its "
        f"clip_ratio, 0.2 by default. {_OLD_IS}, in the paper",
    ),
    Entry(
        name="dppo-kl",
        title="DPPO, KL",
        weight="A·min(ρ, cap)·1[not dropped]; dropped: the KL of (y, not y) exceeds high where A > 0 and ρ > 1, low "
        "where A < 0 and ρ < 1",
        source=f"{_PAPER}; verl, compute_policy_loss_dppo_kl",
        verl="loss_mode = dppo_kl: clip_ratio_low, clip_ratio_high, ratio_cap = clip_ratio_c",
        formula="divergences.dppo_kl",
        parameters=(*advantage("group_mean_std"), *_bounds(0.05), _CAP),
        needs=OLD,
        note="the bounds are verl's clip_ratio, 0.2 where unset; 1e-8 is added to both probabilities of not y, as "
        "there",
    ),
    Entry(
        name="dppo-prime",
        title="DPPO, prime-rl",
        weight="A·ρ·1[not dropped] − 2·drift_coef·log ρ, dropped as in dppo-tv",
        source="prime-rl, default_loss_fn",
        formula="divergences.dppo_prime",
        parameters=(*advantage("group_mean"), *_bounds(0.2), DRIFT),
        needs=OLD,
        homogeneous=False,
        note=f"{_OLD_IS}. prime-rl also scales A by adv_tau, 1 by default",
    ),
    Entry(
        name="ipo-prime",
        title="IPO, prime-rl",
        weight="A·ρ·1[|π − π_old| ≤ divergence] − 2·drift_coef·log ρ",
        source="prime-rl, ipo_loss_fn",
        formula="divergences.ipo_prime",
        parameters=(
            *advantage("group_mean"),
            Parameter("divergence", "a token is dropped beyond this divergence either way", low=0, default=0.1),
            DRIFT,
        ),
        needs=OLD,
        homogeneous=False,
        note=_OLD_IS,
    ),
)
