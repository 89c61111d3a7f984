"""What recorded tokens say, as tables: where they sit, which of them carry the gradient, where the mass would go.

For a trace of recorded rollouts the weights are those of the objectives that it was asked for; for a run of `attach`
they were measured on the loss itself.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..common.tables import Cell, Column, Table
from ..records.schema import BUCKET_LABELS
from .summary import Summary
from .token_classes import CLASSES
from .trace_data import ALL, MEASURED, TraceData

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["summarize_trace"]

MOST_TOKENS = 10
LEAST_CLASSES = 3  # below these, classes say nothing that the whole does not
_WHERE_NOTE = (
    "Fractions of tokens; ± half of a 95% interval over prompts. Most probable: y is the most probable "
    "token. Below c: π(y) < c = Σπ², the collision probability; there NSR of the token drains the tail as well, and "
    "the head takes all. Rare: π(y) < e^(−entropy); there NSR surely lowers the entropy. Gradient below c: "
    "fraction of Σ‖e_y − π‖ on tokens with π(y) < c."
)
_CLASS_NOTE = (
    "Classes are those of single tokens by their text. Word: letters after a space; rest of a word: letters without "
    "one. Fraction of gradient: of Σ‖e_y − π‖₂ over all tokens. The other columns as above; ± half of a 95% interval "
    "over prompts."
)
_TOKEN_NOTE = (
    "Fraction: of Σ|w|·‖e_y − π‖₂ over the tokens with a weight of that sign, ± half of a 95% interval over prompts; "
    "count of such tokens; mean π(y). ␣ space, ⏎ line break."
)
_FLOW_NOTE = (
    "First order at a unit logit step of each token in its own context: mean over all tokens, in 10⁻³; ± half of a "
    "95% interval over prompts. Columns: change of the mass of the tokens with these ranks before the step. Entropy in "
    "nats; entropy of the rest: of the tokens other than y among themselves. The scale is that of the step, which "
    "optimiser and shared parameters set: compare signs and fractions."
)
_OVER_NOTE = (
    "Tokens of the first, the middle and the last third of the updates; ± half of a 95% interval over prompts. Weight: "
    "w = −∂L/∂log π(y), measured on the loss. Own effect on entropy: first-order change of the entropy of the token's "
    "own context at a unit logit step, w·∂H; the sign and the order count, the scale is that of the step. Unlike w: "
    "how much of the gradient is not of the form w·(e_y − π), mean weighted by the gradient's size."
)


def summarize_trace(run: Run, data: TraceData | None = None) -> Summary:
    """The summary of the tokens of a run: a trace of recorded rollouts, a run of `attach`, or another one.

    Args:
        run: the run.
        data: its tokens, where they have been read already.

    Raises:
        UsageError: no token is recorded yet.
    """
    data = TraceData.of(run) if data is None else data
    carrying = [
        table for objective in data.weights for sign in (1, -1) if (table := _tokens(data, objective, sign)) is not None
    ]
    if carrying:
        carrying[-1] = replace(carrying[-1], note=_TOKEN_NOTE)
    tables = [_where(data), *_by_class(data), *_over_updates(data), *carrying]
    if data.weights and data.flow is not None:
        tables.append(_flows(data))
    return Summary(run.label, 1, tuple(tables), tuple(_notes(data)), tuple(_verdict(data)))


def _where(data: TraceData) -> Table:
    tokens = data.tokens
    rows: list[tuple[Cell | str, ...]] = []
    norm, below = tokens["direction_norm"].to_numpy(float), tokens["below"].to_numpy()
    means = [tokens[name].to_numpy(float) for name in ("entropy", "log_prob", "top", "below", "rare", "raises")]
    for label, chosen in data.signs.items():
        rollouts = len(tokens.loc[chosen, ["step", "rollout"]].drop_duplicates())
        rows.append(
            (
                label,
                Cell(rollouts),
                Cell(int(chosen.sum())),
                Cell(round(chosen.sum() / rollouts, 1)),
                *(data.mean(values, chosen) for values in means),
                data.mean(norm * below, chosen, by=norm),
            )
        )
    columns = (
        Column("", "responses"),
        Column("rollouts", "rollouts"),
        Column("tokens", "tokens"),
        Column("mean length", "mean_length"),
        Column("entropy (nats)", "entropy_nats"),
        Column("log π(y)", "log_prob"),
        Column("most probable", "most_probable"),
        Column("below c", "below_boundary"),
        Column("rare", "rare"),
        Column("NSR raises entropy", "nsr_raises_entropy"),
        Column("gradient below c", "gradient_below_boundary"),
    )
    return Table("where the tokens sit", columns, tuple(rows), _WHERE_NOTE, "where_tokens_sit")


def _by_class(data: TraceData) -> list[Table]:
    """Where the tokens of each class sit; nothing where the texts are of one class, as those of a toy are."""
    classes, norm = data.classes, data.tokens["direction_norm"].to_numpy(float)
    present = [name for name in CLASSES if (classes == name).any()]
    if len(present) < LEAST_CLASSES:
        return []
    everything, below = data.signs[ALL], data.tokens["below"].to_numpy()
    means = [data.tokens[name].to_numpy(float) for name in ("entropy", "top", "below", "rare", "raises")]
    rows: list[tuple[Cell | str, ...]] = []
    for name in present:
        here = classes == name
        rows.append(
            (
                name,
                Cell(int(here.sum())),
                data.mean(here, everything),
                *(data.mean(values, here) for values in means),
                data.mean(norm * here, everything, by=norm),
                data.mean(norm * below, here, by=norm),
            )
        )
    columns = (
        Column("", "token_class"),
        Column("tokens", "tokens"),
        Column("fraction of tokens", "fraction_of_tokens"),
        Column("entropy (nats)", "entropy_nats"),
        Column("most probable", "most_probable"),
        Column("below c", "below_boundary"),
        Column("rare", "rare"),
        Column("NSR raises entropy", "nsr_raises_entropy"),
        Column("fraction of gradient", "fraction_of_gradient"),
        Column("gradient below c", "gradient_below_boundary"),
    )
    return [Table("where the tokens sit, by class", columns, tuple(rows), _CLASS_NOTE, "classes_of_tokens")]


def _over_updates(data: TraceData) -> list[Table]:
    """Measured weights and what they do, early to late; nothing without measured weights or with one update."""
    update = data.tokens["update"].to_numpy()
    updates = np.unique(update)
    if MEASURED not in data.weights or len(updates) < 2:
        return []
    weight = data.weights[MEASURED]
    effect = weight * data.tokens["dentropy"].to_numpy(float)
    residual = data.tokens["residual"].to_numpy(float)
    size = np.abs(weight) * data.tokens["direction_norm"].to_numpy(float)
    rows: list[tuple[Cell | str, ...]] = []
    for part in np.array_split(updates, min(3, len(updates))):
        here = np.isin(update, part)
        seen = here & np.isfinite(residual) & (size > 0)
        rows.append(
            (
                f"updates {part[0]} to {part[-1]}",
                Cell(int(here.sum())),
                data.mean(data.tokens["entropy"].to_numpy(float), here),
                data.mean(data.tokens["prob"].to_numpy(float), here),
                data.mean(weight > 0, here),
                data.mean(weight < 0, here),
                data.mean(np.maximum(weight, 0.0), here),
                data.mean(np.minimum(weight, 0.0), here),
                data.mean(effect, here),
                data.mean(residual * size, seen, by=size) if seen.any() else Cell(math.nan),
            )
        )
    columns = (
        Column("", "updates"),
        Column("tokens", "tokens"),
        Column("entropy (nats)", "entropy_nats"),
        Column("π(y)", "prob"),
        Column("weight > 0", "fraction_positive"),
        Column("weight < 0", "fraction_negative"),
        Column("positive weight per token", "positive_weight"),
        Column("negative weight per token", "negative_weight"),
        Column("own effect on entropy", "own_effect_on_entropy"),
        Column("unlike w", "residual"),
    )
    return [Table("weights over training", columns, tuple(rows), _OVER_NOTE, "weights_over_training")]


def _tokens(data: TraceData, objective: str, sign: int) -> Table | None:
    carrying = data.gradient_tokens(objective, sign, MOST_TOKENS)
    if carrying.empty:
        return None
    rows = tuple(
        (
            f"`{row['text']}`",
            Cell(row["count"]),
            Cell(row["value"], row["low"], row["high"], kind=row["kind"], reason=row["reason"]),
            Cell(row["prob"], digits=3),
        )
        for row in carrying.to_dict("records")
    )
    which = "positive" if sign > 0 else "negative"
    columns = (
        Column("token", "token"),
        Column("count", "count"),
        Column("fraction", "fraction"),
        Column("mean π(y)", "mean_prob"),
    )
    return Table(f"{objective}: tokens that carry the {which} gradient", columns, rows)


def _flows(data: TraceData) -> Table:
    rows: list[tuple[Cell | str, ...]] = []
    for objective in data.weights:
        flow = data.mass_flow(objective)
        whole, rest = data.entropy_flow(objective), data.entropy_flow(objective, "dentropy_rest")
        pushing = [label for label, here in data.signs.items() if label != ALL and data.weights[objective][here].any()]
        for label in pushing if len(pushing) == 1 else data.signs:  # of one alone, all is the same
            cells = [
                _thousandths(Cell(row["value"], row["low"], row["high"], kind=row["kind"], reason=row["reason"]))
                if row["value"]
                else Cell(math.nan)
                for row in flow[flow["label"] == label].to_dict("records")
            ]
            rows.append((f"{objective}, {label}", *cells, _thousandths(whole[label]), _thousandths(rest[label])))
    columns = (
        Column("", "objective"),
        *(Column(f"rank {label}", f"rank_{label}".replace("–", "_").replace("+", "_up")) for label in BUCKET_LABELS),
        Column("entropy", "entropy"),
        Column("entropy of the rest", "entropy_of_the_rest"),
    )
    return Table("where the mass would go, by rank", columns, tuple(rows), _FLOW_NOTE, "mass_by_rank")


def _thousandths(cell: Cell) -> Cell:
    return replace(cell, value=1e3 * cell.value, low=1e3 * cell.low, high=1e3 * cell.high)


def _verdict(data: TraceData) -> list[str]:
    """Which part of the gradient moves the entropy which way, of each named or measured weight."""
    sentences = []
    below = 100 * float(data.tokens["below"].mean())
    for objective in data.weights:
        effect = data.entropy_flow(objective)[ALL]
        if not data.weights[objective].any():
            continue
        if math.isfinite(effect.low) and effect.low <= 0 <= effect.high:
            way = "neither raise nor lower entropy within the interval"
        else:
            way = f"{'raise' if effect.value > 0 else 'lower'} entropy"
        sentences.append(
            f"{objective}: to first order the tokens' own gradients taken together {way}; {below:.0f}% of the tokens "
            "have π(y) < c."
        )
    return sentences


def _notes(data: TraceData) -> list[str]:
    info, notes = data.run.info, []
    trace = info.get("trace", {})
    if "rollouts" in trace and data.run.status != "complete":
        notes.append(f"The trace is {data.run.status}: {data.run.rows('rollouts')} of {trace['rollouts']} rollouts.")
    for reason, count in trace.get("skipped", {}).items():
        notes.append(f"Left out: {count} rows ({reason}), such as {trace['skipped_examples'][0]}.")
    notes += trace.get("notes", [])
    if not data.weights:
        notes.append("No objective was named (--objective), so no gradient and no flow of mass is shown.")
    unknown = int(data.tokens["weight"].isna().sum())
    if MEASURED in data.weights and unknown:
        notes.append(f"{unknown} of {len(data.tokens)} tokens have no measured weight; they count as weight 0.")
    if MEASURED in data.weights and len(data.signs) == 1:
        notes.append("No rewards were given to `step`, so tokens are not told apart by the reward of their response.")
    notes += trace.get("file", {}).get("notes", [])
    mean, vocab = float(data.tokens["log_prob"].mean()), trace.get("vocab")
    if vocab and mean < -math.log(vocab):
        notes.append(
            f"The mean log π(y) of {mean:.1f} is below that of a uniform distribution ({-math.log(vocab):.1f}): are "
            "these tokens, or this template, those of the model?"
        )
    return notes
