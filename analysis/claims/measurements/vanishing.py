"""How the gradient of NSR shrinks as errors vanish: apart for mean, sample, normaliser and optimiser."""

from __future__ import annotations

import numpy as np
import torch

from toy_models import Bandit

from ...common.randomness import seed_of

__all__ = ["ROLLOUTS", "norms", "slope", "table_slopes"]

ROLLOUTS = 256  # of the batch whose gradient is looked at
_ERRORS = (0.1, 0.03, 0.01, 0.003, 0.001)


def slope(errors: np.ndarray, norms: np.ndarray) -> float:
    """Of the least-squares line of log norm on log error.

    Example:
        >>> round(slope(np.array([0.1, 0.01]), np.array([1.0, 0.1])), 12)
        1.0
    """
    return float(np.polyfit(np.log(errors), np.log(norms), 1)[0])


def norms(gradient_norm: np.ndarray, variance: np.ndarray, selected: np.ndarray) -> dict[str, np.ndarray]:
    """Root mean square norms of NSR's (or PSR's) gradient from its mean and its variance per rollout.

    Args:
        gradient_norm: ‖E g‖.
        variance: tr Cov per rollout.
        selected: Fraction of rollouts with a weight.

    Returns:
        "expected", "sampled" (mean over the 256 rollouts) and "sampled, selected rows" (mean over those with a weight).
    """
    sampled = np.sqrt(gradient_norm**2 + variance / ROLLOUTS)
    return {"expected": gradient_norm, "sampled": sampled, "sampled, selected rows": sampled / selected}


def table_slopes(seed: int = 0) -> dict[str, float]:
    """Slopes of log norm on log(1 − p) on tables of 12 arms whose wrong arms fade out, median over 64 tables.

    Returns:
        "NSR, …" and "PSR, …" for the norms of `norms`, and "NSR, sign", which any optimiser that is free of scale has.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "gradient_noise"))
    logits = torch.randn(64, 12, generator=generator, dtype=torch.float64)
    correct = torch.arange(12) < 6
    found: dict[str, list[np.ndarray]] = {}
    for error in _ERRORS:
        share = torch.where(correct, logits, -torch.inf).softmax(-1) * (1 - error)
        share = share + torch.where(correct, -torch.inf, logits).softmax(-1) * error
        policy = Bandit(share.log())
        squares = (torch.eye(12, dtype=torch.float64) - share[:, None, :]).square().sum(-1)  # ‖e_y − π‖² of each arm
        for name, weights, selected in (("NSR", correct.double() - 1, error), ("PSR", correct.double(), 1 - error)):
            mean = policy.expected_score(weights.expand_as(logits)).norm(dim=-1)
            variance = (share * weights**2 * squares).sum(-1) - mean**2
            for key, values in norms(mean.numpy(), variance.numpy(), np.full(64, selected)).items():
                found.setdefault(f"{name}, {key}", []).append(values)
        found.setdefault("NSR, sign", []).append(np.full(64, np.sqrt(12)))
    errors = np.array(_ERRORS)
    return {key: float(np.median([slope(errors, row) for row in np.array(values).T])) for key, values in found.items()}
