"""Adaptive entropy: the coefficient of the entropy bonus follows the entropy (Skywork-OR1, arXiv 2505.22312).

    H_u ≤ target   coefficient ← min(coefficient + delta, greatest)
    H_u > target   coefficient ← max(coefficient − delta, least)

with H_u the mean entropy of the tokens of update u. Update u + 1 applies the coefficient if H_u ≤ target, else 0; the
first update applies 0, as in TRL's use_adaptive_entropy.
"""

from __future__ import annotations

import math

from ..recipes.fields import ObjectiveFields

__all__ = ["AdaptiveEntropy"]


class AdaptiveEntropy:
    """The coefficient of a run; its state can be saved."""

    def __init__(self, fields: ObjectiveFields) -> None:
        assert fields.entropy_target is not None
        self.target, self._delta = fields.entropy_target, fields.entropy_coef_delta
        self._least, self._greatest = fields.entropy_coef_min, fields.entropy_coef_max
        self.coefficient, self._last = fields.entropy_coef, math.inf

    @property
    def applied(self) -> float:
        """The coefficient of the next update's bonus."""
        return self.coefficient if self._last <= self.target else 0.0

    def observe(self, entropy: float) -> None:
        """Take in the mean entropy, in nats, of the tokens of the update that was made."""
        if entropy <= self.target:
            self.coefficient = min(self.coefficient + self._delta, self._greatest)
        else:
            self.coefficient = max(self.coefficient - self._delta, self._least)
        self._last = entropy

    def state_dict(self) -> dict[str, float]:
        return {"coefficient": self.coefficient, "last": self._last}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.coefficient, self._last = state["coefficient"], state["last"]
