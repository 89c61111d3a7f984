"""The data of a page: what is shown of runs, as JSON and one block of numbers (`page_columns`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..records.schema import SHARES
from .page_claims import claims_of
from .page_columns import Columns
from .page_flows import FLOW_NUMBERS, SHARE_COLUMNS
from .page_overview import charts, describe_run, describe_summary, recipe_fields
from .page_text import Vocabularies
from .page_tokens import STATISTICS, PageTokens, page_tokens
from .run_summary import summarize
from .sources import Source, runs_of
from .summary import Summary

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["PageData", "page_data"]

_LONGEST_PROMPT = 4_000  # characters
_UNKNOWN = -128  # of an int8 column


@dataclass(frozen=True)
class PageData:
    """What a page holds.

    Attributes:
        header: as JSON: runs, charts, tables, vocabularies, prompts, and where each column lies in the block.
        block: the numbers in base64.
    """

    header: dict[str, Any]
    block: str


def page_data(source: Source, budget: int, summary: Summary | None = None) -> PageData:
    """Collect what a page shows.

    Args:
        source: an experiment, a run of any kind, or several runs.
        budget: how many tokens to show, of all runs together.
        summary: the tables, where they have been made already.

    Raises:
        UsageError: nothing at all is committed yet.
    """
    runs = runs_of(source)
    claims, unread = claims_of(getattr(source, "folder", None))
    notes = [*_notes(runs), *unread]
    summary = summarize(source) if summary is None else summary
    shown = [page_tokens(run, budget // len(runs)) for run in runs]
    columns, vocabularies = Columns(), Vocabularies()
    described = [
        describe_run(run)
        | {
            "vocabulary": vocabularies.place(run, _ids(tokens)),
            "weights": tokens.weights,
            "rollouts": int((tokens.rollouts["panel"] == 0).sum()),
            "tokens": int((tokens.tokens["step"] >= 0).sum()),
        }
        for run, tokens in zip(runs, shown, strict=True)
    ]
    prompts = _add_rollouts(columns, runs, shown)
    _add_tokens(columns, shown)
    _add_flows(columns, shown)
    rollouts = pd.concat([tokens.rollouts for tokens in shown])
    verdicts = rollouts["verdict"].astype(object).where(rollouts["verdict"].notna(), "").map(str)
    header = {
        "name": summary.name,
        "runs": described,
        "summary": describe_summary(summary),
        "claims": claims,
        "notes": notes,
        "left_out": [sentence for tokens in shown for sentence in tokens.left_out],
        "charts": charts(runs),
        "recipe": recipe_fields(runs),
        "vocabularies": vocabularies.to_json(),
        "prompts": prompts,
        "verdicts": verdicts.to_list(),
        "shares": list(SHARES),
        "columns": columns.header,
    }
    return PageData(header, columns.packed())


def _notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know of these runs before the numbers."""
    notes = [
        f"{run.label}: {note}"
        for run in runs
        for note in run.info.get("trace", {}).get("notes", [])
        if note.startswith("Warning: ")
    ]
    notes += [f"{run.label}: no tokens were recorded." for run in runs if not run.rows("tokens")]
    versions = {tuple(sorted((run.info.get("versions") or {}).items())) for run in runs}
    if len(versions) > 1:
        notes.append("These runs were recorded with different versions of the library or its dependencies.")
    return notes


def _ids(shown: PageTokens) -> list[np.ndarray]:
    lists = [shown.rollouts["response_ids"], shown.tokens["top_ids"].dropna(), shown.flows["top_ids"]]
    flat = [np.concatenate([*part, np.empty(0, np.int64)]) for part in lists]
    return [*flat, shown.tokens["token"].to_numpy()]


