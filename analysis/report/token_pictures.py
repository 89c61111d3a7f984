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

from ..records.schema import BUCKET_LABELS
from ..records.token_text import decoder
from .bands import band

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["FlowData", "TokenPicture", "token_picture"]

TARGET_ENTROPY_NATS = 1.0
_TOP = 6  # tokens of a picture besides y
POINTS = 80  # of a curve over updates
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
    tokens = pd.DataFrame(
        {
            "text": [decode([i]) for i in ids],
            "sampled": sampled,
            "before": before,
            "after": after,
            "gradient": sign * (sampled - before),
            "dlogit": dlogit - (before * dlogit).sum() / before.sum(),
        }
    )
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


@dataclass(frozen=True)
class FlowData:
    """Data of the picture of mass flow, for one or several runs; each frame has the columns run_id, label and seed."""

    flows: pd.DataFrame  # `Run.flows`
    law: pd.DataFrame  # from `Run.prediction_summary`: quantity, sign, net_sign, spearman

    @classmethod
    def of(cls, runs: Iterable[Run]) -> FlowData:
        """Read and compare what each run recorded; this is the costly part."""
        parts = [(_named(run, run.flows()), _named(run, _agreement(run))) for run in runs]
        return cls(*(pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True)))

    def only(self, run_ids: Iterable[str]) -> FlowData:
        """The same for some of the runs."""
        chosen = list(run_ids)
        return FlowData(*(frame[frame["run_id"].isin(chosen)] for frame in (self.flows, self.law)))

    def bucket_flows(self) -> pd.DataFrame:
        """Change of mass by rank bucket at the panel's contexts, summed over the updates so far: the data of
        `plots.bucket_flow` with the column `label`.

        Each change counts for the bucket that its token was in before that update. Intervals are over the panel's
        prompts (contexts of one prompt are averaged first), or over seeds. Buckets beyond the vocabulary are left out,
        and of many updates only `POINTS` are shown.
        """
        key = ["label", "seed", "prompt_id", "context", "update"]
        panel = self.flows[self.flows["kind"] == "panel"].sort_values("update", kind="stable").reset_index(drop=True)
        change = panel[key].join(_buckets(panel, "dbucket"))
        names = [label for label in BUCKET_LABELS if label in change]
        change[names] = change.groupby(key[:-1])[names].cumsum()
        updates = np.sort(change["update"].unique())
        change = change[change["update"].isin(updates[:: -(-len(updates) // POINTS)])]
        prompts = change.groupby(["label", "seed", "prompt_id", "update"], sort=False)[names].mean().reset_index()
        return band(prompts.melt(["label", "seed", "prompt_id", "update"], names, "bucket"), ["bucket", "update"])

    def jvp_beside_realised(self) -> pd.DataFrame:
        """Realised change of bucket mass and JVP of the same update, one row for each context, update and bucket that
        has both: the data of `plots.realised_and_jvp` with the column `label`."""
        both = self.flows[self.flows["jvp_dlog_prob"].notna()].reset_index(drop=True)
        wide = (both[["label"]].join(_buckets(both, column)) for column in ("dbucket", "jvp_bucket"))
        realised, jvp = (changes.melt("label", var_name="bucket") for changes in wide)
        return realised.rename(columns={"value": "realised"}).assign(jvp=jvp["value"])

    def agreement(self) -> pd.DataFrame:
        """How the law met the realised changes at contexts whose own token had a weight, mean over seeds: the data of
        `plots.law_agreement` with the column `label`."""
        groups = self.law.groupby(["label", "sign", "quantity"], sort=False, as_index=False)
        return groups[["net_sign", "spearman"]].mean()


def _agreement(run: Run) -> pd.DataFrame:
    summary = run.prediction_summary()
    rows = summary[(summary["weights"] == "nonzero") & (summary["law_n"] > 0)]
    return pd.DataFrame(
        {
            "sign": rows["sign"].astype(int),
            "quantity": [_QUANTITIES.get(name, name.removeprefix("mass ")) for name in rows["quantity"]],
            "net_sign": 2 * rows["law_sign_agreement"] - 1,
            "spearman": rows["law_spearman"],
        }
    )


def _named(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(run_id=run.run_id, label=run.label, seed=run.seed)


def _buckets(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The list column as one column a bucket, those that hold no token left out."""
    values = np.array(rows[column].tolist()).reshape(-1, len(BUCKET_LABELS))
    held = np.array(rows["bucket_mass_before"].tolist()).reshape(values.shape).any(axis=0)
    return pd.DataFrame(values[:, held], columns=np.array(BUCKET_LABELS)[held])
