"""What follows from the records: first-order effects of tokens, and predictions beside realised changes.

There are two predictions of what an update does to a context:

    law   the token's own direction at a unit logit step, Δ(z/T) = w·(e_y − π). Its scale is that of the unit step, not
          of the optimiser's, so it is compared by sign, by rank correlation and by fitted slope
    jvp   the first-order change under the actual parameter step, on the scale of the realised change

Realised changes are those between the two forward passes around the update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from scipy import stats as scipy_stats

from ..errors import UsageError
from ..laws import (
    TokenStatistics,
    bucket_flow,
    entropy_change,
    entropy_change_parts,
    gradient_norms,
    log_prob_change,
    squeeze_boundary,
    token_prob_change,
)
from .frames import FLOW_COLUMNS, LAW_COLUMNS, PREDICTION_COLUMNS, with_units
from .hypothetical_weights import assumed_weights, tensor_of
from .schema import BUCKET_LABELS, LAW_STATISTICS, SHARES, TABLES

if TYPE_CHECKING:
    from ..objectives import Objective
    from .recorded import Recorded, Where

__all__ = ["context_flows", "prediction_summary", "statistics_of", "token_laws"]

# the columns of `tokens` that hold one value
_SINGLE = [*(column.name for column in TABLES["tokens"].columns if column.kind not in ("ints", "floats")), "token_text"]


def token_laws(run: Recorded, objective: str | Objective | None = None, *, where: Where = None) -> pd.DataFrame:
    """First-order effect of each recorded token on its own context, per unit logit step Δ(z/T) = w·(e_y − π).

    Args:
        run: a run whose `tokens` were recorded.
        objective: a name or an `Objective`. The weights are then those that it would have given to the recorded
            rewards, before any normaliser of the loss: assumed, not measured. Without it they are the measured ones.
        where: rows of `tokens`, as in `Run.table`.

    Returns:
        One row per row of `tokens`, with its columns that hold one value (log_prob, entropy, weight, token_text, …) and

            dlog_prob, dprob                        of y: w‖d‖², w·π_y‖d‖² with d = e_y − π
            dentropy                                of H, in nats; = dentropy_binary + dentropy_weighted_rest
            dentropy_binary, dentropy_weighted_rest of h(π_y) and of (1 − π_y)·H(rest)
            dentropy_rest                           of H(rest), the alternatives among themselves
            squeeze_boundary                        c − π_y: tokens with more mass than this move against y
            grad_l1, grad_l2                        norms of w·(e_y − π)/T, the descent direction of the logits

        Units are in `attrs["units"]`. `weight` is float64. Where a token has none, nor has what follows from it.

    Raises:
        UsageError: no weight was measured and no objective is given, or the rewards that it needs are missing.

    Example:
        >>> run.laws().groupby("token_text")["dentropy"].mean()  # doctest: +SKIP
    """
    rows = run.table("tokens", _SINGLE, where)
    stats = statistics_of(rows)
    if objective is not None:
        weight = assumed_weights(run, rows, objective)
    elif len(rows) and rows["weight"].isna().all():
        raise UsageError(
            "objective: expected a name, since no weight of these tokens was measured, got none; "
            "for example run.laws('reinforce-ratio')"
        )
    else:
        weight = tensor_of(rows["weight"])
    known = torch.isfinite(weight)  # a run of attach leaves weights out that the gradient does not tell
    weight = torch.where(known, weight, 0.0)
    parts = entropy_change_parts(stats, weight, 1.0)
    norms = gradient_norms(stats, weight, temperature=run.info["temperature"])
    effects = {
        "weight": weight,
        "dlog_prob": log_prob_change(stats, weight, 1.0),
        "dprob": token_prob_change(stats, weight, 1.0),
        "dentropy": entropy_change(stats, weight, 1.0),
        "dentropy_binary": parts.binary,
        "dentropy_weighted_rest": parts.weighted_rest,
        "dentropy_rest": parts.rest,
        "squeeze_boundary": squeeze_boundary(stats),
        "grad_l1": norms.l1,
        "grad_l2": norms.l2,
    }
    effects = {
        name: x if name == "squeeze_boundary" else x.masked_fill(~known, torch.nan) for name, x in effects.items()
    }
    laws = rows.assign(**{name: values.numpy() for name, values in effects.items()})
    return with_units(laws, TABLES["tokens"].columns, LAW_COLUMNS)


def statistics_of(rows: pd.DataFrame, suffix: str = "") -> TokenStatistics:
    """Token statistics read back from records, float64: those that first-order laws need."""
    values = {name: tensor_of(rows[name + suffix]) for name in LAW_STATISTICS}
    no_token, no_prob = torch.full((len(rows),), -1), torch.full((len(rows),), torch.nan, dtype=torch.float64)
    return TokenStatistics(**values, argmax_token=no_token, argmax_prob=no_prob)


def context_flows(run: Recorded, *, where: Where = None) -> pd.DataFrame:
    """Contexts through updates: realised changes beside those that the law and the JVP predict.

    Args:
        run: a run whose contexts were followed.
        where: rows of `flows`, as in `Run.table`.

    Returns:
        One row per row of `flows`, with the columns of its context. Besides the recorded columns (without the top
        tokens):

        dlog_prob, dentropy, dbucket              realised changes; dbucket is a list over rank buckets before
        law_dlog_prob, law_dentropy, law_dbucket  own direction at a unit logit step: its sign and order count, its
                                                  scale does not. Missing where no weight was measured
        jvp_dlog_prob, jvp_dentropy, jvp_bucket   first order in the actual parameter step, where recorded
        jvp_dlog_prob_shares, jvp_dentropy_shares the first two by part of the step, lists in the order of
                                                  `schema.SHARES`
    """
    columns = [name for name in TABLES["flows"].names if not name.startswith("top_")]
    arrow = run.table("flows", columns, where, as_="arrow")
    lists = {name: _matrix(arrow, name) for name in columns if pa.types.is_list(arrow.schema.field(name).type)}
    flows = arrow.select([name for name in columns if name not in lists]).to_pandas()
    stats = statistics_of(flows, "_before")
    weight = tensor_of(flows["weight"])
    measured = torch.isfinite(weight)
    w = torch.where(measured, weight, 0.0)
    before = torch.from_numpy(lists["bucket_mass_before"])
    law_bucket = bucket_flow(
        before,
        torch.from_numpy(lists["bucket_mass_sq_before"]),
        stats,
        w,
        1.0,
        token_bucket=torch.from_numpy(flows["token_bucket"].to_numpy(dtype=np.int64)),
    )
    flows["dlog_prob"] = flows["log_prob_after"].astype(float) - flows["log_prob_before"].astype(float)
    flows["dentropy"] = flows["entropy_after"].astype(float) - flows["entropy_before"].astype(float)
    for name, change in (("dlog_prob", log_prob_change), ("dentropy", entropy_change)):
        flows[f"law_{name}"] = torch.where(measured, change(stats, w, 1.0), torch.nan).numpy()
    lists["dbucket"] = lists["bucket_mass_after"] - lists["bucket_mass_before"]
    lists["law_dbucket"] = torch.where(measured[:, None], law_bucket, torch.nan).numpy()
    for name, matrix in lists.items():
        flows[name] = list(matrix)
    flows = flows.merge(run.table("contexts"), on="context", how="left", validate="many_to_one")
    return with_units(flows, TABLES["contexts"].columns, TABLES["flows"].columns, FLOW_COLUMNS)


def _matrix(rows: pa.Table, name: str) -> np.ndarray:
    """A list column of equal lengths as float64 (n, length); rows of NaN where it is null."""
    column = rows.column(name).combine_chunks()
    width = len(SHARES if name.endswith("_shares") else BUCKET_LABELS)
    out = np.full((len(column), width), np.nan)
    out[column.is_valid().to_numpy(zero_copy_only=False)] = column.flatten().to_numpy().reshape(-1, width)
    return out


def prediction_summary(run: Recorded, *, ranges: int = 1) -> pd.DataFrame:
    """How the two predictions met the realised changes, by range of updates, kind of context and reward sign.

    Args:
        run: a run whose contexts were followed.
        ranges: into how many equal ranges the updates are split.

    Returns:
        One row for each of `ranges` equal ranges of updates (first_update to last_update, both included), kind, sign
    (missing where the response had none), `weights` (nonzero, zero, unmeasured: contexts whose token had no weight of
    its own stand apart, since the law says nothing about them) and quantity (log_prob, entropy, and the mass of each
    rank bucket):

        n, realised_median_abs      number of contexts; median |realised change|
        law_n                       contexts with a law prediction other than 0
        law_sign_agreement          fraction of them that moved in its direction
        law_spearman, law_slope     rank correlation; least-squares slope through 0 of realised on predicted
        jvp_n                       contexts with a JVP
        jvp_r2                      1 − Σ(realised − jvp)² / Σ(realised − mean)²
        jvp_slope                   least-squares slope through 0 of realised on JVP
        jvp_median_relative_error   median |realised − jvp| / |realised| over realised ≠ 0

    A statistic that its numbers do not determine (none, fewer than three for a correlation, all equal) is missing.

    Raises:
        UsageError: fewer than one range.
    """
    flows = in_ranges(context_flows(run), ranges)
    if flows.empty:
        return with_units(pd.DataFrame(columns=[column.name for column in PREDICTION_COLUMNS]), PREDICTION_COLUMNS)
    flows["weights"] = np.select([flows["weight"].isna(), flows["weight"] == 0], ["unmeasured", "zero"], "nonzero")
    out = []
    for group, rows in flows.groupby(_GROUP, dropna=False, sort=True):
        for quantity, realised, law, jvp in _quantities(rows):
            out.append(dict(zip(_GROUP, group, strict=True)) | {"quantity": quantity} | _measures(realised, law, jvp))
    return with_units(pd.DataFrame(out), PREDICTION_COLUMNS)


def in_ranges(flows: pd.DataFrame, ranges: int) -> pd.DataFrame:
    """`flows` with first_update and last_update of the range that each row's update lies in, of equal ranges."""
    if ranges < 1:
        raise UsageError(f"ranges: expected at least 1, got {ranges}; 1 takes all updates together")
    if flows.empty:
        return flows.assign(first_update=0, last_update=0)
    edges = np.linspace(flows["update"].min(), flows["update"].max() + 1, ranges + 1)
    index = np.searchsorted(edges, flows["update"], side="right") - 1
    return flows.assign(
        first_update=np.ceil(edges[index]).astype(int), last_update=np.ceil(edges[index + 1]).astype(int) - 1
    )


