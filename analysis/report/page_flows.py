"""Followed distributions of one run on a page: what the table `flows` holds of a context before and after an update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow.dataset as ds

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["BEFORE", "FLOW_NUMBERS", "SHARE_COLUMNS", "before_of", "followed_flows"]

BEFORE = ("log_prob", "one_minus_prob", "entropy", "collision", "collision_log_prob", "direction_norm")
FLOW_NUMBERS = ("log_prob_after", "entropy_after", "collision_after", "jvp_dlog_prob", "jvp_dentropy", "tv", "kl")
SHARE_COLUMNS = ("jvp_dlog_prob_shares", "jvp_dentropy_shares")
_TOPS = ("top_ids", "top_prob_before", "top_prob_after", "top_dlogit")
_COLUMNS = [
    "update",
    "context",
    "weight",
    *(f"{name}_before" for name in BEFORE),
    *FLOW_NUMBERS,
    *SHARE_COLUMNS,
    *_TOPS,
]


def followed_flows(run: Run, contexts: Sequence[int]) -> pd.DataFrame:
    """Rows of `flows` of these contexts."""
    return run.table("flows", _COLUMNS, where=ds.field("context").isin(list(contexts)), as_="arrow").to_pandas()


def before_of(flows: pd.DataFrame) -> pd.DataFrame:
    """The same rows as statistics of tokens: the distribution before the update, under the names of `tokens`."""
    names = {f"{name}_before": name for name in BEFORE} | {"top_prob_before": "top_probs"}
    return flows.rename(columns=names)
