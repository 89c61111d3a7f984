"""What an offline trace says, as tables: where the tokens sit, which of them carry the gradient, where mass would "
"go."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from ..common.tables import Cell, Table
from ..records.schema import BUCKET_LABELS
from .offline_data import ALL, TraceData
from .summary import Summary

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["summarize_trace"]

MOST_TOKENS = 10
_WHERE_NOTE = (
    "Shares of tokens; ± half of a 95% interval over prompts (jackknife). H: entropy in nats; top: y is the most "
    "probable token. Below the squeeze boundary, π(y) < c = Σπ²: NSR of the token drains the tail as well, and the "
    "head takes all. Rare, π(y) < e⁻ᴴ: NSR surely lowers H. Gradient below: share of Σ‖e_y − π‖ on tokens below the "
    "boundary."
)
_TOKEN_NOTE = (
    "Share: of Σ|w|·‖e_y − π‖₂ over the tokens with a weight of that sign, ± half of a 95% interval over prompts; "
    "count of such tokens; mean π(y). ␣ space, ⏎ line break."
)
_FLOW_NOTE = (
    "First order at a unit logit step of each token in its own context (law): mean over all tokens, in 10⁻³; ± half "
    "of a 95% interval over prompts. Ranks before the step. H: nats; H rest: of the tokens other than y among "
    "themselves. The scale is that of the step, which optimiser and shared parameters set: compare signs and shares."
)


def summarize_trace(run: Run, data: TraceData | None = None) -> Summary:
    """The summary of an offline trace, for the objectives that it was asked for; UsageError where nothing is traced."""
    data = TraceData.of(run) if data is None else data
    carrying = [
        table for objective in data.weights for sign in (1, -1) if (table := _tokens(data, objective, sign)) is not None
    ]
    if carrying:
        carrying[-1] = replace(carrying[-1], note=_TOKEN_NOTE)
    tables = [_where(data), *carrying, *([_flows(data)] if data.weights else [])]
    return Summary(run.label, 1, tuple(tables), tuple(_notes(data)))


def _where(data: TraceData) -> Table:
    tokens = data.tokens
    rows: list[tuple[Cell | str, ...]] = []
    norm, below = tokens["direction_norm"].to_numpy(float), tokens["below"].to_numpy()
    means = [
        tokens["entropy"].to_numpy(float),
        tokens["log_prob"].to_numpy(float),
        (tokens["token_rank"] == 0).to_numpy(),
        below,
        tokens["rare"].to_numpy(),
        tokens["raises"].to_numpy(),
    ]
    for label, of in data.signs.items():
        rollouts = len(tokens.loc[of, ["step", "rollout"]].drop_duplicates())
        rows.append(
            (
                label,
                Cell(rollouts),
                Cell(int(of.sum())),
                Cell(round(of.sum() / rollouts, 1)),
                *(data.mean(values, of) for values in means),
                data.mean(norm * below, of, by=norm),
            )
        )
    return Table(
        "where the tokens sit",
        (
            "",
            "rollouts",
            "tokens",
            "length",
            "H",
            "log π(y)",
            "top",
            "π(y) < c",
            "π(y) < e⁻ᴴ",
            "NSR raises H",
            "gradient below",
        ),
        tuple(rows),
        _WHERE_NOTE,
    )


def _tokens(data: TraceData, objective: str, sign: int) -> Table | None:
    found = data.gradient_tokens(objective, sign, MOST_TOKENS)
    if found.empty:
        return None
    rows = tuple(
        (
            f"`{one['text']}`",
            Cell(one["count"]),
            Cell(one["value"], one["low"], one["high"]),
            Cell(one["prob"], digits=3),
        )
        for one in found.to_dict("records")
    )
    which = "positive" if sign > 0 else "negative"
    return Table(f"{objective}: tokens that carry the {which} gradient", ("token", "count", "share", "mean π(y)"), rows)


def _flows(data: TraceData) -> Table:
    rows: list[tuple[Cell | str, ...]] = []
    for objective in data.weights:
        flow = data.mass_flow(objective)
        whole, rest = data.entropy_flow(objective), data.entropy_flow(objective, "dentropy_rest")
        pushing = [label for label, of in data.signs.items() if label != ALL and data.weights[objective][of].any()]
        for label in pushing if len(pushing) == 1 else data.signs:  # of one alone, all is the same
            of = flow.loc[flow["label"] == label, ["value", "low", "high"]].to_numpy()
            cells = [Cell(*(1e3 * ends)) if ends[0] else Cell(math.nan) for ends in of]
            rows.append((f"{objective}, {label}", *cells, _thousandths(whole[label]), _thousandths(rest[label])))
    return Table("where the mass would go, by rank", ("", *BUCKET_LABELS, "H", "H rest"), tuple(rows), _FLOW_NOTE)


def _thousandths(cell: Cell) -> Cell:
    return Cell(1e3 * cell.value, 1e3 * cell.low, 1e3 * cell.high)


def _notes(data: TraceData) -> list[str]:
    trace, notes = data.run.info["trace"], []
    if data.run.status != "complete":
        notes.append(f"The trace is {data.run.status}: {data.run.rows('rollouts')} of {trace['rollouts']} rollouts.")
    for reason, count in trace["skipped"].items():
        notes.append(f"Left out: {count} rows ({reason}), such as {trace['skipped_examples'][0]}.")
    if not data.weights:
        notes.append("No objective was named (--objective), so no gradient and no flow of mass is shown.")
    mean, vocab = float(data.tokens["log_prob"].mean()), trace.get("vocab")
    if vocab and mean < -math.log(vocab):
        notes.append(
            f"The mean log π(y) of {mean:.1f} is below that of a uniform law ({-math.log(vocab):.1f}): are "
            "these tokens, or this template, those of the model?"
        )
    return notes
