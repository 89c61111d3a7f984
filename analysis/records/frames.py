"""Columns that are not stored but follow from what is: those of `run.laws()`, `run.flows()` and the two summaries.

Each frame is described as the stored tables are (`schema.Table`), and `docs/records.md` is generated from both. Every
frame that a run gives carries the units of its columns: `frame.attrs["units"]["entropy"]` is "nats"; a column without a
unit (a probability, a number of rows) has no entry.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from .schema import SHARES, TABLES, Column, Table

__all__ = ["FRAMES", "LAW_COLUMNS", "TOKEN_TEXT", "with_units"]

TOKEN_TEXT = Column(
    "token_text",
    "str",
    "the token y as text, by the tokenizer in the run folder or the recorded texts. Not stored: data frames have it, "
    "Arrow tables where it is chosen by name",
    null=True,
)

_PER_STEP = "per unit logit step"
_NATS_PER_STEP = f"nats {_PER_STEP}"
_KIND = Column("kind", "str", "kind of context: batch or panel")
_SIGN = Column("sign", "int8", "+1 for contexts of rewarded responses, −1 of unrewarded ones", null=True)
_RANGE = (
    Column("first_update", "int64", "first update of the range"),
    Column("last_update", "int64", "last update of the range, included"),
)


def _f(name: str, doc: str, unit: str = "") -> Column:
    return Column(name, "float64", doc, unit, null=True)


LAW_COLUMNS: tuple[Column, ...] = (
    _f("dlog_prob", "first-order change of log π_y: w‖e_y − π‖²", _NATS_PER_STEP),
    _f("dprob", "first-order change of π_y: w·π_y‖e_y − π‖²", _PER_STEP),
    _f("dentropy", "first-order change of H; dentropy_binary + dentropy_weighted_rest", _NATS_PER_STEP),
    _f("dentropy_binary", 'its part in h(π_y), the entropy of "y or not"', _NATS_PER_STEP),
    _f("dentropy_weighted_rest", "its part in (1 − π_y)·H(rest)", _NATS_PER_STEP),
    _f(
        "dentropy_rest",
        "first-order change of H(rest), the entropy of the alternatives among themselves",
        _NATS_PER_STEP,
    ),
    _f("squeeze_boundary", "c − π_y: alternatives with more mass than this move against y"),
    _f("grad_l1", "‖w·(e_y − π)/T‖₁, the descent direction of the model's logits"),
    _f("grad_l2", "‖w·(e_y − π)/T‖₂"),
)

FLOW_COLUMNS: tuple[Column, ...] = (
    Column("dlog_prob", "float64", "realised change of log π_y", "nats"),
    Column("dentropy", "float64", "realised change of H", "nats"),
    Column("dbucket", "floats", "realised change of the mass of each rank bucket (ranks before the update)"),
    _f("law_dlog_prob", "own direction: w‖e_y − π‖²; its sign and order count, its scale does not", _NATS_PER_STEP),
    _f("law_dentropy", "the same for H", _NATS_PER_STEP),
    Column("law_dbucket", "floats", "the same for the mass of each rank bucket", _PER_STEP, null=True),
)

_QUANTITY = Column("quantity", "str", 'log_prob, entropy, or "mass" with the ranks of a bucket')

PREDICTION_COLUMNS: tuple[Column, ...] = (
    *_RANGE,
    _KIND,
    _SIGN,
    Column(
        "weights",
        "str",
        "nonzero, zero or unmeasured: contexts whose token had no weight of its own stand apart, since the law says "
        "nothing about them",
    ),
    _QUANTITY,
    Column("n", "int64", "number of contexts"),
    _f("realised_median_abs", "median of |realised change|", "nats, masses 1"),
    Column("law_n", "int64", "contexts with a law prediction other than 0"),
    _f("law_sign_agreement", "fraction of them that moved in its direction"),
    _f("law_spearman", "rank correlation of realised change and law"),
    _f("law_slope", "least-squares slope through 0 of the realised change on the law", "logit steps"),
    Column("jvp_n", "int64", "contexts with a JVP"),
    _f("jvp_r2", "1 − Σ(realised − jvp)² / Σ(realised − mean)²"),
    _f("jvp_slope", "least-squares slope through 0 of the realised change on the JVP"),
    _f("jvp_median_relative_error", "median of |realised − jvp| / |realised| over realised ≠ 0"),
)

SHARES_COLUMNS: tuple[Column, ...] = (
    *_RANGE,
    _KIND,
    _SIGN,
    Column("quantity", "str", "log_prob or entropy"),
    Column("n", "int64", "number of contexts whose JVP was recorded by part"),
    _f("realised_mean", "mean of the realised change", "nats"),
    _f("realised_median_abs", "median of |realised change|", "nats"),
    _f("jvp_mean", "mean of the JVP of the whole step", "nats"),
    _f("jvp_r2", "as in prediction_summary, of the whole step"),
    _f("jvp_slope", "as in prediction_summary, of the whole step"),
    Column("view", "str", "source (each gradient's whole impulse) or time (momentum of earlier updates apart)"),
    Column("part", "str", "part of the step in that view: pos, neg, reg, decay; history in the view time"),
    _f("mean", "mean over contexts of x, the change that the part predicts; parts add up to jvp_mean", "nats"),
    _f("net", "Σ x / Σ j, j the change that the whole step predicts; unstable where rises and falls cancel"),
    _f("projected", "Σ x·j / Σ j²; negative where the part works against the step"),
    _f("absolute", "Σ |x| / Σ over parts of Σ |x|: fraction of all that was pushed, whatever its direction"),
)

# frame -> what it is; `laws` and `flows` have the stored columns of their row besides
FRAMES: dict[str, Table] = {
    "laws": Table(
        "laws",
        TABLES["tokens"].key,
        "a row of tokens with the first-order effect of the token's own direction on its own context; besides the "
        "columns of tokens that hold one value, token_text among them",
        LAW_COLUMNS,
    ),
    "flows": Table(
        "flows",
        TABLES["flows"].key,
        "a row of flows with its context; besides the columns of flows (without those of the top tokens) and contexts",
        FLOW_COLUMNS,
    ),
    "prediction_summary": Table(
        "prediction_summary",
        ("first_update", "last_update", "kind", "sign", "weights", "quantity"),
        "how law and JVP met the realised changes, over one group of contexts; a statistic that its numbers do not "
        "determine is missing",
        PREDICTION_COLUMNS,
    ),
    "shares_summary": Table(
        "shares_summary",
        ("first_update", "last_update", "kind", "sign", "quantity", "view", "part"),
        f"one part of the first order over one group of contexts, from the recorded parts {', '.join(SHARES)}",
        SHARES_COLUMNS,
    ),
}


def with_units(frame: pd.DataFrame, *columns: Iterable[Column]) -> pd.DataFrame:
    """`frame` itself, with the units of its columns in `attrs["units"]`.

    >>> with_units(pd.DataFrame({"dprob": [0.5]}), LAW_COLUMNS).attrs
    {'units': {'dprob': 'per unit logit step'}}
    """
    units = {column.name: column.unit for group in columns for column in group if column.unit}
    frame.attrs["units"] = {name: units[name] for name in frame.columns if name in units}
    return frame
