"""The kinds of intervals that the toolkit prints: estimand, method, and the least size that each is printed at.

Every interval says which kind it is (`Interval.kind`, and `interval` in the JSON of a table). The command
`python -m analysis.coverage` measures how often each kind covers; the page `docs/intervals.md` shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "KINDS",
    "LEAST_BASES",
    "LEAST_CARRYING",
    "LEAST_CROSSED_SEEDS",
    "LEAST_PROMPTS",
    "LEAST_PROMPTS_DIFFERENCE",
    "LEAST_PROMPTS_SPREAD",
    "LEAST_PROMPTS_SUCCESS",
    "LEAST_REPLICATES",
    "LEAST_SEEDS",
    "WILSON_UNITS",
    "Kind",
    "KindText",
]

LEAST_SEEDS = 2
LEAST_CROSSED_SEEDS = 4  # of a mean over seeds and prompts
LEAST_PROMPTS = 16  # of a mean or a ratio
LEAST_PROMPTS_DIFFERENCE = 32  # of a paired difference, where often only a few prompts differ
LEAST_PROMPTS_SUCCESS = 10  # of numbers in [0, 1], whose range is known
LEAST_PROMPTS_SPREAD = 32  # of a standard deviation
LEAST_CARRYING = 2.5  # prompts that carry the spread, (Σd²)²/Σd⁴; normal values have about a third of their number
LEAST_BASES = 4
LEAST_REPLICATES = 5
WILSON_UNITS = 48  # from which Wilson's interval covers at least 93% at every proportion from 0.1 to 0.9


class Kind(StrEnum):
    """One kind of interval; its text is in `KINDS`."""

    SEED_MEAN = "seed_mean"
    SEEDS_AND_PROMPTS = "seeds_and_prompts"
    PROPORTION = "proportion"
    SUCCESS = "success"
    PROMPT_MEAN = "prompt_mean"
    PROMPT_SPREAD = "prompt_spread"
    PROMPT_DIFFERENCE = "prompt_difference"
    MATCHED_VALUE = "matched_value"
    MATCHED_DIFFERENCE = "matched_difference"
    PROMPT_RATIO = "prompt_ratio"
    NOISE = "noise"
    REPLICATE_MEAN = "replicate_mean"
    CROSSING = "crossing"


@dataclass(frozen=True)
class KindText:
    """What is said of a kind on the page of intervals.

    Attributes:
        name: Heading of the kind.
        estimand: What the interval is for.
        sampling: What a repetition would draw anew.
        method: How the ends are found.
        least: Below what size there is no interval.
        printed: Where it is printed.
    """

    name: str
    estimand: str
    sampling: str
    method: str
    least: str
    printed: str


_CARRYING = f"the deviations of fewer than {LEAST_CARRYING:g} prompts, (Σd²)²/Σd⁴, make up the spread"
_PROMPTS = "prompts are independent draws; the policy is fixed"
_TRANSFORMED = (
    "Student's t and Hall's skewness-corrected t on the influence of each prompt, the farther end of both; the "
    "skewness counts 1 + 12/n times, because few prompts show less of it than there is"
)

KINDS: dict[Kind, KindText] = {
    Kind.SEED_MEAN: KindText(
        "mean over seeds",
        "the mean over seeds of a number of each run, of a paired difference of runs with the same seed, or of the "
        "logarithm of such a number (1 − R², noise over steps), at the prompts that were evaluated",
        "seeds are independent draws; prompts are fixed",
        "Student's t over seeds; with fewer than five it is made 7% wider, because the plain one covers too seldom "
        "where values have short tails",
        f"fewer than {LEAST_SEEDS} seeds",
        "every table and figure of an experiment with several seeds, and the factorial (effects, Shapley shares, "
        "interactions, methods)",
    ),
    Kind.SEEDS_AND_PROMPTS: KindText(
        "mean over seeds and prompts",
        "the mean of a number of each run and prompt over all seeds and all prompts, such as a paired difference of "
        "two methods with the same seed",
        "seeds (each with a base of its own) and prompts are independent draws, crossed: every seed is evaluated on "
        "the same prompts",
        "variance components of the two-way table, Student's t with Satterthwaite's degrees of freedom; never narrower "
        "than Student's t over seeds",
        f"fewer than {LEAST_CROSSED_SEEDS} seeds",
        "the ledger of claims",
    ),
    Kind.PROPORTION: KindText(
        "proportion",
        "the probability that a unit has a property",
        "units (prompts, groups of rollouts) are independent draws",
        f"Wilson's score interval; below {WILSON_UNITS} units that of Clopper and Pearson, because Wilson's covers too "
        "seldom at some proportions",
        f"fewer than {LEAST_PROMPTS_SUCCESS} units",
        "figures of one seed: fractions of prompts or groups",
    ),
    Kind.SUCCESS: KindText(
        "mean success of prompts",
        "the mean over prompts of a number in [0, 1]: Pass@k, the fraction of correct samples, a probability",
        _PROMPTS,
        "posterior of the mean under a Dirichlet process with half a prompt at 0 and half a prompt at 1, which for "
        "zeros and ones is Jeffreys' interval; where the values are crowded far from both ends, the interval of a "
        "mean over prompts",
        f"fewer than {LEAST_PROMPTS_SUCCESS} prompts",
        "tables at equal steps, Pass@k figure, curves of Pass@1, correct rollouts (one seed)",
    ),
    Kind.PROMPT_MEAN: KindText(
        "mean over prompts",
        "the mean over prompts of any other number (entropy, mass of the tail), or the geometric mean (effective "
        "solutions, on the logarithm)",
        _PROMPTS,
        _TRANSFORMED,
        f"fewer than {LEAST_PROMPTS} prompts, or {_CARRYING}",
        "tables at equal steps, curves over steps, flow of mass by rank (one seed)",
    ),
    Kind.PROMPT_SPREAD: KindText(
        "standard deviation over prompts",
        "the standard deviation over prompts of the success probability, `p_std`",
        _PROMPTS,
        f"{_TRANSFORMED}, on the logarithm",
        f"fewer than {LEAST_PROMPTS_SPREAD} prompts, or {_CARRYING}",
        "`matched` with the metric p_std",
    ),
    Kind.PROMPT_DIFFERENCE: KindText(
        "paired difference over prompts",
        "the difference of two policies in a metric, on the same prompts",
        _PROMPTS,
        _TRANSFORMED,
        f"fewer than {LEAST_PROMPTS_DIFFERENCE} prompts, or {_CARRYING}",
        "rows such as NSR − PSR at equal steps, differences in the Pass@k figure (one seed)",
    ),
    Kind.MATCHED_VALUE: KindText(
        "value at equal Pass@1",
        "the metric where the Pass@1 of the run first reaches a level. A level that was given is fixed; a level of the "
        "default rule is the one that the rule gives for all prompts",
        "validation prompts and test prompts are independent draws; the runs are fixed",
        "the matching is done again for resampled validation prompts; their variance and skewness are added to those "
        "of the test prompts, and the interval is that of the metric at equal steps",
        f"as at equal steps, fewer than {LEAST_PROMPTS} validation prompts, or a level that over 5% of the resamples "
        "do not reach",
        "tables and figures at equal Pass@1 (one seed)",
    ),
    Kind.MATCHED_DIFFERENCE: KindText(
        "difference at equal Pass@1",
        "the difference of two runs in a metric where each first reaches the same level",
        "validation prompts and test prompts are independent draws; the runs are fixed",
        "as the value at equal Pass@1, paired in both sets of prompts",
        f"fewer than {LEAST_PROMPTS_DIFFERENCE} prompts of either set, else as the value at equal Pass@1",
        "rows such as NSR − PSR at equal Pass@1 (one seed)",
    ),
    Kind.PROMPT_RATIO: KindText(
        "ratio of sums over prompts",
        "Σ a / Σ b over tokens or contexts: fractions of tokens and of the gradient, means over tokens, shares of the "
        "JVP",
        "prompts are independent draws, each with all its tokens",
        f"{_TRANSFORMED}, linearised",
        f"fewer than {LEAST_PROMPTS} prompts, or {_CARRYING}",
        "tables and figures of recorded tokens, shares over time (one seed)",
    ),
    Kind.NOISE: KindText(
        "gradient noise",
        "variance, noise over signal, and their ratios, of an estimator at fixed prompts",
        "replicates of the rollouts are independent draws",
        "jackknife over replicates, Student's t on the logarithm",
        f"fewer than {LEAST_REPLICATES} replicates",
        "table of `noise` (variance, noise / signal, vs PSR) and bars of the noise figures",
    ),
    Kind.REPLICATE_MEAN: KindText(
        "mean over replicates",
        "the projection of an estimator on the exact gradient, and the mean cosine of one batch with it, at fixed "
        "prompts",
        "replicates of the rollouts are independent draws",
        "Student's t over replicates; the ends of a cosine are cut at −1 and 1",
        f"fewer than {LEAST_REPLICATES} replicates",
        "table of `noise` (projection, of a batch)",
    ),
    Kind.CROSSING: KindText(
        "crossing p*",
        "the success probability at which the mean over bases of the log ratio of variances is 0",
        "bases are independent draws around a curve in logit p, replicates of rollouts within each",
        "random effects: a line in logit p, from seven bases a parabola; variance between bases by Paule and Mandel, "
        "covariance by Knapp and Hartung, Fieller's set with Student's t on the bases less the coefficients",
        f"fewer than {LEAST_BASES} bases of different accuracy",
        "`noise` of several bases, and its figure",
    ),
}
