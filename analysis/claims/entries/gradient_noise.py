"""N1: which sign of reward has the noisier gradient, and whether the noise foretells the gap after training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...factorial.factors import cell_name
from ..claim import Claim, Decision, Effect
from ..comparisons import compare
from ..conditions import combined
from ..conjunctions import SeedValues
from ..evidence import Evidence, Methods
from ..fraction import PLACES, STUDIES
from ..rules import exceeds
from ..studies import COUNTDOWN_A, COUNTDOWN_B, MAIN, PATH_A, PATH_B
from ..study import NSR, PSR
from .decomposition import values_of_place

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CLAIMS", "decide_noise", "judge", "signed"]

_ENTROPY = "entropy_fixed"
_LEVEL = 0.05
# The cell of the fraction that is nearest to common practice: few responses, dropped rows, AdamW.
_PRACTICE = cell_name(frozenset({"noise", "drop", "optimizer"}))
_SEEDS = range(8)
# Bases whose accuracies fill the range between those that runs start from, for the crossing: of seed 0.
_FURTHER = (
    *("path-p20", "path-p55", "path-p75", "path-p95"),
    *("countdown-p20", "countdown-p55", "countdown-p70", "countdown-p80", "countdown-p90"),
)
Gaps = Mapping[str, tuple[str, Mapping[int, float]]]  # condition -> its base, seed -> gap


def signed(gaps: Mapping[int, float], ratios: Mapping[int, float]) -> np.ndarray:
    """Gaps NSR − PSR counted positive where they have the sign that the noise foretells, one for each common seed.

    The noisier method is predicted to keep less: a ratio Var(NSR)/Var(PSR) above 1 foretells a negative gap.

    Example:
        >>> signed({0: -0.03, 1: 0.02}, {0: 19.0, 1: 0.5}).tolist()
        [0.03, 0.02]
    """
    return np.array([-math.copysign(1.0, math.log(ratios[seed])) * gaps[seed] for seed in sorted(gaps.keys() & ratios)])


def _n1(evidence: Evidence) -> Decision:
    from ..measurements.noise_ratios import noise_ratios

    seeds = {"path": _SEEDS, "countdown-p40": _SEEDS} | {
        place.base: range(place.seeds) for place in PLACES if place.base != "path"
    }
    noise = noise_ratios(seeds | dict.fromkeys(_FURTHER, range(1)), evidence.progress)
    values = {place.name: values_of_place(evidence, place) for place in PLACES}
    gaps: dict[str, tuple[str, Mapping[int, float]]] = {}
    for study, base in zip(MAIN, ("path", "path", "countdown-p40", "countdown-p40"), strict=True):
        found = compare(evidence.methods(study), NSR, PSR, [_ENTROPY], "pass@1")[_ENTROPY]
        gaps[study.name] = base, dict(zip(found.seeds, found.values.mean(1).tolist(), strict=True))
    for place in PLACES:
        rows = values[place.name]
        rows = rows[(rows["metric"] == _ENTROPY) & (rows["cell"] == _PRACTICE)].dropna(subset="matched")
        gaps[place.name] = place.base, dict(zip(rows["seed"], rows["matched"], strict=True))
    return decide_noise(noise, gaps, _scalings(values, gaps))


def judge(methods: Methods) -> Decision:
    """Whether the noise that was recorded at the base foretells the gap, for runs of PSR and NSR of a user's own.

    Raises:
        UsageError: a method is missing.
    """
    found = compare(methods, NSR, PSR, [_ENTROPY], "pass@1")[_ENTROPY]
    ratios = {}
    for seed in found.seeds:
        rows = methods[PSR][seed].table("noise")
        start = rows[(rows["estimator"] == NSR) & (rows["step"] == rows["step"].min())]
        ratios[seed] = float(start["noise_ratio"].iloc[0])
    gaps = dict(zip(found.seeds, found.values.mean(1).tolist(), strict=True))
    return exceeds(_foretold("in the foretold direction", "yours", gaps, {"yours": ratios}))


def _scalings(values: Mapping[str, pd.DataFrame], gaps: Gaps) -> Gaps:
    """What noise × step size should make larger in the foretold direction: with more of it less with less, by seed."""
    from ..measurements.fraction_effects import effect_by_seed

    found: dict[str, tuple[str, Mapping[int, float]]] = {}
    for place in PLACES:
        rows = values[place.name]
        rows = rows[rows["metric"] == _ENTROPY]
        for factor, text in (("noise", "fewer responses a prompt"), ("optimizer", "AdamW instead of SGD")):
            found[f"{text}, {place.name}"] = place.base, effect_by_seed(rows, "matched", factor)
    for large, small in ((PATH_A, PATH_B), (COUNTDOWN_A, COUNTDOWN_B)):
        base, of_large = gaps[large.name]
        of_small = gaps[small.name][1]
        by_seed = {seed: of_large[seed] - of_small[seed] for seed in of_large.keys() & of_small.keys()}
        found[f"2.7 times the rate, {large.name.split(',')[0]}"] = base, by_seed
    return found


def decide_noise(noise: pd.DataFrame, gaps: Gaps, scalings: Gaps) -> Decision:
    """The verdict from the noise of the bases and the gaps after training.

    Args:
        noise: Rows of `noise_ratios`.
        gaps: condition -> its base, and the entropy gap NSR − PSR at equal Pass@1 by seed.
        scalings: What should grow -> its base, and by how much the gap changed by seed.
    """
    from ...evaluation.crossings import crossing_by_task

    nsr = noise[noise["estimator"] == NSR]
    ratios = {
        str(base): {int(seed): float(ratio) for seed, ratio in zip(rows["seed"], rows["noise_ratio"], strict=True)}
        for base, rows in nsr.groupby("base")
    }
    effects, crossed = [], []
    for task, found in crossing_by_task(noise).items():
        inside = found.at is not None
        crossed.append(inside)
        low, high = (math.nan if end is None else end for end in (found.low, found.high))
        effects.append(
            Effect(
                "accuracy at which NSR and PSR are equally noisy",
                math.nan if found.at is None else found.at,
                low,
                high,
                n=int((nsr["task"] == task).sum()),
                over="bases",
                condition=task,
                null=0.5,
                kind=str(found.kind),
                reason=found.reason or ("" if inside else "the variances do not cross within the bases"),
            )
        )
    parts = {
        f"sign ({name})": _foretold(f"foretold sign, {name}", *pair, ratios, unit=_unit(name))
        for name, pair in gaps.items()
    }
    parts |= {
        f"size ({name})": _foretold(f"what is added by {name}", *pair, ratios, unit=_unit(name))
        for name, pair in scalings.items()
    }
    verdicts = combined(_corrected(parts))
    agreeing, total = _agreement(gaps, ratios)
    head = (
        f"The variances cross on {sum(crossed)} of {len(crossed)} tasks. The sign of the gap is the foretold one in "
        f"{agreeing} of {total} pairs of runs. "
    )
    tables = {
        "noise": {name: nsr[name].tolist() for name in ("base", "task", "seed", "p", "noise_ratio", "noise_ratio_se")},
        "gaps": _gap_table(gaps, ratios),
    }
    verdict = replace(verdicts, reason=head + verdicts.reason, effects=(*effects, *verdicts.effects), tables=tables)
    if verdict.verdict == "holds" and not all(crossed):
        return replace(verdict, verdict="fails", reason=head + "One sign is noisier at every accuracy measured.")
    return verdict


def _unit(condition: str) -> str:
    """Cells of the decomposition count gaps for the Pass@1 gained, other runs as means over their common range."""
    return "nats per 0.1 of Pass@1" if any(place.name in condition for place in PLACES) else "nats"


def _foretold(
    label: str,
    base: str,
    gaps: Mapping[int, float],
    ratios: Mapping[str, Mapping[int, float]],
    *,
    unit: str = "nats",
) -> Effect:
    """The gap in the foretold direction, with Student's interval over seeds."""
    known = ratios.get(base, {})
    seeds = tuple(sorted(gaps.keys() & known))
    values = SeedValues(f"entropy gap, {label}", "equal Pass@1", seeds, signed(gaps, known), {})
    return values.effect(condition=f"base {base}", unit=unit)


