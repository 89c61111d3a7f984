"""Entry F8: which formula foretells what an update does to the entropy at a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..claim import Claim
from ..conjunctions import Part, SeedValues, all_of, by_condition, judged
from ..decision import Decision
from ..evidence import Methods
from ..studies import ONE_SGD_UPDATE
from ..study import GRPO, METHODS, Study

__all__ = ["CLAIMS"]

_RECORDED: dict[str, Any] = {
    "steps": 4,
    "eval.every": 4,
    "eval.samples": 1,
    "record.contexts": 512,
    "record.contexts_every": 1,
    "record.jvp_every": 1,
    "record.shares_every": 0,
}
_ONE = {GRPO: METHODS[GRPO]}
_STUDIES = (
    Study("path, SGD", "default", _ONE, {**_RECORDED, **ONE_SGD_UPDATE, "optimizer.lr": 0.15}, seeds=4),
    Study("path, AdamW", "default", _ONE, _RECORDED, seeds=4),
    Study("countdown, AdamW", "countdown", _ONE, _RECORDED, seeds=4),
)
_RANK, _EXCESS = 0.3, 0.1
_DECILES = 10


def _foretells(methods: Methods, name: str) -> Mapping[str, Decision]:
    """Of each formula, whether its order is that of the realised changes, and more so than with shuffled weights."""
    from ..measurements.entropy_predictors import PREDICTORS, UPPER_BOUND, entropy_changes, quality

    rows = {seed: entropy_changes(run) for seed, run in sorted(methods[GRPO].items())}
    table: dict[str, list[Any]] = {
        column: [] for column in ("predictor", "entropy_decile", "rank", "excess", "r_squared", "sign", "seed")
    }
    found: dict[str, Decision] = {}
    deciles = {
        seed: np.minimum((part["entropy"].rank(pct=True) * _DECILES).astype(int), _DECILES - 1)
        for seed, part in rows.items()
    }
    for predictor in (*PREDICTORS, UPPER_BOUND):
        by_seed = {seed: quality(part, predictor, seed) for seed, part in rows.items()}
        for seed, part in rows.items():
            within = {
                str(decile + 1): quality(part[deciles[seed] == decile].assign(update=0), predictor, seed)
                for decile in range(_DECILES)
            }
            for decile, numbers in {"all": by_seed[seed], **within}.items():
                for column, value in {
                    "predictor": predictor,
                    "entropy_decile": decile,
                    "seed": seed,
                    **numbers,
                }.items():
                    table[column].append(value)
        values = {
            column: SeedValues(
                f"{label}, {predictor}",
                "after one update",
                tuple(by_seed),
                np.array([numbers[column] for numbers in by_seed.values()]),
                {},
            )
            for column, label in (
                ("rank", "rank correlation with the change of entropy"),
                ("excess", "rank correlation less that with shuffled weights"),
                ("r_squared", "R²"),
                ("sign", "fraction of signs foretold"),
            )
        }
        condition = f"{name}, {predictor}"
        besides = tuple(values[column].effect(condition=condition) for column in ("r_squared", "sign"))
        if predictor == UPPER_BOUND:  # reported, not judged
            last = next(reversed(found))
            more = (values["rank"].effect(condition=condition), *besides)
            found[last] = replace(found[last], effects=(*found[last].effects, *more))
            continue
        parts = [
            Part("a rank correlation above 0.3", values["rank"], _RANK),
            Part("more than shuffled weights give", values["excess"], _EXCESS),
        ]
        decision = all_of(parts, condition)
        found[condition] = replace(decision, effects=(*decision.effects, *besides))
    first = next(iter(found))
    found[first] = replace(found[first], tables={**found[first].tables, "predictors": table})
    return found


CLAIMS = (
    Claim(
        id="F8",
        family="field",
        title="A token's own numbers foretell its entropy change",
        statement="From the weight, the probability and the entropy of a token one can tell what an update does to the "
        "entropy there. Five formulas claim to.",
        source="2602.03392 (discriminator), 2605.11775 (polarity), 2510.10150 (four factors), 2505.22617 (covariance), "
        "2606.31575 (relative surprisal); all but the first seen as abstracts, with formulas derived from them: the "
        "papers' own may differ in factors",
        hypothesis="The change of entropy at tokens of an update is in the order that a formula foretells.",
        statistic="Spearman's correlation over the tokens of an update between formula and realised change of entropy "
        "at the token's own prefix, mean over updates, and the same less that with weights shuffled within the update. "
        "Beside it R², the fraction of signs foretold, the first-order change under the actual parameter step as the "
        "most that any formula can tell, and all of it by decile of entropy (table predictors).",
        margin=f"{_RANK:g} of correlation, and {_EXCESS:g} more than with shuffled weights",
        rule="For each formula: holds where both intervals lie above their margins, fails where one lies below it by "
        "the simultaneous interval of the two; depends on formula, optimiser or task where these differ. Each formula "
        "is a claim of its own, so that no correction is made between formulas.",
        conditions="GRPO on path with one SGD update for each batch and with four of AdamW, and on countdown with "
        "AdamW; 4 batches of 1024 rollouts, up to 256 tokens of each update, 4 seeds with a base each. A method acts "
        "on its own updates, so that no matching arises.",
        practice="Before you weigh or clip tokens by such a formula, look at how much it tells with your optimiser: "
        "most of what happens at a prefix comes from other tokens of the batch.",
        decide=lambda evidence: by_condition(evidence, _STUDIES, _foretells),
        studies=_STUDIES,
        seconds=20.0,
        judge=lambda methods: judged(methods, _foretells, GRPO),
        tables=("flows", "contexts"),
    ),
)
