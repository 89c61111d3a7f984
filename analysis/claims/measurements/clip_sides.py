"""What each side of the clip does to a policy whose rewards say nothing, exactly on a table.

Let A be ±1 with equal chances, whatever the response y, and let y be drawn from the old policy. The ratio form has the
expected gradient E[A·ρ·∇log π(y)] = 0: random rewards move nothing on average. A clip takes weight away from one sign
alone. Below, where ρ < 1 − ε, the pushes down are lost and half of the pushes up stay; above, where ρ > 1 + ε, the
pushes up are lost:

    E g = ½ Σ_y π(y)·(1[ρ_y < 1 − ε_low] − 1[ρ_y > 1 + ε_high])·∇log π(y)

Either side pulls tokens back to where the old policy had them. What that does to the entropy depends on which tokens
have moved: here by equal random changes of all logits, and by a step on a batch of random rewards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toy_models.exact import Bandit

from ...objectives import TokenBatch, get

__all__ = ["SIDES", "TOLERANCE", "clip_effects", "expected_gradient"]

TOLERANCE = 1e-12  # of numbers of order 0.1 in float64
# side -> its clips
SIDES: dict[str, dict[str, float]] = {
    "none": {},
    "low": {"clip_low": 0.2},
    "high": {"clip_high": 0.2},
    "both": {"clip_low": 0.2, "clip_high": 0.2},
}
_TABLES, _ARMS, _SCALE, _BATCH = 4096, 12, 0.3, 64


def expected_gradient(old: Bandit, now: Bandit, side: str) -> Tensor:
    """E[w·∇log π(y)] under y ~ old and A = ±1, with the weights of the toolkit, (tables, arms)."""
    objective = get("reinforce", form="ratio", **SIDES[side])
    log_probs, old_log_probs = now.log_probs().flatten()[:, None], old.log_probs().flatten()[:, None]
    mean = torch.zeros_like(log_probs)
    for advantage in (1.0, -1.0):
        batch = TokenBatch(log_probs, old_log_probs, torch.full((len(log_probs),), advantage, dtype=torch.float64))
        mean += objective.weights(batch).weight / 2
    return now.expected_score(mean.view(now.logits.shape), behaviour=old)


def _closed_form(old: Bandit, now: Bandit, side: str) -> Tensor:
    probs, ratio = now.probs(), (now.log_probs() - old.log_probs()).exp()
    push = torch.zeros_like(probs)
    if "clip_low" in SIDES[side]:
        push += (ratio < 1 - SIDES[side]["clip_low"]).double() / 2
    if "clip_high" in SIDES[side]:
        push -= (ratio > 1 + SIDES[side]["clip_high"]).double() / 2
    pushed = probs * push
    return pushed - probs * pushed.sum(-1, keepdim=True)


def clip_effects(seed: int = 0) -> dict[str, list[float | str]]:
    """For each way that logits moved and each side, the mean of dH/dη over random tables, and the share that rises.

    Columns moved, side, entropy_rate (nats for each unit of step size), share_rising.

    Raises:
        ArithmeticError: a gradient differs from the closed form: a weight of the toolkit is wrong.
    """
    generator = torch.Generator().manual_seed(seed)
    old = Bandit(2 * torch.randn(_TABLES, _ARMS, dtype=torch.float64, generator=generator))
    noise = torch.randn(_TABLES, _ARMS, dtype=torch.float64, generator=generator)
    draws = torch.multinomial(old.probs(), _BATCH, replacement=True, generator=generator)
    signs = torch.randint(0, 2, draws.shape, generator=generator).double() * 2 - 1
    step = torch.zeros_like(noise).scatter_add_(1, draws, signs) - old.probs() * signs.sum(1, keepdim=True)
    moved = {"equal noise": _SCALE * noise, "a random batch": _SCALE * step / _BATCH**0.5}
    table: dict[str, list[float | str]] = {name: [] for name in ("moved", "side", "entropy_rate", "share_rising")}
    for name, change in moved.items():
        now = Bandit(old.logits + change)
        log_probs, probs = now.log_probs(), now.probs()
        entropy = -(probs * log_probs).sum(-1, keepdim=True)
        slope = -probs * (log_probs + entropy)  # ∂H/∂z
        for side in SIDES:
            gradient = expected_gradient(old, now, side)
            error = float((gradient - _closed_form(old, now, side)).abs().max())
            if error > TOLERANCE:
                raise ArithmeticError(
                    f"clip {side}: expected the gradient of the closed form within {TOLERANCE:g}, got an error of "
                    f"{error:.3g}; the weights of the toolkit are wrong"
                )
            rate = (gradient * slope).sum(-1)
            clipped = rate.abs() > TOLERANCE
            rising = float((rate[clipped] > 0).double().mean()) if bool(clipped.any()) else float("nan")
            row: tuple[float | str, ...] = (name, side, float(rate.mean()), rising)
            for column, value in zip(table, row, strict=True):
                table[column].append(value)
    return table
