"""Which recorded responses count as rewarded: their verdict where training saw scores, else their reward.

The score of a correct response may be any number, so that only the verdict tells the sign of a response there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["rewarded", "sign_column", "trained_on_scores"]


def trained_on_scores(info: Mapping[str, Any]) -> bool:
    """Whether the rewards of a run are the scores of its verifier (`task.reward = "score"`).

    Args:
        info: Its run.json.
    """
    task = (info.get("recipe") or {}).get("task") or {}
    return isinstance(task, Mapping) and task.get("reward") == "score"


def sign_column(info: Mapping[str, Any]) -> str:
    """The column of `rollouts` that tells the sign of a response in a trained run: correct or reward."""
    return "correct" if trained_on_scores(info) else "reward"


def rewarded(rollouts: pd.DataFrame, info: Mapping[str, Any], above: float = 0.0) -> np.ndarray:
    """Bool (n,): whether each response is on the side of the rewarded ones.

    Args:
        rollouts: Rows with the column that `sign_column` names.
        info: run.json of their run.
        above: A reward above it counts as rewarded, where rewards are no scores; as rewards are stored, in float32.

    >>> rows = pd.DataFrame({"reward": [0.5, 2.0, 0.0], "correct": [False, True, False]})
    >>> rewarded(rows, {"recipe": {"task": {"reward": "score"}}}), rewarded(rows, {})
    (array([False,  True, False]), array([ True,  True, False]))
    """
    if trained_on_scores(info):
        return rollouts["correct"].fillna(False).to_numpy(dtype=bool)
    return (rollouts["reward"] > np.float32(above)).to_numpy(dtype=bool)
