"""The entry about the weight of correct responses: W1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..claim import Claim, Decision
from ..comparisons import MATCHING_TEXT, MATCHINGS, Comparison, Matching, compare
from ..conjunctions import Part, all_of, counting_diverged, judged, together
from ..evidence import Evidence, Methods
from ..studies import MAIN, ONE_SGD_UPDATE, PATH_B
from ..study import GRPO, NSR, PPO, PSR, W_REINFORCE, Study

__all__ = ["CLAIMS", "mean_pass_at_k"]

_K = tuple(2**i for i in range(9))
_MARGIN = 0.005
_BEST = 0.1
# W-REINFORCE over λ. It is REINFORCE with the baseline 1/(1 + λ), scaled by 1 + λ, so that (1 + λ)·rate is held fixed
# under SGD. Adam divides the scale of a gradient out: there the rate is held fixed, which is the same thing.
LAMBDAS = (0.0, 0.1, 0.3, 1.0)
_LAMBDA_SGD_RATE = 0.15


def of_lambda(value: float) -> str:
    """What the method with this λ is called."""
    return f"λ = {value:g}"


LAMBDA_ADAMW = Study(
    "path, λ under AdamW",
    "default",
    {of_lambda(x): {"objective.name": "w-reinforce", "objective.lambda": x} for x in LAMBDAS},
    PATH_B.values,
    seeds=4,
)
LAMBDA_SGD = Study(
    "path-p60, λ under SGD",
    "default",
    {
        of_lambda(x): {
            "objective.name": "w-reinforce",
            "objective.lambda": x,
            "optimizer.lr": _LAMBDA_SGD_RATE / (1 + x),
        }
        for x in LAMBDAS
        if x != 0.3
    },
    {**PATH_B.values, **ONE_SGD_UPDATE, "policy.base": "path-p60", "steps": 20},
    seeds=4,
)


def mean_pass_at_k(methods: Methods, first: str, second: str, at: Matching) -> Comparison:
    """`first` − `second` in the mean of Pass@k over log₂ k, k = 1, 2, 4, …, 256."""
    from ..measurements.curves import averaged

    found = compare(methods, first, second, [f"pass@{k}" for k in _K], at)
    return averaged(list(found.values()), f"mean of Pass@k over log₂ k: {first} − {second}")


def _ahead(methods: Methods, name: str, first: str, others: Mapping[str, float]) -> dict[str, Decision]:
    found = {}
    for at in MATCHINGS:
        condition = f"{name}, {MATCHING_TEXT[at]}"
        parts = [
            Part(
                f"{first} ahead of {other}",
                mean_pass_at_k(methods, first, other, at),
                bound,
                shown=bound > 0 and other not in (PSR, PPO),
            )
            for other, bound in others.items()
        ]
        found[condition] = all_of(parts, condition)
    return found


def _best_of_methods(methods: Methods, name: str) -> Mapping[str, Decision]:
    others: Sequence[str] = [other for other in (PSR, NSR, GRPO, PPO) if methods.get(other)]
    return _ahead(methods, name, W_REINFORCE, dict.fromkeys(others, _MARGIN))


def _best_of_lambdas(methods: Methods, name: str) -> Mapping[str, Decision]:
    """λ = 0.1 beats 0 and 1 by the margin, and loses to no other value by more than it."""
    bounds = {of_lambda(x): _MARGIN if x in (0.0, 1.0) else -_MARGIN for x in LAMBDAS if x != _BEST}
    return _ahead(
        methods, name, of_lambda(_BEST), {label: bound for label, bound in bounds.items() if label in methods}
    )


def _w1(evidence: Evidence) -> Decision:
    parts: dict[str, Decision] = {}
    for study in (*MAIN, LAMBDA_ADAMW, LAMBDA_SGD):
        decide, best = (_best_of_methods, W_REINFORCE) if study in MAIN else (_best_of_lambdas, of_lambda(_BEST))
        lost = len(evidence.diverged(study).get(best, ()))
        for condition, found in decide(evidence.methods(study), study.name).items():
            parts[condition] = counting_diverged(found, best, lost, study.seeds)
    return together(parts)


CLAIMS = (
    Claim(
        id="W1",
        family="pass-at-k",
        title="λ = 0.1 is the best trade-off",
        statement="W-REINFORCE with weight λ = 0.1 on correct responses has the best Pass@k over all k: better than "
        "training on either kind of response alone, than equal weights, and than GRPO and PPO.",
        source="2506.01347, section 5",
        hypothesis="The mean of Pass@k over log₂ k is greatest at λ = 0.1.",
        statistic="Mean over k = 1, 2, 4, …, 256 of exact Pass@k on test prompts: W-REINFORCE(0.1) less the other "
        "method, or less W-REINFORCE with another λ, paired by seed.",
        margin=f"{_MARGIN:g}: one problem in 200 at every k",
        rule="Holds where the 95% interval of each difference lies above the margin (for λ = 0.3, a neighbour, above "
        "minus the margin); fails where one lies below its bound by the simultaneous interval of all differences, so "
        "that a tie is a failure. Runs of W-REINFORCE(0.1) that diverged count against it.",
        conditions="Against PSR, NSR, GRPO and PPO on path and countdown, regimes A and B, 8 seeds with a base each. "
        "Against λ = 0, 0.3 and 1 on path under AdamW and λ = 0 and 1 on path-p60 under SGD, 4 seeds: W-REINFORCE is "
        "REINFORCE with baseline 1/(1 + λ) scaled by 1 + λ, so (1 + λ)·rate is held fixed under SGD, and under AdamW, "
        "which divides that scale out, the rate. At equal steps, equal updates and equal Pass@1.",
        practice="Treat λ as a baseline of 1/(1 + λ), and tune it together with the learning rate.",
        decide=_w1,
        studies=(*MAIN, LAMBDA_ADAMW, LAMBDA_SGD),
        judge=lambda methods: judged(methods, _best_of_methods, W_REINFORCE, PSR, NSR),
        tables=("evals",),
    ),
)
