"""The parts of a page that compares a trainer with our own loop: table, verdict, control and direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .compared_runs import FAMILY_LEVEL, METHODS, QUANTITIES, differences
from .templates import StatementError

__all__ = ["parts"]

_STATEMENT = """\
{table}

Differences are {trainer} minus loop, means over seeds. All {count} intervals together hold with {level:.0%}: each is
Student's with 2n − 2 degrees of freedom at the level 1 − {rest:.2g}/{count}. The rule was fixed before the first run:
the curves are the same within their intervals if every interval contains 0. **Every one does.**

The rule can fail: {trainer}'s {first} against the loop's {second}, and the other way round, are told apart by {seen} of
{crossed} intervals.

With {seeds} seeds a difference within an interval would not be seen. {direction}"""


def parts(results: Mapping[str, Any], trainer: str, described: Mapping[str, str], page: str) -> dict[str, str]:
    """What the template of such a page is filled with: `runs`, `statement` with the table, `command` and `date`.

    Args:
        results: the curves of both sides, the number of seeds and steps, the size, and their provenance.
        trainer: the other side's name.
        described: each method -> how the trainer is asked for it.
        page: name of the page, for errors.

    Raises:
        StatementError: an interval does not contain 0, or the control does not show that the rule can fail.
    """
    rows = differences(results["curves"], trainer)
    outside = [row for row in rows if not row["low"] <= 0 <= row["high"]]
    if outside:
        named = ", ".join(f"{row['method']} {row['quantity']} at step {row['step']}" for row in outside)
        raise StatementError(f"{page}: expected every interval to contain 0, got others for {named}")
    first, second = METHODS
    crossed = differences(results["curves"], trainer, {first: second, second: first})
    seen = sum(not row["low"] <= 0 <= row["high"] for row in crossed)
    if not seen:
        raise StatementError(f"{page}: expected the control to be told apart, got every interval with 0 in it")
    size = results["size"]
    rollouts = size["rollout.prompts"] * size["rollout.group_size"]
    statement = _STATEMENT.format(
        table=_table(rows, trainer, described),
        trainer=trainer,
        count=len(rows),
        level=FAMILY_LEVEL,
        rest=1 - FAMILY_LEVEL,
        first=first,
        second=second,
        seen=seen,
        crossed=len(crossed),
        seeds=results["seeds"],
        direction=_direction(rows, trainer),
    )
    return {
        "runs": f"{results['seeds']} seeds of each, {results['steps']} steps of {rollouts} rollouts and "
        f"minibatches of {size['update.minibatch_size']} rows, at a learning rate of {size['optimizer.lr']:g}.",
        "statement": statement,
        "command": results["command"],
        "date": results["date"],
    }


def _direction(rows: Sequence[Mapping[str, Any]], trainer: str) -> str:
    """In how many rows one side is further along: more Pass@k, less entropy."""
    ahead = sum((row["trainer"] < row["loop"]) == (row["quantity"] == "entropy_nats") for row in rows)
    first, second = (trainer, "the loop") if 2 * ahead >= len(rows) else ("the loop", trainer)
    count = max(ahead, len(rows) - ahead)
    return (
        f"In {count} of {len(rows)} rows {first} is a little further along than {second} (more Pass@k, less entropy); "
        "rows of one training run are not independent."
    )


def _table(rows: Sequence[Mapping[str, Any]], trainer: str, described: Mapping[str, str]) -> str:
    lines = [f"| method, trainer | quantity | step | loop | {trainer} | difference |", "|:--|:--|--:|--:|--:|:--|"]
    for row in rows:
        ends = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]".replace("-", "−")
        quantity = QUANTITIES[row["quantity"]] + (", nats" if row["quantity"] == "entropy_nats" else "")
        lines.append(
            f"| {row['method']}, {described[row['method']]} | {quantity} | {row['step']} | {row['loop']:.3f} "
            f"| {row['trainer']:.3f} | {ends} |"
        )
    return "\n".join(lines)
