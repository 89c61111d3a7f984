"""From where on a finding is a notice or an alarm, with the reason.

The numbers were fixed before the false-alarm rate was measured (`docs/generators/false_alarms.py`) and are not tuned to
it. A finding that is not listed here describes the run and is never more than "fine".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["THRESHOLDS", "Threshold"]


@dataclass(frozen=True)
class Threshold:
    """Bounds of one finding.

    Attributes:
        notice: a value of at least this is worth a look.
        alarm: a value of at least this is a fault, unless it is meant; infinite where there is no such value.
        reason: why these.
    """

    notice: float
    alarm: float
    reason: str

    def severity(self, value: float) -> str:
        """fine, notice or alarm.

        >>> Threshold(0.2, 0.5, "").severity(0.3)
        'notice'
        """
        return "alarm" if value >= self.alarm else "notice" if value >= self.notice else "fine"


# name of a finding -> its bounds; `sampler-temperature` is a second bound of `sampler-mismatch`
THRESHOLDS: dict[str, Threshold] = {
    "clip": Threshold(
        0.2,
        0.5,
        "fraction of the tokens of one sign. PPO's clips are set so that a few percent to a fifth of the tokens reach "
        "them; where over half of a sign do, and at most half as many of the other sign, the update is no longer that "
        "of the objective",
    ),
    "dead-groups": Threshold(
        0.25,
        0.5,
        "fraction of groups. With success 0.1 or 0.9 and eight responses 43% of the groups have equal rewards; from "
        "one half on most of the sampling is wasted",
    ),
    "verifier": Threshold(
        0.02,
        1.0,
        "fraction of the rarer outcome among at least 32 responses; at 2% a batch of 64 holds about one of it",
    ),
    "duplicates": Threshold(
        0.5,
        0.9,
        "fraction of responses that repeat an earlier one of their group. Short answers repeat by chance; where nine "
        "in ten do, a group is one sample",
    ),
    "truncation": Threshold(
        0.05,
        0.25,
        "fraction of responses without an end token. A truncated response is mostly judged wrong for its length; at a "
        "quarter the length limit is a main part of the reward",
    ),
    "normaliser": Threshold(
        0.25,
        0.5,
        "size of the exponent of the weight in the response's length, 0 for a weight that does not depend on it, 1 for "
        "division by the length. At one half a token of a response four times as long counts half",
    ),
    "prompts": Threshold(
        0.25,
        0.5,
        "share of the update of a single prompt, among at least 8 prompts and at least five times its even share",
    ),
    "top-tokens": Threshold(
        0.25, math.inf, "share of the ten tokens that carried most, and at least ten times their even share"
    ),
    "entropy-deciles": Threshold(
        0.8,
        math.inf,
        "share of a single decile of the entropy: eight times its even share. High-entropy tokens carry more by the "
        "law, w·‖e_y − π‖, which is at most √2·w, so that 80% in a tenth is unusual",
    ),
    "entropy-drift": Threshold(
        math.log(2.0),
        math.log(5.0),
        "size of the logarithm of the ratio of the entropies at the end and at the start: twofold, fivefold. Healthy "
        "runs of this toolkit lose up to half of their entropy",
    ),
    "sampler-mismatch": Threshold(
        0.01,
        0.05,
        "nats per token by which the sampler's and the trainer's distribution differ. Inference engines in bfloat16 "
        "stay below 0.01; at 0.05 a response of 100 tokens has an importance ratio of about e^5",
    ),
    "sampler-temperature": Threshold(
        0.05,
        0.1,
        "size of the logarithm of the sampler's temperature over the trainer's, where a temperature explains at least "
        "half of the squared differences. Rounding does not look like a temperature, so a tenth is a wrong setting",
    ),
    "residual": Threshold(
        0.05,
        0.5,
        "median of the part of the gradient that no weight on log π explains; attach itself warns from 5% on",
    ),
    "skipped-updates": Threshold(0.1, 0.5, "fraction of updates without any weight, in which nothing was learnt"),
    "history": Threshold(
        8.0,
        math.inf,
        "robust standard deviations from the median of the ten steps before, in two steps that follow one another. "
        "Fewer would be reached by ordinary noise in a long run",
    ),
    "reward-drop": Threshold(
        0.25,
        0.5,
        "fraction of the best mean reward that was lost at the end, by more than four standard errors; means are over "
        "fifths of the run",
    ),
}
