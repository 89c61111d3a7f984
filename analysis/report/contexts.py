"""Data of the pictures of contexts: one real token through an update, and mass by rank bucket over training.

Which token is shown is a rule, not a choice: among the contexts of the first recorded update whose own token had a
weight of the asked sign, the one whose entropy is nearest to 1 nat (several tokens in play, none of them certain);
ties go to the lower context number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..recording.schema import BUCKET_LABELS
from .bands import band
from .words import decoder

if TYPE_CHECKING:
    from ..recording import Run

__all__ = ["TokenPicture", "agreement", "bucket_flows", "context_flows", "jvp_beside_realised", "token_picture"]

TARGET_ENTROPY_NATS = 1.0
_TOP = 6  # tokens of a picture besides y
_QUANTITIES = {"log_prob": "log π", "entropy": "H"}  # of `Run.prediction_summary`, as a figure names them


@dataclass(frozen=True)
class TokenPicture:
    """One context through one update: `tokens` is the data of `plots.token_bars` and `plots.logit_arrows`."""

    label: str
    update: int
    prefix: str
    token: str
    weight: float
    entropy_nats: float
    tokens: pd.DataFrame


def token_picture(run: Run, sign: int) -> TokenPicture | None:
    """The picture of a token with a positive (`sign` 1) or negative (−1) weight; None where none was recorded."""
    updates = run.table("flows", ["update"])["update"]
    if updates.empty:
        return None
    rows = run.table("flows", where=[("update", "==", int(updates.min()))]).merge(run.table("contexts"), on="context")
    rows = rows[(rows["kind"] == "batch") & (np.sign(rows["weight"].astype(float)) == sign)]
    if rows.empty:
        return None
    distance = (rows["entropy_before"] - TARGET_ENTROPY_NATS).abs()
    row = rows.loc[distance.sort_values(kind="stable").index[0]]
    decode = decoder(run)
    ids, before, after = (np.asarray(row[name]) for name in ("top_ids", "top_prob_before", "top_prob_after"))
    dlogit = np.asarray(row["top_dlogit"])
    sampled = ids == row["token"]
    tokens = pd.DataFrame({
        "text": [decode([i]) for i in ids],
        "sampled": sampled,
        "before": before,
        "after": after,
        "gradient": sign * (sampled - before),
        "dlogit": dlogit - (before * dlogit).sum() / before.sum(),
    })
    shown = tokens.index[(tokens["before"].rank(ascending=False, method="first") <= _TOP) | tokens["sampled"]]
    return TokenPicture(
        label=run.label,
        update=int(row["update"]),
        prefix=decode(row["prefix_ids"]),
        token=decode([row["token"]]),
        weight=float(row["weight"]),
        entropy_nats=float(row["entropy_before"]),
        tokens=tokens.loc[shown].sort_values("before", ascending=False, kind="stable"),
    )


def context_flows(runs: Iterable[Run]) -> pd.DataFrame:
    """`Run.flows` of all runs below one another, with label and seed."""
    return pd.concat([run.flows().assign(label=run.label, seed=run.seed) for run in runs], ignore_index=True)


def bucket_flows(flows: pd.DataFrame) -> pd.DataFrame:
    """Change of mass by rank bucket at the panel's contexts, summed over the updates so far: the data of
    `plots.bucket_flow` with the column `label`.

    Each change counts for the bucket that its token was in before that update. Intervals are over the panel's prompts
    (contexts of one prompt are averaged first), or over seeds. Buckets beyond the vocabulary are left out.
    """
    panel = flows[flows["kind"] == "panel"].sort_values("update", kind="stable").reset_index(drop=True)
    key = ["label", "seed", "prompt_id", "context", "update"]
    change = panel[key].join(_buckets(panel, "dbucket"))
    names = [label for label in BUCKET_LABELS if label in change]
    change[names] = change.groupby(key[:-1])[names].cumsum()
    prompts = change.groupby(["label", "seed", "prompt_id", "update"], sort=False)[names].mean().reset_index()
    return band(prompts.melt(["label", "seed", "prompt_id", "update"], names, "bucket"), ["bucket", "update"])


def jvp_beside_realised(flows: pd.DataFrame) -> pd.DataFrame:
    """Realised change of bucket mass and JVP of the same update, one row for each context, update and bucket that has
    both: the data of `plots.realised_and_jvp` with the column `label`."""
    both = flows[flows["jvp_dlog_prob"].notna()].reset_index(drop=True)
    wide = (both[["label"]].join(_buckets(both, column)) for column in ("dbucket", "jvp_bucket"))
    realised, jvp = (changes.melt("label", var_name="bucket") for changes in wide)
    return realised.rename(columns={"value": "realised"}).assign(jvp=jvp["value"])


def agreement(runs: Iterable[Run]) -> pd.DataFrame:
    """How the law met the realised changes at contexts whose own token had a weight, from `Run.prediction_summary`:
    the data of `plots.law_agreement` with the columns `label`, `n` (contexts, over all seeds) and `slope` (realised
    change per unit of w times logit step). Each measure is the mean over seeds."""
    parts = []
    for run in runs:
        summary = run.prediction_summary()
        rows = summary[(summary["weights"] == "nonzero") & (summary["law_n"] > 0)]
        parts.append(pd.DataFrame({
            "label": run.label,
            "sign": rows["sign"].astype(int),
            "quantity": [_QUANTITIES.get(name, name.removeprefix("mass ")) for name in rows["quantity"]],
            "n": rows["law_n"],
            "net_sign": 2 * rows["law_sign_agreement"] - 1,
            "spearman": rows["law_spearman"],
            "slope": rows["law_slope"],
        }))
    measures = {"n": "sum", "net_sign": "mean", "spearman": "mean", "slope": "mean"}
    return pd.concat(parts).groupby(["label", "sign", "quantity"], sort=False, as_index=False).agg(measures)


def _buckets(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The list column as one column a bucket, those that hold no token left out."""
    values = np.array(rows[column].tolist()).reshape(-1, len(BUCKET_LABELS))
    held = np.array(rows["bucket_mass_before"].tolist()).reshape(values.shape).any(axis=0)
    return pd.DataFrame(values[:, held], columns=np.array(BUCKET_LABELS)[held])
