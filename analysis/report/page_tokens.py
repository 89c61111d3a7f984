"""The tokens of one run that a page shows: chosen, joined with what an update did to their distribution.

A token is shown where its statistics were recorded (`tokens`), where its whole distribution was followed through the
update (`flows` of contexts of kind batch), or both. Followed tokens come first, since only these have an outcome; then
whole groups of responses to a prompt are taken in an order that depends on step and prompt alone, so that runs of one
experiment show the same prompts. What is left out is counted. Held-out prefixes (`page_panel`) come last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow.dataset as ds

from ..objectives import parse_objective
from .page_flows import BEFORE, before_of, followed_flows
from .page_panel import PANEL_FRACTION, panel_tokens
from .trace_data import reward_signs

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["KEY", "STATISTICS", "PageTokens", "page_tokens"]

KEY = ["update", "step", "rollout", "position"]
STATISTICS = [*BEFORE, "weight", "advantage", "ratio", "mismatch"]
_TOKEN_COLUMNS = [*KEY, "token", *STATISTICS[:-1], "clip", "token_rank", "top_ids", "top_probs"]
_MISMATCH = ["sampling_log_prob", "kept_mass", "old_log_prob"]
_OF_RESPONSE = ["step", "rollout"]
_ROLLOUT_COLUMNS = [*_OF_RESPONSE, "prompt_id", "group", "response_ids", "reward", "correct", "verdict", "advantage"]
LONGEST = 4_000  # tokens of one response that are shown
FOLLOWED_FRACTION = 0.4  # of the budget, at most


@dataclass(frozen=True)
class PageTokens:
    """What a page shows of one run.

    Attributes:
        rollouts: one row a response: `_ROLLOUT_COLUMNS`, `response_ids` at most `LONGEST` of them, length (whole), sign
            (+1 rewarded, −1 unrewarded, 0 unknown), panel (1 for a held-out prefix).
        tokens: one row a token: `KEY`, row (of its rollout), token, `STATISTICS`, clip, token_rank, top_ids,
            top_probs, flow (row of `flows`, −1 for a token that was not followed).
        flows: one row a followed token, as `page_flows.followed_flows` reads them.
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
        budget: tokens, at least one response is taken. A part of it goes to held-out prefixes, where there are any.
    """
    prefixes, panel, left_out = panel_tokens(run, max(1, int(PANEL_FRACTION * budget)))
    flows = _followed(run)
    rollouts = run.table("rollouts", _ROLLOUT_COLUMNS)
    recorded = run.table("tokens", KEY, as_="arrow").to_pandas()
    keys = pd.concat([recorded, flows[KEY]]).drop_duplicates(ignore_index=True)
    total = len(keys)
    long = int((keys["position"] >= LONGEST).sum())
    keys = keys[keys["position"] < LONGEST].merge(rollouts[[*_OF_RESPONSE, "prompt_id"]], on=_OF_RESPONSE)
    unknown = total - long - len(keys)
    chosen = _chosen(keys, flows, max(1, budget - len(panel)))
    tokens, weights = _statistics(run, chosen[KEY], flows)
    shown = rollouts.merge(chosen[_OF_RESPONSE].drop_duplicates(), on=_OF_RESPONSE)
    shown = shown.sort_values(["step", "group", "rollout"])
    shown["sign"] = reward_signs(run, shown)
    shown["panel"] = 0
    sentences = [
        (len(tokens) < total, f"{len(tokens):,} of {total:,} recorded tokens are shown, in {len(shown):,} responses."),
        (long > 0, f"{long:,} tokens beyond position {LONGEST:,} of their response are left out."),
        (unknown > 0, f"{unknown:,} tokens of responses that were not recorded are left out."),
        (
            len(_objectives(run)) > 1,
            f"weights are those of {weights}; those of {', '.join(_objectives(run)[1:])} are in the tables alone.",
        ),
    ]
    left_out = [*(f"{run.label}: {text}" for here, text in sentences if here), *left_out]
    return _joined(
        _concat(shown, prefixes), _concat(tokens, before_of(panel)), _concat(flows, panel), weights, left_out
    )


def _concat(*frames: pd.DataFrame) -> pd.DataFrame:
    """One frame with the columns of the first; empty ones would change types."""
    filled = [frame.reindex(columns=frames[0].columns) for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]


def _joined(
    rollouts: pd.DataFrame, tokens: pd.DataFrame, flows: pd.DataFrame, weights: str, left_out: list[str]
) -> PageTokens:
    """Tokens in the order of their responses, each with the row of its response and of its outcome."""
    rollouts = rollouts.reset_index(drop=True)
    rollouts["length"] = rollouts["response_ids"].map(len)
    rollouts["response_ids"] = rollouts["response_ids"].map(lambda ids: ids[:LONGEST])
    rows = rollouts[_OF_RESPONSE].assign(row=np.arange(len(rollouts)))
    tokens = tokens.merge(rows, on=_OF_RESPONSE).sort_values(["row", "position", "update"], ignore_index=True)
    places = flows[KEY].assign(flow=np.arange(len(flows)))
    flow = tokens[KEY].merge(places, on=KEY, how="left")["flow"].fillna(-1).to_numpy(int)
    used = np.unique(flow[flow >= 0])
    tokens["flow"] = np.where(flow >= 0, np.searchsorted(used, flow), -1)
    return PageTokens(rollouts, tokens, flows.iloc[used].reset_index(drop=True), weights, left_out)


def _followed(run: Run) -> pd.DataFrame:
    """Flows of tokens of the batch, with the key of that token."""
    columns = ["context", "kind", "step", "rollout", "position", "token"]
    contexts = run.table("contexts", columns, as_="arrow").to_pandas()
    contexts = contexts[(contexts["kind"] == "batch") & contexts["rollout"].notna()].drop(columns="kind")
    flows = followed_flows(run, contexts["context"].to_list()).merge(contexts, on="context")
    return flows.astype({"step": int, "rollout": int, "position": int}).drop_duplicates(KEY, ignore_index=True)


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
    whole = keys.merge(counts.loc[inside, _OF_RESPONSE], on=_OF_RESPONSE)
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
    measured = tokens["weight"].notna().any() or flows["weight"].notna().any()
    weights = "measured" if measured else next(iter(_objectives(run)), "")
    if weights and not measured:
        assumed = run.laws(parse_objective(weights))[[*KEY, "weight"]]
        tokens = tokens.drop(columns="weight").merge(assumed, on=KEY, how="left")
    before = keys.merge(before_of(flows), on=KEY)
    only = before.merge(tokens[KEY], on=KEY, how="left", indicator=True)
    only = only[only["_merge"] == "left_only"]
    return _concat(tokens.drop(columns=_MISMATCH), only), weights


def _objectives(run: Run) -> Sequence[str]:
    """Objectives that a trace of recorded rollouts was asked for: no gradient was seen there."""
    return run.info.get("trace", {}).get("objectives", [])
