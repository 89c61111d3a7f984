"""The tokens of one run that a page shows: chosen, joined with what an update did to their distribution.

A token is shown where its statistics were recorded (`tokens`), where its whole distribution was followed through the
update (`flows` of contexts of kind batch), or both. Followed tokens come first, since only these have an outcome; then
whole groups of responses to a prompt are taken in an order that depends on step and prompt alone, so that runs of one
experiment show the same prompts. What is left out is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from ..errors import UsageError

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["FLOW_NUMBERS", "KEY", "STATISTICS", "PageTokens", "page_tokens"]

KEY = ["update", "step", "rollout", "position"]
STATISTICS = [
    *("log_prob", "one_minus_prob", "entropy", "collision", "collision_log_prob", "direction_norm"),
    *("weight", "advantage", "ratio", "mismatch"),
]
FLOW_NUMBERS = [
    *("log_prob_after", "entropy_after", "collision_after", "jvp_dlog_prob", "jvp_dentropy", "tv", "kl"),
]
_TOKEN_COLUMNS = [*KEY, "token", *STATISTICS[:-1], "clip", "token_rank", "top_ids", "top_probs"]
_MISMATCH = ["sampling_log_prob", "kept_mass", "old_log_prob"]
_ROLLOUT_COLUMNS = [
    "step",
    "rollout",
    "prompt_id",
    "group",
    "response_ids",
    "reward",
    "correct",
    "verdict",
    "advantage",
]
LONGEST = 4_000  # tokens of one response that are shown
FOLLOWED_FRACTION = 0.4  # of the budget, at most


@dataclass(frozen=True)
class PageTokens:
    """What a page shows of one run.

    Attributes:
        rollouts: one row a response: `_ROLLOUT_COLUMNS`, `response_ids` at most `LONGEST` of them.
        tokens: one row a token: `KEY`, row (of its rollout), token, `STATISTICS`, clip, token_rank, top_ids,
            top_probs, flow (row of `flows`, −1 for a token that was not followed).
        flows: one row a followed token: `FLOW_NUMBERS`, the shares, top_ids, top_prob_before, top_prob_after,
            top_dlogit.
        weights: where weights come from: `measured`, the name of an objective, or empty.
        left_out: sentences.
    """

    rollouts: pd.DataFrame
    tokens: pd.DataFrame
    flows: pd.DataFrame
    weights: str
    left_out: list[str] = field(default_factory=list)


def page_tokens(run: Run, budget: int) -> PageTokens:
    """Choose at most about `budget` tokens of a run and read them.

    Args:
        run: any run; one without recorded tokens gives empty frames.
        budget: tokens, at least one response is taken.
    """
    flows = _followed(run)
    rollouts = run.table("rollouts", _ROLLOUT_COLUMNS)
    recorded = run.table("tokens", KEY, as_="arrow").to_pandas()
    keys = pd.concat([recorded, flows[KEY]]).drop_duplicates(ignore_index=True)
    total = len(keys)
    long = int((keys["position"] >= LONGEST).sum())
    keys = keys[keys["position"] < LONGEST].merge(rollouts[["step", "rollout", "prompt_id"]], on=["step", "rollout"])
    unknown = total - long - len(keys)
    chosen = _chosen(keys, flows, budget)
    pairs = chosen[["step", "rollout"]].drop_duplicates()
    tokens, weights = _statistics(run, chosen[KEY], flows)
    shown = rollouts.merge(pairs, on=["step", "rollout"]).sort_values(["step", "group", "rollout"], ignore_index=True)
    shown["length"] = shown["response_ids"].map(len)
    shown["response_ids"] = shown["response_ids"].map(lambda ids: ids[:LONGEST])
    shown["row"] = np.arange(len(shown))
    tokens = tokens.merge(shown[["step", "rollout", "row"]], on=["step", "rollout"])
    tokens = tokens.sort_values(["row", "position", "update"], ignore_index=True)
    flows = flows.reset_index(names="flow_row")
    places = flows[[*KEY, "flow_row"]].rename(columns={"flow_row": "flow"})
    tokens = tokens.merge(places, on=KEY, how="left")
    tokens["flow"] = tokens["flow"].fillna(-1).astype(int)
    left_out = []
    if len(tokens) < total:
        left_out.append(
            f"{run.label}: {len(tokens):,} of {total:,} recorded tokens are shown, in {len(shown):,} responses."
        )
    if long:
        left_out.append(f"{run.label}: {long:,} tokens beyond position {LONGEST:,} of their response are left out.")
    if unknown:
        left_out.append(f"{run.label}: {unknown:,} tokens of responses that were not recorded are left out.")
    used = np.unique(tokens.loc[tokens["flow"] >= 0, "flow"])
    tokens["flow"] = np.where(tokens["flow"] >= 0, np.searchsorted(used, tokens["flow"]), -1)
    return PageTokens(shown, tokens, flows.iloc[used].reset_index(drop=True), weights, left_out)


def _followed(run: Run) -> pd.DataFrame:
    """Rows of `flows` whose context is a token of the batch, with the key of that token."""
    contexts = run.table(
        "contexts", ["context", "kind", "step", "rollout", "position", "token"], as_="arrow"
    ).to_pandas()
    contexts = contexts[(contexts["kind"] == "batch") & contexts["rollout"].notna()]
    if contexts.empty:
        return (
            run.table("flows", [*_flow_columns()], where=[("context", "==", -1)], as_="arrow")
            .to_pandas()
            .assign(step=0, rollout=0, position=0, token=0)
        )
    wanted = ds.field("context").isin(contexts["context"].to_list())
    flows = run.table("flows", _flow_columns(), where=wanted, as_="arrow").to_pandas()
    flows = flows.merge(contexts.drop(columns="kind"), on="context")
    return flows.astype({"step": int, "rollout": int, "position": int}).drop_duplicates(KEY, ignore_index=True)


def _flow_columns() -> list[str]:
    before = [f"{name}_before" for name in STATISTICS[:6]]
    shares = ["jvp_dlog_prob_shares", "jvp_dentropy_shares"]
    tops = ["top_ids", "top_prob_before", "top_prob_after", "top_dlogit"]
    return ["update", "context", "weight", *before, *FLOW_NUMBERS, *shares, *tops]


def _chosen(keys: pd.DataFrame, flows: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Rows of `keys`: followed tokens of updates that are spread evenly, then whole responses until the budget ends."""
    followed = keys.merge(flows[KEY], on=KEY)
    most = int(FOLLOWED_FRACTION * budget)
    if len(followed) > most:
        updates = np.sort(followed["update"].unique())
        kept = max(1, int(len(updates) * most / len(followed)))
        spread = updates[np.linspace(0, len(updates) - 1, kept).round().astype(int)]
        followed = followed[followed["update"].isin(spread)]
    units = keys[["step", "prompt_id"]].drop_duplicates()
    units["order"] = [
        hashlib.sha256(f"{step}/{prompt}".encode()).hexdigest() for step, prompt in units.itertuples(index=False)
    ]
    counts = keys.groupby(["step", "prompt_id", "rollout"], sort=False).size().rename("n").reset_index()
    counts = counts.merge(units, on=["step", "prompt_id"]).sort_values(["order", "rollout"])
    room = budget - len(followed)
    inside = (counts["n"].cumsum() <= room).to_numpy(copy=True)
    inside[: 1 if followed.empty else 0] = True  # one response at least
    whole = keys.merge(counts.loc[inside, ["step", "rollout"]], on=["step", "rollout"])
    return pd.concat([whole, followed]).drop_duplicates(KEY, ignore_index=True)


