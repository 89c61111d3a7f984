"""How weights were scaled, measured: by the response's length, by the sign, and whether they are weights on log π.

The normaliser that is in effect is read from the weights and not from a configuration. Where every token of a batch is
divided by the same number, the weight over the advantage does not depend on the response's length L; where each
response is divided by its own length, it falls as 1/L. The exponent b of |w|/|A| ∝ L^b is the least-squares slope of
the logarithms over responses, within each update and sign, of the median over the response's tokens that have a weight.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from .evidence import Evidence
from .finding import Finding, missing
from .thresholds import THRESHOLDS

__all__ = ["effective_lambda", "normaliser", "residual"]

_FEW_RESPONSES = 20
_LEAST_SPREAD = 0.1  # standard deviation of log length within updates, below which no slope can be told
_LARGEST_ERROR = 0.125  # standard error of the exponent: half of what tells 0 from the notice at 0.25
_OWN_LENGTH = "per_sequence"  # the recipe's word for division by the response's own length


def normaliser(evidence: Evidence) -> Finding:
    """The exponent of the weight in the length of the response."""
    if not evidence.measured:
        return missing("normaliser", "no measured weights")
    tokens = evidence.weighted
    tokens = tokens[tokens["weight"] != 0]
    key = ["update", "step", "rollout"]
    rows = pd.DataFrame(
        {
            "weight": tokens["weight"].abs().groupby([tokens[name] for name in key]).median(),
            "sign": np.sign(tokens.groupby(key)["weight"].median()),
            "length": tokens.groupby(key)["length"].first(),
            "advantage": tokens.groupby(key)["advantage"].first().astype(float).abs(),
        }
    ).reset_index()
    if rows["advantage"].notna().all() and (rows["advantage"] > 0).all():
        rows["weight"] /= rows["advantage"]
    x, y = np.log(rows["length"].to_numpy(float)), np.log(rows["weight"].to_numpy(float))
    cell = rows.groupby(["update", "sign"]).ngroup().to_numpy()
    x, y = _within(x, cell), _within(y, cell)
    free = len(x) - len(np.unique(cell)) - 1
    if free < _FEW_RESPONSES or np.sqrt((x * x).sum() / max(1, free)) < _LEAST_SPREAD:
        return missing(
            "normaliser",
            f"too little; it needs {_FEW_RESPONSES} responses with a weight, of lengths that differ by a tenth within "
            "their update and sign",
        )
    exponent = float((x * y).sum() / (x * x).sum())
    error = float(np.sqrt(((y - exponent * x) ** 2).sum() / free / (x * x).sum()))
    short, long = np.quantile(rows["length"], [0.1, 0.9])
    factor = float((short / long) ** exponent)
    details = {"exponent": exponent, "standard_error": error, "responses": len(rows), "short_over_long": factor}
    if error > _LARGEST_ERROR:
        sentence = (
            f"The weight goes with the response's length to the power {exponent:.2f} ± {error:.2f}, too uncertain to "
            "tell which normaliser is in effect."
        )
        return Finding("normaliser", exponent, "exponent of the length", sentence, details=details)
    severity = THRESHOLDS["normaliser"].severity(abs(exponent))
    stated = ((evidence.info.get("recipe") or {}).get("update") or {}).get("normalizer") == _OWN_LENGTH
    if severity == "alarm" and stated:
        severity = "notice"
    if severity == "fine":
        what = "the loss is divided by one number for all responses"
    elif abs(exponent + 1) < THRESHOLDS["normaliser"].notice:
        what = "each response is divided by its own length" + (", as the recipe says" if stated else "")
    else:
        what = "neither one number for all responses nor the response's own length"
    sentence = (
        f"The weight of a token goes with its response's length to the power {exponent:.2f} ± {error:.2f}: {what}. A "
        f"token of a short response ({short:g} tokens) counts {factor:.2g} times one of a long response ({long:g})."
    )
    return Finding("normaliser", exponent, "exponent of the length", sentence, severity, details)


def _within(values: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Deviations from the mean of the cell."""
    means: np.ndarray = np.bincount(cell, values) / np.maximum(1, np.bincount(cell))
    deviations: np.ndarray = values - means[cell]
    return deviations


def effective_lambda(evidence: Evidence) -> Finding:
    """Mean |w| of a token that is pushed up over that of one that is pushed down."""
    if not evidence.measured:
        return missing("lambda", "no measured weights")
    weight = evidence.weighted["weight"].to_numpy(float)
    up, down = weight[weight > 0], -weight[weight < 0]
    if not (len(up) and len(down)):
        which = "up" if len(up) else "down"
        return missing("lambda", f"weights of both signs; every weight pushes {which}")
    value = float(up.mean() / down.mean())
    sums = float(up.sum() / down.sum())
    updates = evidence.updates
    if len(updates) and (updates["weight_sum_neg"] < 0).any():
        sums = float(updates["weight_sum_pos"].sum() / -updates["weight_sum_neg"].sum())
    sentence = (
        f"A token that is pushed up has {value:.3g} times the weight of one that is pushed down (the effective λ); in "
        f"total, positive weights are {sums:.3g} times the negative ones."
    )
    return Finding("lambda", value, "", sentence, details={"of_sums": sums})


def residual(evidence: Evidence) -> Finding:
    """The median part of the gradient that is not a weight on log π."""
    values = evidence.tokens["residual"].dropna().to_numpy(float)
    if not len(values):
        return missing("residual", "no residuals")
    value = float(np.median(values))
    severity = THRESHOLDS["residual"].severity(value)
    sentence = f"For the median token {value:.1%} of the logit gradient is not a weight on log π."
    if severity != "fine":
        sentence += " The temperature is not that of the loss, or the loss has a term of its own."
    return Finding("residual", value, "fraction", sentence, severity)
