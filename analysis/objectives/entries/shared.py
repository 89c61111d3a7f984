"""What entries of several families share: parameters of the policy gradients, and words."""

from __future__ import annotations

from ..parameters import ADVANTAGE, BASELINE, CLIP_HIGH, CLIP_LOW, DUAL_CLIP, Parameter

__all__ = ["CLIPPED", "OLD", "advantage", "clips"]

CLIPPED = "·1[not clipped]"
OLD = ("advantages", "old_log_probs")


def clips(low: float | None = None, high: float | None = None) -> tuple[Parameter, ...]:
    """PPO's clips with the defaults of one objective."""
    return CLIP_LOW.with_(default=low), CLIP_HIGH.with_(default=high), DUAL_CLIP


def advantage(how: str = "none") -> tuple[Parameter, ...]:
    """The normalisation of rewards with the default of one objective, and its baseline."""
    return ADVANTAGE.with_(default=how), BASELINE
