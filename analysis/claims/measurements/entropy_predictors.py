"""Formulas that foretell what an update does to the entropy at a token, beside what it did.

With y the token, w its weight in the update, H the entropy and S_v = π_v(log π_v + H):

    discriminator       −w·S_y: the logit of y alone moves by w
    polarity            −w·(S_y − Σ π_v S_v): all logits move along w(e_y − π); the law of the toolkit
    four factors        −w·(1 − π_y)·S_y: the logit of y alone moves along w(e_y − π)
    covariance          −(w − mean w)·(log π_y − mean log π_y), means over the tokens of the update
    relative surprisal  w·(−log π_y / H − 1)

Only orders and signs count: a formula knows no step size.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from ...errors import UsageError
from ...records import Run
from ...records.effects import context_flows

__all__ = ["PREDICTORS", "UPPER_BOUND", "entropy_changes", "quality"]

PREDICTORS = ("discriminator", "polarity", "four factors", "covariance", "relative surprisal")
UPPER_BOUND = "JVP of the step"
_SHUFFLES = 16
_LEAST = 20  # tokens of an update or a decile that a correlation is taken over
_SMALL = 1e-6  # nats; below this float32 records do not resolve an entropy


def entropy_changes(run: Run) -> pd.DataFrame:
    """One row for each token of an update with a weight: its predictors, weight, entropy before and the change.

    Raises:
        UsageError: no such token was followed with a JVP.
    """
    flows = context_flows(run)
    found = flows[(flows["kind"] == "batch") & (flows["weight"].fillna(0.0) != 0)]
    found = found[found["jvp_dentropy"].notna() & (found["entropy_before"] > _SMALL)].reset_index(drop=True)
    if found.groupby("update").size().max() < _LEAST or found.empty:
        raise UsageError(
            f"run {run.run_id}: expected at least {_LEAST} tokens of one update with a weight and a JVP, got fewer; "
            "set record.contexts to 64 or more and record.jvp_every above 0"
        )
    w, log_prob, entropy = (
        found[name].to_numpy(dtype=float) for name in ("weight", "log_prob_before", "entropy_before")
    )
    score = np.exp(log_prob) * (log_prob + entropy)
    by_update = found["update"].to_numpy()
    values = {
        "discriminator": -w * score,
        "polarity": found["law_dentropy"].to_numpy(dtype=float),
        "four factors": -w * found["one_minus_prob_before"].to_numpy(dtype=float) * score,
        "covariance": -_centred(w, by_update) * _centred(log_prob, by_update),
        "relative surprisal": w * (-log_prob / entropy - 1),
        UPPER_BOUND: found["jvp_dentropy"].to_numpy(dtype=float),
    }
    return pd.DataFrame(
        {"update": by_update, "weight": w, "entropy": entropy, "change": found["dentropy"].to_numpy(float), **values}
    )


def quality(rows: pd.DataFrame, predictor: str, seed: int = 0) -> dict[str, float]:
    """Of one predictor, means over updates, each with a scale of its own.

    Returns:
        rank: Spearman's correlation with the change.
        excess: rank less the mean of the same with weights shuffled within the update.
        r_squared: Squared correlation.
        sign: Fraction of tokens whose change has the predicted sign, among those where both are not 0.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {name: [] for name in ("rank", "excess", "r_squared", "sign")}
    for _, update in rows.groupby("update"):
        predicted, change = (update[name].to_numpy(dtype=float) for name in (predictor, "change"))
        if len(update) < _LEAST or np.ptp(predicted) == 0 or np.ptp(change) == 0:
            continue
        rank = _rank(predicted, change)
        found["rank"].append(rank)
        found["excess"].append(rank - _null(update, predictor, rng))
        found["r_squared"].append(float(np.corrcoef(predicted, change)[0, 1]) ** 2)
        some = predicted * change != 0
        if some.any():
            found["sign"].append(float((predicted * change > 0)[some].mean()))
    return {name: float(np.mean(values)) if values else float("nan") for name, values in found.items()}


def _null(update: pd.DataFrame, predictor: str, rng: np.random.Generator) -> float:
    """The rank correlation once weights are dealt out anew: what the shape of the formula does by itself."""
    weight, change = update["weight"].to_numpy(dtype=float), update["change"].to_numpy(dtype=float)
    if predictor == "covariance":
        scale = weight - weight.mean()
        shape = np.divide(update[predictor], scale, out=np.zeros(len(scale)), where=scale != 0)
    else:
        scale, shape = weight, update[predictor].to_numpy(dtype=float) / weight
    return float(np.mean([_rank(rng.permutation(scale) * shape, change) for _ in range(_SHUFFLES)]))


def _rank(x: np.ndarray, y: np.ndarray) -> float:
    return float(stats.spearmanr(x, y).statistic) if np.ptp(x) and np.ptp(y) else 0.0


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    series = pd.Series(values)
    centred: np.ndarray = (series - series.groupby(groups).transform("mean")).to_numpy()
    return centred
