"""Where training on rollouts of a fixed policy ends on a table, in the log form with a constant baseline V.

Responses are drawn from a policy μ that stays as it is, with the loss −E_{y∼μ}[(r − V)·log π(y)]. With a_v =
μ_v·(r_v − V) and the sum A = p − V, p the accuracy of μ, the flow of the logits is dz_v/dt = a_v − A·π_v. In the limit
the arms of the support move at a common rate c, and all others more slowly:

    V < p:   π_v = max(a_v − c, 0)/A  with  Σ_v π_v = 1     (V = 0: c = 0, and π is μ given a correct response)
    V ≥ p:   one arm, the correct one with the greatest μ

The support shrinks below the accuracy already: one arm is left where a₁ − A ≥ a₂, for the two greatest a. PSR has
V = 0, NSR V = 1 and W-REINFORCE V = 1/(1 + λ), up to a factor of the loss. The setting is that of 2506.20520.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toy_models.exact import Bandit

from ...objectives import TokenBatch, get

__all__ = ["BASELINES", "CORRECT", "PROBS", "TOLERANCE", "exact_limits", "limit", "trained"]

# Six arms, the first three correct: p = 0.6.
PROBS = (0.40, 0.15, 0.05, 0.20, 0.15, 0.05)
CORRECT = (True, True, True, False, False, False)
BASELINES = (0.0, 0.3, 0.55, 0.6, 0.9, 1.0)
TOLERANCE = 2e-3  # what is left of arms that die out exponentially, after so many steps
_STEPS, _RATE = 1000, 2.0


def limit(probs: Tensor, correct: Tensor, baseline: float) -> Tensor:
    """The limit in closed form, (arms,) float64."""
    pull = probs * (correct.double() - baseline)
    total = float(pull.sum())
    order = pull.argsort(descending=True)
    if total <= 1e-12:  # V = p, within rounding
        return torch.zeros_like(pull).index_fill(0, order[:1], 1.0)
    ranked = pull[order]
    for size in range(len(pull), 0, -1):
        level = (float(ranked[:size].sum()) - total) / size
        if float(ranked[size - 1]) > level:
            break
    return (pull - level).clamp(min=0) / total


def trained(probs: Tensor, correct: Tensor, baseline: float) -> Tensor:
    """Where small steps along the expected gradient lead, with the weights of the toolkit, (arms,) float64."""
    behaviour = now = Bandit.from_probs(probs)
    objective = get("asymre", baseline=baseline)
    advantages = objective.advantages(correct.double(), 1)
    for _ in range(_STEPS):
        batch = TokenBatch(now.log_probs()[:, None], behaviour.log_probs()[:, None], advantages)
        weights = objective.weights(batch).weight[:, 0]
        now = now.with_parameters(now.logits + _RATE * now.expected_score(weights, behaviour=behaviour))
    return now.probs()


def exact_limits() -> dict[str, list[float]]:
    """For each baseline V, the limit of each correct arm and exp H given a correct response; by columns.

    Raises:
        ArithmeticError: training ends elsewhere than the closed form says.
    """
    probs, correct = torch.tensor(PROBS, dtype=torch.float64), torch.tensor(CORRECT)
    table: dict[str, list[float]] = {name: [] for name in ("baseline", "arm_1", "arm_2", "arm_3", "effective")}
    for baseline in BASELINES:
        expected, found = limit(probs, correct, baseline), trained(probs, correct, baseline)
        error = float((found - expected).abs().max())
        if error > TOLERANCE:
            raise ArithmeticError(
                f"V = {baseline:g}: expected training to end at {expected.tolist()} within {TOLERANCE:g}, got "
                f"{found.tolist()}; the weights of the toolkit are wrong"
            )
        given = expected[correct] / expected[correct].sum()
        effective = float(torch.special.entr(given).sum().exp())
        for column, value in zip(table, (baseline, *expected[correct].tolist(), effective), strict=True):
            table[column].append(value)
    return table
