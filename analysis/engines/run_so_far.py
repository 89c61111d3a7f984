"""Going on with the run folder of a watched training: everything that is needed follows from its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..probes.context_rows import ContextRows
from ..records.reader import Run
from .step_rows import step_row

__all__ = ["Continued", "continued"]


@dataclass(frozen=True)
class Continued:
    """What a resumed run starts from.

    Attributes:
        next_step: number of the next generation batch.
        updates: optimiser updates so far, without those that were skipped.
        step_row: the row of `steps` of a batch whose updates were under way, None where there is none. TRL generates a
            new batch when it resumes, so this one gets no more of them.
        panel: the held-out contexts, None where there are none.
    """

    next_step: int
    updates: int
    step_row: dict[str, Any] | None
    panel: ContextRows | None


def continued(run: Run) -> Continued:
    """Read what `run`, with the commits up to the checkpoint alone, leaves to go on from."""
    rollouts = run.table("rollouts", ["step", "group", "reward", "correct", "advantage", "length"])
    updates = run.table("updates", ["step", "skipped"])
    steps = run.table("steps", ["step"])["step"]
    last = int(rollouts["step"].max()) if len(rollouts) else -1
    row = None
    if last >= 0 and last not in set(steps):
        made = updates[(updates["step"] == last) & ~updates["skipped"]]
        row = _step_row(last, rollouts[rollouts["step"] == last], len(made))
    return Continued(last + 1, int((~updates["skipped"]).sum()), row, _panel(run))


def _step_row(step: int, rollouts: pd.DataFrame, updates: int) -> dict[str, Any]:
    known = rollouts["correct"].notna().any()
    return step_row(
        step,
        rewards=rollouts["reward"].to_numpy(float, na_value=np.nan),
        correct=rollouts["correct"].fillna(False).to_numpy(bool) if known else None,
        signs=np.sign(rollouts["advantage"].to_numpy(float, na_value=np.nan)),
        lengths=rollouts["length"].to_numpy(),
        groups=rollouts["group"].to_numpy(),
        updates=updates,
    )


def _panel(run: Run) -> ContextRows | None:
    """The panel of the run: each of its contexts as a response of one token to all that stood before it."""
    contexts = run.table("contexts").sort_values("context")
    contexts = contexts[contexts["kind"] == "panel"]
    if contexts.empty:
        return None
    known = bool(contexts["sign"].notna().all())
    return ContextRows(
        kind="panel",
        prompts=[ids.tolist() for ids in contexts["prefix_ids"]],
        responses=[[int(token)] for token in contexts["token"]],
        positions=[[0]] * len(contexts),
        prompt_ids=contexts["prompt_id"].tolist(),
        signs=contexts["sign"].astype(int).tolist() if known else None,
    )