def _corrected(effects: Mapping[str, Effect]) -> dict[str, Decision]:
    """The decision of each part, undecided where Holm's correction over all parts leaves it above 5%."""
    from ...evaluation.crossed import holm
    from ..measurements.fraction_effects import p_value

    p = {name: p_value(effect.value, effect.low, effect.high, effect.n) for name, effect in effects.items()}
    known = [name for name, value in p.items() if math.isfinite(value)]
    adjusted = dict(zip(known, holm([p[name] for name in known]), strict=True))
    out = {}
    for name, effect in effects.items():
        part = exceeds(effect)
        if part.verdict != "undecided" and adjusted[name] >= _LEVEL:
            why = f"Holm's p over {len(known)} comparisons is {adjusted[name]:.2g}"
            part = Decision("undecided", f"{part.reason} {why}.", part.effects, missing=why)
        out[name] = part
    return out


def _agreement(gaps: Gaps, ratios: Mapping[str, Mapping[int, float]]) -> tuple[int, int]:
    found = np.concatenate([signed(by_seed, ratios.get(base, {})) for base, by_seed in gaps.values()] or [np.zeros(0)])
    return int((found > 0).sum()), len(found)


def _gap_table(gaps: Gaps, ratios: Mapping[str, Mapping[int, float]]) -> dict[str, list[object]]:
    rows: list[tuple[object, ...]] = [
        (name, base, seed, ratios[base][seed], gap)
        for name, (base, by_seed) in gaps.items()
        for seed, gap in by_seed.items()
        if seed in ratios.get(base, {})
    ]
    columns = ("condition", "base", "seed", "noise_ratio", "gap")
    return {column: [row[i] for row in rows] for i, column in enumerate(columns)}