def _add_rollouts(columns: Columns, runs: Sequence[Run], shown: Sequence[PageTokens]) -> list[str]:
    """Columns of the responses; the texts of their prompts, to which the column `rollout.prompt` points."""
    texts: dict[str, int] = {}
    places = []
    for run, tokens in zip(runs, shown, strict=True):
        prompts = run.table("prompts", ["prompt_id", "text"], as_="arrow").to_pandas()
        known = dict(zip(prompts["prompt_id"], prompts["text"], strict=True))
        for prompt in tokens.rollouts["prompt_id"]:
            text = known.get(prompt) or prompt
            places.append(texts.setdefault(text, len(texts)))
    rollouts = pd.concat([tokens.rollouts.assign(run=at) for at, tokens in enumerate(shown)], ignore_index=True)
    columns.add("rollout.prompt", np.array(places, dtype=int), "u4")
    for name, kind in (("run", "u1"), ("step", "i4"), ("rollout", "i4"), ("group", "i4"), ("length", "u4")):
        columns.add(f"rollout.{name}", rollouts[name].to_numpy(), kind)
    for name in ("reward", "advantage"):
        columns.add(f"rollout.{name}", rollouts[name].to_numpy(float, na_value=np.nan), "f4")
    correct = rollouts["correct"].astype("Float64").fillna(_UNKNOWN).to_numpy(float)
    columns.add("rollout.correct", correct, "i1")
    columns.add("rollout.sign", rollouts["sign"].to_numpy(), "i1")
    columns.add("rollout.panel", rollouts["panel"].to_numpy(), "u1")
    _add_lists(columns, "rollout.ids", rollouts["response_ids"], "u4")
    return [text if len(text) <= _LONGEST_PROMPT else text[:_LONGEST_PROMPT] + " …" for text in texts]


def _add_tokens(columns: Columns, shown: Sequence[PageTokens]) -> None:
    first = np.cumsum([0, *(len(tokens.rollouts) for tokens in shown)])
    followed = np.cumsum([0, *(len(tokens.flows) for tokens in shown)])
    parts = [
        tokens.tokens.assign(
            row=tokens.tokens["row"] + first[at],
            flow=np.where(tokens.tokens["flow"] >= 0, tokens.tokens["flow"] + followed[at], -1),
        )
        for at, tokens in enumerate(shown)
    ]
    rows = pd.concat(parts, ignore_index=True)
    for name, kind in (("row", "u4"), ("position", "u4"), ("update", "i4"), ("token", "u4"), ("flow", "i4")):
        columns.add(f"token.{name}", rows[name].to_numpy(), kind)
    columns.add("token.rank", rows["token_rank"].fillna(-1).to_numpy(), "i4")
    columns.add("token.clip", rows["clip"].fillna(_UNKNOWN).to_numpy(), "i1")
    for name in STATISTICS:
        columns.add(f"token.{name}", rows[name].to_numpy(float, na_value=np.nan), "f4")
    _add_lists(columns, "token.top_ids", rows["top_ids"], "u4")
    _add_lists(columns, "token.top_probs", rows["top_probs"], "f4", offsets=False)


def _add_flows(columns: Columns, shown: Sequence[PageTokens]) -> None:
    rows = pd.concat([tokens.flows for tokens in shown], ignore_index=True)
    for name in FLOW_NUMBERS:
        columns.add(f"flow.{name}", rows[name].to_numpy(float, na_value=np.nan), "f4")
    for name in SHARE_COLUMNS:
        matrix = np.full((len(rows), len(SHARES)), np.nan)
        for at, parts in enumerate(rows[name]):
            if parts is not None:
                matrix[at] = parts
        columns.add(f"flow.{name}", matrix.ravel(), "f4")
    _add_lists(columns, "flow.top_ids", rows["top_ids"], "u4")
    for name in ("top_prob_before", "top_prob_after", "top_dlogit"):
        _add_lists(columns, f"flow.{name}", rows[name], "f4", offsets=False)


def _add_lists(columns: Columns, name: str, lists: pd.Series, kind: str, *, offsets: bool = True) -> None:
    """Lists of any length, one after another; row i has the values from `name.start`[i] to [i + 1]."""
    known = [np.empty(0) if values is None or np.ndim(values) == 0 else np.asarray(values) for values in lists]
    columns.add(name, np.concatenate([*known, np.empty(0)]), kind)
    if offsets:
        columns.add(f"{name}.start", np.cumsum([0, *map(len, known)]), "u4")
