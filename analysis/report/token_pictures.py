"""Data of the pictures of contexts: one real token through an update, and mass by rank bucket over training.

Which token is shown is a rule: among all recorded contexts of batches whose own token had a weight of the given sign,
the one whose distribution changed most in its update (total variation); ties go to the earlier update, then to the
lower context number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..common.short_repr import short_repr
from ..records.schema import BUCKET_LABELS
from ..records.token_text import decoder
from .bands import band

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["FlowData", "TokenPicture", "token_picture"]

_TOP = 6  # tokens of a picture besides y
POINTS = 80  # of a curve over updates


@short_repr
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
    """The context to show of a token with a positive (`sign` 1) or negative (−1) weight; None where none was recorded.

    Args:
        run: a run that followed contexts through updates.
        sign: of the weight.
    """
    weighted = [("weight", ">" if sign > 0 else "<", 0.0)]
    sizes = run.table("flows", ["update", "context", "tv"], where=weighted)
    contexts = run.table("contexts", ["context", "kind"])
    sizes = sizes[sizes["context"].isin(contexts.loc[contexts["kind"] == "batch", "context"])]
    if sizes.empty:
        return None
    chosen = sizes.sort_values(["tv", "update", "context"], ascending=[False, True, True]).iloc[0]
    place = [("update", "==", int(chosen["update"])), ("context", "==", int(chosen["context"]))]
    row = run.table("flows", where=place).merge(run.table("contexts"), on="context").iloc[0]
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


@short_repr
@dataclass(frozen=True)
class FlowData:
    """Followed contexts of one or several runs, with the columns run_id, label and seed."""

    flows: pd.DataFrame  # `Run.flows`

    @classmethod
    def of(cls, runs: Iterable[Run]) -> FlowData:
        """Read what each run recorded; this is the costly part."""
        parts = [run.flows().assign(run_id=run.run_id, label=run.label, seed=run.seed) for run in runs]
        return cls(pd.concat(parts, ignore_index=True))

    def only(self, run_ids: Iterable[str]) -> FlowData:
        """The same for some of the runs."""
        return FlowData(self.flows[self.flows["run_id"].isin(list(run_ids))])

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


def _buckets(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The list column as one column a bucket, those that hold no token left out."""
    values = np.array(rows[column].tolist()).reshape(-1, len(BUCKET_LABELS))
    held = np.array(rows["bucket_mass_before"].tolist()).reshape(values.shape).any(axis=0)
    return pd.DataFrame(values[:, held], columns=np.array(BUCKET_LABELS)[held])
