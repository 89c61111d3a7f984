"""Held-out prefixes of one run on a page: the contexts of kind panel, fixed at step 0 and followed through updates.

Each is shown like a response: the prefix is its prompt and its first tokens, and the token that followed has a row for
each update. Runs of one experiment follow the same prefixes, so that methods can be compared at equal contexts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from .page_flows import followed_flows

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["PANEL_FRACTION", "panel_tokens"]

PANEL_FRACTION = 0.15  # of the budget of tokens, at most
MOST_PREFIXES = 12
NO_STEP = -1  # of a prefix: it belongs to no rollout


def panel_tokens(run: Run, budget: int) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Held-out prefixes as responses, their rows by update, and sentences about what is left out.

    Args:
        run: any run.
        budget: rows, of all prefixes together; at least one prefix is shown at one update.

    Returns:
        Responses (step −1, rollout the context's number) and flows (`page_flows.followed_flows`) keyed by them.
    """
    columns = ["context", "kind", "prompt_id", "prefix_ids", "token", "position", "sign"]
    contexts = run.table("contexts", columns, as_="arrow").to_pandas()
    contexts = contexts[contexts["kind"] == "panel"].sort_values("context")
    recorded = run.table("flows", ["update"], where=ds.field("context").isin(contexts["context"].to_list()))
    updates = np.sort(recorded["update"].unique())
    count = int(np.clip(budget // max(1, len(updates)), 1, MOST_PREFIXES))
    spread = np.linspace(0, len(contexts) - 1, min(count, len(contexts))).round().astype(int)
    chosen = contexts.iloc[spread]
    kept = updates[np.unique(np.linspace(0, len(updates) - 1, min(budget, len(updates))).round().astype(int))]
    flows = followed_flows(run, chosen["context"].to_list())
    flows = flows[flows["update"].isin(kept)]
    flows = flows.merge(chosen[["context", "token", "position"]], on="context").rename(columns={"context": "rollout"})
    flows = flows.assign(step=NO_STEP, position=flows["position"].fillna(0).astype(int))
    left_out = []
    if len(chosen) < len(contexts):
        left_out.append(f"{run.label}: {len(chosen)} of {len(contexts)} held-out prefixes are shown.")
    if len(kept) < len(updates):
        left_out.append(f"{run.label}: held-out prefixes are shown at {len(kept)} of {len(updates)} updates.")
    return _as_responses(chosen), flows.sort_values(["rollout", "update"], ignore_index=True), left_out


def _as_responses(contexts: pd.DataFrame) -> pd.DataFrame:
    """What `page_tokens` shows of a response, for prefixes."""
    positions = contexts["position"].fillna(0).astype(int)
    responses = [
        np.array([*(prefix[len(prefix) - position :] if position else []), token], dtype=np.int64)
        for prefix, position, token in zip(contexts["prefix_ids"], positions, contexts["token"], strict=True)
    ]
    return pd.DataFrame(
        {
            "step": NO_STEP,
            "rollout": contexts["context"].to_numpy(),
            "prompt_id": contexts["prompt_id"].to_numpy(),
            "group": -1,
            "response_ids": pd.Series(responses, dtype=object),
            "reward": np.nan,
            "correct": None,
            "verdict": None,
            "advantage": np.nan,
            "sign": contexts["sign"].fillna(0).to_numpy(int),
            "panel": 1,
        }
    )
