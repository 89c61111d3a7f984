"""docs/trl_and_the_loop.md: whether TRL and our own loop train to the same curves, from docs/results/trl.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .results import read
from .templates import StatementError, wrapped
from .trl_runs import FAMILY_LEVEL, METHODS, QUANTITIES, differences

__all__ = ["trl_page"]

_TRAINERS = {"GRPO": "`GRPOTrainer`", "NSR": '`ObjectiveTrainer`, `objective="nsr-ratio"`, `rows="drop"`'}

_PAGE = """\
# TRL and our own loop

Do `ObjectiveTrainer` and TRL's own `GRPOTrainer` train as our own loop does? Both sides start from the base `path` and
have the same training prompts, verifier, optimiser, clipping range, divisor, held-out prompts and exact evaluation.
Who samples, cuts minibatches, computes the loss and steps differs. {runs}

{table}

Differences are TRL minus loop, means over seeds. All {count} intervals together hold with {level:.0%}: each is
Student's with 2n − 2 degrees of freedom at the level 1 − {rest:.2g}/{count}. The rule was fixed before the first run:
the curves are the same within their intervals if every interval contains 0. {verdict}

{control}

With {seeds} seeds a difference within an interval would not be seen. {direction}
An earlier measurement, in which the loop made
four updates of what NSR keeps and TRL three, kept the rule too, with TRL behind at every point; this one has the same
number of rows in an update on both sides, and new seeds.
Weights of single tokens are compared far more closely, to 2·10⁻⁶ of the largest, in
`tests/engines/test_objective_trainer.py`.

Made by `{command}` on {date} with torch {torch} and transformers {transformers}; the rule and the sizes are in
`docs/generators/trl_runs.py`. Tokens a second of both are in [Performance](performance.md).
"""


def trl_page(results: Mapping[str, Any] | None = None) -> str:
    """The page.

    Args:
        results: of `trl_runs.measure` with its provenance; those of docs/results/ by default.

    Raises:
        StatementError: an interval does not contain 0, or the control does not show that the rule can fail.
    """
    found = read("trl") if results is None else results
    rows = differences(found["curves"])
    outside = [row for row in rows if not row["low"] <= 0 <= row["high"]]
    if outside:
        named = ", ".join(f"{row['method']} {row['quantity']} at step {row['step']}" for row in outside)
        raise StatementError(f"trl_and_the_loop: expected every interval to contain 0, got others for {named}")
    first, second = METHODS
    crossed = differences(found["curves"], {first: second, second: first})
    seen = sum(not row["low"] <= 0 <= row["high"] for row in crossed)
    if not seen:
        raise StatementError("trl_and_the_loop: expected the control to be told apart, got every interval with 0 in it")
    size = found["size"]
    rollouts = size["rollout.prompts"] * size["rollout.group_size"]
    text = _PAGE.format(
        runs=f"{found['seeds']} seeds of each, {found['steps']} steps of {rollouts} rollouts and "
        f"minibatches of {size['update.minibatch_size']} rows, at a learning rate of {size['optimizer.lr']:g}.",
        table=_table(rows),
        count=len(rows),
        level=FAMILY_LEVEL,
        rest=1 - FAMILY_LEVEL,
        verdict="**Every one does.**",
        control=f"The rule can fail: TRL's {first} against the loop's {second}, and the other way round, are told "
        f"apart by {seen} of {len(crossed)} intervals.",
        seeds=found["seeds"],
        direction=_direction(rows),
        command=found["command"],
        date=found["date"],
        torch=found["versions"]["torch"],
        transformers=found["versions"]["transformers"],
    )
    return wrapped(text)


def _direction(rows: Sequence[Mapping[str, Any]]) -> str:
    """In how many rows one side is further along: more Pass@k, less entropy."""
    ahead = sum((row["trl"] < row["loop"]) == (row["quantity"] == "entropy_nats") for row in rows)
    first, second = ("TRL", "the loop") if 2 * ahead >= len(rows) else ("the loop", "TRL")
    count = max(ahead, len(rows) - ahead)
    return (
        f"In {count} of {len(rows)} rows {first} is a little further along than {second} (more Pass@k, less entropy); "
        "rows of one training run are not independent."
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| method, trainer | quantity | step | loop | TRL | difference |", "|:--|:--|--:|--:|--:|:--|"]
    for row in rows:
        ends = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]".replace("-", "−")
        quantity = QUANTITIES[row["quantity"]] + (", nats" if row["quantity"] == "entropy_nats" else "")
        lines.append(
            f"| {row['method']}, {_TRAINERS[row['method']]} | {quantity} | {row['step']} | {row['loop']:.3f} "
            f"| {row['trl']:.3f} | {ends} |"
        )
    return "\n".join(lines)
