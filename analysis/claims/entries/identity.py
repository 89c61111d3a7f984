"""The entry about the expected gradient of PSR and NSR: S1."""

from __future__ import annotations

from ..claim import Claim, Decision, Effect
from ..conditions import combined
from ..evidence import Evidence
from ..rules import equivalent

__all__ = ["CLAIMS"]

_EXACT = 1e-12  # relative, in float64: sums over at most 128 responses round to some 1e-15
_MARGIN = 0.1
_BASES = ("path", "path-p60", "countdown-p40")
_SEEDS = 4


def _s1(evidence: Evidence) -> Decision:
    from ...evaluation import interval
    from ..measurements.identity import exact_differences, projections

    exact = exact_differences()
    wrong = {name: value for name, value in exact.items() if name in ("table", "tree") and value > _EXACT}
    if wrong or exact["tree, length mean"] < 0.01:
        raise RuntimeError(f"the identity of expected gradients is not what the exact policies give: {exact}")
    parts: dict[str, Decision] = {}
    columns: dict[str, list[float | str]] = {
        name: [] for name in ("base", "p", "psr", "nsr", "noise_psr", "noise_nsr", "correlation")
    }
    for base in _BASES:
        found = projections(base, _SEEDS, evidence.progress)
        effects = []
        for name, values in (("PSR", found.psr), ("NSR", found.nsr)):
            mean = interval(values - 1, over="seeds")
            effects.append(
                Effect(
                    f"projection of {name} on ∇p, less 1",
                    mean.estimate,
                    mean.low,
                    mean.high,
                    n=len(values),
                    condition=base,
                    margin=_MARGIN,
                    kind=str(mean.kind),
                )
            )
        parts |= {f"{base}, {name}": equivalent(e, _MARGIN) for name, e in zip(("PSR", "NSR"), effects, strict=True)}
        for seed in range(_SEEDS):
            row = (base, found.p[seed], found.psr[seed], found.nsr[seed], found.noise_to_signal["PSR"][seed])
            for name, value in zip(
                columns, (*row, found.noise_to_signal["NSR"][seed], found.correlation[seed]), strict=True
            ):
                columns[name].append(value if isinstance(value, str) else float(value))
    decision = combined(parts)
    reason = (
        f"On tables and trees the two expected gradients differ by at most {max(exact['table'], exact['tree']):.0e} of "
        f"their norm; with length means they differ by up to {exact['tree, length mean']:.0%}. {decision.reason}"
    )
    exact_effects = tuple(
        Effect(f"greatest relative difference, {name}", exact[name], n=0, over="policies", kind="exact")
        for name in exact
    )
    return Decision(
        decision.verdict,
        reason,
        (*decision.effects, *exact_effects),
        decision.depends_on,
        decision.missing,
        {"projections": columns},
    )


CLAIMS = (
    Claim(
        id="S1",
        family="identity",
        title="PSR and NSR have one expected gradient",
        statement="In the log or ratio form, with rollouts drawn from the policy that is differentiated, token losses "
        "summed and divided by a constant, positive and negative samples have the same expected gradient, that of the "
        "success probability.",
        source="derived for this project; laws, section 4",
        hypothesis="On exact policies the two expected gradients are equal within rounding. On a transformer the "
        "sampled gradients of both project on the exact gradient of success with a factor of 1.",
        statistic="On 64 random tables and 64 random trees, the greatest relative difference of the two expected "
        "gradients. On transformers, the projection of the mean of 48 batches of 256 rollouts on the exact gradient, "
        "less 1, for either sign.",
        margin=f"{_EXACT:g} on exact policies, {_MARGIN:g} on transformers",
        rule="Holds where the interval of the projection of either sign lies within the margin around 1 on every base; "
        "fails where all lie outside; depends on sign or base where only some do. A difference on exact policies is an "
        "error of the toolkit and stops the command.",
        conditions="path at two accuracies and countdown, four bases each, 32 validation prompts.",
        practice="Do not explain a difference between PSR and NSR by their mean gradient: look at the optimiser, the "
        "clip, the normaliser and the noise. A projection that is not 1 in your own runs says that your sampler and "
        "your trainer have different probabilities.",
        decide=_s1,
        theorem=True,
        seconds=350.0,
    ),
)
