"""Parameters of objectives: meaning, default and range, checked without torch.

A parameter is an argument of `objectives.get` and a field of a recipe's `[objective]`; messages name the field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from toy_models.messages import nearest

from ..errors import UsageError

__all__ = [
    "ADVANTAGE",
    "ADVANTAGES",
    "BASELINE",
    "BETA",
    "CLAMP",
    "CLIP_HIGH",
    "CLIP_LOW",
    "CORRECTIONS",
    "DIVERGENCE_LOW",
    "DRIFT",
    "DUAL_CLIP",
    "FORM",
    "FORMS",
    "LAMBDA",
    "NFT",
    "REWARD_VALUES",
    "SHARE",
    "WHITEN",
    "Parameter",
]

FORMS = ("ratio", "probability", "log")
ADVANTAGES = (
    "none",
    "group_mean",
    "group_mean_std",
    "group_mean_batch_std",
    "batch_mean_std",
    "leave_one_out",
    "constant",
)


@dataclass(frozen=True)
class Parameter:
    """A number in a range (`low`, `high` inclusive, `above`, `below` exclusive) or one of `choices`; None where unset.

    Attributes:
        name: the keyword of `get`; a trailing underscore is left out in a recipe.
        doc: its meaning.
        low: the least number, inclusive.
        high: the greatest number, inclusive.
        above: the bound that the number must exceed.
        below: the bound that the number must stay under.
        whole: whether it must be a whole number.
        choices: the allowed texts; empty for a number.
        default: its value where unset, None for none.
        required: whether it must be set.
    """

    name: str
    doc: str
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    whole: bool = False
    choices: tuple[str, ...] = ()
    default: Any = None
    required: bool = False

    def with_(self, *, default: Any = None, required: bool = False) -> Parameter:
        """The same parameter with the default of one objective, or without one."""
        return replace(self, default=default, required=required)

    @property
    def field(self) -> str:
        """Its name in a recipe."""
        return f"objective.{self.name.rstrip('_')}"

    @property
    def range(self) -> str:
        """What it may be, in words.

        >>> CLIP_LOW.range
        'a number in [0, 1]'
        """
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"a number in [{self.low:g}, {self.high:g}]"
        bounds = [(self.low, "≥"), (self.above, ">"), (self.high, "≤"), (self.below, "<")]
        shown = ", ".join(f"{sign} {bound:g}" for bound, sign in bounds if math.isfinite(bound))
        return f"a {'whole ' if self.whole else ''}number {shown}".rstrip()

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
        inside = math.isfinite(value) and self.low <= value <= self.high and self.above < value < self.below
        if not inside or (self.whole and value != int(value)):
            raise UsageError(f"{self.field}: expected {self.range}, got {value}")


# Parameters that several objectives share; one that a single objective has stands in its entry.
FORM = Parameter(
    "form",
    "ratio: A·π/π_old (a PPO loss, as in the released code, which clips at 0.2); probability: A·π (the paper's Eq. 6); "
    "log: A·log π",
    choices=FORMS,
)
LAMBDA = Parameter("lambda_", "weight of correct samples (0.1 in the paper)", low=0)
CLIP_LOW = Parameter(
    "clip_low", "clip where A < 0 and ρ < 1 − clip_low; cispo: ρ is raised to 1 − clip_low", low=0, high=1
)
CLIP_HIGH = Parameter(
    "clip_high", "clip where A > 0 and ρ > 1 + clip_high; cispo: ρ is lowered to 1 + clip_high", low=0
)
DUAL_CLIP = Parameter("dual_clip", "clip where A < 0 and ρ > dual_clip", above=1)
ADVANTAGE = Parameter(
    "advantage",
    "normalisation of rewards: none, or less the group's mean, over its std too or over the std of the batch, less "
    "the batch's mean and over its std, less the mean of the others, less a constant",
    choices=ADVANTAGES,
)
BASELINE = Parameter("baseline", "the constant b of the advantage v − b")
REWARD_VALUES = Parameter(
    "reward_values",
    "what a correct and a wrong response count before normalisation: 1 and −1 (signed), or 1 and 0 (zero-one)",
    choices=("signed", "zero-one"),
)
WHITEN = Parameter(
    "whiten",
    "advantages less their mean and over their std in the batch: not at all, each response counting once, or as often "
    "as it has tokens",
    choices=("none", "responses", "tokens"),
)
SHARE = Parameter("share", "fraction of the minibatch's tokens that is chosen", above=0, high=1)
NFT = (
    Parameter("ratio_floor", "a correct response's ρ is raised to this in the denominator", low=0, default=0.0),
    Parameter(
        "epsilon", "a wrong response's (1 − qρ)/(1 − q) is raised to this in the denominator", above=0, default=1.0
    ),
    Parameter(
        "prompt_weight", "weight of a prompt: 1, 1 − q or √((1 − q)/q)", choices=("none", "1-q", "sqrt"), default="1-q"
    ),
)
BETA = Parameter("beta", "coefficient β", above=0)
CLAMP = Parameter("clamp", "no gradient where the estimate exceeds this; unset: none", above=0)
DIVERGENCE_LOW = Parameter("divergence_low", "a token with A < 0 is dropped beyond this divergence downwards", low=0)
DRIFT = Parameter("drift_coef", "coefficient of log²ρ on every token", low=0, default=1e-3)

# Factors of tokens that every objective of tokens or responses takes; see `corrections`.
_REJECTS = (
    *(f"token-k{i}" for i in (1, 2, 3)),
    *(f"sequence-{how}-k{i}" for how in ("sum", "mean") for i in (1, 2, 3)),
    "sequence-max-k2",
    "sequence-max-k3",
)
CORRECTIONS = (
    Parameter(
        "rollout_is",
        "factor π_old/μ of each token or multiplied over the response, μ being the rollout engine's: kept within "
        "rollout_is_low and rollout_is_high (truncate), or 0 outside of them (mask)",
        choices=("token-truncate", "token-mask", "sequence-truncate", "sequence-mask"),
    ),
    Parameter("rollout_is_high", "upper bound of the factor rollout_is (3 in TRL, 2 in verl)", above=0),
    Parameter("rollout_is_low", "lower bound of the factor rollout_is; unset: none", above=0),
    Parameter(
        "rollout_reject",
        "tokens or responses whose estimated divergence of π_old from μ exceeds rollout_reject_high have no weight",
        choices=_REJECTS,
    ),
    Parameter(
        "rollout_reject_high",
        "bound of rollout_reject in nats; of k1, which is −log(π_old/μ), its exponential",
        above=0,
    ),
    Parameter("rollout_reject_low", "lower bound of exp(k1); unset: 1/rollout_reject_high", above=0),
    Parameter(
        "off_policy_threshold",
        "responses with A < 0 whose mean of log(μ/π) exceeds this have no weight (DeepSeek-V3.2; TRL: "
        "off_policy_mask_threshold); μ is the old policy where the rollout engine gives no log-probs",
        low=0,
    ),
)