CLAIMS = (
    Claim(
        id="N1",
        family="identity",
        title="Gradient noise foretells the sign of the gap",
        statement="Which sign of reward has the noisier gradient depends on accuracy: below a crossing p* the gradient "
        "of NSR is the noisier one, above it that of PSR. The noisier method keeps less entropy at equal Pass@1, and "
        "the more so the more noise and step size there is.",
        source="this project; not in 2506.01347",
        hypothesis="The variance of NSR is that of PSR at an accuracy between 0.1 and 0.95; the entropy gap NSR − PSR "
        "at equal Pass@1 is negative where NSR is the noisier at the base and positive where PSR is; smaller groups, "
        "AdamW and a larger rate move it further the same way.",
        statistic="The ratio of the variances around the exact gradient, per sample, for the base of each seed, "
        "measured without any training. Then the entropy gap on fixed prefixes at equal Pass@1, counted positive where "
        "it has the sign that the ratio of its own base foretells.",
        margin="0: a prediction of a sign",
        rule="Each condition holds where the whole interval of the signed gap (or of its change) lies above 0 and "
        "fails where it lies below, both after Holm's correction over all conditions. Holds where all conditions hold "
        "and the variances cross on every task; fails where all conditions fail, or where all hold without a crossing; "
        "depends where some hold and others fail; otherwise undecided. Pairs of runs without a common range of Pass@1 "
        "are left out and counted.",
        conditions="path and countdown, regimes A and B, 8 seeds; path from bases of accuracy 0.35, 0.6 and 0.85 with "
        "4 responses a prompt, dropped rows and AdamW (8 seeds each); the noise also on bases of other accuracies.",
        practice="Measure the noise ratio of your base (python -m analysis.noise) before you choose a sign: learn from "
        "the less noisy one, or spend rollouts where the noise is.",
        decide=_n1,
        studies=(*MAIN, *STUDIES),
        seconds=150.0,
        judge=judge,
        tables=("evals", "noise"),
    ),
)
