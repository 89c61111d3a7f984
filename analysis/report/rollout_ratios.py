"""What the tables of an experiment take from the rollouts just before a step: their correct ratio and their bias.

The bias is KL of the law that rollouts were drawn from to the policy, shown only where a truncated law drew them:
updates differentiate the policy's law.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .bands import band
from .curves import rollout_groups

if TYPE_CHECKING:
    from ..records import Run

__all__ = ["RATIO_STEPS", "ROLLOUT_KL", "ROLLOUT_KL_NOTE", "OfRollouts", "of_rollouts"]

OfRollouts = Callable[["Run", float], pd.DataFrame]  # (run, step) -> rows of value, low, high
RATIO_STEPS = 5  # rollouts of so many steps together
ROLLOUT_KL = "rollout KL"
ROLLOUT_KL_NOTE = (
    f" {ROLLOUT_KL}: mean over the tokens of the same steps of log(rollout law / policy), in nats; updates "
    "differentiate the policy's law, so that PSR and NSR do not expect the same step where this is not 0."
)


def of_rollouts(runs: Mapping[str, Run]) -> Mapping[str, OfRollouts]:
    """Heading -> what it takes from the rollouts of a run before a step; at the start, from the first step."""
    truncated = any((run.table("steps", ["rollout_kl"])["rollout_kl"] > 0).any() for run in runs.values())
    return {"corr. ratio": _correct_ratio} | ({ROLLOUT_KL: _rollout_kl} if truncated else {})


def _correct_ratio(run: Run, step: float) -> pd.DataFrame:
    return band(_before(rollout_groups([run]), step), [], "correct")


def _rollout_kl(run: Run, step: float) -> pd.DataFrame:
    """Without an interval: every token of the rollouts counts."""
    values = _before(run.table("steps", ["step", "rollout_kl"]), step)["rollout_kl"]
    return pd.DataFrame({"value": [values.mean()], "low": np.nan, "high": np.nan})


def _before(rows: pd.DataFrame, step: float) -> pd.DataFrame:
    end = max(int(np.ceil(step)), 1)
    return rows[(rows["step"] < end) & (rows["step"] >= end - RATIO_STEPS)]