_GROUP = ["first_update", "last_update", "kind", "sign", "weights"]


def _quantities(rows: pd.DataFrame) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    out = [
        (name, *(rows[f"{prefix}d{name}"].to_numpy(dtype=float) for prefix in ("", "law_", "jvp_")))
        for name in ("log_prob", "entropy")
    ]
    realised, law, jvp = (np.stack(rows[name].tolist()) for name in ("dbucket", "law_dbucket", "jvp_bucket"))
    return out + [(f"mass {label}", realised[:, b], law[:, b], jvp[:, b]) for b, label in enumerate(BUCKET_LABELS)]


def _measures(realised: np.ndarray, law: np.ndarray, jvp: np.ndarray) -> dict[str, float]:
    has_law, has_jvp = np.isfinite(law) & (law != 0), np.isfinite(jvp)
    x, y = law[has_law], realised[has_law]
    j, r = jvp[has_jvp], realised[has_jvp]
    moved = r != 0
    return {
        "n": len(realised),
        "realised_median_abs": median_or_nan(np.abs(realised)),
        "law_n": len(x),
        "law_sign_agreement": float(np.mean(np.sign(x) == np.sign(y))) if len(x) else np.nan,
        "law_spearman": _spearman(x, y),
        "law_slope": slope(x, y),
        "jvp_n": len(j),
        "jvp_r2": r_squared(r, j),
        "jvp_slope": slope(j, r),
        "jvp_median_relative_error": median_or_nan(np.abs(r - j)[moved] / np.abs(r[moved])),
    }


def median_or_nan(values: np.ndarray) -> float:
    """The median; NaN of nothing."""
    return float(np.median(values)) if len(values) else np.nan


def r_squared(realised: np.ndarray, predicted: np.ndarray) -> float:
    """1 − Σ(realised − predicted)² / Σ(realised − mean)², of the prediction as it is (no fit); NaN where all are equal.

    >>> r_squared(np.array([0.0, 2.0]), np.array([0.0, 1.0]))
    0.5
    """
    if len(realised) < 2 or not np.ptp(realised):
        return np.nan
    return 1 - float(((realised - predicted) ** 2).sum() / ((realised - realised.mean()) ** 2).sum())


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Least-squares slope through 0 of y on x; NaN where x is 0 throughout."""
    return float((x * y).sum() / (x * x).sum()) if np.any(x) else np.nan


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
        return np.nan
    return float(scipy_stats.spearmanr(x, y).statistic)
