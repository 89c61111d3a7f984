"""The row of the table `steps`: what is known of one batch of rollouts, whatever trainer it was made for."""

from __future__ import annotations

from typing import Any

import numpy as np

from .scalars import share_by_group

__all__ = ["step_row"]


def step_row(
    step: int,
    *,
    rewards: np.ndarray,
    correct: np.ndarray | None,
    signs: np.ndarray,
    lengths: np.ndarray,
    groups: np.ndarray,
    updates: int,
    entropy: float | None = None,
) -> dict[str, Any]:
    """The row of one batch of N rollouts, of all processes.

    Args:
        step: number of the batch.
        rewards: (N,), NaN where there is none.
        correct: (N,) bool, ignored where a rollout has no reward; None where rewards do not say what is correct.
        signs: (N,) sign of the advantage.
        lengths: (N,) tokens that the policy sampled.
        groups: (N,) number of the prompt in the batch.
        updates: optimiser updates made from it, skipped ones not counted.
        entropy: mean entropy of the policy that sampled, over the sampled tokens; None where it is not known.

    Returns:
        The columns that follow from these.
    """
    scored = ~np.isnan(rewards)
    row: dict[str, Any] = {
        "step": step,
        "n_rollouts": len(rewards),
        "n_updates": updates,
        "reward_mean": float(rewards[scored].mean()) if scored.any() else np.nan,
        "length_pos": float(lengths[signs > 0].mean()) if (signs > 0).any() else None,
        "length_neg": float(lengths[signs < 0].mean()) if (signs < 0).any() else None,
        "entropy_own": entropy,
        "entropy_rollout": None,
        "kept_mass": None,
        "rollout_kl": None,
    }
    if correct is not None:
        shares = share_by_group(correct & scored, groups)
        row |= {
            "correct_ratio": float(correct[scored].mean()) if scored.any() else None,
            "fully_solved_ratio": float((shares == 1).mean()),
            "none_solved_ratio": float((shares == 0).mean()),
        }
    return row
