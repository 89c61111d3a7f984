"""Columns that tables take from the rollouts just before a step: the fraction that is correct, and their bias.

The bias is KL of the distribution that rollouts were drawn from to the policy. It is shown only where rollouts were
truncated: updates differentiate the policy's distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .bands import band
from .curves import rollout_groups

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["RATIO_STEPS", "RolloutColumn", "rollout_columns"]

RATIO_STEPS = 5  # rollouts of so many steps together


@dataclass(frozen=True)
class RolloutColumn:
    """A quantity of the rollouts of each run, read once."""

    key: str
    heading: str
    note: str
    rows: Mapping[str, pd.DataFrame]  # run_id -> step, value, and label and seed where there is an interval

    def before(self, run_id: str, step: float) -> pd.DataFrame:
        """value, low and high over the `RATIO_STEPS` steps before `step`; at the start, over the first step."""
        end = max(int(np.ceil(step)), 1)
        rows = self.rows[run_id]
        rows = rows[(rows["step"] < end) & (rows["step"] >= end - RATIO_STEPS)]
        if "label" in rows:
            return band(rows, [], method="success" if self.key == "correct_rollouts" else None)
        return pd.DataFrame({"value": [rows["value"].mean()], "low": np.nan, "high": np.nan})


def rollout_columns(runs: Mapping[str, Run]) -> Sequence[RolloutColumn]:
    """The columns that these runs have rollouts for."""
    groups = {run_id: rollout_groups([run]).rename(columns={"correct": "value"}) for run_id, run in runs.items()}
    columns = [
        RolloutColumn(
            "correct_rollouts",
            "correct rollouts",
            f"correct rollouts: fraction of the training rollouts of the {RATIO_STEPS} steps before, of the first step "
            "for the base",
            groups,
        )
    ]
    bias = {
        run_id: run.table("steps", ["step", "rollout_kl"]).rename(columns={"rollout_kl": "value"})
        for run_id, run in runs.items()
    }
    if any((rows["value"] > 0).any() for rows in bias.values()):
        columns.append(
            RolloutColumn(
                "rollout_kl_nats",
                "rollout KL (nats)",
                "rollout KL: mean over the tokens of the same steps of log(rollout distribution / policy); where it is "
                "not 0, PSR and NSR do not have the same expected update",
                bias,
            )
        )
    return columns
