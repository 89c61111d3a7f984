"""Entries about what surrounds the signal: G10 (the KL term) and G11 (which sign an advantage has)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ...errors import UsageError
from ...records import Run
from ...records.rewarded import rewarded, sign_column
from ..claim import Claim
from ..comparisons import compare
from ..conditions import combined
from ..decision import Decision, Effect
from ..evidence import Evidence, Methods
from ..rules import equivalent, falls_below
from ..study import GRPO, METHODS, NSR, PPO, PSR, Study

__all__ = ["CLAIMS"]

_EVALUATED = {"eval.every": 5}
_BETA = 1e-3
_WITH = {method: f"{method}, β = {_BETA:g}" for method in (PSR, NSR, GRPO)}
# Without the KL these are runs of the main studies.
_KL_METHODS = {
    **{method: METHODS[method] for method in _WITH},
    **{label: {**METHODS[method], "objective.kl_coef": _BETA} for method, label in _WITH.items()},
}
_KL_STUDIES = tuple(
    Study(name, recipe, _KL_METHODS, _EVALUATED, seeds=4)
    for name, recipe in (("path, regime B", "default"), ("countdown, regime B", "countdown"))
)
_G10_MARGINS = {"pass@1": 0.01, "pass@64": 0.01, "entropy_fixed": 0.02}


def _kl_is_negligible(methods: Methods) -> Decision:
    """With and without the KL term, each method: no difference beyond the margins at equal steps."""
    parts = {}
    for method, label in _WITH.items():
        for metric, found in compare(methods, label, method, list(_G10_MARGINS), "step").items():
            margin = _G10_MARGINS[metric]
            unit = "nats" if metric == "entropy_fixed" else ""
            parts[f"{method}, {metric}"] = equivalent(
                found.effect(condition="", unit=unit, margin=margin), margin, found
            )
    return combined(parts)


def _g10(evidence: Evidence) -> Decision:
    return combined({study.name: _kl_is_negligible(evidence.methods(study)) for study in _KL_STUDIES})


_SIGNS = {"steps": 10, "eval.every": 10, "eval.samples": 1, "record.rollouts": 1.0, "record.tokens": 0.125}
_SIGN_STUDIES = tuple(
    Study(name, recipe, {method: METHODS[method] for method in (GRPO, PPO)}, _SIGNS, seeds=4)
    for name, recipe in (("path, regime B", "default"), ("countdown, regime B", "countdown"))
)
_G11_MARGIN = 0.01


def _flipped(run: Run) -> tuple[float, float, float]:
    """Of one run: the share of tokens with an advantage whose sign is not the reward's, the share of prompt groups
    that are uniform, and the greatest |A| in a uniform group."""
    columns = dict.fromkeys(["step", "rollout", "group", "reward", sign_column(run.info)])
    rollouts = run.table("rollouts", list(columns))
    tokens = run.table("tokens", ["step", "rollout", "advantage"])
    if tokens.empty or tokens["advantage"].isna().all():
        raise UsageError(f"run {run.run_id}: expected recorded tokens with an advantage; set record.tokens above 0")
    joined = tokens.merge(rollouts, on=["step", "rollout"])
    advantage = joined["advantage"].to_numpy(dtype=float)
    sign = np.where(rewarded(joined, run.info), 1.0, -1.0)
    some = advantage != 0
    uniform = rollouts.groupby(["step", "group"])["reward"].nunique() == 1
    keys = joined.set_index(["step", "group"]).index
    inside = uniform.reindex(keys).to_numpy()
    largest = float(np.abs(advantage[inside]).max(initial=0.0))
    return float((np.sign(advantage) != sign)[some].mean()), float(uniform.mean()), largest


def _keeps_the_sign(methods: Methods) -> Decision:
    """Of each method with recorded rollouts: hardly any token has an advantage of the other sign than its reward."""
    parts: dict[str, Decision] = {}
    columns: dict[str, list[str | float]] = {
        name: [] for name in ("method", "seed", "flipped", "uniform", "largest_in_uniform")
    }
    greatest = 0.0
    for method, runs in methods.items():
        found = {seed: _flipped(run) for seed, run in sorted(runs.items())}
        parts[method] = falls_below(_share(method, found), _G11_MARGIN)
        for seed, (flipped, uniform, largest) in found.items():
            columns["method"].append(method)
            for name, value in zip(list(columns)[1:], (float(seed), flipped, uniform, largest), strict=True):
                columns[name].append(value)
            greatest = max(greatest, largest) if method == GRPO else greatest
    decision = combined(parts)
    reason = f"{decision.reason} In groups of equal rewards the greatest |A| of {GRPO} is {greatest:.2g}."
    return Decision(
        decision.verdict, reason, decision.effects, decision.depends_on, decision.missing, {"signs": columns}
    )


def _share(method: str, found: Mapping[int, tuple[float, float, float]]) -> Effect:
    from ...evaluation import interval

    shares = [flipped for flipped, _, _ in found.values()]
    label = f"share of tokens whose advantage has not the sign of the reward, {method}"
    if max(shares) == 0:  # a structural zero: no draw can differ
        return Effect(label, 0.0, 0.0, 0.0, n=len(shares), margin=_G11_MARGIN, kind="exact")
    if len(shares) < 2:
        return Effect(label, shares[0], n=1, margin=_G11_MARGIN, reason="fewer than 2 seeds (1)")
    mean = interval(shares, over="seeds")
    low = max(0.0, mean.low) if math.isfinite(mean.low) else mean.low
    return Effect(label, mean.estimate, low, mean.high, n=len(shares), margin=_G11_MARGIN, kind=str(mean.kind))


def _g11(evidence: Evidence) -> Decision:
    return combined({study.name: _keeps_the_sign(evidence.methods(study)) for study in _SIGN_STUDIES})


CLAIMS = (
    Claim(
        id="G10",
        family="gradients",
        title="The KL term is negligible",
        statement="The KL penalty to the reference with the usual coefficient does not change what training does.",
        source="2506.01347, section 4.3",
        hypothesis="Runs with β = 0.001 and without a KL term end alike.",
        statistic="Exact Pass@1 and Pass@64 on test prompts, and entropy on fixed prefixes, with β = 0.001 (estimator "
        "k3, in the loss) less without, at the last step, paired by seed.",
        margin="±0.01 in Pass@1 and in Pass@64, ±0.02 nats in entropy",
        rule="Holds where all intervals lie within their margins; fails where all lie outside; depends on method, "
        "metric or task where some do.",
        conditions="path and countdown, regime B, PSR, NSR and GRPO, 4 seeds with a base each, equal steps.",
        practice="Leave the KL term out, and save the forward pass of the reference.",
        decide=_g10,
        studies=_KL_STUDIES,
    ),
    Claim(
        id="G11",
        family="gradients",
        title="GRPO and PPO keep the reward's sign",
        statement="In GRPO and PPO a correct response is always pulled up and a wrong one pushed down.",
        source="2506.01347, section 4.3 and Appendix B",
        hypothesis="No token has an advantage whose sign is opposite to its reward.",
        statistic="The share of tokens with an advantage other than 0 whose sign is not that of the reward, by run. "
        "Beside it, the share of prompts whose responses all have one reward, and the advantages there.",
        margin=f"a share of {_G11_MARGIN:g}",
        rule="Holds where the interval of the share lies below the margin for both methods, fails where it lies above "
        "for both, depends on the method where the two differ.",
        conditions="path and countdown, regime B, 10 steps of GRPO and of PPO with a critic, 4 seeds with a base each.",
        practice="Read the sign of a GRPO advantage as that of the reward. With a critic, do not: what counts is "
        "whether the response did better than the critic expected.",
        decide=_g11,
        studies=_SIGN_STUDIES,
        judge=_keeps_the_sign,
        tables=("rollouts", "tokens"),
    ),
)
