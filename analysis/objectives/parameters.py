"""Parameters of objectives: meaning, default and range, checked without torch.

A parameter is an argument of `objectives.get` and a field of a recipe's `[objective]`; messages name the field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from toy_models.messages import nearest

from ..errors import UsageError

__all__ = ["ADVANTAGES", "FORMS", "PARAMETERS", "Parameter"]

FORMS = ("ratio", "probability", "log")
ADVANTAGES = ("none", "group_mean", "group_mean_std", "batch_mean_std", "leave_one_out", "constant")


@dataclass(frozen=True)
class Parameter:
    """A number in a range (`low` and `high` inclusive, `above` exclusive) or one of `choices`; None where unset."""

    name: str
    doc: str
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    choices: tuple[str, ...] = ()
    default: Any = None
    required: bool = False

    def with_(self, *, default: Any = None, required: bool = False) -> Parameter:
        """The parameter as one objective has it."""
        return replace(self, default=default, required=required)

    @property
    def field(self) -> str:
        """Its name in a recipe."""
        return f"objective.{self.name.rstrip('_')}"

    @property
    def range(self) -> str:
        """What it may be, in words.

        >>> PARAMETERS["clip_low"].range
        'a number in [0, 1]'
        """
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"a number in [{self.low:g}, {self.high:g}]"
        bounds = [(self.low, "≥"), (self.above, ">"), (self.high, "≤")]
        shown = ", ".join(f"{sign} {bound:g}" for bound, sign in bounds if math.isfinite(bound))
        return f"a number {shown}".rstrip()

    def check(self, value: Any) -> None:
        """UsageError with field, range and value where it is out of range; None always passes."""
        if value is None:
            return
        if self.choices:
            if value not in self.choices:
                hint = nearest(value, self.choices) if isinstance(value, str) else f"known: {', '.join(self.choices)}"
                raise UsageError(f"{self.field}: unknown value {value!r}; {hint}")
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{self.field}: expected {self.range}, got {value!r} ({type(value).__name__})")
        if not (math.isfinite(value) and self.low <= value <= self.high and value > self.above):
            raise UsageError(f"{self.field}: expected {self.range}, got {value}")


PARAMETERS: dict[str, Parameter] = {
    one.name: one
    for one in (
        Parameter(
            "form",
            "ratio: A·π/π_old (the released code); probability: A·π (the paper's Eq. 6); log: A·log π",
            choices=FORMS,
        ),
        Parameter("lambda_", "weight of correct samples (0.1 in the paper)", low=0),
        Parameter(
            "advantage",
            "normalisation of rewards: none, or less the group's mean, over its std too, over the "
            "batch's, less the mean of the others, less a constant",
            choices=ADVANTAGES,
        ),
        Parameter("baseline", "the constant b of the advantage v − b"),
        Parameter(
            "clip_low", "clip where A < 0 and ρ < 1 − clip_low; cispo: ρ is raised to 1 − clip_low", low=0, high=1
        ),
        Parameter("clip_high", "clip where A > 0 and ρ > 1 + clip_high; cispo: ρ is lowered to 1 + clip_high", low=0),
        Parameter("dual_clip", "clip where A < 0 and ρ > dual_clip", above=1),
        Parameter("tau_pos", "τ of the sigmoid gate where A > 0", above=0),
        Parameter("tau_neg", "τ of the sigmoid gate where A ≤ 0", above=0),
        Parameter("share", "share of the minibatch's tokens that is chosen", above=0, high=1),
        Parameter("cov_low", "only tokens with a covariance above this can be chosen"),
        Parameter("cov_high", "only tokens with a covariance below this can be chosen"),
        Parameter("kappa", "coefficient κ of |log ρ| on the chosen tokens", low=0),
        Parameter("ratio_floor", "a correct response's ρ is raised to this in the denominator", low=0),
        Parameter("epsilon", "a wrong response's (1 − qρ)/(1 − q) is raised to this in the denominator", above=0),
        Parameter("prompt_weight", "weight of a prompt: 1, 1 − q or √((1 − q)/q)", choices=("none", "1-q", "sqrt")),
        Parameter("positive_weight", "α, weight of correct responses", low=0),
        Parameter("negative_weight", "times A, weight of wrong responses", low=0),
        Parameter("rank_penalty", "β of r·(1 − β·rank/G), rank 0 the least likely of the group", low=0, high=1),
        Parameter("floor", "no gradient where 1 − π_y is below this", above=0, high=1),
        Parameter("beta", "coefficient β", above=0),
        Parameter("clamp", "no gradient where the estimate exceeds this; unset: none", above=0),
        Parameter("alpha", "coefficient α of the entropy", above=0),
    )
}