def _statistics(run: Run, keys: pd.DataFrame, flows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The statistics of these tokens, from `tokens` or else from the followed context; where the weights come from."""
    wanted = ds.field("step").isin(keys["step"].unique().tolist()) & ds.field("rollout").isin(
        keys["rollout"].unique().tolist()
    )
    tokens = run.table("tokens", [*_TOKEN_COLUMNS, *_MISMATCH], where=wanted, as_="arrow").to_pandas()
    tokens = keys.merge(tokens, on=KEY)
    sampler = tokens["sampling_log_prob"] + np.log(tokens["kept_mass"].fillna(1.0))
    tokens["mismatch"] = sampler - tokens["old_log_prob"].fillna(tokens["log_prob"])
    weights = "measured"
    if tokens["weight"].isna().all():
        weights, assumed = _assumed(run)
        if assumed is not None:
            tokens = tokens.drop(columns="weight").merge(assumed, on=KEY, how="left")
    before = flows.rename(columns={f"{name}_before": name for name in STATISTICS[:6]}).rename(
        columns={"top_prob_before": "top_probs"}
    )
    before = keys.merge(before[[*KEY, "token", *STATISTICS[:7], "top_ids", "top_probs"]], on=KEY)
    if len(before) and before["weight"].notna().any():
        weights = "measured"
    only = before.merge(tokens[KEY], on=KEY, how="left", indicator=True)
    only = only[only["_merge"] == "left_only"].drop(columns="_merge")
    parts = [part for part in (tokens.drop(columns=_MISMATCH), only) if len(part)]
    rows = pd.concat(parts, ignore_index=True) if parts else tokens.drop(columns=_MISMATCH)
    return rows, weights


def _assumed(run: Run) -> tuple[str, pd.DataFrame | None]:
    """The weights of the first objective that a trace was asked for; no gradient was seen there."""
    objectives: Sequence[str] = run.info.get("trace", {}).get("objectives", [])
    for name in objectives:
        try:
            laws = run.laws(name)
        except UsageError:  # the file has no rewards that this objective reads
            continue
        return name, laws[[*KEY, "weight"]]
    return "", None
